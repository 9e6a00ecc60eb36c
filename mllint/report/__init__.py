"""What a run found, written for people and for machines: one module a format, loaded only when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from mllint.model.finding import Problem, Report, Span
from mllint.model.fix import Fix, Replace
from mllint.model.rule import Rule

# Every module has one function, `pieces(view)`, that yields text.
FORMATS = {name: f"mllint.report.{name}" for name in ("text", "concise", "json", "sarif", "github")}


@dataclass(frozen=True, slots=True)
class View:
    """A report and all that is needed to show it. `line_of` gives the first line of a span; `help_of` the page of a rule; `run` is
    what is known of the run that judged the findings, where there was one; `exact` makes exact replacements of a fix."""

    report: Report
    rules: Mapping[str, Rule]
    line_of: Callable[[Span], str]
    files: int
    seconds: float
    color: bool = False
    help_of: Callable[[str], str] | None = None
    run: Mapping[str, Any] | None = None
    exact: Callable[[Fix], Sequence[Replace]] | None = None

    def count(self, severity: str) -> int:
        return sum(finding.severity == severity for finding in self.report.shown)

    @property
    def fixable(self) -> int:
        """How many shown findings carry a fix that can be applied."""
        return self.fixable_as("safe") + self.fixable_as("unsafe")

    def fixable_as(self, safety: str) -> int:
        """How many shown findings carry a fix of that safety."""
        return sum(f.hit.fix is not None and f.hit.fix.safety == safety for f in self.report.shown)

    @property
    def hidden(self) -> int:
        return len(self.report.findings) - len(self.report.shown)


def render(
    format: str,
    report: Report,
    rules: Mapping[str, Rule],
    line_of: Callable[[Span], str],
    stream: IO[str],
    *,
    color: bool = False,
    files: int = 0,
    seconds: float = 0.0,
    help_of: Callable[[str], str] | None = None,
    run: Mapping[str, Any] | None = None,
    exact: Callable[[Fix], Sequence[Replace]] | None = None,
) -> None:
    """Write the report in one of FORMATS."""
    pieces: Callable[[View], Iterator[str]] = importlib.import_module(FORMATS[format]).pieces
    for piece in pieces(View(report, rules, line_of, files, seconds, color, help_of, run, exact)):
        _write(stream, piece)


def _write(stream: IO[str], text: str) -> None:
    """Write what the stream can say; a terminal or a pipe of another encoding gets escapes instead of an exception."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = getattr(stream, "encoding", None) or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def where(place: Span | Problem) -> str:
    """`path:line:col`, in a notebook `path:cell 3:line:col`; people count cells from 1."""
    parts = [printable(place.path or "mllint")]
    if place.cell is not None:
        parts.append(f"cell {place.cell + 1}")
    if place.line is not None:
        parts.append(str(place.line))
        if place.column is not None:
            parts.append(str(place.column))
    return ":".join(parts)


def printable(text: str) -> str:
    """Without line ends and control characters: a file name or a message must not steer a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
