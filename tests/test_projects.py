"""Small projects, each written round one way in which training code goes right or wrong, against what their `expect.yaml` says.

`fixtures/README.md` describes the format. A project with `open` in its file is a known fault: its test has to fail until the fault is gone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mllint.config import Config
from mllint.discover import discover
from mllint.model.finding import Finding, Report
from mllint.pages import load_pages
from mllint.session import scan

PROJECTS = Path(__file__).resolve().parent.parent / "fixtures" / "projects"
EXPECTED = sorted(PROJECTS.glob("*/*/*.expect.yaml"))
PAGES = load_pages()
KEYS = {"kind", "note", "findings", "silent", "allowed", "open"}


def _read(path: Path) -> dict[str, Any]:
    return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _id(path: Path) -> str:
    return path.relative_to(PROJECTS).as_posix().removesuffix(".expect.yaml")


def _parameters() -> list[Any]:
    marked = []
    for path in EXPECTED:
        expected = _read(path)
        known = [pytest.mark.xfail(strict=True, reason=expected["open"])] if "open" in expected else []
        marked.append(pytest.param(path.with_name(path.name.removesuffix(".expect.yaml")), expected, id=_id(path), marks=known))
    return marked


def _report(folder: Path) -> Report:
    """What a plain scan shows with the rule of the folder switched on, should it be off."""
    found = discover([str(folder)], str(folder))
    return scan(found, Config(), PAGES, extend_select=[folder.parent.name]).report


def _stands_at(finding: Finding, place: dict[str, Any]) -> bool:
    spans = [finding.span, *(label.span for label in finding.hit.labels)]
    return any(
        span.path == place["path"] and span.cell == place.get("cell") and any(abs(span.line - line) <= 1 for line in place["lines"])
        for span in spans
    )


def _hits(finding: Finding, row: dict[str, Any]) -> bool:
    return finding.rule == row["rule"] and any(_stands_at(finding, place) for place in (row, *row.get("any_of", ())))


def _said(finding: Finding) -> str:
    cell = "" if finding.span.cell is None else f" cell {finding.span.cell}"
    return f"{finding.span.path}{cell}:{finding.span.line} {finding.rule}: {finding.hit.message}"


@pytest.mark.parametrize(("folder", "expected"), _parameters())
def test_project(folder: Path, expected: dict[str, Any]) -> None:
    report = _report(folder)
    rows = expected["findings"]
    wrong = [f"problem: {p.path}:{p.line} {p.message}" for p in report.problems]
    wrong += [f"not found: {row}" for row in rows if not any(_hits(finding, row) for finding in report.shown)]
    unexpected = [finding for finding in report.shown if not any(_hits(finding, row) for row in rows)]
    wrong += [f"not expected: {_said(finding)}" for finding in unexpected if finding.rule not in expected.get("allowed", ())]
    assert not wrong, f"{expected['note']}\n  " + "\n  ".join(wrong)


@pytest.mark.parametrize("path", EXPECTED, ids=_id)
def test_expectations_are_true_to_their_files(path: Path) -> None:
    expected = _read(path)
    rule = path.parent.name
    assert expected.keys() <= KEYS
    assert PAGES[rule].rule.topic == path.parent.parent.name
    assert {row["rule"] for row in expected["findings"]} | set(expected["silent"]) | set(expected.get("allowed", ())) <= PAGES.keys()
    if expected["kind"] == "bad":
        assert rule in {row["rule"] for row in expected["findings"]}
    else:
        assert expected["kind"] == "good"
        assert expected["findings"] == []
        assert rule in expected["silent"]
    folder = path.with_name(path.name.removesuffix(".expect.yaml"))
    for row in expected["findings"]:
        for place in (row, *row.get("any_of", ())):
            lines = (folder / place["path"]).read_bytes().count(b"\n") + 1
            assert place["lines"] and 1 <= min(place["lines"]) <= max(place["lines"]) <= lines, place


def test_every_project_has_its_file() -> None:
    folders = {path for path in PROJECTS.glob("*/*/*") if path.is_dir()}
    assert folders == {path.with_name(path.name.removesuffix(".expect.yaml")) for path in EXPECTED}
