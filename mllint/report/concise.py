"""One line a finding, for editors and for reading many."""

from __future__ import annotations

from collections.abc import Iterator

from mllint.report import View, printable, where


def pieces(view: View) -> Iterator[str]:
    """`path:line:col: rule severity message`; then the problems in the same form."""
    for finding in view.report.shown:
        verdict = "" if finding.verdict == "not run" else f" [{finding.verdict}]"
        yield f"{where(finding.span)}: {finding.rule} {finding.severity} {printable(finding.hit.message)}{verdict}\n"
    for problem in view.report.problems:
        yield f"{where(problem)}: {problem.kind} {'note' if problem.kind == 'limit' else 'problem'} {printable(problem.message)}\n"
