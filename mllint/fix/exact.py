"""Fixes as exact replacements in files, for reports that programs read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mllint.fix.files import Editable, edits_by_path, kind_of
from mllint.fix.patch import Declined, Lines, ordered
from mllint.model.finding import Span
from mllint.model.fix import Fix, Replace


class Exact:
    """Carries fixes out on paper. `kinds` says how each file was read, `bytes_of` gives what was judged."""

    def __init__(self, bytes_of: Callable[[str], bytes], kinds: Mapping[str, str]) -> None:
        self.bytes_of = bytes_of
        self.kinds = kinds
        self._editable: dict[str, Editable] = {}

    def __call__(self, fix: Fix) -> list[Replace]:
        """The replacements, placed in the text of the file (of a notebook, in its JSON); none for a fix that cannot be made."""
        if fix.safety == "shown":
            return []
        found: list[Replace] = []
        try:
            for path, edits in edits_by_path(fix).items():
                if path not in self._editable:
                    self._editable[path] = Editable(path, self.bytes_of(path), kind_of(path, self.kinds.get(path)))
                file = self._editable[path]
                patches = file.plan(edits).patches
                file.changed(patches)
                lines = Lines(file.text)
                found += [Replace(_span(path, lines, p.start, p.end), p.text) for p in ordered(file.exact(patches))]
        except Declined:
            return []
        return found


def _span(path: str, lines: Lines, start: int, end: int) -> Span:
    first, last = lines.number(start), lines.number(end)
    return Span(path, first, start - lines.starts[first - 1] + 1, last, end - lines.starts[last - 1] + 1)
