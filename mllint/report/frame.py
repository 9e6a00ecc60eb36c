"""A few lines of code with carets below them, on any width and in any script."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from mllint.model.finding import Span

WIDTH = 120  # characters of a line that are shown; minified code has lines of megabytes
LINES = 4  # a call over forty lines is recognised by its first


def frame(span: Span, line_of: Callable[[Span], str]) -> Iterator[tuple[str, str, str]]:
    """(number, text, carets) of each line shown. Nothing where the file cannot be read any more."""
    last = max(span.end_line, span.line)
    for number in range(span.line, min(last, span.line + LINES - 1) + 1):
        line = line_of(replace(span, line=number)).rstrip()
        if not line and number == span.line:
            return
        start = span.column - 1 if number == span.line else len(line) - len(line.lstrip())
        end = span.end_column - 1 if number == last else len(line)
        start = min(max(start, 0), len(line))
        shown, before, width = _cut(line, start, max(min(end, len(line)), start + 1))
        yield str(number), shown, " " * before + "^" * width if line else ""
    if last >= span.line + LINES:
        yield "", "...", ""


def _cut(line: str, start: int, end: int) -> tuple[str, int, int]:
    """The part of a line to show, how many columns stand before the span in it, and how many the span takes."""
    left = 0
    if len(line) > WIDTH and end > WIDTH:
        left = max(start - WIDTH // 4, 0)
    right = min(len(line), left + WIDTH)
    end = min(end, max(right, start + 1))
    head, tail = "..." if left else "", "..." if right < len(line) else ""
    before, marked, behind = _plain(line[left:start]), _plain(line[start:end]), _plain(line[end:right])
    return head + before + marked + behind + tail, len(head) + _columns(before), max(_columns(marked), 1)


def _plain(text: str) -> str:
    """Tabs as four blanks, control characters as a mark: a line of code must not steer a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "    " if c == "\t" else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)
