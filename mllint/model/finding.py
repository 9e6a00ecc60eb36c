"""What is said to the user: spans, hits, findings, problems and the report that carries them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mllint.model.fix import Fix

SEVERITIES = ("error", "warning", "info")
CONFIDENCES = ("low", "medium", "high")


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A place in a file as a person counts: lines and columns from 1, the end column just behind the last character.

    `cell` is the 0-based index of a notebook cell over all cells of the notebook, and the lines then count within that
    cell; None elsewhere. `path` is relative to the project root, with `/`.
    """

    path: str
    line: int
    column: int
    end_line: int
    end_column: int
    cell: int | None = None


@dataclass(frozen=True, slots=True)
class Label:
    """A related place and what happens there ("created here", "stepped here first")."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Hit:
    """All a detector knows: where, what, the path there. It names no rule and no severity; those come from the page.

    `confidence` None means the page's own. `clues` are what the remedy of the rule (`mllint.remedies`) makes the fix from, where the
    detector does not make it itself: the history, and the things and events the hit is about.
    """

    span: Span
    message: str
    labels: tuple[Label, ...] = ()
    fix: Fix | None = None
    confidence: str | None = None
    clues: tuple[Any, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Finding:
    """A hit under its rule's name. `hidden` says what suppressed it (comment, path, baseline); hidden ones stay in the report.

    `verdict` is what a run said of it, and `evidence` what was seen there, a sentence each.
    """

    rule: str
    topic: str
    hit: Hit
    severity: str
    confidence: str
    key: str
    hidden: str | None = None
    verdict: str = "not run"
    evidence: tuple[str, ...] = ()

    @property
    def span(self) -> Span:
        return self.hit.span

    def sort_key(self) -> tuple[str, int, int, int, str]:
        """Path order, then cell, then place, then name: the order of every report."""
        span = self.hit.span
        return (span.path, -1 if span.cell is None else span.cell, span.line, span.column, self.rule)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be done: an unreadable file, a limit reached, a detector that raised.

    `kind` is one of "unreadable", "syntax", "missing" (the exit status becomes 1), "internal" (2) and "limit" (a note: 0).
    """

    kind: str
    message: str
    path: str | None = None
    line: int | None = None
    column: int | None = None
    cell: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything one run has to say."""

    findings: tuple[Finding, ...]
    problems: tuple[Problem, ...]
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def shown(self) -> tuple[Finding, ...]:
        """The findings nobody suppressed."""
        return tuple(f for f in self.findings if f.hidden is None)

    @property
    def exit_status(self) -> int:
        """0 clean; 1 findings or files that could not be read; 2 when a part of mllint itself failed."""
        if any(p.kind == "internal" for p in self.problems):
            return 2
        return 1 if self.shown or any(p.kind != "limit" for p in self.problems) else 0
