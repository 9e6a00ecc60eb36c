"""How runs end: by what was seen, by time, by themselves, by an error; and what is on the disk then."""

from __future__ import annotations

import ast
import sys
import time
from pathlib import Path

import pytest
from watching import HOOK, Watched, command, watch

pytest.importorskip("torch", reason="the probes watch a real torch")


def ended(seen: Watched) -> str:
    return seen.part.one("end")["reason"]


def test_a_scaler_that_never_steps_is_ended_by_its_backward_passes(tmp_path: Path) -> None:
    seen = watch(
        tmp_path,
        """
        model = Net()
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu")
        for epoch in range(10000):
            for x, y in DataLoader(data(), batch_size=4):
                opt.zero_grad()
                scaler.scale(F.cross_entropy(model(x), y) * float("nan")).backward()
                scaler.step(opt)
                scaler.update()
        """,
    )
    assert seen.status == 0 and ended(seen) in ("backwards", "passes")
    assert all(s["skipped"] and s["loss"] != s["loss"] for s in seen.part.of("step"))


def test_training_without_any_optimizer_is_ended(tmp_path: Path) -> None:
    seen = watch(
        tmp_path,
        """
        model = Net()
        x, y = data()[:4]
        while True:
            loss = F.cross_entropy(model(x), y)
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for p in model.parameters():
                    p.sub_(0.1 * p.grad)
        """,
        steps=3,
    )
    assert seen.status == 0 and ended(seen) == "backwards"
    assert len(seen.part.of("event", action="backward")) == 12
    assert seen.part.one("end")["never_gradient"] == []


def test_training_without_a_loader_waits_for_the_scheduler(tmp_path: Path) -> None:
    text = """
        model = Net()
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        sched = torch.optim.lr_scheduler.StepLR(opt, 1)
        x, y = data()[:4]
        for epoch in range(1000):
            for i in range(8):
                opt.zero_grad()
                F.cross_entropy(model(x), y).backward()
                opt.step()
            sched.step()
        """
    seen = watch(tmp_path / "a", text)
    assert ended(seen) == "steps" and len(seen.part.of("step")) == 9, "the eighth is followed by the scheduler, and that by one turn"
    never = watch(tmp_path / "b", text.replace("sched.step()", "pass"))
    assert ended(never) == "steps" and len(never.part.of("step")) == 30, "the grace is four times the steps"


def test_the_clock_ends_a_program_that_hangs(tmp_path: Path) -> None:
    began = time.monotonic()
    seen = watch(
        tmp_path,
        """
        import time
        model = Net()
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        F.cross_entropy(model(data()[:4][0]), data()[:4][1]).backward()
        opt.step()
        print("before the pause")
        while True:
            time.sleep(0.1)
        """,
        seconds=4.0,
    )
    assert seen.status == 0 and ended(seen) == "time" and len(seen.part.of("step")) == 1
    assert "before the pause" in seen.out, "what was printed is not lost"
    assert time.monotonic() - began < 60


ENDLESS = """
model = Net()
opt = torch.optim.SGD(model.parameters(), lr=0.1)
x, y = data()[:4]
def turn():
    opt.zero_grad()
    F.cross_entropy(model(x), y).backward()
    opt.step()
"""


def test_a_script_that_catches_everything_is_ended_all_the_same(tmp_path: Path) -> None:
    seen = watch(
        tmp_path,
        ENDLESS
        + """
import atexit
atexit.register(lambda: open("left-behind", "w").close())
while True:
    try:
        turn()
    except:
        print("caught")
    finally:
        pass
""",
    )
    assert seen.status == 0 and ended(seen) == "steps" and "caught" not in seen.out
    assert not (tmp_path / "left-behind").exists()


def test_raising_is_for_tests_in_one_process(tmp_path: Path) -> None:
    text = ENDLESS + """
try:
    while True:
        turn()
except BaseException as error:
    print(type(error).__name__, isinstance(error, Exception))
turn()
print("goes on")
"""
    seen = watch(tmp_path, text, **{"raise": True})
    assert seen.out.split("\n")[:2] == ["Stop False", "goes on"] and ended(seen) == "steps"


