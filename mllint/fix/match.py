"""Which finding after a change is which finding before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mllint.fix.files import Editable
from mllint.fix.patch import Declined, Lines, Patch, Plan, ordered
from mllint.model.finding import Finding, Span


def matched(
    before: Sequence[Finding], after: Sequence[Finding], editable: Mapping[str, Editable], plans: Sequence[Mapping[str, Plan]]
) -> tuple[set[Finding], list[Finding]]:
    """The findings of `before` that are still there, and those of `after` that are new.

    A finding is the same where its rule says something at the place the old place has become, or of a line of the same text.
    """
    moves = {path: _Moves(editable[path], [p for plan in plans if path in plan for p in plan[path].patches]) for path in editable}

    def at_same_place(old: Finding, new: Finding) -> bool:
        moved = moves.get(old.span.path)
        return moved.leads(old.span, new.span) if moved else _start(old.span) == _start(new.span)

    left = list(before)
    still: set[Finding] = set()
    fresh = list(after)
    for same in (at_same_place, _of_same_text):
        rest = []
        for finding in fresh:
            for old in left:
                if old.rule == finding.rule and old.span.path == finding.span.path and same(old, finding):
                    left.remove(old)
                    still.add(old)
                    break
            else:
                rest.append(finding)
        fresh = rest
    return still, fresh


def _of_same_text(old: Finding, new: Finding) -> bool:
    return old.key == new.key


def _start(span: Span) -> tuple[int | None, int, int]:
    return span.cell, span.line, span.column


class _Moves:
    """Where the places of one file go."""

    def __init__(self, file: Editable, patches: Sequence[Patch]) -> None:
        self.file = file
        self.patches = ordered(patches)
        self._lines: dict[int | None, tuple[Lines, Lines]] = {}

    def leads(self, old: Span, new: Span) -> bool:
        """The beginning of the old span has become the beginning of the new one, or could have."""
        if old.cell != new.cell:
            return False
        try:
            was, now = self._texts(old.cell)
            start, end = was.offset(old.line, old.column), now.offset(new.line, new.column)
        except (Declined, IndexError):
            return False
        shift = beside = 0
        for patch in self.patches:
            if patch.cell != old.cell:
                continue
            grown = len(patch.text) - (patch.end - patch.start)
            if patch.end < start or (patch.end == start and patch.start < patch.end):
                shift += grown
            elif patch.start == patch.end == start:
                beside += grown  # on which side of an insertion the place is now, cannot be said
            elif patch.start <= start < patch.end:
                return patch.start + shift <= end <= patch.start + shift + beside + len(patch.text)
            else:
                break
        return end in (start + shift, start + shift + beside)

    def _texts(self, cell: int | None) -> tuple[Lines, Lines]:
        if cell not in self._lines:
            text = self.file.text if cell is None else self.file.cells[cell].text
            mine = [p for p in self.patches if p.cell == cell]
            parts: list[str] = []
            at = 0
            for patch in mine:
                parts += (text[at : patch.start], patch.text)
                at = patch.end
            self._lines[cell] = (Lines(text), Lines("".join((*parts, text[at:]))))
        return self._lines[cell]
