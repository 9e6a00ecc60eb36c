"""Gradient scalers: what was scaled, unscaled, stepped and updated, also where the scaler switched itself off."""

from typing import Any, Dict, Optional

from . import contexts, events, graph, optimizers, patching, sites, state, stopping, things, values

METHODS = ("scale", "unscale_", "step", "update", "get_scale", "state_dict", "load_state_dict")


def install() -> None:
    """Attach to every scaler class there is and will be."""
    try:
        from torch.amp.grad_scaler import GradScaler
    except ImportError:  # before torch 2.3
        from torch.cuda.amp.grad_scaler import GradScaler
    patching.each_class(GradScaler, _prepare)


def _prepare(kind: type) -> None:
    patching.constructor(kind, _made)
    for name in METHODS:
        if name in kind.__dict__:
            _watch(kind, name)


def _made(scaler: Any, function: Any, args: Any, kwargs: Any, site: int) -> None:
    arguments = values.bound(function, args, kwargs, 1)
    effective = bool(getattr(scaler, "_enabled", True))
    if arguments.get("enabled", True) is not False and not effective:
        contexts.disabled.add("scaler")
    things.add(scaler, "scaler", site, arguments, effective=effective)


class _Call:
    """A call of a scaler's method that has begun."""

    def __init__(self, site: int, via: Optional[int], steps: int) -> None:
        self.site = site
        self.via = via
        self.steps = steps


def _watch(kind: type, name: str) -> None:
    def before(args: Any, kwargs: Any) -> Optional[_Call]:
        thread = state.thread
        scaler = args[0]
        # step() unscales by itself: only what the program asks for is an event
        if thread.making or any(ident == id(scaler) for _, ident in thread.steps):
            return None
        call = _Call(sites.here(), thread.via, stopping.stopper.total())
        thread.steps = (*thread.steps, (name, id(scaler)))
        if name == "step":
            thread.via = things.ident(scaler)
        return call

    def after(call: _Call, args: Any, kwargs: Any, result: Any, failed: bool) -> None:
        thread = state.thread
        scaler = args[0]
        thread.steps = tuple(s for s in thread.steps if s != (name, id(scaler)))
        if name == "step":
            thread.via = call.via
        if failed:
            return
        number = things.ident(scaler)
        if number is None:
            number = things.add(scaler, "scaler", call.site)
        if name == "scale":
            _mark(args, kwargs, result, number)
        elif name == "step":
            _skipped(args, kwargs, scaler, number, call)
        if events.room() or name == "step":
            events.write(name, number, call.site, _arguments(name, args, kwargs, call.site), _observed(name, scaler), call.via)

    patching.method(kind, name, state.guarded(before), state.guarded(after))


def _optimizer(args: Any, kwargs: Any) -> Any:
    return kwargs.get("optimizer", args[1] if len(args) > 1 else None)


def _arguments(name: str, args: Any, kwargs: Any, site: int) -> Dict[str, Any]:
    if name in ("step", "unscale_"):
        optimizer = _optimizer(args, kwargs)
        if isinstance(optimizer, state.torch().optim.Optimizer):
            return {"optimizer": {"thing": optimizers.follow(optimizer, site)}}
        inner = things.ident(getattr(optimizer, "optimizer", None))
        return {"optimizer": {"thing": inner}} if inner is not None else {}
    if name == "scale":
        given = args[1] if len(args) > 1 else kwargs.get("outputs")
        return {"loss": values.value(given)}
    return {}


def _observed(name: str, scaler: Any) -> Dict[str, Any]:
    """The scale where it lies in main memory; asking a device for it would make the program wait."""
    scale = getattr(scaler, "_scale", None)
    if name in ("update", "step") and scale is not None and hasattr(scale, "device") and scale.device.type == "cpu":
        return {"scale": float(scale)}
    return {}


def _mark(args: Any, kwargs: Any, result: Any, number: int) -> None:
    """Note on the graph that the loss went through the scaler, and what it was before."""
    given = args[1] if len(args) > 1 else kwargs.get("outputs")
    torch = state.torch()
    pairs = zip(given, result) if isinstance(given, (list, tuple)) else [(given, result)]
    for before, scaled in pairs:
        if isinstance(scaled, torch.Tensor) and isinstance(before, torch.Tensor):
            notes = graph.metadata(scaled)
            if notes is not None and scaled is not before:
                notes["scaled"] = (number, before.detach())
            elif notes is not None:
                notes["passed"] = number


def _skipped(args: Any, kwargs: Any, scaler: Any, number: int, call: _Call) -> None:
    """The optimizer's step did not happen though the scaler's did: the gradients were infinite."""
    optimizer = _optimizer(args, kwargs)
    if stopping.stopper.total() == call.steps and isinstance(optimizer, state.torch().optim.Optimizer):
        optimizers.skipped(optimizer, number)

