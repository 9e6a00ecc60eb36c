"""Optimizers, schedulers, scalers and loaders of every make: what the probes write of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from watching import Watched, watch

pytest.importorskip("torch", reason="the probes watch a real torch")


def steps_of(seen: Watched, kind: str) -> list[dict]:
    """The step events of the things of a kind."""
    ids = {t["id"] for t in seen.part.things(kind)}
    return [e for e in seen.part.of("event", action="step") if e["thing"] in ids]


def test_scaler_on_the_processor_really_scales(tmp_path: Path) -> None:
    seen = watch(
        tmp_path,
        """
        model = Net()
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for epoch in range(5):
            for x, y in DataLoader(data(), batch_size=4):
                opt.zero_grad()
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = F.cross_entropy(model(x), y)
                scaler.scale(loss).backward()
                scaler.unscale_(opt)
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                scaler.step(opt)
                scaler.update()
                print(loss.item())
        """,
    )
    part = seen.part
    scaler = part.one("thing", kind="scaler")
    order = part.actions("scale", "backward", "unscale_", "clip", "step", "update")
    assert order[:7] == ["scale", "backward", "unscale_", "clip", "step", "step", "update"], "the optimizer steps first"
    inner, outer = part.of("event", action="step")[:2]
    assert inner["via"] == scaler["id"] and outer["thing"] == scaler["id"] and outer["via"] is None
    assert outer["arguments"] == {"optimizer": {"thing": inner["thing"]}}
    backward = part.of("event", action="backward")[0]["arguments"]["loss"]
    assert backward["scaled_by"] == scaler["id"] and backward["divided"] is False
    assert backward["value"] == pytest.approx(float(seen.out.splitlines()[0]), abs=1e-6), "the loss before it was scaled"
    context = part.one("context", name="autocast")
    assert (context["device"], context["dtype"], context["enabled"], context["effective"]) == ("cpu", "bfloat16", True, True)
    forward = part.of("event", action="forward")[0]
    assert forward["contexts"] == [context["id"]] and forward["observed"]["autocast"] is True
    assert part.of("event", action="backward")[0]["contexts"] == []


def test_a_scaler_switched_off_for_lack_of_cuda_still_counts(tmp_path: Path) -> None:
    seen = watch(
        tmp_path,
        """
        import warnings
        model = Net()
        opt = torch.optim.AdamW(model.parameters(), lr=0.1)
        scaler = torch.cuda.amp.GradScaler()
        for x, y in DataLoader(data(), batch_size=4):
            opt.zero_grad()
            with torch.cuda.amp.autocast():
                loss = F.cross_entropy(model(x), y) / 2
            scaler.scale(loss).backward()
            scaler.step(opt)
            scaler.update()
        """,
        extra={"CUDA_VISIBLE_DEVICES": ""},
    )
    part = seen.part
    assert part.one("end")["disabled"] == ["autocast", "scaler"]
    scaler = part.one("thing", kind="scaler")
    assert scaler["effective"] is False and scaler["arguments"]["enabled"] is True
    context = part.one("context", name="autocast")
    assert (context["device"], context["enabled"], context["effective"]) == ("cuda", True, False)
    loss = part.of("event", action="backward")[0]["arguments"]["loss"]
    assert (loss["scaled_by"], loss["divided"], loss["divisor"]) == (scaler["id"], True, 2.0)
    assert [e["via"] for e in steps_of(seen, "optimizer")] == [scaler["id"]] * 3
    assert "train.py" in seen.err and "bootstrap" not in seen.err, "torch's warning points at the script"


@pytest.mark.parametrize("fused", [False, True])
def test_an_infinite_gradient_skips_the_step(tmp_path: Path, fused: bool) -> None:
    seen = watch(
        tmp_path,
        f"""
        model = Net()
        opt = torch.optim.AdamW(model.parameters(), lr=0.1, fused={fused})
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for i, (x, y) in enumerate(DataLoader(data(), batch_size=4)):
            opt.zero_grad()
            loss = F.cross_entropy(model(x), y)
            if i == 1:
                loss = loss * float("inf")
            scaler.scale(loss).backward()
            scaler.step(opt)
            scaler.update()
        """,
    )
    steps = seen.part.of("step")
    assert [s["skipped"] for s in steps] == [False, True, False]
    assert [s["changed"] for s in steps] == [4, 0, 4]
    assert [bool(s["nonfinite"]) for s in steps] == [False, True, False]
    assert all(s["unchanged"] == [] for s in steps), "a skipped step leaves nothing standing that should move"
    assert all(e["via"] for e in steps_of(seen, "optimizer"))
    assert 0 < steps[0]["grad_norm"] < 50, "the norm of the gradients before they were scaled"


def test_fused_steps_are_seen_to_change(tmp_path: Path) -> None:
    seen = watch(
        tmp_path,
        """
        model = Net()
        opt = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        for x, y in DataLoader(data(), batch_size=4):
            opt.zero_grad()
            F.cross_entropy(model(x), y).backward()
            opt.step()
        """,
    )
    assert [(s["changed"], s["unchanged"]) for s in seen.part.of("step")] == [(4, [])] * 3


def test_schedulers_of_every_kind(tmp_path: Path) -> None:
    seen = watch(
        tmp_path,
        """
        from torch.optim.lr_scheduler import *
        model = Net()
        def opt():
            return torch.optim.SGD(model.parameters(), lr=0.1)
        class Mine(LRScheduler):
            def get_lr(self):
                return [g["lr"] * 0.5 for g in self.optimizer.param_groups]
            def step(self, *args):
                return super().step(*args)
        a = opt()
        made = [ReduceLROnPlateau(a, patience=0), CosineAnnealingWarmRestarts(opt(), 2), Mine(opt()), LambdaLR(opt(), lambda e: 0.5)]
        b = opt()
        made.append(SequentialLR(b, [ConstantLR(b, 0.1), ExponentialLR(b, 0.9)], milestones=[1]))
        c = opt()
        made.append(ChainedScheduler([ConstantLR(c, 0.1), ExponentialLR(c, 0.9)]))
        a.step()
        for scheduler in made:
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(1.0)
            else:
                scheduler.step()
        made[1].get_last_lr()
        """,
    )
    part = seen.part
    things = {t["id"]: t for t in part.things("scheduler")}
    names = [t["type"].split(".")[-1] for t in things.values()]
    assert sorted(names) == sorted(
        ["ReduceLROnPlateau", "CosineAnnealingWarmRestarts", "Mine", "LambdaLR", "SequentialLR", "ChainedScheduler"]
        + ["ConstantLR", "ExponentialLR"] * 2
    )
    steps = steps_of(seen, "scheduler")
    own = [things[e["thing"]]["type"].split(".")[-1] for e in steps if e["via"] is None]
    assert own == ["ReduceLROnPlateau", "CosineAnnealingWarmRestarts", "Mine", "LambdaLR", "SequentialLR", "ChainedScheduler"], "once each"
    assert steps[0]["arguments"] == {"metrics": 1.0}
    inner = {(things[e["via"]]["type"].split(".")[-1], things[e["thing"]]["type"].split(".")[-1]) for e in steps if e["via"] is not None}
    assert ("ChainedScheduler", "ConstantLR") in inner and ("ChainedScheduler", "ExponentialLR") in inner
    parent = next(t for t in things.values() if t["type"].endswith("SequentialLR"))
    children = [things[p]["type"].split(".")[-1] for p in parent["partners"] if p in things]
    assert children == ["ConstantLR", "ExponentialLR"]
    assert len(part.of("event", action="get_last_lr")) == 1
    mine = next(t for t in things.values() if t["type"].endswith("Mine"))
    assert "torch.optim.lr_scheduler.LRScheduler" in mine["bases"]


def test_optimizers_of_every_kind(tmp_path: Path) -> None:
    seen = watch(
        tmp_path,
        """
        model = Net()
        class Mine(torch.optim.SGD):
            def __init__(self, params, lr, note="x"):
                super().__init__(params, lr)
            def step(self, closure=None):
                return super().step(closure)
            def zero_grad(self, set_to_none=True):
                super().zero_grad(set_to_none)
        class Own(torch.optim.Optimizer):
            def __init__(self, params):
                super().__init__(params, {"lr": 0.1})
            @torch.no_grad()
            def step(self):
                for group in self.param_groups:
                    for p in group["params"]:
                        if p.grad is not None:
                            p -= group["lr"] * p.grad
        x, y = data()[:4]
        def turn(opt, *args):
            opt.zero_grad()
            F.cross_entropy(model(x), y).backward()
            opt.step(*args)
        turn(Mine(model.parameters(), 0.1))
        turn(Own(model.parameters()))
        lbfgs = torch.optim.LBFGS(model.parameters(), max_iter=2)
        def closure():
            lbfgs.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss
        lbfgs.step(closure)
        class Broken(torch.optim.SGD):
            def step(self, closure=None):
                raise KeyError("once")
        broken = Broken(model.parameters(), lr=0.1)
        try:
            broken.step()
        except KeyError:
            pass
        turn(Mine(model.parameters(), 0.1))
        print("same", isinstance(lbfgs, torch.optim.Optimizer), Mine.__init__.__name__)
        """,
    )
    part = seen.part
    things = {t["id"]: t["type"].split(".")[-1] for t in part.things("optimizer")}
    steps = part.of("event", action="step")
    assert [things[e["thing"]] for e in steps] == ["Mine", "Own", "LBFGS", "Mine"], "once each, and none that raised"
    assert [e["arguments"] for e in steps] == [{}, {}, {"closure": True}, {}]
    order = part.actions("zero_grad", "backward", "step")
    assert order[:6] == ["zero_grad", "backward", "step"] * 2
    tail = order[6:]
    assert tail[:2] == ["zero_grad", "backward"] and tail.index("step") >= 2, "what the closure does comes before the step"
    assert part.things("optimizer")[0]["arguments"] == {"lr": 0.1, "note": "x"}
    assert "same True __init__" in seen.out
    assert all(s["stale"] == [] for s in part.of("step"))


def test_loaders_passes_and_samplers(tmp_path: Path) -> None:
    seen = watch(
        tmp_path,
        """
        from torch.utils.data import IterableDataset
        from torch.utils.data.distributed import DistributedSampler
        class Stream(IterableDataset):
            def __iter__(self):
                return iter(range(100))
        sampler = DistributedSampler(data(), num_replicas=2, rank=0)
        loader = DataLoader(data(), batch_size=4, sampler=sampler)
        stream = DataLoader(Stream(), batch_size=2)
        short = DataLoader(data(4), batch_size=2)
        kept = DataLoader(data(), batch_size=4, num_workers=1, persistent_workers=True)
        print(len(loader), len(short), [len(list(d)) for d in (loader, stream, short)])
        for epoch in range(2):
            sampler.set_epoch(epoch)
            for batch in loader:
                break
        print([sum(1 for batch in kept) for _ in range(2)], type(iter(loader)).__name__)
        try:
            len(stream)
        except TypeError as error:
            print(type(error).__name__)
        """,
    )
    lines = seen.out.splitlines()
    assert lines == ["8 2 [8, 3, 2]", "[3, 3] _SingleProcessDataLoaderIter", "TypeError"]
    part = seen.part
    loader, stream, short, kept = (t["id"] for t in part.things("loader"))
    passes = part.of("pass")
    assert [(p["loader"], p["batches"], p["truncated"]) for p in passes if p["loader"] in (stream, short, kept)] == [
        (stream, 3, True),
        (short, 2, False),
        (kept, 3, True),
        (kept, 3, True),
    ]
    assert [(p["sampler"], p["epoch"], p["batches"]) for p in passes if p["loader"] == loader] == [
        ("DistributedSampler", 0, 8),
        ("DistributedSampler", 0, 1),
        ("DistributedSampler", 1, 1),
    ]
    assert [(e["thing"], e["arguments"]) for e in part.of("event", action="set_epoch")] == [(loader, {"epoch": 0}), (loader, {"epoch": 1})]


def test_a_length_the_program_counts_on_holds(tmp_path: Path) -> None:
    seen = watch(
        tmp_path,
        """
        model = Net()
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        loader = DataLoader(data(400), batch_size=4)
        sched = torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=3 * (len(loader) // 4))
        other = DataLoader(data(400), batch_size=4)
        for epoch in range(3):
            for i, (x, y) in enumerate(loader):
                (F.cross_entropy(model(x), y) / 4).backward()
                if (i + 1) % 4 == 0 or i + 1 == len(loader):
                    opt.step()
                    opt.zero_grad()
                    sched.step()
            for i, batch in enumerate(other):
                if i + 1 == len(other):
                    print("last")
        """,
        steps=9,
        passes=4,
    )
    assert seen.status == 0 and seen.out == "last\n" * 3, seen.err
    assert [(p["batches"], p["length"], p["real_length"]) for p in seen.part.of("pass")] == [(12, 12, 100)] * 6
    assert [p["steps"] for p in seen.part.of("pass", grad="train")] == [3, 3, 3]


def test_a_pass_is_longer_where_steps_are_rare(tmp_path: Path) -> None:
    seen = watch(
        tmp_path,
        """
        model = Net()
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        for epoch in range(9):
            for i, (x, y) in enumerate(DataLoader(data(400), batch_size=4) if epoch == 0 else loader):
                (F.cross_entropy(model(x), y) / 4).backward()
                if (i + 1) % 4 == 0:
                    opt.step()
                    opt.zero_grad()
            loader = DataLoader(data(400), batch_size=4)
        """,
        steps=4,
    )
    part = seen.part
    passes = [(p["batches"], p["steps"]) for p in part.of("pass", grad="train")]
    assert passes[:2] == [(8, 2), (8, 2)]
    assert len(passes) <= 3 and sum(steps for _, steps in passes) == 5, "four steps, and that of the turn after them"
    losses = [e["arguments"]["loss"] for e in part.of("event", action="backward")]
    assert {(loss["divided"], loss["divisor"]) for loss in losses} == {(True, 4.0)}
    assert all(s["stale"] == [] for s in part.of("step"))
    assert part.of("event", action="grad-cleared") == []
