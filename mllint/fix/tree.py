"""The statements and calls of a Python text with their exact places, as LibCST reads them."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import libcst
from libcst.metadata import CodePosition, MetadataWrapper, PositionProvider

from mllint.fix.patch import Declined, Lines

_BEHIND = re.compile(r"[ \t\f]*(;?)[ \t\f]*(#[^\r\n]*)?(?=[\r\n]|$)")
_COMMENT_LINE = re.compile(r"[ \t\f]*#")


@dataclass(slots=True, eq=False)
class Block:
    """Statements that follow each other at one indentation. `one_line` stands behind its colon (`if x: a; b`)."""

    owner: Statement | None
    indent: str
    one_line: bool = False
    statements: list[Statement] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Statement:
    """One statement; of a compound one, `blocks` are what it opens, its body first. `mates` share its line, itself included."""

    node: libcst.CSTNode
    start: int
    end: int
    block: Block
    index: int
    mates: list[Statement]
    blocks: list[Block] = field(default_factory=list)


class Tree:
    """One text, parsed. `parsed` is what to read instead of the text itself, line for line (a cell with its magics masked)."""

    def __init__(self, text: str, parsed: str | None = None) -> None:
        self.lines = Lines(text)
        self.text = text
        self.parsed = text if parsed is None else parsed
        self._comments: list[tuple[int, str]] | None = None
        try:
            self.node = libcst.parse_module(self.parsed)
        except (libcst.ParserSyntaxError, RecursionError, ValueError) as error:
            raise Declined("LibCST cannot read the file as it is") from error
        self._places = MetadataWrapper(self.node, unsafe_skip_copy=True).resolve(PositionProvider)
        self.unit = self.node.default_indent
        self.top = Block(None, "")
        self._fill(self.top, self.node.body)
        self._at: dict[tuple[int, int], list[libcst.CSTNode]] | None = None

    # ------------------------------------------------------------- places

    def start(self, node: libcst.CSTNode) -> int:
        return self._offset(self._places[node].start)

    def end(self, node: libcst.CSTNode) -> int:
        return self._offset(self._places[node].end)

    def _offset(self, place: CodePosition) -> int:
        # LibCST gives a text without a last line end one more line.
        return len(self.text) if place.line > len(self.lines.starts) else self.lines.offset(place.line, place.column + 1)

    def code(self, node: libcst.CSTNode) -> str:
        return self.text[self.start(node) : self.end(node)]

    def nodes_at(self, start: int, end: int) -> list[libcst.CSTNode]:
        """The nodes that reach exactly from here to there, outermost first."""
        if self._at is None:
            self._at = {}
            stack: list[libcst.CSTNode] = [self.node]
            while stack:
                node = stack.pop()
                if node in self._places:
                    self._at.setdefault((self.start(node), self.end(node)), []).append(node)
                stack.extend(reversed(node.children))
        return self._at.get((start, end), [])

    def multiline_strings(self, start: int, end: int) -> set[int]:
        """The lines within a stretch that begin inside a string: their indentation is part of a value."""
        kept: set[int] = set()
        for node in self._places:
            if not isinstance(node, (libcst.SimpleString, libcst.FormattedString)) and type(node).__name__ != "TemplatedString":
                continue
            place: Any = self._places[node]
            if place.end.line > place.start.line and self.start(node) < end and self.end(node) > start:
                kept.update(range(place.start.line + 1, place.end.line + 1))
        return kept

    @property
    def formatted(self) -> Iterator[libcst.FormattedStringExpression]:
        """The fields of all f-strings."""
        return (node for node in self._places if isinstance(node, libcst.FormattedStringExpression))

    def comments(self, start: int, end: int) -> list[str]:
        """The comments within a stretch, in order."""
        if "#" not in self.text[start:end]:
            return []
        if self._comments is None:
            self._comments = []
            reader = io.StringIO(self.parsed, newline="").readline
            try:
                for token in tokenize.generate_tokens(reader):
                    if token.type == tokenize.COMMENT:
                        self._comments.append((self.lines.offset(token.start[0], token.start[1] + 1), token.string))
            except (tokenize.TokenError, SyntaxError) as error:
                raise Declined("the comments of the file could not be told apart") from error
        return [text for at, text in self._comments if start <= at < end]

    # ---------------------------------------------------------- statements

    def _fill(self, block: Block, body: Sequence[libcst.CSTNode]) -> None:
        for item in body:
            if isinstance(item, libcst.SimpleStatementLine):
                self._fill_line(block, item.body)
            else:
                self._compound(block, item)
        if block.statements and not block.one_line:
            block.indent = self.lines.indent(block.statements[0].start)

    def _fill_line(self, block: Block, smalls: Sequence[libcst.CSTNode]) -> None:
        mates: list[Statement] = []
        for small in smalls:
            mates.append(Statement(small, self.start(small), self.end(small), block, len(block.statements), mates))
            block.statements.append(mates[-1])

    def _compound(self, block: Block, node: Any) -> None:
        decorators = getattr(node, "decorators", ())
        start = self.start(decorators[0]) if decorators else self.start(node)
        statement = Statement(node, start, self.end(node), block, len(block.statements), [])
        statement.mates.append(statement)
        block.statements.append(statement)
        for body in bodies(node):
            inner = Block(statement, "", isinstance(body, libcst.SimpleStatementSuite))
            if inner.one_line:
                self._fill_line(inner, body.body)
                inner.indent = self.lines.indent(start) + self.unit
            else:
                self._fill(inner, body.body)
            statement.blocks.append(inner)

    def statement_at(self, start: int, end: int) -> Statement:
        """The smallest statement that holds a stretch."""
        block, found = self.top, None
        while True:
            here = next((s for s in block.statements if s.start <= start and end <= s.end), None)
            if here is None:
                break
            found = here
            inner = next((b for b in here.blocks if b.statements and b.statements[0].start <= start and end <= b.statements[-1].end), None)
            if inner is None:
                break
            block = inner
        if found is None:
            raise Declined("no statement stands at the place to change")
        return found

    def run_at(self, start: int, end: int) -> list[Statement]:
        """The statements of one block that a stretch touches."""
        block = self.top
        while True:
            touched = [s for s in block.statements if s.start < max(end, start + 1) and start < s.end]
            if len(touched) != 1:
                break
            inner = next(
                (b for b in touched[0].blocks if b.statements and b.statements[0].start <= start and end <= b.statements[-1].end), None
            )
            if inner is None:
                break
            block = inner
        if not touched:
            raise Declined("no statement stands at the place to change")
        return touched

    def whole_run_at(self, start: int, end: int) -> list[Statement]:
        """The statements of one block that a stretch covers from the first character to the last."""
        run = self.run_at(start, end)
        first, last = run[0], run[-1]
        if (start > first.start and start != self.start(first.node)) or end < last.end:
            raise Declined("the place is a part of a statement, which does more than that")
        return run

    # ---------------------------------------------------- around statements

    def comment_behind(self, statement: Statement) -> str:
        """The comment on the last line of a statement, or nothing."""
        found = _BEHIND.match(self.text, statement.mates[-1].end)
        return (found.group(2) or "") if found and not statement.blocks else ""

    def first_line(self, statement: Statement) -> int:
        """The start of the first line of a statement that has its lines for itself, with the comments right above it."""
        at = self.lines.line_start(statement.start)
        indent = self.lines.indent(statement.start)
        while at > 0:
            above = self.lines.line_start(at - 1)
            line = self.text[above:at]
            if not _COMMENT_LINE.match(line) or self.lines.indent(above) != indent or above < self._floor(statement):
                break
            at = above
        return at

    def _floor(self, statement: Statement) -> int:
        """No comment above this place belongs to the statement: what stands before it ends here."""
        if statement.index:
            return self.lines.next_line(statement.block.statements[statement.index - 1].end)
        return 0

    def behind(self, statement: Statement) -> int:
        """The start of the line behind a statement, its comments and what of them still belongs to its blocks."""
        at = self.lines.next_line(statement.mates[-1].end)
        if not statement.blocks:
            return at
        indent = self.lines.indent(statement.start)
        probe = at
        while probe < len(self.text):
            line = self.text[probe : self.lines.next_line(probe)]
            if line.strip():
                here = self.lines.indent(probe)
                if not _COMMENT_LINE.match(line) or not (here.startswith(indent) and len(here) > len(indent)):
                    break
                at = self.lines.next_line(probe)
            probe = self.lines.next_line(probe)
        return at

    def body_line(self, block: Block) -> int:
        """The start of the first line inside a block that has lines of its own, comments included."""
        at = self.lines.line_start(block.statements[0].start)
        while at > 0:
            above = self.lines.line_start(at - 1)
            line = self.text[above:at]
            if line.strip() and not _COMMENT_LINE.match(line):
                break
            at = above
        return at

    def colon(self, block: Block) -> int:
        """Right behind the colon of a block that stands on one line."""
        at = block.statements[0].start
        while self.text[at - 1] in " \t\f\\\r\n":
            at -= 1
        if self.text[at - 1] != ":":
            raise Declined("the block behind the colon could not be told apart")
        return at

    def walk(self) -> Iterator[Statement]:
        """Every statement, in order."""
        stack = list(reversed(self.top.statements))
        while stack:
            statement = stack.pop()
            yield statement
            stack.extend(s for block in reversed(statement.blocks) for s in reversed(block.statements))


def bodies(node: Any) -> Iterator[Any]:
    """The suites of a compound statement, in order."""
    if hasattr(node, "cases"):
        for case in node.cases:
            yield case.body
        return
    yield node.body
    for handler in getattr(node, "handlers", ()):
        yield handler.body
    for name in ("orelse", "finalbody"):
        more = getattr(node, name, None)
        if more is not None:
            yield from bodies(more)
