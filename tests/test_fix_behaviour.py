"""What fixed scripts do when they run: the rate moves, the scale adapts, norms are real, gradients start from zero.

Each case is a script with one mistake and what is asserted of a run of it: it must not hold before the fix, and hold after it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mllint.config import Config
from mllint.discover import discover
from mllint.fix.rounds import fix_project
from mllint.pages import load_pages

PAGES = load_pages()

#: Runs each script it is given with what is asserted of it, and notes, whenever an optimizer steps, the rates and gradients it steps with.
#: One process for all of them: loading torch takes longer than everything else.
WATCH = """
import json
import runpy
import sys
import traceback

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

rates, grads, norms, inside = [], [], [], []


def note(optimizer, args, kwargs):
    rates.append(optimizer.param_groups[0]["lr"])
    grads.append([None if p.grad is None else p.grad.abs().max().item() for g in optimizer.param_groups for p in g["params"]])


register_optimizer_step_pre_hook(note)
clip, backward = torch.nn.utils.clip_grad_norm_, torch.Tensor.backward


def clipping(*args, **kwargs):
    norms.append(float(clip(*args, **kwargs)))
    return torch.tensor(norms[-1])


def going_backward(self, *args, **kwargs):
    inside.append(torch.is_autocast_enabled("cpu"))
    return backward(self, *args, **kwargs)


torch.nn.utils.clip_grad_norm_, torch.Tensor.backward = clipping, going_backward
told = {}
for script, holds in json.load(open(sys.argv[1])):
    torch.manual_seed(0)
    for noted in (rates, grads, norms, inside):
        noted.clear()
    try:
        names = runpy.run_path(script, run_name="__main__")
        exec(holds)
        told[script] = None
    except BaseException:
        told[script] = traceback.format_exc()[-600:]
print("TOLD" + json.dumps(told))
"""


@dataclass(frozen=True)
class Case:
    rule: str
    script: str
    holds: str


MODEL = """import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau, StepLR

model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
batches = [torch.randn(8, 4) for _ in range(6)]
"""
#: The gradient of each weight is exactly 1 for each pass.
ONES = """import torch
from torch import nn


class Weights(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return (self.w * x).sum()


model = Weights()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
batches = [torch.ones(4) for _ in range(8)]
"""
SCALED = (
    ONES
    + """scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)
"""
)

CASES = {
    "epoch": Case(
        "scheduler-never-stepped",
        MODEL
        + """
scheduler = StepLR(optimizer, step_size=1, gamma=0.5)
for epoch in range(3):
    for x in batches:
        optimizer.zero_grad()
        model(x).pow(2).mean().backward()
        optimizer.step()
""",
        "assert rates == [0.5] * 6 + [0.25] * 6 + [0.125] * 6",
    ),
    "batch": Case(
        "scheduler-never-stepped",
        MODEL
        + """

def train(schedule):
    for epoch in range(2):
        for x in batches:
            optimizer.zero_grad()
            model(x).pow(2).mean().backward()
            optimizer.step()


train(OneCycleLR(optimizer, max_lr=0.5, total_steps=2 * len(batches)))
""",
        "assert len(set(rates)) == 12 and rates[-1] < 0.01 < max(rates)",
    ),
    "plateau": Case(
        "scheduler-never-stepped",
        MODEL
        + """

def validate():
    return 1.0


scheduler = ReduceLROnPlateau(optimizer, patience=0, factor=0.1)
for epoch in range(3):
    for x in batches:
        optimizer.zero_grad()
        model(x).pow(2).mean().backward()
        optimizer.step()
    val_loss = validate()
    print(val_loss)
""",
        "assert [round(r, 9) for r in rates[::6]] == [0.5, 0.5, 0.05]",
    ),
    "optional": Case(
        "scheduler-never-stepped",
        MODEL
        + """

def fit(optimizer, scheduler=None):
    for epoch in range(3):
        for x in batches:
            optimizer.zero_grad()
            model(x).pow(2).mean().backward()
            optimizer.step()


