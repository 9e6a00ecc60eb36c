"""More than one process or thread, other machinery of torch, and how little the program may notice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from watching import SHAPES, command, watch

pytest.importorskip("torch", reason="the probes watch a real torch")

DDP = """
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data.distributed import DistributedSampler
def work(rank=None, world=2, port=None):
    if port is not None:
        import os
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo")
    model = DistributedDataParallel(Net())
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    rows = data()
    sampler = DistributedSampler(rows)
    loader = DataLoader(rows, batch_size=4, sampler=sampler)
    for epoch in range(100):
        sampler.set_epoch(epoch)
        for x, y in loader:
            opt.zero_grad()
            F.cross_entropy(model(x), y).backward()
            opt.step()
"""


@pytest.mark.parametrize("launcher", ["torchrun", "spawn"])
def test_two_processes_stop_at_the_same_step(tmp_path: Path, launcher: str) -> None:
    tail = "work()\n" if launcher == "torchrun" else ""
    if launcher == "spawn":
        tail = """
if __name__ == "__main__":
    import socket
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.spawn(work, args=(2, port), nprocs=2)
    print("joined")
"""
    (tmp_path / "train.py").write_text(SHAPES + DDP + tail)
    words = [sys.executable, "train.py"]
    if launcher == "torchrun":
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train.py"]
    seen = command(tmp_path, words)
    assert seen.status == 0, seen.err
    assert launcher == "torchrun" or "joined" in seen.out
    parts = [p for p in seen.parts if p.of("step")]
    assert sorted(p.of("start")[-1]["rank"] for p in parts) == [0, 1]
    for part in parts:
        assert len(part.of("step")) == 7 and part.one("end")["reason"] == "steps"
        wrapper = next(t for t in part.things("module") if t["type"].endswith("DistributedDataParallel"))
        assert wrapper["partners"] == [t["id"] for t in part.things("module") if t["type"].endswith("Net")]
        assert {e["thing"] for e in part.of("event", action="forward")} == {wrapper["id"]}
        assert [e["arguments"]["epoch"] for e in part.of("event", action="set_epoch")][:2] == [0, 1]
        assert all(s["stale"] == s["unchanged"] == [] for s in part.of("step"))
    assert all(not p.of("event") for p in seen.parts if p not in parts), "the launcher itself trains nothing"


def test_what_the_program_sees_is_unchanged(tmp_path: Path) -> None:
    text = """
import copy, inspect, pickle, threading, warnings, os, sys
model = Net()
opt = torch.optim.SGD(model.parameters(), lr=0.1)
for f in (torch.optim.SGD.__init__, torch.optim.SGD, F.cross_entropy, nn.utils.clip_grad_norm_, torch.autograd.backward,
          DataLoader, nn.Module.__call__, torch.amp.GradScaler.step, torch.optim.lr_scheduler.StepLR.step, torch.no_grad.__enter__,
          sys.exit, torch.manual_seed):
    print(getattr(f, "__name__", f), inspect.signature(f) if f is not sys.exit else "", (f.__doc__ or "")[:20])
print(pickle.loads(pickle.dumps(F.cross_entropy)) is F.cross_entropy, pickle.loads(pickle.dumps(opt)).param_groups[0]["lr"])
print(type(copy.deepcopy(model)).__name__, inspect.getsource(F.mse_loss)[:12])
sched = torch.optim.lr_scheduler.StepLR(opt, 1)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    sched.step()
print([(os.path.basename(w.filename), w.lineno) for w in caught])
def generator():
    yield from model.parameters()
F.cross_entropy(model(torch.ones(2, 8)), torch.tensor([0, 1])).backward()
print(round(float(nn.utils.clip_grad_norm_(generator(), 1.0)), 5), [p.grad is not None for p in model.parameters()])
try:
    F.cross_entropy(torch.ones(2, 3), torch.tensor([5, 5]))
except IndexError as error:
    print(error)
try:
    torch.optim.SGD([], lr=1)
except ValueError as error:
    print(error)
class S(nn.Module):
    def forward(self, x, y):
        return F.cross_entropy(x, y) + F.mse_loss(x, x)
print(float(torch.jit.script(S())(torch.eye(3), torch.tensor([0, 1, 2]))))
traced = torch.fx.symbolic_trace(S())
print([n.target.__name__ for n in traced.graph.nodes if n.op == "call_function"])
out = []
def train():
    m = Net()
    o = torch.optim.SGD(m.parameters(), lr=0.1)
    for i in range(2):
        o.zero_grad(); F.cross_entropy(m(torch.ones(2, 8)), torch.tensor([0, 1])).backward(); o.step()
    out.append(1)
