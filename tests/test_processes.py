"""Two processes find what one finds."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mllint.discover import File
from mllint.flow import entries, processes
from mllint.flow.project import Project
from mllint.model.history import History

STEP = "        self.optimizer.zero_grad()\n        loss = self.model(batch)\n        loss.backward()\n        self.optimizer.step()\n"
TRAINER = f"""import torch
from steps{{other}} import helper{{other}}
class Trainer{{n}}:
    def __init__(self, model):
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), 0.1)
    def fit(self, batches):
        for batch in batches:
            self.fit_one(batch)
        helper{{other}}(self.optimizer, self.model)
    def fit_one(self, batch):
{STEP}"""
HELPER = """import torch
from steps{other} import helper{other}
def helper{n}(optimizer, model):
    scaler = torch.cuda.amp.GradScaler()
    scaler.step(optimizer)
def alone{n}(model, batches):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for batch in batches:
        model(batch).backward()
    helper{other}(optimizer, model)
"""
FILES = {f"trainer{n}.py": TRAINER.format(n=n, other=(n * 5 + 3) % 8) for n in range(6)} | {
    f"steps{n}.py": HELPER.format(n=n, other=(n + 3) % 8) for n in range(8)
}


def said(history: History) -> tuple:
    things = [(t.kind, t.type, t.made_at, t.lost) for t in history.all_things]
    events = [
        (e.action, e.thing and e.thing.made_at, e.span, [f.span for f in e.place], list(e.arguments)) for e in history.events_in_order
    ]
    return history.entry, things, events


def followed(folder: Path) -> tuple[list[tuple], list[str]]:
    for name, text in FILES.items():
        (folder / name).write_text(text)
    (folder / "gone.py").unlink(missing_ok=True)
    project = Project(folder, [File(name, "python") for name in (*FILES, "gone.py")])
    return [said(history) for history in project.histories()], [str(p) for p in project.problems]


def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let every scan be shared, whatever the machine; the list fills with the number of entries the second process gave."""
    gave: list[int] = []
    beside = processes.beside

    def told(own, other, pack, unpack):
        result = beside(own, other, pack, unpack)
        gave.append(-1 if result[1] is None else len(result[1]))
        return result

    monkeypatch.setattr(entries, "MANY_LINES", 1)
    monkeypatch.setattr(processes, "available", lambda: True)
    monkeypatch.setattr(processes, "beside", told)
    return gave


def test_two_processes_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = followed(tmp_path)
    names = [entry for entry, _, _ in alone[0]]
    assert len(names) == len(set(names)) > 8 and names == sorted(names, key=lambda n: n.split(":")[0])
    assert "steps0.py: helper0()" in names and "steps3.py: helper3()" not in names, "what an earlier entry calls is none itself"
    gave = together(monkeypatch)
    assert followed(tmp_path) == alone
    assert len(gave) == 1 and gave[0] > 3


def test_the_work_is_done_here_when_the_second_process_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = followed(tmp_path)
    gave = together(monkeypatch)
    own = os.getpid()
    walk = entries.Walk.elsewhere

    def broken(self, *arguments):
        assert os.getpid() != own
        walk(self, *arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(entries.Walk, "elsewhere", broken)
    assert followed(tmp_path) == alone and gave == [-1]
    monkeypatch.setattr(entries.Walk, "elsewhere", lambda self, *arguments: {("a", 1): lambda: 0})  # nothing pickle can say
    assert followed(tmp_path) == alone and gave == [-1, -1]


def test_halves_are_walked_here_where_there_is_no_second_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = followed(tmp_path)
    gave = together(monkeypatch)
    monkeypatch.setattr(processes, "available", lambda: False)
    assert followed(tmp_path) == alone and not gave


def test_halves_weigh_about_the_same() -> None:
    weights = {"a": 2_000, "b": 900, "c": 800, "d": 700, "e": 0}
    assert entries.halves(weights) == [["b", "c", "d"], ["a", "e"]]
    assert entries.halves({"a": 5_000, "b": entries.MANY_LINES - 1}) == [["a", "b"]]
    assert entries.halves({}) == [[]]


def test_a_process_that_is_interrupted_leaves_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    def endless() -> None:
        signal.pause()

    with pytest.raises(KeyboardInterrupt):
        processes.beside(interrupted, endless, lambda found: b"", lambda data: None)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_what_many_classes_set_up_is_not_followed_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = "def setup(optimizer):\n" + "    x = optimizer\n" * 30 + "    optimizer.step()\n"
    case = (
        "    def test(self, model):\n        optimizer = torch.optim.SGD(model.parameters(), 0.1)\n        loss = model(1)\n"
        "        loss.backward()\n        setup(optimizer)\n"
    )
    classes = "".join(f"class Test{n}:\n{case}" for n in range(6))
    (tmp_path / "cases.py").write_text(f"import torch\n{setup}{classes}")
    (tmp_path / "main.py").write_text(f"import torch\nfrom cases import Test0, setup\nif True:\n{case.partition(':')[2]}")
    monkeypatch.setattr("mllint.flow.calls.COSTLY_AGAIN", 100)
    project = Project(tmp_path, [File(name, "python") for name in ("cases.py", "main.py")])
    stepped = {h.entry: bool(h.events(None, "step")) for h in project.histories()}
    assert stepped.pop("main.py"), "a program is followed however much has been"
    assert list(stepped.values()) == [True, True, False, False, False, False]
    told = [p for p in project.problems if "`setup` was not followed again after 100 statements" in p.message]
    assert len(told) == 4 and {p.kind for p in told} == {"limit"}
    assert all(t.lost for h in project.histories() if not h.events(None, "step") for t in h.things("optimizer"))