fit(optimizer, StepLR(optimizer, 1, gamma=0.5))
fit(torch.optim.SGD(model.parameters(), lr=0.7))
""",
        "assert sorted(set(rates)) == [0.125, 0.25, 0.5, 0.7]",
    ),
    "order": Case(
        "scheduler-before-optimizer",
        MODEL
        + """
scheduler = StepLR(optimizer, step_size=1, gamma=0.5)
for epoch in range(3):
    scheduler.step()
    for x in batches:
        optimizer.zero_grad()
        model(x).pow(2).mean().backward()
        optimizer.step()
""",
        "assert rates[0] == 0.5 and rates[-1] == 0.125",
    ),
    "cadence": Case(
        "scheduler-wrong-cadence",
        MODEL
        + """
epochs = 4
scheduler = CosineAnnealingLR(optimizer, T_max=epochs)
for epoch in range(epochs):
    for x in batches:
        optimizer.zero_grad()
        model(x).pow(2).mean().backward()
        optimizer.step()
        scheduler.step()
""",
        "assert all(len(set(rates[n : n + 6])) == 1 for n in range(0, 24, 6)) and rates == sorted(rates, reverse=True)",
    ),
    "horizon": Case(
        "horizon-ignores-accumulation",
        MODEL
        + """
epochs, every = 4, 3
loader = torch.utils.data.DataLoader(torch.randn(48, 4), batch_size=8)
scheduler = CosineAnnealingLR(optimizer, T_max=epochs * len(loader))
for epoch in range(epochs):
    for i, x in enumerate(loader):
        (model(x).pow(2).mean() / every).backward()
        if (i + 1) % every == 0:
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
""",
        "assert len(rates) == 8 and names['optimizer'].param_groups[0]['lr'] < 1e-6",
    ),
    "loss": Case(
        "loss-passed-as-epoch",
        MODEL
        + """
scheduler = CosineAnnealingLR(optimizer, T_max=6)
for epoch in range(6):
    optimizer.zero_grad()
    loss = model(batches[epoch]).pow(2).mean()
    loss.backward()
    optimizer.step()
    scheduler.step(loss.item())
""",
        "assert rates == sorted(rates, reverse=True) and names['optimizer'].param_groups[0]['lr'] < 1e-6",
    ),
    "scaler": Case(
        "scaler-never-used",
        SCALED
        + """
for x in batches:
    optimizer.zero_grad()
    loss = model(x)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
    optimizer.step()
""",
        "assert names['scaler'].get_scale() == 1024 * 2 ** 8 and norms == [2.0] * 8 and grads == [[1.0]] * 8 and not any(inside)",
    ),
    "optional scaler": Case(
        "scaler-never-used",
        ONES
        + """
import sys


def train(scaler):
    for x in batches:
        optimizer.zero_grad()
        loss = model(x)
        loss.backward()
        optimizer.step()


scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1) if len(sys.argv) < 5 else None
train(scaler)
""",
        "assert names['scaler'].get_scale() == 1024 * 2 ** 8 and grads == [[1.0]] * 8; names['train'](None); assert grads == [[1.0]] * 16",
    ),
    "update": Case(
        "scaler-incomplete",
        SCALED
        + """
for x in batches[:1]:
    optimizer.zero_grad()
    with torch.autocast("cpu"):
        loss = model(x)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
""",
        "assert names['scaler'].get_scale() == 2048",
    ),
    "direct step": Case(
        "scaler-incomplete",
        SCALED
        + """
for x in batches:
    optimizer.zero_grad()
    with torch.autocast("cpu"):
        loss = model(x)
    scaler.scale(loss).backward()
    optimizer.step()
""",
        "assert grads == [[1.0]] * 8 and names['scaler'].get_scale() == 1024 * 2 ** 8",
    ),
    "clip": Case(
        "clip-before-unscale",
        SCALED
        + """
for x in batches:
    optimizer.zero_grad()
    with torch.autocast("cpu"):
        loss = model(x)
    scaler.scale(loss).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
    scaler.step(optimizer)
    scaler.update()
