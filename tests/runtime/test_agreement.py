"""What reading a script says will happen, and what a run of it did: the same events at the same lines."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import warm
from mutation import CLEAN, DISTRIBUTED, FOLDER, script, source
from mutations import NEEDS

from mllint.discover import File
from mllint.flow.project import Project
from mllint.model.history import History
from mllint.read.tables import read_tables, shipped_tables
from mllint.runtime.watched import Watched

pytest.importorskip("torch")
INSTALLED = [shape for shape in CLEAN if all(importlib.util.find_spec(name) is not None for name in NEEDS.get(shape, ()))]

KINDS = ("optimizer", "scheduler", "scaler")
#: What happens to these things, and what belongs to no single thing.
ACTIONS = ("make", "step", "zero_grad", "unscale_", "scale", "update")
LOOSE = ("backward", "clip")
#: What a framework does inside of these calls stands in no line of the script, and only the run sees it.
HANDED_OVER = ("trainer.train()", "trainer.fit(")
#: Made by Lightning around the optimizer that `self.optimizers()` asks for, at its first use.
WRAPPED = {("lightning_manual", ("make", "optimizer"), "optimizer.zero_grad()")}

Seen = set[tuple[str, str, int]]


def _events(history: History, path: str) -> Seen:
    """Action, kind and line of what both sides can see in the script."""
    return {
        (event.action, event.thing.kind if event.thing is not None else "", event.span.line)
        for event in history.events_in_order
        if event.span.path == path
        and (event.action in LOOSE if event.thing is None else event.thing.kind in KINDS and event.action in ACTIONS)
    }


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    """The events of a run of each script."""
    top = tmp_path_factory.mktemp("agreement")
    jobs = []
    for shape in INSTALLED:
        (top / shape).mkdir()
        shutil.copy(FOLDER / script(shape), top / shape)
        jobs.append(warm.job(top / shape, script(shape), 2 if shape in DISTRIBUTED else 1))
    knowledge = read_tables(shipped_tables())
    found = {}
    for shape, status in zip(INSTALLED, warm.run(jobs, top), strict=True):
        record = warm.record(top / shape, status)
        assert record.main is not None, record.head["output"]
        found[shape] = _events(Watched(record, record.main, str(top / shape), knowledge).history, script(shape))
    return found


def _read(shape: str) -> Seen:
    """The events of the abstract run of a script."""
    project = Project(Path(FOLDER), [File(script(shape), "python")])
    return set().union(*(_events(history, script(shape)) for history in project.histories()))


@pytest.mark.parametrize("shape", INSTALLED)
def test_reading_and_running_see_the_same(shape: str, recorded: dict[str, Seen]) -> None:
    lines = source(shape).splitlines()
    ran = {
        (action, kind, line)
        for action, kind, line in recorded[shape]
        if not any(call in lines[line - 1] for call in HANDED_OVER) and (shape, (action, kind), lines[line - 1].strip()) not in WRAPPED
    }
    read = _read(shape)
    assert read == ran, {"read only": sorted(read - ran), "run only": sorted(ran - read)}
    assert {("make", "optimizer"), ("make", "scheduler")} <= {(action, kind) for action, kind, _ in read}
