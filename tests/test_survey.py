"""What is told from bytes alone must never cost a finding, and never a syntax error in a file somebody asked about."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mllint.config import Config
from mllint.discover import File, discover
from mllint.flow import gate, survey
from mllint.flow.project import Project, acts, targets
from mllint.pages import examples, load_pages
from mllint.read.python import parse
from mllint.session import scan

PAGES = load_pages()
RULES = [page.rule for page in PAGES.values()]
FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
LIFECYCLE = [page for page in PAGES.values() if page.rule.topic != "suppressions"]


def opened(rule, datas) -> bool:
    rule_gate = gate.RuleGate([rule])
    for data in datas:
        rule_gate.see(data)
    return rule.name in rule_gate.open


@pytest.mark.parametrize("page", LIFECYCLE, ids=lambda page: page.rule.name)
def test_gate_is_open_wherever_a_page_shows_a_finding(page, report_of):
    """A rule that is found with the gate off could also be found with it on: of every rule, on every example of every page."""
    for example in examples(page.rule.name, PAGES):
        report = report_of(example)
        for rule in {finding.rule for finding in report.findings}:
            assert opened(PAGES[rule].rule, [text.encode() for text in example.files.values()]), f"{example.name}: {rule}"


def found(folder: Path, select: list[str]) -> list[tuple]:
    discovery = discover([str(folder)], str(folder))
    report = scan(discovery, Config(confidence="low"), PAGES, select=select).report
    return [(f.rule, f.hit.span, f.hit.message, f.confidence) for f in report.findings]


@pytest.mark.parametrize("folder", [p for p in sorted(FIXTURES.iterdir()) if p.is_dir() and p.name != "projects"], ids=lambda p: p.name)
def test_gate_changes_nothing_in_the_fixtures(folder, monkeypatch):
    gated = found(folder, ["ALL"])
    with monkeypatch.context() as patch:
        patch.setattr(gate.RuleGate, "see", lambda self, data: self.open.add("everything"))
        assert found(folder, ["ALL"]) == gated
    datas = [p.read_bytes() for p in folder.rglob("*") if p.suffix in (".py", ".ipynb") and p.is_file()]
    for rule in {row[0] for row in gated} - {"unused-ignore", "unknown-ignore"}:
        assert opened(PAGES[rule].rule, datas)
        assert found(folder, [rule]) == [row for row in gated if row[0] == rule]


def test_nothing_is_interpreted_where_no_rule_can_fire(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text("loss.backward()\noptimizer.step()\n")
    monkeypatch.setitem(sys.modules, "mllint.flow.entries", None)  # importing it would raise
    project = Project(tmp_path, [File("a.py", "python")])
    assert project.histories([PAGES["scaler-never-used"].rule]) == []
    with pytest.raises(ImportError):
        project.histories([PAGES["backward-without-step"].rule])


def test_syntax_error_is_told_where_no_rule_can_fire(tmp_path):
    (tmp_path / "a.py").write_text("loss.backward(\n")
    project = Project(tmp_path, [File("a.py", "python")])
    project.histories([PAGES["scaler-never-used"].rule])
    assert [p.kind for p in project.problems] == ["syntax"]


def test_names_in_tables_of_ones_own_are_of_interest(tmp_path):
    table = tmp_path / "inhouse.yaml"
    table.write_text("aliases:\n  inhouse.Steps: torch.optim.lr_scheduler.StepLR\nobjects:\n  lab.opt.Fast: {kind: optimizer}\n")
    words = gate.words([str(table), str(tmp_path / "missing.yaml")])
    assert gate.of_interest(b"from lab import opt\nfast = opt.Fast(w)", words)
    assert gate.of_interest(b"s = Steps(o)", words)
    assert not gate.of_interest(b"x = 1", words)


@pytest.mark.parametrize("named", [True, False])
def test_large_scans_parse_files_of_interest_and_files_that_are_named(tmp_path, monkeypatch, named):
    monkeypatch.setattr(survey, "MOST_PARSED", 0)
    monkeypatch.setattr("mllint.flow.entries.MOST_ASKED", 0)
    (tmp_path / "plain.py").write_text("x = (\n")
    (tmp_path / "train.py").write_text("loss.backward(\n")
    files = [File("plain.py", "python"), File("train.py", "python")]
    project = Project(tmp_path, files, named=frozenset(["plain.py"]) if named else frozenset())
    project.histories(RULES)
    assert sorted(p.path for p in project.problems) == (["plain.py", "train.py"] if named else ["train.py"])


@pytest.mark.parametrize(
    ("code", "active"),
    [
        ("loss.backward()", True),
        ("from torch import autocast\nwith autocast('cuda'): pass", True),
        ("scheduler.step()", True),
        ("self.scale = 2", False),
        ("x = self.scale * y", False),
        ("for step in range(10): print(step)", False),
        ("scaler.scale(loss)", True),
    ],
)
def test_what_acts(code, active):
    assert acts(parse(code, "a.py")) is active


def test_attributes_that_are_assigned():
    code = "a.x = 1\na.y += 1\n(a.z, [b.z]) = f()\nwith f() as a.w:\n    for c.i in x:\n        d.e: int = 2\n"
    code += "try:\n    pass\nfinally:\n    *q.r, s = t\n"
    assert sorted((t.attr, counted) for t, counted in targets(parse(code, "a.py"))) == [
        ("e", False), ("i", False), ("r", False), ("w", False), ("x", False), ("y", True), ("z", False), ("z", False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "names"),
    [
        (b"import a, b.c as d\nfrom .e import f\n", ["a", "b.c", ".e"]),
        (b"if x:\n\timport a\n    from b import (\n  c)\n", ["a", "b"]),
        (b"x = 'import a'\n", []),
        (b"import a\r\nfrom b import c\r\n", ["a", "b"]),
    ],
)
def test_imports_are_told_from_bytes(code, names):
    assert gate.imported(code) == names


def test_imports_of_a_notebook():
    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    cell["source"] = ["import a\n", "from b import c\n", "x = 1"]
    for indent in (None, 1):
        data = json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=indent).encode()
        assert gate.imported(survey.as_code(data)) == ["a", "b"]


def test_each_file_advances_the_bar(tmp_path):
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("import torch\nloss.backward()\n")
    steps = []
    project = Project(
        tmp_path, [File("a.py", "python"), File("b.py", "python")], advance=lambda count=1, doing="", more=0: steps.append((count, more))
    )
    project.histories(RULES)
    assert sum(count for count, _ in steps) == 2 + sum(more for _, more in steps)


def test_two_processes_see_what_one_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"pkg/m{n}.py": f"import pkg.m{n - 1}\n" if n else "def f(loss):\n    loss.backward()\n" for n in range(40)}
    files["main.py"] = "import pkg.m39\nif __name__ == '__main__':\n    pass  # mllint: ignore[x]\n"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "pkg/__init__.py").write_text("")
    found = []
    for many in (10_000, 2):
        monkeypatch.setattr("mllint.flow.survey.MANY", many)
        project = Project(tmp_path, [File(name, "python") for name in (*files, "pkg/__init__.py", "gone.py")])
        found.append((survey.survey(project), project.marked, [p.path for p in project.problems]))
    assert found[0] == found[1]
    assert found[0][0][1] == ["main.py"] and found[0][1] == {"main.py"} and found[0][2] == ["gone.py"]
