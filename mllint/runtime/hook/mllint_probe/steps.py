"""The line of each optimizer step: rates, loss, gradients, what changed, and where the time went."""

import os
import sys
import time
from typing import Any, Dict, List, Optional, Set, Tuple

from . import changes, gradients, readings, state, things, writer

_indices: Dict[int, int] = {}
_spent = {"data": 0.0, "forward": 0.0, "backward": 0.0}
_last = [0.0]
_components: List[Tuple[str, Optional[float], Any]] = []
#: Loss, prediction and target of the first examples of the first batch since the last step, where they were asked for.
examples: Optional[Dict[str, Any]] = None
with_gradient: Set[Any] = set()  # parameters that ever had one at a step


def spent(part: str, seconds: float) -> None:
    """Count time towards the step that comes next."""
    _spent[part] += seconds


def component(name: str, number: Optional[float], pending: Any) -> None:
    """Note a loss function's output on the way to the next step."""
    if len(_components) < 50:
        _components.append((name, number, pending))


class Gradients:
    """The gradients an optimizer is about to use."""

    def __init__(self, number: int, params: List[Tuple[int, Any]]) -> None:
        self.norms = changes.Norms(params)
        self.stale = gradients.stale(number, params)


def write(
    optimizer: Any,
    number: int,
    event: int,
    before: Optional[changes.Before],
    grads: Optional[Gradients],
    skipped: Any,
    seconds: float,
    scale: Any = None,
) -> None:
    """Write the step line; `skipped` may be a number still on its device, not zero where the step was skipped."""
    global examples
    torch = state.torch()
    if before is None:
        before = changes.Before(optimizer, number)
        certain: List[int] = []
        counts: List[Any] = []
        compared = False
    else:
        certain, counts = before.after(torch)
        compared = True
    if grads is None:
        grads = Gradients(number, before.params())
    ask = [tensor for _, tensor in grads.norms.parts] + [tensor for _, tensor in counts]
    value, pending = readings.loss
    extra = [item for item in (pending, skipped if isinstance(skipped, torch.Tensor) else None, scale) if item is not None]
    late = [item for _, _, item in _components if item is not None]
    numbers = readings.flush(ask + extra + late)
    norms: Dict[int, float] = {}
    for (names, _), row in zip(grads.norms.parts, numbers):
        norms.update(zip(names, row))
    changed = set(certain)
    equal: List[int] = []
    for (names, _), row in zip(counts, numbers[len(grads.norms.parts) :]):
        last = 0.0
        for name, so_far in zip(names, row):
            if so_far > last or name in changed:
                changed.add(name)
            else:
                equal.append(name)
            last = so_far
    rest = iter(numbers[len(ask) :])
    if pending is not None:
        value = next(rest)[0]
    if isinstance(skipped, torch.Tensor):
        skipped = next(rest)[0] != 0.0
    if scale is not None:
        factor = next(rest)[0] or 1.0
        norms = {name: norm / factor for name, norm in norms.items()}
    components: Dict[str, Optional[float]] = {}
    for function, part, item in _components:
        label: str = function
        again = 2
        while label in components:
            label, again = f"{function}#{again}", again + 1
        components[label] = part if item is None else next(rest)[0]
    rates = before.rates
    with_gradient.update(norms)
    skipped = bool(skipped)
    still = [] if skipped or not compared else [p for p in equal if rates.get(p, 0.0) > 0.0 and norms.get(p, 0.0) > 0.0]
    still = changes.judge(sorted(changed), still) if compared else still
    now = time.perf_counter()
    passed = round(now - _last[0], 6) if _last[0] else None
    index = _indices.get(number, 0)
    _indices[number] = index + 1
    total = sum(norm * norm for norm in norms.values()) ** 0.5 if norms else None
    writer.line(
        {
            "k": "step",
            "n": event,
            "optimizer": number,
            "step": index,
            "lr": before.lr,
            "momentum": before.momentum,
            "loss": value,
            "grad_norm": total,
            "components": components,
            "memory": _memory(torch),
            "rss": _resident(),
            "seconds": {**{part: round(taken, 6) for part, taken in _spent.items()}, "total": passed, "step": round(seconds, 6)},
            "skipped": skipped,
            "changed": len(changed),
            "unchanged": still,
            "stale": grads.stale,
            "none": grads.norms.none,
            "nonfinite": [p for p, norm in norms.items() if norm != norm or norm in (float("inf"), float("-inf"))],
        }
    )
    if index == 0 and number == min(_indices) and torch.cuda.is_initialized():
        writer.restart()  # the name of the device is known now
    if examples is not None:
        writer.line({"k": "examples", "step": index, "optimizer": number, **examples})
        examples = None
    before.forget()
    del _components[:]
    readings.loss = (None, None)
    _spent.update(dict.fromkeys(_spent, 0.0))
    _last[0] = time.perf_counter()


def _memory(torch: Any) -> Optional[int]:
    return int(torch.cuda.memory_allocated()) if torch.cuda.is_initialized() else None


_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_status: List[int] = []


def _resident() -> Optional[int]:
    """Resident memory in bytes, or None where the system does not say."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        if not _status:
            _status.append(os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC))
        return int(os.pread(_status[0], 100, 0).split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return None


def never() -> Tuple[List[int], List[int]]:
    """Parameters that want a gradient and got none at any step, and those that got one but stand in no optimizer."""
    from . import stopping

    alive = [(n, p) for n, p in things.all_params() if p.requires_grad]
    without = [n for n, p in alive if n not in with_gradient and n not in stopping.stopper.had_gradient]
    outside = [n for n, _ in alive if n not in stopping.stopper.optimised]
    return without, outside
