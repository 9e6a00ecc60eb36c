"""Real scripts with the probes attached, and what the probes wrote."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mllint.runtime

HOOK = Path(mllint.runtime.__file__).parent / "hook"
SHAPES = """
import torch, torch.nn as nn, torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
def data(n=64):
    g = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(n, 8, generator=g), torch.randint(0, 4, (n,), generator=g))
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 16)
        self.drop = nn.Dropout(0.2)
        self.out = nn.Linear(16, 4)
    def forward(self, x):
        return self.out(self.drop(torch.relu(self.fc(x))))
"""


@dataclass(frozen=True)
class Part:
    """What one process wrote, line by line in order."""

    lines: list[dict[str, Any]]

    def of(self, kind: str, /, **having: Any) -> list[dict[str, Any]]:
        """The lines of a kind that have these values."""
        return [line for line in self.lines if line["k"] == kind and all(line.get(k) == v for k, v in having.items())]

    def one(self, kind: str, /, **having: Any) -> dict[str, Any]:
        found = self.of(kind, **having)
        assert len(found) == 1, found
        return found[0]

    def actions(self, *names: str) -> list[str]:
        """The actions of the events in order, those of these names where some are given."""
        return [e["action"] for e in self.of("event") if not names or e["action"] in names]

    def things(self, kind: str) -> list[dict[str, Any]]:
        return self.of("thing", kind=kind)

    def place(self, site: int) -> tuple[str, int, str]:
        """File name, line and function of the innermost frame of a site."""
        frame = self.one("site", id=site)["frames"][0]
        return Path(frame[0]).name, frame[1], frame[5]

    def params(self) -> dict[int, str]:
        """The names of the parameters by their number, as last written."""
        return {line["id"]: line["name"] for line in self.of("param")}


@dataclass(frozen=True)
class Watched:
    """One command that ran with the probes attached."""

    status: int
    out: str
    err: str
    parts: list[Part] = field(default_factory=list)

    @property
    def part(self) -> Part:
        """The part of the only process that did something."""
        busy = [p for p in self.parts if p.of("event") or p.of("error")]
        assert len(busy) == 1, (self.err, [len(p.lines) for p in self.parts])
        return busy[0]


def watch(folder: Path, text: str, *arguments: str, shapes: bool = True, **more: Any) -> Watched:
    """Run a script with the probes attached (or, for comparison, without) and read what they wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "train.py"
    script.write_text((SHAPES if shapes else "") + textwrap.dedent(text))
    return command(folder, [sys.executable, str(script), *arguments], **more)


def command(folder: Path, words: list[str], *, probes: bool = True, extra: dict[str, str] | None = None, **options: Any) -> Watched:
    """Run a command in a folder with the probes attached, which are told these options."""
    run = folder / "run"
    run.mkdir(exist_ok=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLLINT")} | {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}
    # the workers of a loader talk over sockets in TMPDIR, whose paths must be short
    scratch = tempfile.mkdtemp(prefix="w-")
    env |= {"HF_HUB_OFFLINE": "1", "TMPDIR": scratch}
    if probes:
        env |= {"MLLINT_RUN_DIR": str(run), "PYTHONPATH": str(HOOK), "MLLINT_RUN_JSON": json.dumps({"root": str(folder), **options})}
    env |= extra or {}
    try:
        done = subprocess.run(words, cwd=folder, env=env, capture_output=True, timeout=150, encoding="utf-8", errors="replace", check=False)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    parts = [Part([json.loads(line) for line in part.read_text().splitlines()]) for part in sorted(run.glob("part-*.jsonl"))]
    for part in parts:
        assert part.of("fault") == [], part.of("fault")
        assert part.lines[0]["k"] == "start" and part.lines[0]["unavailable"] == []
    return Watched(done.returncode, done.stdout, done.stderr, parts)
