"""SARIF 2.1.0, as code scanning reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from mllint import __version__
from mllint.model.finding import Finding, Problem, Span
from mllint.model.fix import Edit, Fix, Replace
from mllint.model.rule import Rule
from mllint.report import View

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
HOME = "https://github.com/mllint/mllint"
LEVELS = {"error": "error", "warning": "warning", "info": "note"}
LONGEST = 1000  # code scanning cuts descriptions at 1024 characters
ROOT = "%SRCROOT%"


def pieces(view: View) -> Iterator[str]:
    """One log with one run."""
    rules = sorted({**view.rules, **{f.rule: None for f in view.report.findings if f.rule not in view.rules}})
    index = {name: number for number, name in enumerate(rules)}
    run = {
        "tool": {
            "driver": {
                "name": "mllint",
                "version": __version__,
                "semanticVersion": __version__,
                "informationUri": HOME,
                "rules": [_rule(name, view) for name in rules],
            }
        },
        # mllint counts characters, not UTF-16 units.
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {ROOT: {"description": {"text": "The root of the project."}}},
        "automationDetails": {"id": "mllint/"},
        "invocations": [_invocation(view)],
        "results": [_result(finding, index, view) for finding in view.report.findings],
    }
    yield json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _rule(name: str, view: View) -> dict[str, Any]:
    rule = view.rules.get(name)
    if rule is None:
        return {"id": name, "name": name, "shortDescription": {"text": name}, "fullDescription": {"text": name}, "help": {"text": name}}
    page = view.help_of(name) if view.help_of else f"# {rule.title}\n\n{rule.summary}\n\n[{name}]({rule.url})\n"
    return {
        "id": name,
        "name": name,
        "shortDescription": {"text": _short(rule.title)},
        "fullDescription": {"text": _short(rule.summary or rule.title)},
        "help": {"text": f"{rule.summary or rule.title}\n{rule.url}", "markdown": page},
        "helpUri": rule.url,
        "defaultConfiguration": {"enabled": rule.default, "level": LEVELS[rule.severity]},
        "properties": _properties(rule),
    }


def _properties(rule: Rule) -> dict[str, Any]:
    severity = {"info": "recommendation"}.get(rule.severity, rule.severity)
    return {"tags": [rule.topic, *rule.libraries], "precision": rule.confidence, "problem.severity": severity}


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _result(finding: Finding, index: dict[str, int], view: View) -> dict[str, Any]:
    span, hit = finding.span, finding.hit
    message = hit.message if span.cell is None else f"cell {span.cell + 1}, line {span.line}: {hit.message}"
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": index[finding.rule],
        "level": LEVELS[finding.severity],
        "message": {"text": message},
        "locations": [_location(span, view)],
        "partialFingerprints": {"mllintKey/v1": finding.key},
        "properties": {"confidence": finding.confidence, "topic": finding.topic, "verdict": finding.verdict},
    }
    if finding.evidence:
        result["properties"]["evidence"] = list(finding.evidence)
    if span.cell is not None:
        # Code scanning would take its fingerprint from a line of the file, which all findings of a notebook share.
        result["partialFingerprints"]["primaryLocationLineHash"] = f"{finding.key}:1"
    if hit.labels:
        result["relatedLocations"] = [
            {"id": number, **_location(label.span, view), "message": {"text": _place(label.span) + label.text}}
            for number, label in enumerate(hit.labels)
        ]
    if hit.fix is not None and (changes := _changes(hit.fix, view)):
        result["fixes"] = [{"description": {"text": hit.fix.title}, "artifactChanges": changes}]
    if finding.hidden is not None:
        kind = "inSource" if finding.hidden == "comment" else "external"
        said = "refuted by a run" if finding.hidden == "run" else f"hidden by {finding.hidden}"
        result["suppressions"] = [{"kind": kind, "justification": said}]
    return result


def _place(span: Span) -> str:
    return "" if span.cell is None else f"cell {span.cell + 1}, line {span.line}: "


def _location(span: Span, view: View) -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": _artifact(span.path), "region": _region(span)}
    if span.cell is None:
        return {"physicalLocation": physical}
    # A region speaks of the file, and the file is JSON: the first line stands for the whole, the cell is named beside it.
    physical["region"] = {"startLine": 1}
    name = f"cell {span.cell + 1}"
    full = f"{name}:{span.line}:{span.column}"
    return {"physicalLocation": physical, "logicalLocations": [{"name": name, "fullyQualifiedName": full, "kind": "module"}]}


def _artifact(path: str) -> dict[str, Any]:
    return {"uri": quote(path.encode("utf-8", "surrogatepass"), safe="/"), "uriBaseId": ROOT}


def _region(span: Span) -> dict[str, int]:
    return {"startLine": span.line, "startColumn": span.column, "endLine": span.end_line, "endColumn": span.end_column}


def _changes(fix: Fix, view: View) -> list[dict[str, Any]]:
    """The fix as replacements, file by file; none where it cannot be said so, or is meant for a person."""
    replacements: Sequence[Edit] = view.exact(fix) if view.exact is not None else fix.edits
    changes: dict[str, list[dict[str, Any]]] = {}
    for edit in replacements:
        if not isinstance(edit, Replace) or edit.span.cell is not None or fix.safety == "shown":
            return []
        replacement = {"deletedRegion": _region(edit.span), "insertedContent": {"text": edit.text}}
        changes.setdefault(edit.span.path, []).append(replacement)
    return [{"artifactLocation": _artifact(path), "replacements": replacements} for path, replacements in changes.items()]


def _invocation(view: View) -> dict[str, Any]:
    report = view.report
    return {
        "executionSuccessful": not any(problem.kind == "internal" for problem in report.problems),
        "exitCode": report.exit_status,
        "toolExecutionNotifications": [_notification(problem) for problem in report.problems],
    }


def _notification(problem: Problem) -> dict[str, Any]:
    place = f"cell {problem.cell + 1}: " if problem.cell is not None else ""
    said: dict[str, Any] = {
        "level": "note" if problem.kind == "limit" else "error",
        "message": {"text": place + problem.message},
        "descriptor": {"id": problem.kind},
    }
    if problem.path is not None:
        physical: dict[str, Any] = {"artifactLocation": _artifact(problem.path)}
        if problem.line is not None and problem.cell is None:
            physical["region"] = {"startLine": problem.line} | ({} if problem.column is None else {"startColumn": problem.column})
        said["locations"] = [{"physicalLocation": physical}]
    return said
