"""Records of runs built by code: what the probes would have written, a few rows of it, for tests of what is shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mllint.runtime.record import Record, part

MIB = 1 << 20


def finding(rule: str = "scheduler-never-stepped", verdict: str = "confirmed", **changed: Any) -> dict[str, Any]:
    """A finding as `--format json` has it, with what a run says of it."""
    return {
        "rule": rule,
        "topic": "schedulers",
        "severity": "error",
        "confidence": "high",
        "message": "`schedule` is never stepped, so the learning rate stays at its first value",
        "path": "train.py",
        "line": 20,
        "column": 16,
        "end_line": 20,
        "end_column": 60,
        "cell": None,
        "labels": [],
        "fix": None,
        "key": "0123456789abcdef",
        "url": None,
        "hidden": None,
        "verdict": verdict,
        "evidence": ["the learning rate was 0.1 at each of the 8 optimizer steps"],
        **changed,
    }


def losses(count: int, start: float = 2.3) -> list[float]:
    """A loss that falls."""
    return [round(start * math.exp(-0.15 * k), 6) for k in range(count)]


def steps(
    values: Sequence[float | None],
    *,
    optimizer: int = 1,
    lr: Sequence[float] = (0.1, 0.01),
    components: bool = True,
    memory: bool = True,
    milliseconds: float = 52.0,
) -> list[dict[str, Any]]:
    """Step rows, one a loss. The first takes ten times as long, as first steps do."""
    rows = []
    for k, value in enumerate(values):
        ms = milliseconds * (10 if k == 0 else 1) / 1000
        parts = {"reconstruction": value * 0.75, "kl": value * 0.25} if components and value is not None else {}
        rows.append(
            {
                "k": "step",
                "n": 10 * k + 8,
                "optimizer": optimizer,
                "step": k,
                "lr": list(lr),
                "momentum": None,
                "loss": value,
                "grad_norm": None if value is None else value / 2,
                "components": parts,
                "memory": 300 * MIB + k * MIB if memory else None,
                "rss": 500 * MIB + k * MIB,
                "seconds": {"total": ms, "data": ms * 0.1, "forward": ms * 0.3, "backward": ms * 0.4, "step": ms * 0.15},
                "skipped": False,
                "changed": 4,
                "unchanged": [],
                "stale": [],
                "none": [],
                "nonfinite": [],
            }
        )
    return rows


def events(count: int) -> list[dict[str, Any]]:
    """The events of as many plain steps, without the making of things."""
    actions = ("zero_grad", "forward", "loss", "backward", "step")
    return [
        {
            "k": "event",
            "n": 10 * k + i,
            "t": k * 0.052 + i * 0.01,
            "action": action,
            "thing": {"zero_grad": 1, "step": 1, "forward": 2}.get(action),
            "site": 1,
            "via": None,
            "arguments": {},
            "observed": {},
            "depth": 0,
            "contexts": [],
        }
        for k in range(count)
        for i, action in enumerate(actions)
    ]


def rows_of(values: Sequence[float | None], *more: Mapping[str, Any], **kind: Any) -> list[Mapping[str, Any]]:
    """A whole part: start, things, events, steps, passes and the end; `more` rows stand before the end."""
    start = {
        "k": "start",
        "version": 1,
        "pid": 1,
        "ppid": 0,
        "rank": None,
        "world": 1,
        "argv": ["train.py"],
        "python": "3.11.7",
        "torch": "2.13.0",
        "device": "cpu",
        "device_name": "",
        "cuda_available": False,
        "threads": 1,
        "time": 1.0,
        "unavailable": [],
    }
    return [
        start,
        {"k": "site", "id": 1, "frames": [["train.py", 12, 5, 12, 40, "main", 3]]},
        {"k": "thing", "id": 1, "kind": "optimizer", "type": "torch.optim.sgd.SGD", "bases": [], "site": 1, "arguments": {}, "params": []},
        {"k": "thing", "id": 2, "kind": "module", "type": "train.Net", "bases": [], "site": 1, "arguments": {}, "params": []},
        *events(len(values)),
        *steps(values, **kind),
        {"k": "pass", "loader": 3, "number": 1, "batches": 3, "grad": "train", "n": 20},
        {"k": "pass", "loader": 3, "number": 2, "batches": 3, "grad": "train", "n": 40},
        *more,
        {"k": "end", "reason": "steps", "n": 80, "t": 1.0, "never_gradient": [], "not_optimised": [], "disabled": []},
    ]


def record(
    values: Sequence[float | None] | None = None,
    *more: Mapping[str, Any],
    verdicts: Sequence[Mapping[str, Any]] = (),
    head: Mapping[str, Any] | None = None,
    **kind: Any,
) -> Record:
    """A record of one process."""
    known = {
        "id": "20261121T134501-3f2a1c",
        "command": ["python", "train.py", "--epochs", "2"],
        "started": "2026-11-21T13:45:01Z",
        "seconds": 3.2,
        "ended": "steps",
        "exit_status": 0,
        "mode": "cpu",
        "sandbox": "overlay",
        "written": [],
        "notes": [],
        **(head or {}),
    }
    return Record(known, (part(rows_of(losses(8) if values is None else values, *more, **kind)),), tuple(verdicts))


def learning(count: int = 8, examples: int = 4) -> list[dict[str, Any]]:
    """Rows of examples whose loss falls and whose predictions turn right one after the other."""
    return [
        {
            "k": "examples",
            "followed": True,
            "step": k,
            "loss": [round((2.3 + i / 4) * math.exp(-0.2 * k), 4) for i in range(examples)],
            "prediction": [i if k > 2 * i else 9 for i in range(examples)],
            "target": list(range(examples)),
        }
        for k in range(count)
    ]
