"""`mllint fix` as people call it: what is written, what is said, and the exit status."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mllint.cli import run
from mllint.fix import command as fix_command

RATE = """import torch

optimizer = torch.optim.SGD([torch.zeros(1)], lr=1e-4)
lr = optimizer.param_groups[0]["lr"]
print(f"{lr:.4f}")  # the rate
"""
FIXED = RATE.replace(".4f", ".3e")
ROUNDED = RATE.replace('print(f"{lr:.4f}")', "print(round(lr, 4))")


def fix(*arguments: str) -> int:
    return run(["fix", *arguments])


def test_fixes_are_written_and_said(project, capsys) -> None:
    root = project({"train.py": RATE, "other.py": "x = 1\n"})
    assert fix() == 0
    out = capsys.readouterr().out
    assert (root / "train.py").read_text() == FIXED
    assert "fixed  train.py:5:10  lr-display-precision  show `lr` as `.3e`" in out
    assert out.endswith("1 fixed, 0 skipped, 0 left\n")
    assert sorted(os.listdir(root)) == [".git", "other.py", "train.py"]
    before = (root / "train.py").stat().st_mtime_ns
    assert fix() == 0
    assert (root / "train.py").stat().st_mtime_ns == before, "nothing is written a second time"


def test_unsafe_fixes_wait_to_be_asked_for(project, capsys) -> None:
    root = project({"train.py": ROUNDED})
    assert fix(".") == 1
    out = capsys.readouterr().out
    assert (root / "train.py").read_text() == ROUNDED
    assert "left  train.py:5:7  lr-display-precision" in out and "(needs --unsafe-fixes)" in out
    assert out.endswith("0 fixed, 0 skipped, 1 left; 1 more with --unsafe-fixes\n")
    assert fix(".", "--unsafe-fixes") == 0
    assert "round(lr, 8)" in (root / "train.py").read_text()


def test_diff_writes_nothing(project, capsys) -> None:
    root = project({"train.py": RATE.replace("\n", "\r\n").rstrip("\r\n")})
    before = (root / "train.py").read_bytes()
    assert fix("--diff") == 1
    out, err = capsys.readouterr()
    assert (root / "train.py").read_bytes() == before
    assert out.startswith("--- a/train.py\n+++ b/train.py\n@@ ")
    assert "1 would be fixed" in err
    (root / "the.patch").write_bytes(out.encode())
    subprocess.run(["git", "init", "-q", "."], cwd=root, check=True)
    subprocess.run(["git", "apply", "the.patch"], cwd=root, check=True)
    assert (root / "train.py").read_bytes() == before.replace(b".4f", b".3e")
    capsys.readouterr()
    assert fix("--diff") == 0
    assert capsys.readouterr().out == ""


def test_selection(project) -> None:
    root = project({"train.py": RATE})
    assert fix("--select", "training-step") == 0
    assert fix("--ignore", "lr-display-precision") == 0
    assert (root / "train.py").read_text() == RATE
    assert fix("--select", "lr-display-precision") == 0
    assert (root / "train.py").read_text() == FIXED


@pytest.mark.parametrize("arguments", [["nothing-here.py"], ["--select", "no-such-rule"], ["--unsafe"], ["--root", "nowhere"]])
def test_wrong_use(project, arguments: list[str]) -> None:
    project({"train.py": RATE})
    assert fix(*arguments) in ((1, 2) if arguments == ["nothing-here.py"] else (2,))


def test_suppressed_findings_are_not_fixed(project) -> None:
    text = RATE.replace("# the rate", "# mllint: ignore[lr-display-precision]")
    root = project({"train.py": text})
    assert fix() == 0
    assert (root / "train.py").read_text() == text


def test_a_file_with_a_syntax_error_is_said_and_the_others_are_fixed(project, capsys) -> None:
    root = project({"train.py": RATE, "broken.py": "import torch\nloss.backward(\n"})
    assert fix() == 1
    assert (root / "train.py").read_text() == FIXED
    assert (root / "broken.py").read_text() == "import torch\nloss.backward(\n"
    assert "problem  broken.py" in capsys.readouterr().out


@pytest.mark.parametrize(
    "data",
    [
        ("\ufeff" + RATE.replace("\n", "\r\n")).encode(),
        ("# -*- coding: latin-1 -*-\n" + RATE + "# \u00e4\n").encode("latin-1"),
        RATE.replace("print", "x = 1 + \\\n    2; print").encode(),
        RATE.replace("print(", "if lr: print('\u00e4\U0001f600', ").encode(),
        RATE.replace("print", "if lr:\n\tprint").encode(),
    ],
    ids=["bom-crlf", "latin-1", "backslash-semicolon", "one-line-suite", "tabs"],
)
def test_odd_files_keep_all_other_bytes(project, data: bytes) -> None:
    root = project({"train.py": data})
    assert fix() == 0
    assert (root / "train.py").read_bytes() == data.replace(b".4f", b".3e")


def test_undecodable_file(project, capsys) -> None:
    data = RATE.encode() + b"# \xff\n"
    root = project({"train.py": data})
    assert fix() == 1
    assert (root / "train.py").read_bytes() == data
    assert "problem  train.py" in capsys.readouterr().out


def test_declined_files_are_said(project, capsys, without_privileges) -> None:
    root = project({"ro.py": RATE, "gen.py": "# @generated\n" + RATE, "vendor/v.py": RATE, "good.py": RATE})
    (root / "ro.py").chmod(0o444)
    assert fix() == 1
    out = capsys.readouterr().out
    assert (root / "good.py").read_text() == FIXED
    assert "ro.py is read-only" in out and "gen.py is generated" in out and "vendor/v.py lies in `vendor`" in out
    assert [(root / p).read_text() for p in ("ro.py", "vendor/v.py")] == [RATE, RATE]
    assert out.endswith("1 fixed, 3 skipped, 3 left\n")
    assert fix("vendor/v.py") == 0
    assert (root / "vendor/v.py").read_text() == FIXED


def test_links_out_of_the_tree_are_not_written_through(project, tmp_path_factory, capsys) -> None:
    outside = tmp_path_factory.mktemp("outside") / "real.py"
    outside.write_text(RATE)
    root = project({"a.py": "x = 1\n"})
    (root / "link.py").symlink_to(outside)
    assert fix() == 1
    assert outside.read_text() == RATE and (root / "link.py").is_symlink()
    assert "links are not written through" in capsys.readouterr().out


def test_a_file_that_changes_meanwhile_is_left_alone(project, capsys, monkeypatch) -> None:
    root = project({"train.py": RATE, "second.py": RATE})
    written = fix_command._written

    def meanwhile(*arguments):
        (root / "train.py").write_text("somebody = 1\n")
        return written(*arguments)

    monkeypatch.setattr(fix_command, "_written", meanwhile)
    assert fix() == 0, "the finding went with the other change"
    out = capsys.readouterr().out
    assert (root / "train.py").read_text() == "somebody = 1\n"
    assert (root / "second.py").read_text() == FIXED
    assert "skipped  train.py:5:10" in out and "changed while it was looked at" in out
    assert out.endswith("1 fixed, 1 skipped, 0 left\n")


def test_what_was_not_named_is_not_changed(project, capsys) -> None:
    from mllint.authoring import fix_example
    from mllint.pages import examples, load_pages

    pages = load_pages()
    found = ((e, fix_example(e, pages)) for e in examples("scheduler-never-stepped", pages) if e.role == "bad" and len(e.files) > 1)
    example, files = next((e, after) for e, after in found if sum(after[p] != e.files[p] for p in after) == 1)
    changed = next(path for path in files if files[path] != example.files[path])
    root = project(dict(example.files))
    others = [path for path in example.files if path != changed]
    assert fix(*others, "--unsafe-fixes", "--select", "scheduler-never-stepped") == 1
    assert f"{changed} would change too, and was not named" in capsys.readouterr().out
    assert {path: (root / path).read_text() for path in example.files} == example.files
    assert fix(*example.files, "--unsafe-fixes", "--select", "scheduler-never-stepped") == 0
    assert (root / changed).read_text() == files[changed]


def test_asking(project, capsys, monkeypatch) -> None:
    root = project({"a.py": RATE, "b.py": RATE, "c.py": RATE})
    monkeypatch.setattr(sys, "stdin", io.StringIO("what\ny\nn\nq\n"))
    assert fix("--interactive") == 1
    out = capsys.readouterr().out
    assert [(root / f"{n}.py").read_text() == FIXED for n in "abc"] == [True, False, False]
    assert out.count("show `lr` as `.3e` (safe)? [y]es, [n]o, [a]ll, [q]uit: ") == 4
    assert '-print(f"{lr:.4f}")' in out
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\n"))
    assert fix("--interactive") == 0
    assert [(root / f"{n}.py").read_text() == FIXED for n in "abc"] == [True, True, True]
    (root / "a.py").write_text(RATE)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert fix("--interactive") == 1, "nobody answers"
    assert (root / "a.py").read_text() == RATE


def test_notebooks(project) -> None:
    lines = RATE.splitlines(keepends=True)
    cells = [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["# Title"]},
        {
            "cell_type": "code",
            "execution_count": 3,
            "id": "b",
            "metadata": {"x": 1},
            "outputs": [{"z": "\u00e4", "a": 1.0}],
            "source": lines,
        },
    ]
    text = json.dumps({"nbformat_minor": 5, "nbformat": 4, "metadata": {}, "cells": cells}, indent=1, ensure_ascii=False) + "\n"
    root = project({"n.ipynb": text})
    assert fix() == 0
    assert (root / "n.ipynb").read_text(encoding="utf-8") == text.replace(".4f", ".3e")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_killed_at_any_moment(project) -> None:
    """The whole command, killed at moments spread over its run: every file is the old or the new one, and nothing lies beside."""
    files = {f"f{n}.py": RATE for n in range(12)}
    root = project(files)
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "mllint", "fix", "."], cwd=root, check=True, capture_output=True)
    whole = time.perf_counter() - started
    for turn in range(8):
        for name in files:
            (root / name).write_text(RATE)
        process = subprocess.Popen([sys.executable, "-m", "mllint", "fix", "."], cwd=root, stdout=subprocess.DEVNULL)
        time.sleep(whole * (0.72 + turn * 0.04))
        process.send_signal(signal.SIGKILL)
        process.wait()
        texts = [(root / name).read_text() for name in files]
        assert set(texts) <= {RATE, FIXED}
        assert sorted(os.listdir(root)) == sorted([".git", *files])


def test_help_names_the_options(capsys) -> None:
    assert run(["fix", "--help"]) == 0
    out = capsys.readouterr().out
    for option in ("--diff", "--unsafe-fixes", "--interactive", "--select", "--config", "--confidence"):
        assert option in out


def test_nothing_to_check(project: object, tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    assert fix(str(tmp_path / "empty")) == 2
    assert "0 files checked" in capsys.readouterr().err


def test_sarif_says_what_fix_does(project, capsys) -> None:
    """Whoever applies the replacements of the report gets the bytes that `mllint fix` writes."""
    cells = [
        {"cell_type": "code", "execution_count": 3, "id": "b", "metadata": {}, "outputs": [], "source": RATE.splitlines(keepends=True)}
    ]
    notebook = json.dumps({"nbformat_minor": 5, "nbformat": 4, "metadata": {}, "cells": cells}, indent=1)
    files = {"a.py": RATE, "b.py": "x = '\u00e4\U0001f600'\r\n" + ROUNDED.replace("\n", "\r\n"), "n.ipynb": notebook}
    root = project(files)
    assert run(["scan", "--format", "sarif"]) == 1
    (log,) = json.loads(capsys.readouterr().out)["runs"]
    texts = dict(files)
    for result in log["results"]:
        ((change,),) = [fixed["artifactChanges"] for fixed in result["fixes"]]
        path = change["artifactLocation"]["uri"]
        starts = [0, *(at + 1 for at, c in enumerate(texts[path]) if c == "\n")]
        for replacement in reversed(change["replacements"]):
            region = replacement["deletedRegion"]
            start = starts[region["startLine"] - 1] + region["startColumn"] - 1
            end = starts[region["endLine"] - 1] + region["endColumn"] - 1
            texts[path] = texts[path][:start] + replacement["insertedContent"]["text"] + texts[path][end:]
    assert fix("--unsafe-fixes") == 0
    assert {path: (root / path).read_bytes().decode() for path in files} == texts
    assert all(texts[path] != files[path] for path in files)
