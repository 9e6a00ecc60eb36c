"""Whole small projects, scanned through the command as a user would, against the lists that stand beside them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
EXPECTED = sorted(FIXTURES.glob("*.expected.json"))


def _scan(folder: Path, *options: str, cwd: Path = FIXTURES.parent) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mllint", "scan", str(folder), *options]
    environment = {**os.environ, "PYTHONPATH": str(FIXTURES.parent), "PYTHONUTF8": "1", "NO_COLOR": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, encoding="utf-8", timeout=300)


def _report(folder: Path) -> tuple[dict[str, Any], int]:
    """Every rule's findings with paths as seen from the fixture, and the exit status."""
    done = _scan(folder, "--root", str(folder), "--select", "ALL", "--format", "json", "--no-cache")
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout), done.returncode


def _places(rows: list[dict[str, Any]]) -> list[str]:
    """One readable line a finding, so that a difference can be read in the test's output."""
    return sorted(f"{r['path']}:{r['line']}" + (f" cell {r['cell']}" if r.get("cell") is not None else "") + f" {r['rule']}" for r in rows)


def test_every_fixture_has_its_list():
    folders = {path.name for path in FIXTURES.iterdir() if path.is_dir()} - {"projects"}  # these have their own test
    assert folders == {path.name.removesuffix(".expected.json") for path in EXPECTED}


@pytest.mark.parametrize("expected", EXPECTED, ids=lambda path: path.name.removesuffix(".expected.json"))
def test_finds_exactly_what_the_list_says(expected: Path):
    wanted = json.loads(expected.read_text(encoding="utf-8"))
    report, status = _report(FIXTURES / expected.name.removesuffix(".expected.json"))
    assert _places(report["findings"]) == _places(wanted)
    assert status == (1 if wanted else 0)


@pytest.mark.parametrize("expected", EXPECTED, ids=lambda path: path.name.removesuffix(".expected.json"))
def test_lists_are_true_to_their_files(expected: Path):
    folder = FIXTURES / expected.name.removesuffix(".expected.json")
    for row in json.loads(expected.read_text(encoding="utf-8")):
        text = (folder / row["path"]).read_text(encoding="utf-8")
        if "cell" in row:
            text = "".join(json.loads(text)["cells"][row["cell"]]["source"])
        assert text.splitlines()[row["line"] - 1].strip(), row


def test_nothing_was_left_out_of_the_readable_fixtures():
    for expected in EXPECTED:
        name = expected.name.removesuffix(".expected.json")
        if name != "broken":
            assert _report(FIXTURES / name)[0]["problems"] == [], name


def test_the_clean_trainer_prints_only_its_summary():
    done = _scan(Path("fixtures/clean_trainer"), "--select", "ALL")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.strip().splitlines()) == 1, done.stdout
    assert done.stderr == ""


def test_a_folder_moved_elsewhere_gives_the_same_findings(tmp_path: Path):
    """Nothing may depend on the checkout around the project."""
    moved = tmp_path / "project"
    shutil.copytree(FIXTURES / "language_finetune", moved)
    wanted = json.loads((FIXTURES / "language_finetune.expected.json").read_text(encoding="utf-8"))
    done = _scan(Path("."), "--select", "ALL", "--format", "json", cwd=moved)
    assert _places(json.loads(done.stdout)["findings"]) == _places(wanted), done.stderr


def test_findings_across_files_carry_their_path():
    """The schedule is made in one file and ignored in another: the labels lead from one to the other."""
    report, _ = _report(FIXTURES / "notebook_project")
    plateau = next(f for f in report["findings"] if f["rule"] == "plateau-without-metric")
    assert "helpers.py" in {label["path"] for label in plateau["labels"]}


def test_notebooks_are_valid():
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(FIXTURES / "notebook_project" / "train.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert len({cell["id"] for cell in notebook.cells}) == len(notebook.cells)


# ---------------------------------------------------------------- files that cannot be read

# path: kind, line, cell, what the message has to say
BROKEN = {
    "latin1_undeclared.py": ("unreadable", 1, None, "UTF-8"),
    "no_cells.ipynb": ("unreadable", None, None, "no cells"),
    "not_json.ipynb": ("unreadable", 27, None, "not JSON"),
    "null_bytes.py": ("unreadable", 1, None, "null bytes"),
    "one_bad_cell.ipynb": ("syntax", 1, 1, "cell left out"),
    "python2.py": ("syntax", 13, None, "Python 2"),
    "syntax_error.py": ("syntax", 5, None, "never closed"),
    "unknown_encoding.py": ("unreadable", 1, None, "latin-47"),
}
if sys.version_info < (3, 14):
    BROKEN["newer_syntax.py"] = ("syntax", 13, None, "3.14")


def test_every_broken_file_is_one_problem():
    report, status = _report(FIXTURES / "broken")
    said = {p["path"]: (p["kind"], p["line"], p["cell"]) for p in report["problems"]}
    assert said == {path: row[:3] for path, row in BROKEN.items()}
    assert len(report["problems"]) == len(BROKEN)
    for problem in report["problems"]:
        assert BROKEN[problem["path"]][3] in problem["message"]
    assert status == 1


LOOP = "import torch\noptimizer = torch.optim.SGD([w], lr=0.1)\nfor x in data:\n    w.sum().backward()\n    optimizer.step()\n"


@pytest.mark.parametrize(
    "expression",
    ["(" * 5000 + "0" + ")" * 5000, "-" * 100_000 + "1", "x" + ".y" * 50_000, "+".join(["1"] * 50_000), "[" * 300 + "]" * 300],
    ids=["parentheses", "signs", "attributes", "sums", "lists"],
)
def test_deep_nesting_is_a_problem_and_no_crash(tmp_path: Path, expression: str):
    project = tmp_path / "project"
    project.mkdir()
    (project / "deep.py").write_text(LOOP + f"value = {expression}\n", encoding="utf-8")
    shutil.copy(FIXTURES / "broken" / "still_read.py", project)
    report, status = _report(project)
    assert [f["path"] for f in report["findings"] if f["path"] == "still_read.py"] == ["still_read.py"]
    assert {p["path"] for p in report["problems"]} <= {"deep.py"}
    assert status == 1


def test_a_loop_of_links_and_a_path_that_is_not_there(tmp_path: Path):
    project = tmp_path / "project"
    project.mkdir()
    shutil.copy(FIXTURES / "broken" / "still_read.py", project)
    (project / "again").symlink_to(project, target_is_directory=True)
    report, _ = _report(project)
    assert [f["path"] for f in report["findings"]] == ["still_read.py"]

    done = _scan(project / "nowhere", "--format", "json")
    assert done.returncode != 0
    assert "nowhere" in done.stdout + done.stderr
