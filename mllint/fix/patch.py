"""Exact changes of a text: what every edit becomes, whatever the kind of file."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mllint.read.source import split_lines

_LINE_END = re.compile("\r\n|\r|\n")

#: Where several patches insert at one place: whole lines first, then the header of a block, then indentation, then text.
LINES, HEADER, INDENT, INLINE = range(4)


class Declined(Exception):
    """A fix that cannot be carried out as asked; the message says why."""


@dataclass(frozen=True, slots=True)
class Patch:
    """`text` in place of the characters from `start` to `end`. `cell` is the notebook cell they are counted in.

    `joins` marks an insertion that may stand beside others at the same place, in whatever order (imports).
    """

    start: int
    end: int
    text: str
    rank: int = INLINE
    cell: int | None = None
    joins: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What a fix does to one file: the patches, in order, and stretches of text no other fix may touch beside them."""

    patches: tuple[Patch, ...]
    claims: tuple[tuple[int | None, int, int], ...] = ()

    def clashes(self, other: Plan) -> bool:
        """Both at once would not be what either meant."""
        for a in self.patches:
            for b in other.patches:
                if a.cell == b.cell and a != b and _touch(a, b):
                    return True
                if a == b and not a.joins:
                    return True
        return _claimed(self, other) or _claimed(other, self)


def _touch(a: Patch, b: Patch) -> bool:
    if a.start == a.end == b.start == b.end:
        return not (a.joins and b.joins)
    if a.start == a.end:
        return b.start < a.start < b.end
    if b.start == b.end:
        return a.start < b.start < a.end
    return a.start < b.end and b.start < a.end


def _claimed(owner: Plan, other: Plan) -> bool:
    return any(
        patch.cell == cell and start < max(patch.end, patch.start + 1) and patch.start < end and patch not in owner.patches
        for cell, start, end in owner.claims
        for patch in other.patches
    )


def ordered(patches: Iterable[Patch]) -> list[Patch]:
    """Patches in the order of the text; those of one place by rank, else as they were given. The same insertion counts once."""
    found: dict[tuple[int | None, int, int, str], Patch] = {}
    rest: list[Patch] = []
    for patch in patches:
        if patch.joins:
            found.setdefault((patch.cell, patch.start, patch.end, patch.text), patch)
        elif patch.start != patch.end or patch.text:
            rest.append(patch)
    return sorted(
        (*found.values(), *rest), key=lambda p: (-1 if p.cell is None else p.cell, p.start, p.rank if p.start == p.end else INLINE, p.end)
    )


def applied(text: str, patches: Sequence[Patch]) -> str:
    """The text after all patches; two that overlap decline."""
    parts: list[str] = []
    at = 0
    for patch in ordered(patches):
        if patch.start < at:
            raise Declined("its edits overlap")
        parts += (text[at : patch.start], patch.text)
        at = patch.end
    parts.append(text[at:])
    return "".join(parts)


class Lines:
    """A text whose places can be named by line and column as a person counts them."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.starts = [0, *(found.end() for found in _LINE_END.finditer(text))]
        first = _LINE_END.search(text)
        self.newline = first.group() if first else "\n"

    def offset(self, line: int, column: int) -> int:
        """The character at a line and column, both from 1; behind the end of the line is its end."""
        if not 1 <= line <= len(self.starts):
            raise Declined(f"there is no line {line}")
        start = self.starts[line - 1]
        return min(start + column - 1, self.line_end(start))

    def number(self, offset: int) -> int:
        """The line of a character, from 1."""
        return bisect_right(self.starts, offset)

    def line_start(self, offset: int) -> int:
        return self.starts[self.number(offset) - 1]

    def line_end(self, offset: int) -> int:
        """Where the line of a character ends, before its line end."""
        number = self.number(offset)
        end = self.starts[number] if number < len(self.starts) else len(self.text)
        while end > self.starts[number - 1] and self.text[end - 1] in "\r\n":
            end -= 1
        return end

    def next_line(self, offset: int) -> int:
        """Where the next line starts: behind the line end, or the end of a text that has none there."""
        number = self.number(offset)
        return self.starts[number] if number < len(self.starts) else len(self.text)

    def indent(self, offset: int) -> str:
        """The blanks and tabs the line of a character begins with."""
        start = self.line_start(offset)
        at = start
        while at < len(self.text) and self.text[at] in " \t\f":
            at += 1
        return self.text[start:at]

    def as_lines(self, at: int, lines: Sequence[str], rank: int = LINES, joins: bool = False) -> Patch:
        """The insertion of whole lines at the start of a line; behind a last line that has no end, the new last one has none either."""
        block = self.newline.join(lines)
        if at == len(self.text) and at and self.text[at - 1] not in "\r\n":
            return Patch(at, at, self.newline + block, rank, joins=joins)
        return Patch(at, at, block + self.newline, rank, joins=joins)


def indented(text: str, indent: str, unit: str) -> list[str]:
    """Lines written at the left margin with four blanks a level, at the indentation of their new place."""
    lines = []
    for line in split_lines(text.rstrip("\n")):
        bare = line.lstrip(" ")
        depth, rest = divmod(len(line) - len(bare), 4)
        lines.append(indent + unit * depth + " " * rest + bare if bare else "")
    return lines