""",
        "assert norms == [2.0] * 8 and grads == [[1.0]] * 8",
    ),
    "autocast": Case(
        "backward-in-autocast",
        ONES
        + """
for x in batches:
    optimizer.zero_grad()
    with torch.autocast("cpu"):
        loss = model(x)
        loss.backward()
        optimizer.step()
""",
        "assert len(grads) == 8 and not any(inside)",
    ),
    "boundary": Case(
        "unscale-outside-boundary",
        SCALED
        + """
for i, x in enumerate(batches):
    with torch.autocast("cpu"):
        loss = model(x) / 2
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
    if (i + 1) % 2 == 0:
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
""",
        "assert norms == [2.0] * 4 and grads == [[1.0]] * 4",
    ),
    "zero": Case(
        "missing-zero-grad",
        ONES
        + """
for x in batches:
    loss = model(x)
    loss.backward()
    optimizer.step()
""",
        "assert grads == [[1.0]] * 8",
    ),
    "zero at the boundary": Case(
        "missing-zero-grad",
        ONES
        + """
for i, x in enumerate(batches):
    loss = model(x) / 2
    loss.backward()
    if (i + 1) % 2 == 0:
        optimizer.step()
""",
        "assert grads == [[1.0]] * 4",
    ),
    "zero too soon": Case(
        "zero-grad-before-step",
        ONES
        + """
for x in batches:
    loss = model(x)
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()
""",
        "assert grads == [[1.0]] * 8",
    ),
    "clip too late": Case(
        "clip-after-step",
        ONES
        + """
for x in batches:
    optimizer.zero_grad()
    loss = model(x)
    loss.backward()
    optimizer.step()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
""",
        "assert all(abs(g - 0.5) < 1e-5 for (g,) in grads)",
    ),
    "accumulation": Case(
        "accumulation-not-scaled",
        ONES
        + """
every = 4
for i, x in enumerate(batches):
    loss = model(x).mean()
    loss.backward()
    if (i + 1) % every == 0:
        optimizer.step()
        optimizer.zero_grad()
""",
        "assert grads == [[1.0]] * 2",
    ),
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """What the run of each script, as it was and fixed, came to: None where the assertion held, else the last words."""
    pytest.importorskip("torch", reason="the scripts are run with torch")
    folder = tmp_path_factory.mktemp("scripts")
    listed = []
    for name, case in CASES.items():
        home = folder / name
        home.mkdir()
        for state, text in (("as it was", case.script), ("fixed", fixed(home, case))):
            path = home / f"{state}.py"
            path.write_text(text, encoding="utf-8")
            listed.append((str(path), case.holds))
    (folder / "scripts.json").write_text(json.dumps(listed), encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", WATCH, "scripts.json"], cwd=folder, capture_output=True, text=True, timeout=900)
    assert "TOLD" in done.stdout, done.stderr
    return {"/".join(Path(k).parts[-2:]): v for k, v in json.loads(done.stdout.rpartition("TOLD")[2]).items()}


@pytest.mark.parametrize("name", CASES)
def test_fixed_script_does_what_was_meant(name: str, told: dict[str, str | None]) -> None:
    assert told[f"{name}/as it was.py"] is not None, "it holds before the fix"
    assert told[f"{name}/fixed.py"] is None, told[f"{name}/fixed.py"]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_script_is_fixed_once(case: Case, tmp_path: Path) -> None:
    """The finding is gone, nothing else is found, and a second time nothing changes."""
    text = fixed(tmp_path, case)
    assert text != case.script
    compile(text, "train.py", "exec")
    assert fixed(tmp_path, replace(case, script=text)) == text


def fixed(folder: Path, case: Case) -> str:
    """The script after every fix of the rule."""
    script = folder / "train.py"
    script.write_text(case.script, encoding="utf-8")
    result = fix_project(discover([str(script)], str(folder)), Config(), PAGES, unsafe=True, select=[case.rule])
    assert not result.outcome.report.shown
    return result.new["train.py"].decode("utf-8") if "train.py" in result.new else case.script
