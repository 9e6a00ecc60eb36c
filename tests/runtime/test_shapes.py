"""Each shape of training script through the real command line: nothing is said of the correct one, and one bug is proven."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mutation import CLEAN, DISTRIBUTED, script, source
from mutations import MUTATIONS, NEEDS

pytest.importorskip("torch")

#: One bug for each shape; all of them are in the matrix.
ONE = {
    "plain": "missing-zero-grad",
    "amp": "clip-before-unscale",
    "accumulation": "accumulation-not-scaled",
    "gan": "missing-zero-grad",
    "no_loader": "scheduler-never-stepped",
    "ddp": "sampler-epoch-not-set",
    "hf_trainer": "softmax-before-cross-entropy",
    "hf_accelerate": "eval-without-eval-mode",
    "lightning_fit": "optimizer-before-parameters",
    "lightning_manual": "loss-term-unused",
}


def _checked(folder: Path, shape: str, text: str) -> tuple[int, dict[str, Any]]:
    """The exit status and the report of `mllint runtime-check` on the script, which must not be touched by it."""
    if any(importlib.util.find_spec(name) is None for name in NEEDS.get(shape, ())):
        pytest.skip(f"needs {' and '.join(NEEDS[shape])}")
    (folder / ".git").mkdir()
    path = folder / script(shape)
    path.write_text(text, encoding="utf-8")
    starter = ["torch.distributed.run", "--nproc_per_node=2", "--standalone"] if shape in DISTRIBUTED else []
    trained = [sys.executable, *(["-m", *starter] if starter else []), path.name]
    command = [sys.executable, "-m", "mllint", "runtime-check", "--format", "json", "--", *trained]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, encoding="utf-8", timeout=300
    )
    assert done.stdout.startswith("{"), done.stderr
    assert path.read_text(encoding="utf-8") == text
    assert {item.name for item in folder.iterdir()} == {".git", ".mllint", path.name}
    report = json.loads(done.stdout)
    assert report["problems"] == [], report["problems"]
    return done.returncode, report


@pytest.mark.parametrize("shape", CLEAN)
def test_nothing_is_said_of_a_correct_script(tmp_path: Path, shape: str) -> None:
    status, report = _checked(tmp_path, shape, source(shape))
    assert report["run"]["problem"] is None
    assert report["findings"] == []
    assert status == 0


@pytest.mark.parametrize("shape", CLEAN)
def test_a_bug_is_proven(tmp_path: Path, shape: str) -> None:
    mutation = next(m for m in MUTATIONS if m.shape == shape and m.rule == ONE[shape])
    status, report = _checked(tmp_path, shape, mutation.text())
    found = [f for f in report["findings"] if f["rule"] == mutation.rule]
    assert [f["verdict"] for f in found] == ["confirmed"] and all(f["evidence"] for f in found), report["findings"]
    assert status == 1


def test_processes_are_told_apart(tmp_path: Path) -> None:
    """Each of the two processes that torchrun starts leaves a part of its own."""
    _, report = _checked(tmp_path, "ddp", source("ddp"))
    record = json.loads(Path(report["run"]["record"]).read_text(encoding="utf-8"))
    ranks = [row["rank"] for part in record["parts"] for row in part if row["k"] == "start" and any(r["k"] == "step" for r in part)]
    assert sorted(set(ranks)) == [0, 1]