def test_what_follows_the_last_step_is_still_seen_by_itself(tmp_path: Path) -> None:
    seen = watch(tmp_path, ENDLESS + "turn()\nturn()\nprint('done')\n")
    assert seen.out == "done\n" and ended(seen) == "exit" and len(seen.part.of("step")) == 2


@pytest.mark.parametrize(
    ("line", "kind", "missing"),
    [
        ("open('data/train.bin')", "FileNotFoundError", "data/train.bin"),
        ("import not_installed_here", "ModuleNotFoundError", "module not_installed_here"),
        ("torch.zeros(2).cuda()", "", "a CUDA device"),
        ("import os; os.environ['MY_DATA']", "KeyError", "environment variable MY_DATA"),
        ("import sys; sys.exit('needs data: nothing at /nowhere')", "SystemExit", None),
        ("1 / 0", "ZeroDivisionError", None),
    ],
)
def test_the_first_thing_that_is_missing(tmp_path: Path, line: str, kind: str, missing: str | None) -> None:
    seen = watch(tmp_path, line + "\n", extra={"CUDA_VISIBLE_DEVICES": ""})
    assert seen.status == 1
    error = seen.part.one("error")
    assert error["missing"] == missing and (error["type"] == kind or not kind)
    assert error["frames"][-1][2] == "<module>" if kind != "SystemExit" else error["frames"][0][2] == "<module>"
    assert ended(seen) == "error"


def test_a_failure_before_torch_is_told_too(tmp_path: Path) -> None:
    seen = watch(tmp_path, "import json\njson.load(open('settings.json'))\n", shapes=False)
    part = seen.part
    assert part.lines[0]["torch"] is None and part.one("error")["missing"] == "settings.json" and ended(seen) == "error"


def test_a_program_without_torch_leaves_nothing(tmp_path: Path) -> None:
    seen = watch(tmp_path, "print('hello')\n", shapes=False)
    assert (seen.status, seen.out, seen.parts) == (0, "hello\n", [])


def test_errors_that_are_caught_and_exits_that_are_prevented_are_none(tmp_path: Path) -> None:
    seen = watch(
        tmp_path,
        ENDLESS
        + """
import sys
for problem in (lambda: open("nowhere"), lambda: sys.exit(3)):
    try:
        problem()
    except (OSError, SystemExit) as error:
        print(type(error).__name__)
turn()
sys.exit(0)
""",
    )
    assert seen.status == 0 and seen.out == "FileNotFoundError\nSystemExit\n"
    assert ended(seen) == "exit" and seen.part.of("error") == []


def test_another_sitecustomize_still_runs(tmp_path: Path) -> None:
    other = tmp_path / "site"
    other.mkdir()
    (other / "sitecustomize.py").write_text("import sys; sys.other_ran = True\n")
    (tmp_path / "show.py").write_text("import sys; print(sys.other_ran, 'mllint_probe' in sys.modules)\n")
    for folder, attached in (({"PYTHONPATH": f"{HOOK}:{other}"}, True), ({"PYTHONPATH": f"{HOOK}:{other}", "MLLINT_RUN_DIR": ""}, False)):
        seen = command(tmp_path, [sys.executable, "show.py"], extra=folder)
        assert seen.out == f"True {attached}\n", seen.err


def test_the_probes_are_old_python_and_stand_alone() -> None:
    files = sorted(HOOK.rglob("*.py"))
    assert len(files) > 20
    for file in files:
        tree = ast.parse(file.read_text(), feature_version=(3, 8))
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] in {*sys.stdlib_module_names, "torch", "mllint_probe"}, f"{file.name} imports {name}"
        unions = [n for n in ast.walk(tree) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.BitOr)]
        assert not [n for n in unions if isinstance(n.right, ast.Constant) and n.right.value is None], f"{file.name} writes X | None"
