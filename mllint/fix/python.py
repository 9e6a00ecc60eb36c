"""Edits of Python code as exact changes of its text. What no patch names keeps every character."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import libcst

from mllint.fix import calls, imports
from mllint.fix.patch import HEADER, INDENT, LINES, Declined, Lines, Patch, Plan, indented, ordered
from mllint.fix.tree import Block, Statement, Tree
from mllint.model.finding import Span
from mllint.model.fix import (
    AddImport,
    Dedent,
    Delete,
    DropArgument,
    Edit,
    Insert,
    Move,
    Rename,
    Replace,
    Rewrite,
    SetArgument,
    SetFormat,
    Unwrap,
    Wrap,
)

_EXITS = (libcst.Return, libcst.Raise, libcst.Break, libcst.Continue)
_COMPOUND = re.compile(r"(?:async\s+)?(?:if|for|while|with|try|def|class|match|@)\b|@")


class Editor:
    """Collects the patches of one fix for one text (a file, or one cell of a notebook)."""

    def __init__(self, tree: Tree, cell: int | None = None) -> None:
        self.tree = tree
        self.lines = tree.lines
        self.text = tree.text
        self.cell = cell
        self.patches: list[Patch] = []
        self.claims: list[tuple[int, int]] = []
        self._removed: dict[Block, set[int]] = {}
        self._filled: set[Block] = set()
        self._shifts: list[tuple[int, int, str, str]] = []
        self._shifted: set[int] = set()
        self._gone: list[tuple[int, int]] = []

    def edit(self, edits: Sequence[Edit]) -> Plan:
        """The patches of all edits together. Blocks are wrapped and dedented first, so that what goes into them is indented alike."""
        order = (Wrap, Unwrap, Dedent), (Delete,), (Move,)
        for kinds in order[:2]:
            for one in edits:
                if isinstance(one, kinds):
                    self._carry(one)
        for one in edits:
            if not isinstance(one, (*order[0], *order[1], *order[2])):
                self._carry(one)
        for one in edits:
            if isinstance(one, Move):
                self._carry(one)
        self._fill_emptied()
        self.patches = [p for p in self.patches if p.rank != INDENT or not any(a <= p.start < b for a, b in self._gone)]
        self._keep_comments()
        return Plan(
            tuple(Patch(p.start, p.end, p.text, p.rank, self.cell, p.joins) for p in self.patches),
            tuple((self.cell, start, end) for start, end in self.claims),
        )

    def _keep_comments(self) -> None:
        """No comment is lost: one that would go without coming back elsewhere declines the fix."""
        kept = "\n".join(p.text for p in self.patches)
        gone = Counter(comment for patch in self.patches for comment in self.tree.comments(patch.start, patch.end))
        for comment, times in gone.items():
            if kept.count(comment) < times:
                raise Declined(f"the comment `{comment}` would be lost")

    def _carry(self, edit: Edit) -> None:
        match edit:
            case Replace(span, text):
                start, end = self.place(span)
                self.patches.append(Patch(start, end, text))
            case Rewrite(span, text):
                self.patches += calls.rewrite(self.tree, *self.place(span), text)
            case Rename(span, name):
                self.patches.append(calls.rename(self.tree, *self.place(span), name))
            case SetArgument(call, name, text, position):
                self.patches += calls.set_argument(self.tree, *self.place(call), name, text, position)
            case DropArgument(call, argument):
                self.patches += calls.drop_argument(self.tree, *self.place(call), argument)
            case SetFormat(span, was, text, index):
                patch = calls.set_format(self.tree, *self.place(span), text, index)
                if not was.endswith(self.text[patch.start : patch.end]):
                    raise Declined("the format is not written where it takes effect")
                self.patches.append(patch)
            case AddImport():
                self.patches += imports.add_import(self.tree, edit)
            case Insert(anchor, where, text):
                self._insert(self.tree.statement_at(*self.place(anchor)), where, text)
            case Delete(span):
                self._delete(self.tree.whole_run_at(*self.place(span)))
            case Move(span, anchor, where):
                self._move(self.tree.whole_run_at(*self.place(span)), self.tree.statement_at(*self.place(anchor)), where)
            case Wrap(span, header):
                self._wrap(self.tree.run_at(*self.place(span)), header)
            case Unwrap(anchor):
                self._unwrap(self.tree.statement_at(*self.place(anchor)))
            case Dedent(span, reopen):
                self._dedent(self.tree.run_at(*self.place(span)), reopen)

    def place(self, span: Span) -> tuple[int, int]:
        """The characters of a span."""
        return self.lines.offset(span.line, span.column), self.lines.offset(span.end_line, span.end_column)

    # ------------------------------------------------------------ inserting

    def _insert(self, anchor: Statement, where: str, text: str) -> None:
        at = self._target(anchor, where)
        if at is None:
            self._insert_inline(*self._beside(anchor, where), text)
            return
        offset, indent = at
        self.patches.append(self.lines.as_lines(offset, self._indented(text, offset, indent)))

    def _indented(self, text: str, offset: int, indent: str) -> list[str]:
        lines = indented(text, indent, self.tree.unit)
        for start, end, old, new in self._shifts:
            if start < offset < end:
                lines = [new + line[len(old) :] if line.startswith(old) and line else line for line in lines]
        return lines

    def _beside(self, anchor: Statement, where: str) -> tuple[Statement, str]:
        """The statement beside which `where` puts something, and on which side of it."""
        if where in ("before", "after"):
            return anchor, where
        if not anchor.blocks:
            raise Declined("the place to put something into opens no block")
        inside = anchor.blocks[0].statements
        if where == "end":
            return inside[-1], "after"
        if _is_docstring(inside[0]) and isinstance(anchor.node, (libcst.FunctionDef, libcst.ClassDef)):
            return inside[0], "after"
        return inside[0], "before"

    def _target(self, anchor: Statement, where: str) -> tuple[int, str] | None:
        """(start of the line to insert at, indentation); None where the place lies within a line of several statements."""
        beside, side = self._beside(anchor, where)
        if side == "after" and isinstance(beside.node, _EXITS):
            raise Declined("what comes behind this statement is never reached")
        self._filled.add(beside.block)
        if beside.block.one_line:
            return None
        if where == "end" and beside is beside.mates[-1] and beside.block is anchor.blocks[-1]:
            return self.tree.behind(anchor), beside.block.indent
        if side == "after" and beside is beside.mates[-1]:
            return self.tree.behind(beside), self.lines.indent(beside.start)
        if side == "before" and beside is beside.mates[0]:
            if where == "start":
                return self.tree.body_line(beside.block), beside.block.indent
            return self.tree.first_line(beside), self.lines.indent(beside.start)
        return None

    def _insert_inline(self, beside: Statement, side: str, text: str) -> None:
        """Beside a statement that shares its line: with a semicolon, or on lines of its own after the line was taken apart."""
        lines = text.strip("\n").split("\n")
        if len(lines) == 1 and not _COMPOUND.match(lines[0]) and "#" not in lines[0]:
            self.patches.append(
                Patch(beside.end, beside.end, f"; {lines[0]}") if side == "after" else Patch(beside.start, beside.start, f"{lines[0]}; ")
            )
            return
        indent = beside.block.indent
        block = self.lines.newline.join(indented(text, indent, self.tree.unit))
        self._take_apart(beside)
        end = self.lines.newline
        if side == "before":
            self.patches.append(Patch(beside.start, beside.start, block.removeprefix(indent) + end + indent))
        elif beside is beside.mates[-1]:
            at = self.lines.line_end(beside.end)
            self.patches.append(Patch(at, at, end + block))
        else:
            following = beside.mates[beside.mates.index(beside) + 1]
            self.patches.append(Patch(following.start, following.start, block.removeprefix(indent) + end + indent))

    def _take_apart(self, statement: Statement) -> None:
        """Give each statement of a line a line of its own."""
        lead = self.lines.newline + statement.block.indent
        if statement.block.one_line:
            colon = self.tree.colon(statement.block)
            self._once(Patch(colon, statement.mates[0].start, lead))
        for one, following in zip(statement.mates, statement.mates[1:], strict=False):
            if "\n" in self.text[one.end : following.start]:
                raise Declined("the line to take apart goes on behind a backslash")
            self._once(Patch(one.end, following.start, lead))

    def _once(self, patch: Patch) -> None:
        if patch not in self.patches:
            self.patches.append(patch)

    # ------------------------------------------------------ deleting, moving

    def _delete(self, run: list[Statement]) -> None:
        self._note_removed(run)
        first, last = run[0], run[-1]
        if first.block.one_line or not _whole_lines(run):
            self.patches.append(self._cut(run))
            return
        start = self.lines.line_start(first.start)
        comment = self.tree.comment_behind(last)
        if comment:
            self.patches.append(Patch(first.start, self.lines.line_end(last.mates[-1].end), comment))
            return
        end = self.lines.next_line(last.mates[-1].end)
        self._gone.append((start, end))
        self.patches.append(Patch(*self._line_range(start, end), ""))

    def _line_range(self, start: int, end: int) -> tuple[int, int]:
        """Whole lines to take out, with the blank ones behind them that would double those before them.

        Without the last line of a text that has no end, the one before loses its own."""
        above, below = start, end
        while end < len(self.text) and above > 0:
            before, behind = self.lines.line_start(above - 1), self.lines.next_line(below)
            if self.text[before:above].strip() or self.text[below:behind].strip() or behind == below:
                break
            above, below = before, behind
        end = below
        if end == len(self.text) and start and (end == start or self.text[end - 1] not in "\r\n"):
            start = self.lines.line_end(start - 1)
        return start, end

    def _cut(self, run: list[Statement]) -> Patch:
        """Statements taken out of a line of several, with one of the semicolons around them."""
        mates = run[0].mates
        first, last = mates.index(run[0]), mates.index(run[-1]) if run[-1] in mates else -1
        if last < 0:
            raise Declined("the statements to take out begin and end on lines of several statements")
        if last + 1 < len(mates):
            return Patch(run[0].start, mates[last + 1].start, "")
        if first:
            return Patch(mates[first - 1].end, run[-1].end, "")
        return Patch(run[0].start, run[-1].end, "pass")

    def _note_removed(self, run: list[Statement]) -> None:
        self._removed.setdefault(run[0].block, set()).update(s.index for s in run)

    def _fill_emptied(self) -> None:
        """`pass` where everything in a block was taken out and nothing came in."""
        for block, gone in self._removed.items():
            if block.owner is None or block.one_line or block in self._filled or len(gone) < len(block.statements):
                continue
            at = self.lines.line_start(block.statements[0].start)
            indent = block.indent
            for start, end, old, new in self._shifts:
                if start <= at < end:
                    indent = new + indent.removeprefix(old)
            self.patches.append(self.lines.as_lines(at, [indent + "pass"]))

    def _move(self, run: list[Statement], anchor: Statement, where: str) -> None:
        if any(s.start <= anchor.start and anchor.end <= s.end for s in run):
            raise Declined("a statement cannot move into itself")
        first, last = run[0], run[-1]
        target = self._target(anchor, where)
        if first.block.one_line or not _whole_lines(run):
            start, end = first.start, last.end
            cut = self._cut(run)
        else:
            start, end = self.tree.first_line(first), self.tree.behind(last)
            cut = Patch(*self._line_range(start, end), "")
        moved = self._patched(start, end)
        if target is None:
            if "\n" in moved.strip("\r\n"):
                raise Declined("several lines cannot go to a place within a line")
            if "#" in moved:
                raise Declined("a comment cannot go to a place within a line")
            self._insert_inline(*self._beside(anchor, where), moved.strip())
        else:
            at, indent = target
            if start <= at <= end and at != start and at != end:
                raise Declined("a statement cannot move into itself")
            lines = self._reindented(start, moved, first.block.indent, indent)
            for begin, stop, old, new in self._shifts:
                if begin < at < stop:
                    lines = [new + line.removeprefix(old) if line.strip() else line for line in lines]
            self.patches.append(self.lines.as_lines(at, lines))
        self.patches.append(cut)
        self.claims.append((start, end))
        self._note_removed(run)

    def _patched(self, start: int, end: int) -> str:
        """A stretch of text with the other patches of this fix made in it; those are done with then."""
        # Lines that were put right before or behind the stretch stay there; its indentation is made anew.
        last = end if end < len(self.text) else end + 1
        inside = [
            p for p in self.patches if start <= p.start < last and p.end <= end and (start < p.start or p.rank not in (LINES, HEADER))
        ]
        self.patches = [p for p in self.patches if p not in inside]
        inside = [p for p in inside if p.rank != INDENT]
        parts: list[str] = []
        at = start
        for patch in ordered(inside):
            if patch.start < at:
                raise Declined("its edits overlap")
            parts += (self.text[at : patch.start], patch.text)
            at = patch.end
        return "".join((*parts, self.text[at:end]))

    def _reindented(self, start: int, moved: str, old: str, new: str) -> list[str]:
        """The lines of a moved stretch at their new indentation; what stands inside strings keeps its own."""
        inside = _inside_strings(moved, old)
        lines = Lines(moved)
        result = []
        for number, begin in enumerate(lines.starts, 1):
            line = moved[begin : lines.line_end(begin)]
            if number == len(lines.starts) and not line:
                break
            result.append(
                line
                if number in inside or not line.strip()
                else _shift(line, old, new)
                if number > 1 or line.startswith(old)
                else new + line
            )
        return result

    # ---------------------------------------------------------------- blocks

    def _wrap(self, run: list[Statement], header: str) -> None:
        first, last = run[0], run[-1]
        outer, unit = first.block.indent, self.tree.unit
        if first.block.one_line:
            if len(run) < len(first.block.statements):
                raise Declined("a part of a block on one line cannot get a block of its own")
            head = self.lines.newline.join(indented(header, outer, unit))
            lead = self.lines.newline + head + self.lines.newline + outer + unit
            self.patches.append(Patch(self.tree.colon(first.block), first.start, lead))
            return
        if first is not first.mates[0] or last is not last.mates[-1]:
            raise Declined("a part of a line of several statements cannot get a block of its own")
        start, end = self.tree.first_line(first), self.tree.behind(last)
        head = self.lines.newline.join(self._indented(header, start, outer)) + self.lines.newline
        self.patches.append(Patch(start, start, head, HEADER))
        self._shift_lines(start, end, outer, outer + unit)

    def _shift_lines(self, start: int, end: int, old: str, new: str) -> None:
        """Another indentation for every line of a stretch; blank lines and the inside of strings stay as they are."""
        kept = self.tree.multiline_strings(start, end)
        at = start
        while at < end:
            number, following = self.lines.number(at), self.lines.next_line(at)
            line = self.text[at : self.lines.line_end(at)]
            if line.strip() and number not in kept:
                if number in self._shifted:
                    raise Declined("two of its edits indent the same lines")
                self._shifted.add(number)
                shifted = _shift(line, old, new)
                if shifted.endswith(line):
                    self.patches.append(Patch(at, at, shifted.removesuffix(line), INDENT))
                else:
                    gone = len(line) - len(line.lstrip(" \t\f"))
                    kept_part = len(shifted) - len(shifted.lstrip(" \t\f"))
                    self.patches.append(Patch(at, at + gone, shifted[:kept_part], INDENT))
            at = following
        self._shifts.append((start, end, old, new))
        self.claims.append((start, end))

    def _unwrap(self, opener: Statement) -> None:
        if len(opener.blocks) != 1 or isinstance(opener.node, (libcst.FunctionDef, libcst.ClassDef)):
            raise Declined("the block to open has another arm")
        block = opener.blocks[0]
        if block.one_line:
            self.patches.append(Patch(opener.start, block.statements[0].start, ""))
            return
        start, end = self.tree.body_line(block), self.tree.behind(opener)
        head = self.text[opener.start : start]
        indent = self.lines.indent(opener.start)
        comments = [found.group() for found in re.finditer(r"#[^\r\n]*", head)] if "#" in head else []
        if comments and any(quote in head for quote in "'\""):
            raise Declined("the header to remove holds comments and strings")
        kept = "".join(indent + comment + self.lines.newline for comment in comments)
        self.patches.append(Patch(self.lines.line_start(opener.start), start, kept))
        self._shift_lines(start, end, block.indent, indent)

    def _dedent(self, run: list[Statement], reopen: bool) -> None:
        block, first, last = run[0].block, run[0], run[-1]
        owner = block.owner
        if owner is None or owner.blocks[-1] is not block or isinstance(owner.node, (libcst.FunctionDef, libcst.ClassDef)):
            raise Declined("the statements stand in no block they could leave")
        rest = block.statements[last.index + 1 :]
        if first.index == 0:
            raise Declined("the block they leave would be empty")
        if rest and not (reopen and isinstance(owner.node, libcst.With)):
            raise Declined("other statements follow in the block they would leave")
        indent = self.lines.indent(owner.start)
        if block.one_line:
            before = block.statements[first.index - 1]
            if rest or "\n" in self.text[before.end : first.start]:
                raise Declined("a line of several statements cannot be taken apart here")
            self.patches.append(Patch(before.end, first.start, self.lines.newline + indent))
            self.claims.append((owner.start, owner.end))
            return
        if first is not first.mates[0]:
            before = block.statements[first.index - 1]
            if rest or last.mates is not first.mates or "\n" in self.text[before.end : first.start]:
                raise Declined("a line of several statements cannot be taken apart here")
            self.patches.append(Patch(before.end, first.start, self.lines.newline + indent))
            return
        if last is not last.mates[-1]:
            raise Declined("a line of several statements cannot be taken apart here")
        start = self.tree.first_line(first)
        end = self.tree.behind(last) if rest else self.tree.behind(owner)
        self._shift_lines(start, end, block.indent, indent)
        if rest:
            header = self.text[self.lines.line_start(owner.start) : self.tree.body_line(block)]
            if owner is not owner.mates[0] or "#" in header:
                raise Declined("the header with its comment cannot stand twice")
            self.patches.append(Patch(end, end, header, HEADER))


def _whole_lines(run: list[Statement]) -> bool:
    return run[0] is run[0].mates[0] and run[-1] is run[-1].mates[-1]


def _is_docstring(statement: Statement) -> bool:
    return isinstance(statement.node, libcst.Expr) and isinstance(statement.node.value, (libcst.SimpleString, libcst.ConcatenatedString))


def _shift(line: str, old: str, new: str) -> str:
    """One line from one indentation to another; a line that begins further left moves as far as it can."""
    if line.startswith(old):
        return new + line[len(old) :]
    if new.startswith(old):
        return new[len(old) :] + line
    surplus = len(old) - len(new)
    blank = len(line) - len(line.lstrip(" \t\f"))
    return line[min(surplus, blank) :] if surplus > 0 else line


def _inside_strings(moved: str, indent: str) -> set[int]:
    """The lines of a stretch that begin inside a string."""
    if not any(quote in moved for quote in ('"""', "'''", "\\")):
        return set()
    lead = "if 1:\n" if indent else ""
    try:
        tree = Tree(lead + (moved if moved.startswith(indent) else indent + moved))
    except Declined:
        raise Declined("a moved text could not be read by itself") from None
    shift = 1 if lead else 0
    return {number - shift for number in tree.multiline_strings(0, len(tree.text))}
