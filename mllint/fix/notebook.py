"""Edits of notebooks: the source of a cell is changed inside the JSON text, and nothing else of the file is written anew."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]

from mllint.fix.patch import Declined, Patch, applied

_BLANK = re.compile(r"[ \t\r\n]*")
_SCALAR = re.compile(r"[^,\]}\s]+")
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Cell:
    """The source of one cell: where its value stands in the JSON text, and the strings it is made of (with their places).

    `listed` tells a list of lines from a single string.
    """

    kind: str
    start: int
    end: int
    pieces: tuple[tuple[int, int, str], ...]
    listed: bool

    @property
    def text(self) -> str:
        return "".join(piece for _, _, piece in self.pieces)


class Scanner:
    """Reads the JSON text of a notebook for the places of its cells' sources."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.cells: list[Cell] = []
        try:
            self._top(self._skip(0))
        except (IndexError, ValueError, AttributeError) as error:
            raise Declined("the notebook is not written as notebooks are") from error

    def _skip(self, at: int) -> int:
        found = _BLANK.match(self.text, at)
        return found.end() if found else at

    def _top(self, at: int) -> None:
        for key, value in self._members(at):
            if key == "cells":
                for cell in self._items(value):
                    self._cell(cell)
            elif key == "worksheets":
                for sheet in self._items(value):
                    self._top(sheet)

    def _cell(self, at: int) -> None:
        kind = ""
        source: int | None = None
        for key, value in self._members(at):
            if key == "cell_type":
                kind = self._string(value)[0]
            elif key in ("source", "input"):
                source = value
        if source is None:
            self.cells.append(Cell(kind, at, at, (), False))
            return
        listed = self.text[source] == "["
        pieces = []
        for item in self._items(source) if listed else (source,):
            piece, end = self._string(item)
            pieces.append((item, end, piece))
        self.cells.append(Cell(kind, source, self._end(source), tuple(pieces), listed))

    def _string(self, at: int) -> tuple[str, int]:
        if self.text[at] != '"':
            raise ValueError("a string is expected")
        value, end = scanstring(self.text, at + 1, True)
        return value, end

    def _members(self, at: int) -> Iterator[tuple[str, int]]:
        """The keys of an object with the places of their values."""
        if self.text[at] != "{":
            return
        at = self._skip(at + 1)
        while self.text[at] != "}":
            key, at = self._string(at)
            at = self._skip(self._skip(at) + 1)
            yield key, at
            at = self._skip(self._end(at))
            if self.text[at] == ",":
                at = self._skip(at + 1)

    def _items(self, at: int) -> Iterator[int]:
        """The places of the items of a list."""
        if self.text[at] != "[":
            return
        at = self._skip(at + 1)
        while self.text[at] != "]":
            yield at
            at = self._skip(self._end(at))
            if self.text[at] == ",":
                at = self._skip(at + 1)

    def _end(self, at: int) -> int:
        """Right behind the value that starts here; nesting costs no recursion."""
        depth = 0
        while True:
            char = self.text[at]
            if char == '"':
                at = self._string(at)[1]
            elif char in "[{":
                depth, at = depth + 1, at + 1
            elif char in "]}":
                depth, at = depth - 1, at + 1
            elif depth and char in ",: \t\r\n":
                at += 1
                continue
            else:
                found = _SCALAR.match(self.text, at)
                if found is None:
                    raise ValueError("a value is expected")
                at = found.end()
            if depth == 0:
                return at


def json_patch(json_text: str, cell: Cell, new: str) -> Patch:
    """The change of the JSON text that gives a cell another source, in the form the old one has."""
    escape = json_text.isascii() and re.search(r"\\u(?!00[01])[0-9a-fA-F]{4}", json_text) is not None
    if not cell.listed:
        ((start, _, old),) = cell.pieces
        before, behind = _common(old, new)
        at = _raw_offset(json_text, start + 1, before)
        stop = _raw_offset(json_text, start + 1, len(old) - behind)
        return Patch(at, stop, _encoded(new[before : len(new) - behind], escape))
    return _listed_patch(json_text, cell, new, escape)


def _listed_patch(json_text: str, cell: Cell, new: str, escape: bool) -> Patch:
    """The lines that stay keep their bytes; the ones between are replaced by strings of one line each."""
    pieces = cell.pieces
    head = at = 0
    while head < len(pieces) and pieces[head][2].endswith("\n") and new.startswith(pieces[head][2], at):
        at += len(pieces[head][2])
        head += 1
    tail, stop = len(pieces), len(new)
    while tail > head:
        piece = pieces[tail - 1][2]
        begin = stop - len(piece)
        if begin < at or not new.endswith(piece, 0, stop) or (begin > at and new[begin - 1] != "\n"):
            break
        stop, tail = begin, tail - 1
    between = [f'"{_encoded(line, escape)}"' for line in re.findall(r"[^\n]*\n|[^\n]+", new[at:stop])]
    if not pieces:
        raise Declined("the cell to change is empty")
    inner = json_text[cell.start + 1 : pieces[0][0]]
    gap = json_text[pieces[0][1] : pieces[1][0]] if len(pieces) > 1 else "," + (inner if "\n" in inner else " ")
    if head < tail:
        if between:
            return Patch(pieces[head][0], pieces[tail - 1][1], gap.join(between))
        if tail < len(pieces):
            return Patch(pieces[head][0], pieces[tail][0], "")
        if head:
            return Patch(pieces[head - 1][1], pieces[tail - 1][1], "")
        return Patch(cell.start, cell.end, "[]")
    if tail < len(pieces):
        return Patch(pieces[tail][0], pieces[tail][0], "".join(item + gap for item in between))
    return Patch(pieces[-1][1], pieces[-1][1], "".join(gap + item for item in between))


def _encoded(text: str, escape: bool) -> str:
    return json.dumps(text, ensure_ascii=escape)[1:-1]


def _common(old: str, new: str) -> tuple[int, int]:
    """How many characters two texts share at their beginnings and, without those, at their ends."""
    most = min(len(old), len(new))
    before = 0
    while before < most and old[before] == new[before]:
        before += 1
    behind = 0
    while behind < most - before and old[-1 - behind] == new[-1 - behind]:
        behind += 1
    return before, behind


def _raw_offset(json_text: str, start: int, characters: int) -> int:
    """Where so many characters of a JSON string end in its written form."""
    at = start
    while characters > 0:
        found = _ESCAPE.match(json_text, at)
        if found is None:
            at += 1
        else:
            at = found.end()
            # Two escaped surrogates are one character.
            if re.match(r"\\ud[89ab]", found.group(), re.IGNORECASE) and re.match(r"\\ud[c-f]", json_text[at : at + 4], re.IGNORECASE):
                at += 6
        characters -= 1
    return at


def rewritten(json_text: str, cells: list[Cell], patches: dict[int, list[Patch]]) -> list[Patch]:
    """Patches of cells as patches of the JSON text."""
    found = []
    for number, of_cell in patches.items():
        cell = cells[number]
        found.append(json_patch(json_text, cell, applied(cell.text, of_cell)))
    return found
