"""The contract other programs read; `schema.json` beside this file says what may stand where."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mllint import __version__
from mllint.model.finding import SEVERITIES, Finding, Label, Problem
from mllint.report import View

VERSION = 1


def pieces(view: View) -> Iterator[str]:
    """One object. Suppressed findings are in it, with `hidden` set. Plain ASCII, so that no pipe can spoil it."""
    document = {
        "version": VERSION,
        "tool": {"name": "mllint", "version": __version__},
        "findings": [_finding(finding, view) for finding in view.report.findings],
        "problems": [_problem(problem) for problem in view.report.problems],
        "counts": counts(view),
    }
    yield json.dumps(document, indent=2) + "\n"


def counts(view: View) -> dict[str, int]:
    """What the summary line says, in numbers."""
    own = {"files": view.files, "findings": len(view.report.shown), "suppressed": view.hidden, "fixable": view.fixable}
    own |= {level: view.count(level) for level in SEVERITIES} | {"problems": len(view.report.problems)}
    return {**view.report.counts, **own}


def _finding(finding: Finding, view: View) -> dict[str, Any]:
    span, fix, rule = finding.span, finding.hit.fix, view.rules.get(finding.rule)
    return {
        "rule": finding.rule,
        "topic": finding.topic,
        "severity": finding.severity,
        "confidence": finding.confidence,
        "message": finding.hit.message,
        "path": span.path,
        "line": span.line,
        "column": span.column,
        "end_line": span.end_line,
        "end_column": span.end_column,
        "cell": span.cell,
        "labels": [_label(label) for label in finding.hit.labels],
        "fix": None if fix is None else {"title": fix.title, "safety": fix.safety},
        "key": finding.key,
        "verdict": finding.verdict,
        "url": rule.url if rule else None,
        "hidden": finding.hidden,
    }


def _label(label: Label) -> dict[str, Any]:
    return {"path": label.span.path, "line": label.span.line, "column": label.span.column, "text": label.text, "cell": label.span.cell}


def _problem(problem: Problem) -> dict[str, Any]:
    return {key: getattr(problem, key) for key in ("kind", "message", "path", "line", "column", "cell")}
