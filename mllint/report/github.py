"""Workflow commands: GitHub Actions turns each line into an annotation of the changed files."""

from __future__ import annotations

from collections.abc import Iterator

from mllint.model.finding import Finding, Problem
from mllint.report import View, where

LEVELS = {"error": "error", "warning": "warning", "info": "notice"}


def pieces(view: View) -> Iterator[str]:
    """One command a finding and a problem. The place stands in the text too: the log shows nothing else."""
    for finding in view.report.shown:
        text = [f"{where(finding.span)}: {finding.rule}: {finding.hit.message}"]
        text += [f"{label.text}: {where(label.span)}" for label in finding.hit.labels]
        if finding.verdict != "not run":
            text += [f"run: {finding.verdict}", *finding.evidence]
        text.append(f"mllint explain {finding.rule}")
        yield _command(LEVELS[finding.severity], _properties(finding), "\n".join(text))
    for problem in view.report.problems:
        yield _command("notice" if problem.kind == "limit" else "error", _problem(problem), f"{where(problem)}: {problem.message}")


def _properties(finding: Finding) -> dict[str, str | int]:
    span = finding.span
    properties: dict[str, str | int] = {"title": f"mllint ({finding.rule})", "file": span.path}
    if span.cell is not None:  # lines of a cell are not lines of the file
        return properties
    properties["line"] = span.line
    if span.end_line == span.line:  # GitHub takes columns on one line alone
        return properties | {"col": span.column, "endLine": span.end_line, "endColumn": span.end_column}
    return properties | {"endLine": span.end_line}


def _problem(problem: Problem) -> dict[str, str | int]:
    properties: dict[str, str | int] = {"title": f"mllint ({problem.kind})"}
    if problem.path is not None:
        properties["file"] = problem.path
        if problem.cell is None and problem.line is not None:
            properties["line"] = problem.line
            if problem.column is not None:
                properties["col"] = problem.column
    return properties


def _command(level: str, properties: dict[str, str | int], message: str) -> str:
    held = ",".join(f"{key}={_escaped(str(value)).replace(':', '%3A').replace(',', '%2C')}" for key, value in properties.items())
    return f"::{level} {held}::{_escaped(message)}\n"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
