"""Groups of processes: which of them this one is."""

from typing import Any

from . import patching, state, writer


def install() -> None:
    """Attach to joining a group."""
    distributed = state.torch().distributed
    if not distributed.is_available():
        return
    before, after = state.guarded(_before), state.guarded(_after)
    owners = [distributed.distributed_c10d, distributed]
    patching.function(owners, "init_process_group", lambda original: patching.observed(original, before, after))


def _before(args: Any, kwargs: Any) -> bool:
    return True


def _after(seen: bool, args: Any, kwargs: Any, result: Any, failed: bool) -> None:
    distributed = state.torch().distributed
    if not failed and distributed.is_initialized():
        writer.joined(distributed.get_rank(), distributed.get_world_size())
