"""The text of a file and the one place where positions of syntax trees become positions a person counts."""

from __future__ import annotations

import ast
import re
from bisect import bisect_right
from collections.abc import Sequence

from mllint.model.finding import Problem, Span

BOM = b"\xef\xbb\xbf"
_COOKIE = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_BLANK = re.compile(rb"^[ \t\f]*(?:#.*)?$")
_NEWLINE = re.compile("\r\n|\r|\n")


class Unreadable(Exception):
    """A file nothing can be read of; `problem` says why and what to do."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def split_lines(text: str) -> list[str]:
    """Lines as Python counts them: str.splitlines also breaks at form feeds and other characters, which Python does not."""
    return text.split("\n") if "\r" not in text else _NEWLINE.split(text)


def declared_encoding(data: bytes) -> str:
    """The encoding a BOM or a PEP 263 comment in the first two lines declares, else UTF-8."""
    if data.startswith(BOM):
        return "utf-8-sig"
    for line in data[:1024].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n", 2)[:2]:
        found = _COOKIE.match(line)
        if found:
            return found.group(1).decode("ascii", "replace")
        if not _BLANK.match(line):
            break
    return "utf-8"


class Source:
    """One file's bytes and text, with the table from tree positions to person positions.

    Nothing is decoded or split before somebody asks for it: most files of a scan never yield a span. A notebook hands in its code
    cells as `cells`: (index of the cell, its lines as written, its lines as parsed); the tree then counts lines from 2, cell behind
    cell (line 1 is left free for the reader), and `text` is laid out the same way.
    """

    __slots__ = ("_ascii", "_cells", "_lines", "_order", "_parsed", "_starts", "_text", "data", "encoding", "path")

    def __init__(self, path: str, data: bytes, cells: Sequence[tuple[int, Sequence[str], Sequence[str]]] | None = None) -> None:
        self.path = path
        self.data = data
        self.encoding = "utf-8" if cells is not None else declared_encoding(data)
        self._text: str | None = None
        self._lines: list[str] | None = None
        self._parsed: list[str] | None = None
        self._ascii = cells is None and data.isascii() and self.encoding.lower().startswith(("utf-8", "utf8", "ascii", "latin", "iso-8859"))
        self._starts: list[int] = []
        self._order: list[int] = []
        self._cells: dict[int, tuple[int, int]] | None = None
        if cells is not None:
            self._lines, self._parsed, self._cells = [""], [""], {}
            for index, written, parsed in cells:
                self._cells[index] = (len(self._lines), len(written))
                self._starts.append(len(self._lines) + 1)
                self._order.append(index)
                self._lines += written
                self._parsed += parsed

    @property
    def text(self) -> str:
        """The decoded text without its BOM; for a notebook the code cells one behind the other, as written."""
        if self._text is None:
            self._text = "\n".join(self._all_lines()) if self._cells is not None else self.data.decode(self.encoding)
        return self._text

    @property
    def code_cells(self) -> tuple[int, ...]:
        """The indices of a notebook's code cells, in order; empty for a file."""
        return tuple(self._order)

    def _all_lines(self) -> list[str]:
        if self._lines is None:
            self._lines = split_lines(self.text)
        return self._lines

    def lines_of(self, cell: int | None = None) -> list[str]:
        """The lines of the file, or of one cell of the notebook; nothing for a cell that holds no code."""
        lines = self._all_lines()
        if self._cells is None:
            return lines
        if cell is None:
            return lines[1:]
        first, count = self._cells.get(cell, (0, 0))
        return lines[first : first + count]

    def line_text(self, line: int, cell: int | None = None) -> str:
        """One line as written, without its line end; empty where there is no such line."""
        lines = self.lines_of(cell)
        return lines[line - 1] if 0 < line <= len(lines) else ""

    def span(self, node: ast.AST) -> Span:
        """Where a node stands, as a person counts; a node without a place (a module) stands at the very start."""
        line: int = getattr(node, "lineno", 1)
        column: int = getattr(node, "col_offset", 0)
        end_line: int = getattr(node, "end_lineno", None) or line
        end_column: int | None = getattr(node, "end_col_offset", None)
        return self.span_at(line, column, end_line, column if end_column is None else end_column)

    def span_at(self, line: int, column: int, end_line: int, end_column: int) -> Span:
        """The same from the four numbers a tree holds: lines from 1, columns in UTF-8 bytes from 0."""
        if (end_line, end_column) < (line, column):  # expressions inside f-strings of Python 3.11 can come out so
            end_line, end_column = line, column
        if self._ascii:
            return Span(self.path, line, column + 1, end_line, end_column + 1)
        start = self._column(line, column)
        end = self._column(end_line, end_column)
        if self._cells is None or not self._starts:
            return Span(self.path, line, start, end_line, end)
        at = max(bisect_right(self._starts, line) - 1, 0)
        shift = self._starts[at] - 1
        return Span(self.path, max(line - shift, 1), start, max(end_line - shift, 1), end, self._order[at])

    def _column(self, line: int, offset: int) -> int:
        """Characters in the first `offset` bytes of the line as parsed, plus one; never behind the end of the line as written."""
        lines = self._all_lines()
        if not 0 < line <= len(lines):
            return offset + 1
        written = lines[line - 1]
        parsed = written if self._parsed is None else self._parsed[line - 1]
        characters = offset if parsed.isascii() else len(parsed.encode("utf-8", "surrogatepass")[:offset].decode("utf-8", "ignore"))
        return min(characters, len(written)) + 1

    def segment(self, node: ast.AST) -> str:
        """The text of a node as written; of several lines, with their line ends as `\\n`."""
        span = self.span(node)
        lines = [self.line_text(n, span.cell) for n in range(span.line, span.end_line + 1)]
        if not lines:
            return ""
        lines[-1] = lines[-1][: span.end_column - 1]
        lines[0] = lines[0][span.column - 1 :]
        return "\n".join(lines)
