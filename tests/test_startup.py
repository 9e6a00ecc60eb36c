"""What a fresh process loads: facts about imports, not timings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mllint.pages import examples, load_pages

HEAVY = {"libcst", "rich", "nbformat", "git", "ruamel", "torch", "pytest", "argparse", "importlib.metadata", "asyncio", "multiprocessing"}


def loaded(arguments: list[str], folder: Path, prefix: tuple[str, ...] = ("-m", "mllint")) -> tuple[set[str], subprocess.CompletedProcess]:
    """Every module a process imported, as Python itself reports it."""
    command = [sys.executable, "-X", "importtime", *prefix, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8")
    names = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "mllint" in names or prefix[0] != "-m"
    return names, done


def _roots(names: set[str]) -> set[str]:
    return names | {name.split(".")[0] for name in names}


@pytest.fixture
def flawed(tmp_path):
    """A project in which something is found, with a notebook and settings."""
    example = next(e for e in examples("scheduler-never-stepped", load_pages()) if e.role == "bad")
    for path, text in example.files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    (tmp_path / "notes.ipynb").write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    (tmp_path / "mllint.toml").write_text("ignore = ['lr-display-precision']\n")
    return tmp_path


def test_plain_scan_with_findings_loads_nothing_heavy(flawed):
    names, done = loaded(["scan", "."], flawed)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "scheduler-never-stepped" in done.stdout
    assert not _roots(names) & HEAVY


def test_plain_scan_without_findings_loads_no_report_of_another_kind(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    names, done = loaded(["scan", "a.py"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not _roots(names) & HEAVY
    others = {"mllint.report.sarif", "mllint.report.json", "mllint.report.progress", "mllint.authoring", "mllint.checks.schedulers"}
    interpreter = {"mllint.flow.entries", "mllint.flow.interpret", "mllint.flow.values", "mllint.model.history", "mllint.read.tables"}
    assert not names & (others | interpreter | {"hashlib", "yaml", "mllint.read.notebook"})


@pytest.mark.parametrize("form", ["concise", "json", "sarif", "github"])
def test_other_formats_load_no_library_either(flawed, form):
    names, done = loaded(["scan", ".", "--format", form], flawed)
    assert done.returncode == 1, done.stdout + done.stderr
    # The replacements of a fix are worked out for SARIF alone, and where there is a fix.
    needed = {"argparse", "libcst", "importlib.metadata"} if form == "sarif" else {"argparse"}
    assert not _roots(names) & (HEAVY - needed)


def test_sarif_without_fixes_loads_no_library(flawed):
    (flawed / "mllint.toml").write_text("select = ['fp16-without-scaler']\n")
    names, done = loaded(["scan", ".", "--format", "sarif"], flawed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not _roots(names) & (HEAVY - {"argparse"})


def test_version_loads_nothing(tmp_path):
    names, done = loaded(["--version"], tmp_path)
    assert done.stdout.startswith("mllint ")
    before = loaded(["pass"], tmp_path, ("-c",))[0]
    # `-m` itself needs runpy; beyond that only the package.
    assert {name for name in names - before if name.startswith("mllint")} == {"mllint"}
    assert not names & {"argparse", "re", "dataclasses", "json", "typing"} - before


def test_the_net_catches_what_it_is_for(tmp_path):
    names, _ = loaded(["import argparse, json.decoder"], tmp_path, ("-c",))
    assert _roots(names) & HEAVY == {"argparse"}


# What Python itself imports before it runs a module with `-m` is out of reach: `types` and what `runpy` needs besides.
SHADOWED = ["argparse", "ast", "bisect", "copy", "dataclasses", "dis", "hashlib", "inspect", "json", "random", "rich", "shutil", "tempfile"]
SHADOWED += ["textwrap", "token", "tokenize", "tomllib", "yaml"]


@pytest.mark.parametrize("options", [(), ("--format", "json"), ("--statistics",)], ids=" ".join)
def test_modules_of_the_project_are_never_imported(flawed, options):
    """A project may have a dis.py of its own; to scan it must not run it."""
    for name in SHADOWED:
        (flawed / f"{name}.py").write_text(f"raise SystemExit('{name} of the project was imported')\n", encoding="utf-8")
    command = [sys.executable, "-m", "mllint", "scan", ".", *options]
    done = subprocess.run(command, cwd=flawed, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "scheduler-never-stepped" in done.stdout
    assert "was imported" not in done.stdout + done.stderr


def test_a_checkout_runs_itself():
    """Where the package stands in the folder itself, it is still found once that folder is off the path."""
    folder = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-S", "-m", "mllint", "rules"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "scheduler-never-stepped" in done.stdout
