"""Frameworks that run the loop themselves: the same events come out of them as of a loop written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from watching import Part, watch

pytest.importorskip("torch", reason="the probes watch a real torch")

HF = """
from transformers import Trainer, TrainingArguments
class Model(Net):
    def forward(self, x, labels=None):
        logits = super().forward(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}
class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, i):
        return {"x": torch.ones(8) * i / 64, "labels": torch.tensor(i % 4)}
args = TrainingArguments(output_dir="out", per_device_train_batch_size=4, num_train_epochs=3, report_to=[], use_cpu=True,
                         eval_strategy="epoch", save_strategy="no", logging_steps=1)
trainer = Trainer(model=Model(), args=args, train_dataset=Rows(), eval_dataset=Rows())
trainer.train()
"""
ACCELERATE = """
from accelerate import Accelerator
accelerator = Accelerator(gradient_accumulation_steps=2, cpu=True)
model = Net()
opt = torch.optim.AdamW(model.parameters(), lr=1e-3)
sched = torch.optim.lr_scheduler.StepLR(opt, 1, 0.9)
model, opt, loader, sched = accelerator.prepare(model, opt, DataLoader(data(), batch_size=4, shuffle=True), sched)
for epoch in range(10):
    model.train()
    for x, y in loader:
        with accelerator.accumulate(model):
            loss = F.cross_entropy(model(x), y)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            sched.step()
            opt.zero_grad()
"""
LIGHTNING = """
import lightning as L
class Lit(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = Net()
    def training_step(self, batch, index):
        return F.cross_entropy(self.net(batch[0]), batch[1])
    def validation_step(self, batch, index):
        self.log("v", F.cross_entropy(self.net(batch[0]), batch[1]))
    def configure_optimizers(self):
        opt = torch.optim.Adam(self.parameters(), lr=1e-3)
        return [opt], [torch.optim.lr_scheduler.StepLR(opt, 1, 0.1)]
trainer = L.Trainer(max_epochs=10, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                    gradient_clip_val=1.0)
trainer.fit(Lit(), DataLoader(data(), batch_size=4), DataLoader(data(), batch_size=4))
"""


def clean(part: Part) -> None:
    """Nothing a detector could take for a mistake."""
    for step in part.of("step"):
        assert not (step["stale"] or step["unchanged"] or step["none"] or step["nonfinite"] or step["skipped"]) and step["changed"] == 4
    assert all(len(r["alive"]) == 1 for r in part.of("retained"))
    assert (part.one("end")["never_gradient"], part.one("end")["not_optimised"]) == ([], [])
    assert part.of("event", action="grad-cleared") == []


def passes(part: Part) -> list[tuple]:
    return [(p["grad"], p["steps"], p["truncated"]) for p in part.of("pass") if not p.get("open")]


def test_transformers_trainer(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    part = watch(tmp_path, HF).part
    clean(part)
    assert len(part.of("step")) == 7 and sorted(passes(part)) == [("eval", 0, True)] * 2 + [("train", 3, True)] * 2
    engine, optimizer, scheduler = (part.one("thing", kind=kind) for kind in ("engine", "optimizer", "scheduler"))
    assert engine["type"] == "transformers.trainer.Trainer" and engine["arguments"]["args"]["per_device_train_batch_size"] == 4
    assert optimizer["type"] == "torch.optim.adamw.AdamW" and scheduler["partners"] == [optimizer["id"]]
    rates = [s["lr"][0] for s in part.of("step")]
    assert rates == sorted(rates, reverse=True) and len(set(rates)) == 7
    assert part.actions("clip", "backward", "step", "zero_grad")[1:6] == ["backward", "clip", "step", "step", "zero_grad"]


def test_accelerate(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    part = watch(tmp_path, ACCELERATE).part
    clean(part)
    optimizer = part.one("thing", kind="optimizer")
    assert optimizer["type"] == "torch.optim.adamw.AdamW", "the wrapper stands for the optimizer it wraps"
    first, prepared = part.things("loader")
    assert prepared["partners"] == [first["id"]]
    turn = ["forward", "backward", "forward", "backward", "clip", "step", "step", "zero_grad"]
    assert part.actions(*turn)[: len(turn)] == turn, "a wrapper that keeps the gradients is no zero_grad"
    context = part.one("context", name="accumulate")
    assert context["steps"] == 2 and part.of("event", action="backward")[0]["contexts"] == [context["id"]]
    losses = [e["arguments"]["loss"] for e in part.of("event", action="backward")]
    assert {(loss["divided"], loss["divisor"]) for loss in losses} == {(True, 2.0)}
    assert passes(part) == [("train", 3, True)] * 2, "the last batch of a pass steps, too"


def test_lightning(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    part = watch(tmp_path, LIGHTNING).part
    clean(part)
    assert passes(part)[:4] == [("eval", 0, False), ("train", 3, True), ("eval", 0, True), ("train", 3, True)]
    steps = part.of("step")
    assert [s["lr"][0] for s in steps] == pytest.approx([1e-3] * 3 + [1e-4] * 3 + [1e-5])
    optimizer = part.one("thing", kind="optimizer")["id"]
    assert all(e["arguments"] == {"closure": True} for e in part.of("event", action="step", thing=optimizer))
    assert "__main__.Lit" in [t["type"] for t in part.things("module")]