threads = [threading.Thread(target=train) for _ in range(3)]
[t.start() for t in threads]; [t.join() for t in threads]
print(out, torch.rand(1).item(), isinstance(opt, torch.optim.Optimizer), issubclass(torch.optim.SGD, torch.optim.Optimizer))
pid = os.fork()
if pid == 0:
    opt.step()
    os._exit(0)
print(os.waitpid(pid, 0)[1])
"""
    seen, bare = (watch(tmp_path / str(probes), text, probes=probes, steps=1000) for probes in (True, False))
    assert seen.status == 0, seen.err
    assert seen.out == bare.out
    assert len(seen.parts) == 1, "a forked child writes nothing"
    threads = [e for e in seen.part.of("event", action="step") if e["arguments"] == {}]
    assert len(threads) == 1 + 6, "the scheduler's step, and two of each thread"


def test_seeds_settings_and_effects(tmp_path: Path) -> None:
    text = """
import argparse, random, numpy, os
parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=90)
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--fast", action="store_true")
args = parser.parse_args()
print(args.epochs, args.batch_size, args.fast, torch.rand(1).item(), random.random(), numpy.random.rand())
random.seed(1); numpy.random.seed(2); torch.manual_seed(3)
torch.save({"a": 1}, "kept.pt")
os.makedirs("made/here")
os.rename("kept.pt", "moved.pt")
open("made/text", "w").close()
open("moved.pt", "rb").close()
"""
    options = {"seed": 7, "set": {"epochs": "2", "batch_size": "4", "fast": "true"}}
    one, two = (watch(tmp_path / name, text, **options) for name in ("one", "two"))
    assert one.out.startswith("2 4 True ") and one.out == two.out
    (part,) = one.parts
    assert {(s["name"], s["before"], s["after"]) for s in part.of("set")} == {
        ("epochs", "90", "2"),
        ("batch_size", "64", "4"),
        ("fast", "False", "True"),
    }
    assert [s["what"] for s in part.of("seed")][-3:] == ["random.seed", "numpy.random.seed", "torch.manual_seed"]
    written = {(Path(w["path"]).name, w["mode"]) for w in part.of("write")}
    assert {("here", "mkdir"), ("moved.pt", "rename"), ("text", "w")} <= written
    assert ("moved.pt", "rb") not in written and any(name == "kept.pt" for name, _ in written)


def test_cuda_is_emulated_where_asked(tmp_path: Path) -> None:
    text = """
device = torch.device("cuda")
model = Net().cuda()
opt = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cuda")
weight = torch.ones(4, device="cuda")
for x, y in DataLoader(data(), batch_size=4, pin_memory=True):
    x, y = x.to(device, non_blocking=True), y.cuda()
    opt.zero_grad()
    with torch.autocast("cuda"):
        loss = F.cross_entropy(model(x), y, weight=weight)
    scaler.scale(loss).backward()
    scaler.step(opt)
    scaler.update()
torch.cuda.synchronize()
made = nn.Linear(2, 2, device="cuda:0")
print(torch.cuda.is_available(), torch.cuda.memory_allocated(), made.weight.device.type, model.to("cuda:0").fc.weight.device)
torch.save(model.state_dict(), "m.pt")
print(len(torch.load("m.pt", map_location="cuda")))
"""
    seen = watch(tmp_path, text, emulate_cuda=True, extra={"CUDA_VISIBLE_DEVICES": ""})
    assert seen.status == 0, seen.err
    assert seen.out == "True 0 cpu cpu\n4\n"
    part = seen.part
    assert part.lines[0]["emulated"] is True and part.lines[0]["device"] == "cpu"
    assert part.one("end")["disabled"] == [] and len(part.of("step")) == 3
    assert watch(tmp_path / "off", text, extra={"CUDA_VISIBLE_DEVICES": ""}).part.one("error")["missing"] == "a CUDA device"


def test_a_compiled_model_is_followed(tmp_path: Path) -> None:
    text = """
model = Net()
fast = torch.compile(model, backend="eager")
opt = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(3):
    for x, y in DataLoader(data(), batch_size=4):
        opt.zero_grad()
        F.cross_entropy(fast(x), y).backward()
        opt.step()
"""
    for compiles in (False, True):
        seen = watch(tmp_path / str(compiles), text, compile=compiles, extra={"TORCHDYNAMO_DISABLE": "0" if compiles else "1"})
        assert seen.status == 0, seen.err
        part = seen.part
        turn = ["zero_grad", "forward", "backward", "step"]
        assert part.actions(*turn)[:8] == turn * 2
        assert len(part.of("step")) == 7 and all(s["changed"] == 4 for s in part.of("step"))
