"""The contract other programs read; `schema.json` beside this file says what may stand where."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mllint import __version__
from mllint.model.finding import SEVERITIES, Finding, Hit, Label, Problem, Span
from mllint.model.rule import Rule
from mllint.report import View

VERSION = 1


def pieces(view: View) -> Iterator[str]:
    """One object. Suppressed findings are in it, with `hidden` set. Plain ASCII, so that no pipe can spoil it."""
    document: dict[str, Any] = {
        "version": VERSION,
        "tool": {"name": "mllint", "version": __version__},
        "findings": [row(finding, view.rules.get(finding.rule)) for finding in view.report.findings],
        "problems": [_problem(problem) for problem in view.report.problems],
        "counts": counts(view),
    }
    if view.run is not None:
        document["run"] = dict(view.run)
    yield json.dumps(document, indent=2) + "\n"


def counts(view: View) -> dict[str, int]:
    """What the summary line says, in numbers."""
    own = {"files": view.files, "findings": len(view.report.shown), "suppressed": view.hidden, "fixable": view.fixable}
    own |= {level: view.count(level) for level in SEVERITIES} | {"problems": len(view.report.problems)}
    return {**view.report.counts, **own}


def row(finding: Finding, rule: Rule | None) -> dict[str, Any]:
    """A finding as it stands in the report."""
    span, fix = finding.span, finding.hit.fix
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
        "evidence": list(finding.evidence),
        "url": rule.url if rule else None,
        "hidden": finding.hidden,
    }


class NotAReport(ValueError):
    """A document that is no report of this format; the message says what is missing."""


def findings(document: Any) -> list[Finding]:
    """The findings of a report that was read back, with their keys; fixes and verdicts are left behind. Raises NotAReport."""
    if not isinstance(document, dict) or document.get("version") != VERSION or not isinstance(document.get("findings"), list):
        raise NotAReport(f"it has no `version` {VERSION} and `findings`")
    try:
        return [_read(given) for given in document["findings"]]
    except (KeyError, TypeError) as error:
        raise NotAReport(f"a finding is not complete: {type(error).__name__}: {error}") from error


def _read(given: dict[str, Any]) -> Finding:
    span = Span(given["path"], given["line"], given["column"], given["end_line"], given["end_column"], given.get("cell"))
    labels = [
        # The end of a label is not in the report; the line is what counts.
        Label(Span(label["path"], label["line"], label["column"], label["line"], label["column"], label.get("cell")), label["text"])
        for label in given["labels"]
    ]
    hit = Hit(span, given["message"], tuple(labels))
    return Finding(given["rule"], given["topic"], hit, given["severity"], given["confidence"], given["key"], given.get("hidden"))


def _label(label: Label) -> dict[str, Any]:
    return {"path": label.span.path, "line": label.span.line, "column": label.span.column, "text": label.text, "cell": label.span.cell}


def _problem(problem: Problem) -> dict[str, Any]:
    return {key: getattr(problem, key) for key in ("kind", "message", "path", "line", "column", "cell")}
