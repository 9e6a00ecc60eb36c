"""`mllint fix --confirm`: what the runs confirm stays, everything else is put back and said."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mllint.cli import run
from mllint.commands import confirm_fixes
from mllint.model.finding import Finding

TRAIN = """\
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

torch.manual_seed(0)
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = StepLR(optimizer, step_size=1, gamma=0.5)
data = [(torch.randn(8, 4), torch.randn(8, 1)) for _ in range(3)]
for epoch in range(4):
    model.train()
    for x, y in data:
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
"""
STEP = "    scheduler.step()\n"
ZERO = "        optimizer.zero_grad()\n"

Verdicts = Callable[[Finding, int], str]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[[Verdicts], list[list[Finding]]]:
    """Runs that say what a test wants them to say; the findings each was asked about."""

    def install(verdict: Verdicts) -> list[list[Finding]]:
        asked: list[list[Finding]] = []

        def check(command, project, options, *, findings, show, tree=None):
            assert command == ["python", "train.py"]
            assert (tree is None) == (not asked)
            asked.append(list(findings))
            number = len(asked)
            judged = [replace(f, verdict=verdict(f, number), evidence=(f"run {number}",)) for f in findings]
            return SimpleNamespace(findings=tuple(reversed(judged)))

        monkeypatch.setattr(confirm_fixes, "check", check)
        return asked

    return install


def fix(*more: str) -> int:
    return run(["fix", ".", "--unsafe-fixes", "--confirm", "python train.py", *more])


def test_what_is_confirmed_stays(project, capsys, told) -> None:
    root = project({"train.py": TRAIN})
    asked = told(lambda finding, number: "confirmed" if number == 1 else "refuted")
    assert fix() == 0
    text = (root / "train.py").read_text()
    assert STEP in text and ZERO in text
    assert [len(findings) for findings in asked] == [2, 2]
    moved = {f.rule: f.span.line for f in asked[1]}
    assert moved["missing-zero-grad"] == text.splitlines().index("        optimizer.step()") + 1
    assert capsys.readouterr().out.endswith("2 fixed, 0 skipped, 0 left\n")


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (["refuted"], "the run says that the finding is not so (run 1)"),
        (["not reached"], "the run cannot confirm it: not reached (run 1)"),
        (["failed to run"], "the run cannot confirm it: failed to run (run 1)"),
        (["confirmed", "confirmed"], "the run still shows it with the fix (run 2)"),
        (["confirmed", "failed to run"], "the run with the fix cannot confirm that it is gone: failed to run (run 2)"),
    ],
)
def test_what_is_not_confirmed_is_put_back(project, capsys, told, verdicts: list[str], said: str) -> None:
    root = project({"train.py": TRAIN})

    def verdict(finding: Finding, number: int) -> str:
        sequence: Mapping[str, list[str]] = {"scheduler-never-stepped": verdicts, "missing-zero-grad": ["confirmed"]}
        ahead = sequence[finding.rule]
        return ahead[number - 1] if number <= len(ahead) else "refuted"

    told(verdict)
    assert fix() == 1
    text = (root / "train.py").read_text()
    assert STEP not in text and ZERO in text
    out = capsys.readouterr().out
    assert f"skipped  train.py:8:13  scheduler-never-stepped  put back: {said}" in out
    assert out.endswith("1 fixed, 1 skipped, 1 left\n")


def test_nothing_confirmed_changes_nothing(project, told) -> None:
    root = project({"train.py": TRAIN})
    asked = told(lambda finding, number: "not reached")
    assert fix() == 1
    assert (root / "train.py").read_text() == TRAIN
    assert len(asked) == 1, "nothing is left to run with"


def test_verdicts_that_never_settle_put_everything_back(project, capsys, told) -> None:
    root = project({f"train{n}.py": TRAIN for n in range(3)})
    told(lambda finding, number: "confirmed" if number == 1 or finding.span.path == f"train{number - 2}.py" else "refuted")
    assert fix() == 1
    assert [(root / f"train{n}.py").read_text() for n in range(3)] == [TRAIN] * 3
    assert capsys.readouterr().out.endswith("0 fixed, 6 skipped, 6 left\n")


def test_nothing_to_fix_runs_nothing(project, told) -> None:
    project({"train.py": "x = 1\n"})
    asked = told(lambda finding, number: "confirmed")
    assert fix() == 0 and not asked


def test_diff_shows_what_is_confirmed(project, capsys, told) -> None:
    root = project({"train.py": TRAIN})
    told(lambda f, number: "confirmed" if number == 1 else "refuted" if f.rule == "missing-zero-grad" or number > 2 else "confirmed")
    assert fix("--diff") == 1
    out = capsys.readouterr().out
    assert "+" + ZERO in out and "+" + STEP not in out
    assert (root / "train.py").read_text() == TRAIN


@pytest.mark.parametrize("line", ["", "python 'train.py", "no-such-program-here train.py"])
def test_a_command_that_cannot_be_started_is_wrong_use(project, line: str) -> None:
    root = project({"train.py": TRAIN})
    assert run(["fix", ".", "--unsafe-fixes", "--confirm", line]) == 2
    assert (root / "train.py").read_text() == TRAIN


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
def test_real_runs(project, capsys) -> None:
    root = project({"train.py": TRAIN + "    print(f\"{optimizer.param_groups[0]['lr']:.4f}\")\n"})
    command = shlex.join([sys.executable, "train.py"])
    assert run(["fix", ".", "--unsafe-fixes", "--confirm", command]) == 1
    out = capsys.readouterr().out
    text = (root / "train.py").read_text()
    assert STEP in text and ZERO in text and ":.4f" in text
    assert "put back: the run cannot confirm it: not observable here" in out
    assert "2 fixed, 1 skipped, 1 left" in out
