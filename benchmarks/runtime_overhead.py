"""What the probes of `mllint runtime-check` cost a training step: the same loop with and without them, in turn, in one run.

    python benchmarks/runtime_overhead.py [--rounds 5] [--python PYTHON]

Each round starts two processes of one thread. One runs without the probes; the other has them attached and switches them off at every
second step, so that steps with and without them share whatever else the machine does. Steps are measured in processor time, and what
counts are ratios of medians: watched steps by the unwatched ones beside them, and by those of the process without probes. The losses of
both processes must be equal. The interpreter given needs torch. No test depends on a time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HOOK = Path(__file__).parent.parent / "mllint" / "runtime" / "hook"
LOOP = """
import time
started = time.perf_counter()
import torch, torch.nn as nn, torch.nn.functional as F
imported = time.perf_counter() - started
torch.manual_seed(0)
torch.set_num_threads(1)
{model}
opt = torch.optim.AdamW(model.parameters(), lr=1e-4)
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 1000)
times, losses = [], []
try:
    from mllint_probe import state
except ImportError:
    state = None
for step in range({steps}):
    if state is not None:
        state.run.off = step % 2 == 1
    began = time.thread_time()
    opt.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    opt.step()
    sched.step()
    times.append(time.thread_time() - began)
    losses.append(loss.item().hex())
import json
print(json.dumps([imported, times[{skip}:], losses]))
"""
MODELS = {
    "40-layer MLP, 0.08 M parameters": (
        """
model = nn.Sequential(*[m for _ in range(40) for m in (nn.Linear(44, 44), nn.ReLU())], nn.Dropout(0.1), nn.Linear(44, 8))
x, y = torch.randn(16, 44), torch.randint(0, 8, (16,))
""",
        200,
        20,
    ),
    "6-layer transformer, 11 M parameters": (
        """
layer = nn.TransformerEncoderLayer(384, 6, 1536, dropout=0.1, batch_first=True)
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(500, 384)
        self.layers = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.head = nn.Linear(384, 500)
    def forward(self, x):
        return self.head(self.layers(self.table(x))).transpose(1, 2)
model = Model()
x, y = torch.randint(0, 500, (2, 64)), torch.randint(0, 500, (2, 64))
""",
        40,
        8,
    ),
}


def measure(python: str, text: str, probes: bool, folder: Path) -> tuple[float, list[float], list[str]]:
    """Seconds of importing torch, seconds of each step, and the losses of one process."""
    script = folder / "loop.py"
    script.write_text(text)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLLINT", "PYTHONPATH"))}
    env |= {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}
    if probes:
        run = Path(tempfile.mkdtemp(dir=folder))
        options = {"root": str(folder), "steps": 100000, "seconds": 0}
        env |= {"MLLINT_RUN_DIR": str(run), "MLLINT_RUN_JSON": json.dumps(options), "PYTHONPATH": str(HOOK)}
    done = subprocess.run([python, str(script)], env=env, capture_output=True, text=True, check=True)
    imported, times, losses = json.loads(done.stdout.splitlines()[-1])
    return imported, times, losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    for name, (model, steps, skip) in MODELS.items():
        text = LOOP.format(model=model, steps=steps, skip=skip)
        beside, apart, plain = [], [], []
        with tempfile.TemporaryDirectory() as folder:
            for number in range(options.rounds):
                pair = {}
                for probes in (False, True) if number % 2 else (True, False):
                    pair[probes] = measure(options.python, text, probes, Path(folder))
                if pair[False][2] != pair[True][2]:
                    raise SystemExit(f"{name}: the losses differ")
                watched, unwatched = (statistics.median(pair[True][1][half::2]) for half in (0, 1))
                without = statistics.median(pair[False][1])
                beside.append(watched / unwatched)
                apart.append(watched / without)
                plain.append(without * 1e3)
        print(f"{name}: {statistics.median(plain):.2f} ms of processor a step without the probes; with them, times that of")
        print(f"  steps beside it with the probes off  {statistics.median(beside):.3f} ({min(beside):.3f} to {max(beside):.3f})")
        print(f"  the process without probes           {statistics.median(apart):.3f} ({min(apart):.3f} to {max(apart):.3f})")


if __name__ == "__main__":
    main()
