"""The one glob language of mllint, that of .gitignore: ignore files, `exclude` and `per-path` all speak it."""

from __future__ import annotations

import re
from collections.abc import Iterable


class Patterns:
    """An ordered list of patterns; the last one that matches decides.

    Most patterns of most ignore files are a plain name or `*.suffix`. Those are answered by a set and one `endswith`, because a
    regular expression for each pattern and file costs more than finding the files.
    """

    __slots__ = ("_any", "_names", "_rows", "_suffixes")

    def __init__(self, lines: Iterable[str]) -> None:
        names: set[str] = set()
        suffixes: set[str] = set()
        complicated: list[str] = []
        self._rows: list[tuple[re.Pattern[str], bool, bool]] = []
        for line in lines:
            row = _parse(line)
            if row is None:
                continue
            pattern, hidden, only_folders = row
            expression = translate(pattern)
            self._rows.append((re.compile(expression), hidden, only_folders))
            if _is_plain(pattern):
                names.add(pattern)
            elif pattern.startswith("*.") and _is_plain(pattern[1:]):
                suffixes.add(pattern[1:])
            else:
                complicated.append(expression)
        self._names = frozenset(names)
        self._suffixes = tuple(sorted(suffixes))
        self._any = re.compile("|".join(f"(?:{c})" for c in complicated)) if complicated else None

    def __bool__(self) -> bool:
        return bool(self._rows)

    def verdict(self, path: str, is_folder: bool) -> bool | None:
        """True: ignored; False: taken back by a `!` pattern; None: nothing is said about it. `path` is relative, with `/`."""
        name = path[path.rfind("/") + 1 :]
        if not (name in self._names or name.endswith(self._suffixes) or (self._any is not None and self._any.fullmatch(path))):
            return None
        for expression, hidden, only_folders in reversed(self._rows):
            if (is_folder or not only_folders) and expression.fullmatch(path):
                return hidden
        return None

    def hides(self, path: str) -> bool:
        """The file, or a folder it lies in, is ignored."""
        at = path.find("/")
        while at > 0:
            if self.verdict(path[:at], True):
                return True
            at = path.find("/", at + 1)
        return bool(self.verdict(path, False))


def _parse(line: str) -> tuple[str, bool, bool] | None:
    line = line.rstrip("\r\n")
    while line.endswith(" ") and not line.endswith("\\ "):
        line = line[:-1]
    if not line or line.startswith("#"):
        return None
    hidden = not line.startswith("!")
    if not hidden:
        line = line[1:]
    only_folders = line.endswith("/")
    if only_folders:
        line = line[:-1]
    return (line, hidden, only_folders) if line else None


def _is_plain(pattern: str) -> bool:
    return not any(sign in pattern for sign in "*?[\\/")


def translate(pattern: str) -> str:
    """The regular expression, for `fullmatch` on a relative path, of one pattern without `!` and without its trailing slash."""
    anchored = "/" in pattern
    if pattern.startswith("/"):
        pattern = pattern[1:]
    out = [] if anchored else ["(?:.*/)?"]
    at, end = 0, len(pattern)
    while at < end:
        if pattern.startswith("**/", at) and (at == 0 or pattern[at - 1] == "/"):
            out.append("(?:.*/)?")
            at += 3
            continue
        if pattern[at:] == "**" and (at == 0 or pattern[at - 1] == "/"):
            out.append(".*")
            break
        sign = pattern[at]
        at += 1
        if sign == "*":
            while at < end and pattern[at] == "*":
                at += 1
            out.append("[^/]*")
        elif sign == "?":
            out.append("[^/]")
        elif sign == "[" and (close := _closing(pattern, at)) > 0:
            members = pattern[at:close]
            at = close + 1
            negated = members[:1] in ("!", "^")
            members = re.sub(r"([\[\]^&|~])", r"\\\1", members[1:] if negated else members)
            out.append(f"(?!/)[{'^' if negated else ''}{members}]")
        elif sign == "\\" and at < end:
            out.append(re.escape(pattern[at]))
            at += 1
        else:
            out.append(re.escape(sign))
    return "".join(out)


def _closing(pattern: str, at: int) -> int:
    """Where the class that opens just before `at` closes; a `]` that comes first is a member."""
    start = at
    if pattern[at : at + 1] in ("!", "^"):
        start += 1
    return pattern.find("]", start + 1)
