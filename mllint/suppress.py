"""What comments ask not to be told: our own marks, and those of the tools people come from.

Nothing is deleted here. A finding learns what hides it and stays in the report, and a mark learns whether it hid anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mllint.model.finding import Finding, Span
from mllint.model.mark import Mark

if TYPE_CHECKING:
    from mllint.read.source import Source

OURS = b"mllint:"
FOREIGN = (b"noqa", b"nosec", b"pylint:")

# Hiding these by name says nothing about the code, so a mark that names them is never called unused.
ABOUT_MARKS = frozenset(("unused-ignore", "unknown-ignore"))

_MARK = re.compile(r"#\s*mllint:\s*(?P<verb>[\w-]*)\s*(?:\[(?P<names>[^\]#]*)\])?")
_FOREIGN = re.compile(
    r"#\s*(?:(?i:noqa):\s*(?P<noqa>[A-Za-z]+[0-9]+(?:[,\s]+[A-Za-z]+[0-9]+)*)"
    r"|nosec:?\s+(?P<nosec>[A-Za-z]+[0-9]+(?:[,\s]+[A-Za-z]+[0-9]+)*)"
    r"|pylint:\s*disable=(?P<pylint>[\w-]+(?:\s*,\s*[\w-]+)*))"
)


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment and whether it has its line to itself."""

    span: Span
    text: str
    alone: bool


class _Ignore:
    """One mark that hides: where it holds, which names it gave, and which of them hid something."""

    __slots__ = ("comment", "lines", "names", "rules", "used")

    def __init__(self, comment: Comment, lines: frozenset[int], names: dict[str, frozenset[str]]) -> None:
        self.comment = comment
        self.lines = lines
        self.names = names
        self.used: set[str] = set()

    def hides(self, finding: Finding) -> bool:
        span = finding.span
        if span.cell != self.comment.span.cell or not (span.line in self.lines or span.end_line in self.lines):
            return False
        naming = [name for name, rules in self.names.items() if finding.rule in rules]
        self.used.update(naming)
        return bool(naming)


class FileMarks:
    """The marks of one file."""

    def __init__(self, comments: Iterable[Comment], members: Callable[[str], frozenset[str]], also: Mapping[str, frozenset[str]]) -> None:
        self.whole_file = False
        self._ignores: list[_Ignore] = []
        self._foreign: list[_Ignore] = []
        self._unknown: dict[Comment, list[tuple[str, str]]] = {}
        listed = list(comments)
        alone = {(c.span.cell, c.span.line) for c in listed if c.alone}
        for comment in listed:
            self._ours(comment, _lines(comment, alone), members)
            listed_codes = [next(g for g in match.groups() if g) for match in _FOREIGN.finditer(comment.text)]
            names = {code: also[code] for codes in listed_codes for code in re.split(r"[,\s]+", codes) if code in also}
            if names:
                self._foreign.append(_Ignore(comment, frozenset((comment.span.line,)), names))

    def _ours(self, comment: Comment, lines: frozenset[int], members: Callable[[str], frozenset[str]]) -> None:
        for match in _MARK.finditer(comment.text):
            verb, listed = match["verb"], match["names"]
            if verb == "skip-file":
                self.whole_file = True
                continue
            if verb != "ignore":
                from mllint.config import nearest

                hint = nearest(verb, ("ignore", "skip-file")) or "; known are `ignore[rule]` and `skip-file`"
                self._unknown.setdefault(comment, []).append((verb, hint))
                continue
            names = [name.strip() for name in (listed or "").split(",") if name.strip()]
            if not names:
                self._unknown.setdefault(comment, []).append((verb, "; it hides nothing until it names a rule: `ignore[rule-name]`"))
            known = {name: rules for name in names if (rules := members(name))}
            for name in names:
                if name not in known:
                    self._unknown.setdefault(comment, []).append((name, ""))
            if known:
                self._ignores.append(_Ignore(comment, lines, known))

    def hides(self, finding: Finding) -> bool:
        """Some mark hides the finding. Every mark that does is asked, so that none of two is called unused."""
        if self.whole_file:
            return True
        answers = [ignore.hides(finding) for ignore in (*self._ignores, *self._foreign)]
        return any(answers)

    def leftovers(self, looked_for: Callable[[frozenset[str]], bool], near: Callable[[str], str]) -> list[Mark]:
        """The marks that hid nothing although their rules were looked for, or that nobody understands."""
        if self.whole_file:
            return []
        unused: dict[Comment, list[str]] = {}
        for ignore in self._ignores:
            for name, rules in ignore.names.items():
                if name not in ignore.used and not rules <= ABOUT_MARKS and looked_for(rules):
                    unused.setdefault(ignore.comment, []).append(name)
        marks = []
        for comment in dict.fromkeys((*unused, *self._unknown)):
            unknown = tuple((name, hint or near(name)) for name, hint in self._unknown.get(comment, ()))
            marks.append(Mark(comment.span, comment.text, tuple(unused.get(comment, ())), unknown))
        return marks


def _lines(comment: Comment, alone: set[tuple[int | None, int]]) -> frozenset[int]:
    """A comment holds for its line; one that has the line to itself also for the first line below that is no comment."""
    line, cell = comment.span.line, comment.span.cell
    if not comment.alone:
        return frozenset((line,))
    below = line + 1
    while (cell, below) in alone:
        below += 1
    return frozenset((line, below))


def may_hold_marks(data: bytes, has_findings: bool) -> bool:
    """Whether the comments of a file are worth reading: tokenizing costs ten times what parsing does."""
    if OURS in data or not has_findings:
        return OURS in data
    lowered = data.lower()
    return any(word in lowered for word in FOREIGN)


def comments(source: Source) -> list[Comment]:
    """The comments of a file or of a notebook's code cells, in order.

    Those that say nothing to us are listed too: a mark that is alone on its line reaches past the comments below it.
    """
    found: list[Comment] = []
    for cell in source.code_cells or (None,):
        found += _comments_in(source.lines_of(cell), source.path, cell)
    return found


def _comments_in(lines: list[str], path: str, cell: int | None) -> list[Comment]:
    import tokenize

    if cell is not None:
        from mllint.read.notebook import mask_magics

        lines = mask_magics(lines)
    found: list[Comment] = []
    try:
        for token in tokenize.generate_tokens((line + "\n" for line in lines).__next__):
            if token.type == tokenize.COMMENT:
                row, column = token.start
                span = Span(path, row, column + 1, row, token.end[1] + 1, cell)
                found.append(Comment(span, token.string, not token.line[:column].strip()))
    except (tokenize.TokenError, SyntaxError):
        # What does not tokenize does not parse, and is a problem of the report already; the comments before it still hold.
        pass
    return found
