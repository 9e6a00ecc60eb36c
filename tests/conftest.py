"""What several test files share: example reports, each made once, and small projects."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mllint.authoring import run_example
from mllint.model.finding import Report
from mllint.pages import Example, examples, load_pages

PAGES = load_pages()


@functools.cache
def _report(rule: str, number: int) -> Report:
    return run_example(next(e for e in examples(rule, PAGES) if e.number == number), PAGES)


@pytest.fixture
def report_of() -> Callable[[Example], Report]:
    """The report of an example on a page of ours; what only a run can judge is run, where there is a torch to run it with."""

    def report(example: Example) -> Report:
        if "code" not in PAGES[example.rule].rule.seen:
            pytest.importorskip("torch")
        return _report(example.rule, example.number)

    return report


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a small project, with paths as keys, and stand in its folder."""

    def write(files: dict[str, str | bytes]) -> Path:
        (tmp_path / ".git").mkdir(exist_ok=True)
        for path, text in files.items():
            target = tmp_path / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return write


@pytest.fixture
def without_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions count as they do for anybody but the superuser, who may write everywhere."""
    allowed = os.access

    def access(path: str, mode: int, **more: bool) -> bool:
        return allowed(path, mode, **more) and not (mode & os.W_OK and not os.stat(path).st_mode & 0o222)

    monkeypatch.setattr(os, "access", access)
