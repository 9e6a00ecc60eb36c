"""The hook, end to end: real git, real pre-commit, an environment built from this source."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHIPPED = ("mllint", "rules", "pyproject.toml", "README.md", "LICENSE", ".pre-commit-hooks.yaml")

FACTORY = "import torch\n\n\ndef make(optimizer):\n    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=10)\n"
TRAIN = """import torch
from factory import make

model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = make(optimizer)
for epoch in range(10):
    optimizer.zero_grad()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An identity, settings and a cache that belong to this test alone."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "PRE_COMMIT"))}
    return kept | {
        "GIT_AUTHOR_NAME": "A",
        "GIT_AUTHOR_EMAIL": "a@example.com",
        "GIT_COMMITTER_NAME": "A",
        "GIT_COMMITTER_EMAIL": "a@example.com",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "protocol.file.allow",
        "GIT_CONFIG_VALUE_0": "always",
        "PRE_COMMIT_HOME": str(tmp_path / "pre-commit-home"),
        "PRE_COMMIT_COLOR": "never",
        "PATH": os.pathsep.join((os.path.dirname(sys.executable), os.environ.get("PATH", ""))),
    }


def _git(folder: Path, environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _repository(folder: Path, environment: dict[str, str]) -> str:
    """Commit everything in the folder and say which commit that is."""
    _git(folder, environment, "init", "-q")
    _git(folder, environment, "add", "--all")
    _git(folder, environment, "commit", "-q", "-m", "all")
    return _git(folder, environment, "rev-parse", "HEAD")


def test_hook_in_a_repository(tmp_path: Path, environment: dict[str, str]) -> None:
    ours = tmp_path / "ours"
    ours.mkdir()
    for name in SHIPPED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, ours / name)
    commit = _repository(ours, environment)

    work = tmp_path / "work"
    work.mkdir()
    (work / "factory.py").write_text(FACTORY)
    (work / "train.py").write_text(TRAIN)
    (work / "notes.md").write_text("not for this hook\n")
    (work / ".pre-commit-config.yaml").write_text(
        f"repos:\n- repo: {ours.as_uri()}\n  rev: {commit}\n  hooks:\n  - id: mllint\n", encoding="utf-8"
    )
    _repository(work, environment)

    def hook(*arguments: str) -> subprocess.CompletedProcess:
        run = [sys.executable, "-m", "pre_commit", "run", *arguments]
        return subprocess.run(run, cwd=work, env=environment, capture_output=True, text=True, encoding="utf-8")

    found = hook("--all-files")
    assert found.returncode == 1, found.stdout + found.stderr
    assert "scheduler-never-stepped" in found.stdout and "factory.py:5" in found.stdout

    # The file that is committed only carries a label of the finding; the finding is told all the same.
    (work / "train.py").write_text(TRAIN + "print('trained')\n")
    _git(work, environment, "add", "train.py")
    staged = hook()
    assert staged.returncode == 1 and "scheduler-never-stepped" in staged.stdout, staged.stdout + staged.stderr

    (work / "train.py").write_text(TRAIN + "    scheduler.step()\n")
    _git(work, environment, "add", "train.py")
    mended = hook()
    assert mended.returncode == 0, mended.stdout + mended.stderr

    (work / "notes.md").write_text("still not\n")
    _git(work, environment, "commit", "-q", "-m", "mended", "--no-verify")
    _git(work, environment, "add", "notes.md")
    assert "no files to check" in hook().stdout
