"""What cannot be read, through the command: one problem each, with file and place, and the rest is scanned."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from mllint.cli import run

NEVER_STEPPED = """import torch

model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=10)
for epoch in range(10):
    optimizer.zero_grad()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
"""
NOTEBOOK = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def scanned(capsys, *arguments: str) -> tuple[list[tuple], list[str], int]:
    """(the problems, the rules found, the exit status)."""
    capsys.readouterr()
    status = run(["scan", *arguments, "--format", "json"])
    report = json.loads(capsys.readouterr().out)
    return [(p["kind"], p["path"], p["line"]) for p in report["problems"]], [f["rule"] for f in report["findings"]], status


# Files that hold nothing a rule follows: what is wrong with them is told all the same.
@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("syntax.py", b"x = 1\ny = (\n", ("syntax", 2)),
        ("indent.py", b"def f():\nreturn 1\n", ("syntax", 2)),
        ("two.py", b'print "hello"\n', ("syntax", 1)),
        ("latin.py", "# größe\nx = 'ä'\n".encode("latin-1"), ("unreadable", 1)),
        ("comment.py", b"x = 1\n# caf\xe9\n", ("unreadable", 2)),
        ("unknown.py", b"# -*- coding: latin-47 -*-\nx = 1\n", ("unreadable", 1)),
        ("nulls.py", b"x = 1\0\n", ("unreadable", 1)),
        ("wide.py", "x = 1\n".encode("utf-16"), ("unreadable", 1)),
        ("bomb.py", b"x = " + b"(" * 5000 + b"0" + b")" * 5000, ("unreadable", 1)),
        ("signs.py", b"x = " + b"-" * 200_000 + b"1", ("unreadable", None)),
        ("text.ipynb", b"not a notebook", ("unreadable", 1)),
        ("list.ipynb", b"[]", ("unreadable", None)),
        ("empty.ipynb", b"", ("unreadable", 1)),
    ],
)
@pytest.mark.parametrize("way", ["folder", "named"])
def test_one_problem_and_the_rest_is_scanned(project, capsys, name, data, problem, way):
    project({name: data, "train.py": NEVER_STEPPED})
    problems, rules, status = scanned(capsys, *(["."] if way == "folder" else [name, "train.py"]))
    kind, line = problem
    assert [(p[0], p[1]) for p in problems] == [(kind, name)]
    assert line is None or problems[0][2] == line
    assert rules == ["scheduler-never-stepped"] and status == 1


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"# only a comment\n", b"\xef\xbb\xbf", b"\xef\xbb\xbfx = 1\n", b"x = 1\r\ny = 2\r\n", b"x = 1\ry = 2"]
)
def test_files_that_are_right(project, capsys, data):
    project({"a.py": data})
    assert scanned(capsys, ".") == ([], [], 0)
    assert scanned(capsys, "a.py") == ([], [], 0)


def test_notebook_without_cells_is_right(project, capsys):
    project({"a.ipynb": json.dumps(NOTEBOOK)})
    assert scanned(capsys, ".") == ([], [], 0)


def test_newer_syntax_names_the_python_it_needs(project, capsys):
    if sys.version_info >= (3, 14):
        pytest.skip("this Python reads it")
    project({"a.py": 'name = "x"\nvalue = t"{name}"\n'})
    run(["scan", "."])
    assert "3.14" in capsys.readouterr().out


def test_folder_called_x_py(project, capsys):
    project({"x.py/inner.py": NEVER_STEPPED, "y.py/empty.txt": ""})
    assert scanned(capsys, ".") == ([], ["scheduler-never-stepped"], 1)
    assert scanned(capsys, "x.py") == ([], ["scheduler-never-stepped"], 1)


def test_loops_of_links(project, capsys):
    root = project({"train.py": NEVER_STEPPED, "deep/er/a.py": "x = 1\n"})
    os.symlink(root, root / "deep" / "er" / "up")
    os.symlink("mirror.py", root / "mirror.py")
    problems, rules, status = scanned(capsys, ".")
    assert [(p[0], p[1]) for p in problems] == [("unreadable", "mirror.py")]
    assert rules == ["scheduler-never-stepped"] and status == 1


def test_link_to_nowhere(project, capsys):
    root = project({"train.py": NEVER_STEPPED})
    os.symlink("gone.py", root / "a.py")
    problems, rules, _ = scanned(capsys, ".")
    assert [(p[0], p[1]) for p in problems] == [("unreadable", "a.py")] and rules == ["scheduler-never-stepped"]


def test_path_that_does_not_exist(project, capsys):
    project({"train.py": NEVER_STEPPED})
    problems, rules, status = scanned(capsys, "nowhere.py", "train.py")
    assert [(p[0], p[1]) for p in problems] == [("missing", "nowhere.py")] and rules == ["scheduler-never-stepped"] and status == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything may be read here")
def test_file_that_may_not_be_read(project, capsys):
    root = project({"secret.py": "x = 1\n", "train.py": NEVER_STEPPED})
    (root / "secret.py").chmod(0)
    problems, rules, _ = scanned(capsys, ".")
    assert [(p[0], p[1]) for p in problems] == [("unreadable", "secret.py")] and rules == ["scheduler-never-stepped"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_pipe_called_x_py_is_not_waited_for(project, capsys):
    root = project({"train.py": NEVER_STEPPED})
    os.mkfifo(root / "x.py")
    assert scanned(capsys, ".")[1] == ["scheduler-never-stepped"]
    problems, _, status = scanned(capsys, "x.py", "train.py")
    assert [(p[0], p[1]) for p in problems] == [("unreadable", "x.py")] and status == 1


def test_problems_are_shown_with_their_place(project, capsys):
    project({"a.py": "x = 1\ny = (\n"})
    assert run(["scan", "."]) == 1
    assert "a.py:2:5" in capsys.readouterr().out


# ---------------------------------------------------------------- the bar


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
@pytest.mark.parametrize(("patience", "shown"), [("0.0", True), ("60.0", False)])
def test_bar_only_for_scans_that_take_long(tmp_path, patience, shown):
    import pty

    for number in range(30):
        (tmp_path / f"train{number}.py").write_text(NEVER_STEPPED)
    ours, theirs = pty.openpty()
    code = f"import mllint.report.progress as p; p.progress.__wrapped__.__defaults__ = ({patience},)"
    code += "; from mllint.cli import run; run(['scan', '.'])"
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=theirs, env=environment)
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    assert process.wait(60) == 0
    assert (b"/90" in seen) is shown
    assert seen.endswith(b"\x1b[?25h") or not shown or b"\x1b[2K" in seen, "the bar goes away"
