"""The probes in real scripts: what is seen, in which order, and that the script computes what it computed without them."""

from __future__ import annotations

from pathlib import Path

import pytest
from watching import SHAPES, Part, Watched, watch

pytest.importorskip("torch", reason="the probes watch a real torch")

PLAIN = """
def main(epochs=10):
    model = Net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sched = torch.optim.lr_scheduler.StepLR(opt, step_size=1, gamma=0.5)
    loader = DataLoader(data(), batch_size=4, shuffle=True)
    val = DataLoader(data(), batch_size=4)
    for epoch in range(epochs):
        model.train()
        for x, y in loader:
            opt.zero_grad()
            loss = nn.CrossEntropyLoss()(model(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            print("loss", loss.item().hex())
        model.eval()
        with torch.no_grad():
            for x, y in val:
                model(x)
        sched.step()
main()
"""


def line_of(text: str, fragment: str) -> int:
    """The line of the script that holds a fragment."""
    return next(i for i, line in enumerate((SHAPES + text).splitlines(), 1) if fragment in line)


def step_lines(part: Part) -> list[dict]:
    return part.of("step")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """One run of the plain script."""
    return watch(tmp_path_factory.mktemp("plain"), PLAIN)


def test_a_plain_script(plain: Watched) -> None:
    seen, part = plain, plain.part
    assert seen.status == 0, seen.err
    turn = ["zero_grad", "forward", "loss", "backward", "clip", "step"]
    head = part.actions(*turn)
    assert head[: 3 * len(turn)] == turn * 3
    # six steps are wanted: two passes of three, each with validation and a step of the scheduler behind it, and the turn after them
    assert [s["step"] for s in step_lines(part)] == list(range(7))
    assert [s["lr"] for s in step_lines(part)] == [[0.1]] * 3 + [[0.05]] * 3 + [[0.025]]
    assert [s["momentum"] for s in step_lines(part)] == [[0.9]] * 7
    passes = [p for p in part.of("pass") if not p.get("open")]
    assert [(p["grad"], p["batches"], p["truncated"], p["real_length"], p["shuffle"]) for p in passes] == [
        ("train", 3, True, 16, True),
        ("eval", 3, True, 16, False),
    ] * 2
    end = part.one("end")
    assert end["reason"] == "steps"
    assert (end["never_gradient"], end["not_optimised"], end["disabled"]) == ([], [], [])
    printed = [float.fromhex(line.split()[1]) for line in seen.out.splitlines() if line.startswith("loss")]
    assert [s["loss"] for s in step_lines(part)] == printed
    assert all(s["changed"] == 4 and not (s["unchanged"] or s["stale"] or s["none"] or s["nonfinite"]) for s in step_lines(part))
    assert all(0.99 < s["grad_norm"] <= 1.0 or s["grad_norm"] < 1.0 for s in step_lines(part))
    assert all(len(r["alive"]) == 1 for r in part.of("retained")), "one graph is alive in a clean script: the current one"


def test_things_and_their_places(plain: Watched) -> None:
    part = plain.part
    optimizer, scheduler, module = (part.one("thing", kind=k) for k in ("optimizer", "scheduler", "module"))
    assert optimizer["type"] == "torch.optim.sgd.SGD"
    assert optimizer["bases"] == ["torch.optim.optimizer.Optimizer"]
    assert optimizer["arguments"]["lr"] == 0.1 and optimizer["arguments"]["nesterov"] is False
    assert part.place(optimizer["site"]) == ("train.py", line_of(PLAIN, "SGD("), "main")
    assert scheduler["arguments"] == {"optimizer": {"thing": optimizer["id"]}, "step_size": 1, "gamma": 0.5, "last_epoch": -1}
    assert scheduler["partners"] == [optimizer["id"]]
    assert module["type"] == "__main__.Net" and module["training_sensitive"] == ["drop"]
    assert part.place(module["site"]) == ("train.py", line_of(PLAIN, "model = Net()"), "main")
    assert [part.params()[p] for p in optimizer["params"]] == ["fc.weight", "fc.bias", "out.weight", "out.bias"]
    assert {p["owner"] for p in part.of("param")} == {None, module["id"]}
    assert len(part.things("loader")) == 2
    turn = [optimizer["id"]] * 3 + [scheduler["id"]]
    assert [e["thing"] for e in part.of("event", action="step")] == [*turn, *turn, optimizer["id"]]


def test_spans_and_loops(plain: Watched) -> None:
    part = plain.part
    clip = part.of("event", action="clip")[0]
    frames = part.one("site", id=clip["site"])["frames"]
    text = (SHAPES + PLAIN).splitlines()
    file, line, column, end_line, end_column, function, first = frames[0]
    assert text[line - 1][column - 1 : end_column - 1] == "nn.utils.clip_grad_norm_(model.parameters(), 1.0)" and end_line == line
    assert (function, first) == ("main", line_of(PLAIN, "def main"))
    assert [f[5] for f in frames] == ["main", "<module>"]
    assert part.of("loop") == [{"k": "loop", "file": file, "line": line_of(PLAIN, "for epoch"), "size": 10}]


def test_columns_count_characters(tmp_path: Path) -> None:
    text = """
model = Net()
été = torch.optim.SGD(model.parameters(), lr=0.1); "żółć"; été.zero_grad()
"""
    part = watch(tmp_path, text).part
    frame = part.one("site", id=part.one("event", action="zero_grad")["site"])["frames"][0]
    line = (SHAPES + text).splitlines()[frame[1] - 1]
    assert line[frame[2] - 1 : frame[4] - 1] == "été.zero_grad()"


@pytest.mark.parametrize("workers", [0, 2])
def test_the_script_computes_the_same_to_the_last_bit(tmp_path: Path, workers: int) -> None:
    text = PLAIN.replace("shuffle=True", f"shuffle=True, num_workers={workers}")
    options = {"steps": 1000, "batches": 1000, "passes": 1000}
    with_probes = watch(tmp_path / "with", text, **options)
    without = watch(tmp_path / "without", text, probes=False)
    assert with_probes.out == without.out and with_probes.out.count("loss") == 160
    assert with_probes.part.one("end")["reason"] == "exit"
