"""Seeding: what the program seeds, and the seeds of ours where two runs are compared."""

import sys
from typing import Any, List

from . import patching, state, writer


def install() -> None:
    """Attach to the three generators a training program uses."""
    import random

    torch = state.torch()
    _watch([torch, torch.random], "manual_seed", "torch.manual_seed")
    _watch([random], "seed", "random.seed")
    seed = state.run.options["seed"]
    if seed is not None:
        apply(int(seed))


def numpy() -> None:
    """Attach to numpy, when it is there."""
    module = sys.modules.get("numpy")
    random = getattr(module, "random", None)
    if random is not None and not hasattr(random.seed, "__wrapped__"):
        _watch([random], "seed", "numpy.random.seed")


def apply(seed: int) -> None:
    """Seed everything, for a pair of runs that is to be compared."""
    import random

    torch = state.torch()
    random.seed(seed)
    torch.manual_seed(seed)
    numpy_module = sys.modules.get("numpy")
    if numpy_module is not None and hasattr(numpy_module, "random"):
        numpy_module.random.seed(seed % 2**32)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_num_threads(1)


def _watch(owners: List[Any], name: str, what: str) -> None:
    def before(args: Any, kwargs: Any) -> None:
        writer.line({"k": "seed", "what": what, "n": state.run.events})

    probe = state.guarded(before)
    patching.function(owners, name, lambda original: patching.observed(original, probe, _never))


def _never(*_: Any) -> None:
    raise AssertionError("nothing was seen before, so nothing is seen after")
