"""Optimizers: their making, their steps with what each changed, and the zeroing of gradients."""

import sys
import time
import weakref
from typing import Any, Dict, List, Optional, Tuple

from . import changes, events, gradients, learning, losses, patching, retained, sites, state, steps, stopping, things


class _Step:
    """A step that has begun; one of several when a closure steps another optimizer."""

    def __init__(self, optimizer: Any, site: int) -> None:
        self.optimizer = weakref.ref(optimizer)
        self.site = site
        self.before: Optional[changes.Before] = None
        self.grads: Optional[steps.Gradients] = None
        self.scale: Any = None
        self.closure = False
        self.began = 0.0


class _Running(state.threading.local):
    """The steps this thread is in the middle of, outermost first."""

    def __init__(self) -> None:
        self.steps: List[Tuple[_Step, int]] = []


_running = _Running()


def install() -> None:
    """Attach to every optimizer class there is and will be."""
    from torch.optim import optimizer as home

    base = home.Optimizer
    patching.each_class(base, lambda kind: patching.constructor(kind, _made))
    if hasattr(home, "register_optimizer_step_post_hook"):
        home.register_optimizer_step_pre_hook(_hook(_before))
        home.register_optimizer_step_post_hook(_hook(_after))
    else:
        state.unavailable("optimizer steps")
    patching.each_class(base, _zeroing)
    for name in ("add_param_group", "state_dict", "load_state_dict"):
        _noted(base, name)


def _hook(function: Any) -> Any:
    """A step hook of torch's, whose answer must be None: anything else replaces the arguments."""
    probe = state.guarded(function)

    def hook(optimizer: Any, args: Any, kwargs: Any) -> None:
        probe(optimizer, args, kwargs, sys._getframe(1))

    return hook


def _made(optimizer: Any, function: Any, args: Any, kwargs: Any, site: int) -> None:
    from . import values

    inner = things.ident(getattr(optimizer, "optimizer", None))
    if inner is not None and type(optimizer).__module__.startswith("accelerate."):
        things.alias(optimizer, inner)
        return
    number = follow(optimizer, site, values.bound(function, args, kwargs, 1))
    stopping.stopper.optimizer_made(number)


def follow(optimizer: Any, site: int, arguments: Optional[Dict[str, Any]] = None) -> int:
    """The number of an optimizer, made known now if it was not."""
    known = things.ident(optimizer)
    if known is not None:
        return known
    items = list(params(optimizer))
    numbers = [things.param(p) for p in items]
    stopping.stopper.optimised.update(numbers)
    inner = [things.ident(v) for v in list(vars(optimizer).values()) if _is_optimizer(v)]
    return things.add(optimizer, "optimizer", site, arguments, numbers, inner, roots=_roots(items))


def _roots(items: List[Any]) -> List[str]:
    from . import values

    tops = {id(top): top for top in (things.name_of(p)[1] for p in items) if top is not None}
    return [values.name_of(type(top)) for top in tops.values()]


def _is_optimizer(item: Any) -> bool:
    return isinstance(item, state.torch().optim.Optimizer)


def params(optimizer: Any) -> List[Any]:
    """The parameters an optimizer holds."""
    return [p for group in getattr(optimizer, "param_groups", ()) for p in group.get("params", ()) if hasattr(p, "grad")]


def _nested(optimizer: Any, frame: Any) -> int:
    """How many steps of this thread are really running, told from the stack: a step that raised never came back to us."""
    code = frame.f_code
    depth = 0
    while frame is not None:
        if frame.f_code is code:
            depth += 1
        frame = frame.f_back
    return depth


def _before(optimizer: Any, args: Any, kwargs: Any, frame: Any) -> None:
    depth = _nested(optimizer, frame) if _running.steps else 1
    del _running.steps[depth - 1 :]
    outer = next((s for s, _ in _running.steps if s.optimizer() is optimizer), None)
    entry = outer
    if outer is None:
        entry = _Step(optimizer, sites.here())
        number = follow(optimizer, entry.site)
        gradients.noticed(entry.site)
        entry.closure = callable(kwargs.get("closure") if "closure" in kwargs else (args[1] if len(args) > 1 else None))
        entry.before = changes.Before(optimizer, number)
        followed = learning.look(number, losses.each)
        if followed is not None:
            steps.examples = followed
        if not entry.closure:  # a closure makes the gradients inside the step
            entry.grads = steps.Gradients(number, entry.before.params())
        scale = getattr(optimizer, "grad_scale", None)
        entry.scale = scale.clone() if isinstance(scale, state.torch().Tensor) else None
    assert entry is not None
    _running.steps.append((entry, depth))
    if outer is None:
        entry.began = time.perf_counter()


def _after(optimizer: Any, args: Any, kwargs: Any, frame: Any) -> None:
    if not _running.steps:
        return
    entry, _ = _running.steps.pop()
    if entry.optimizer() is not optimizer or any(s is entry for s, _ in _running.steps):
        return
    finished = time.perf_counter()
    number = things.ident(optimizer)
    if number is None or entry.before is None:
        return
    skipped = _inf(optimizer)
    arguments = {"closure": True} if entry.closure else {}
    # whether a fused step was skipped is known on the device alone; the step line says it, read together with all else
    told = {"skipped": bool(skipped)} if isinstance(skipped, (bool, float)) else {}
    event = events.write("step", number, entry.site, arguments, told, state.thread.via)
    retained.at_step()
    steps.write(optimizer, number, event, entry.before, entry.grads, skipped, finished - entry.began, entry.scale)
    gradients.consumed(optimizer, number)
    stopping.stopper.stepped(number)


def _inf(optimizer: Any) -> Any:
    """What a fused optimizer was told by the scaler: a tensor that is not zero where the step is skipped, else None."""
    found = getattr(optimizer, "found_inf", None)
    if found is None or not isinstance(found, state.torch().Tensor):
        return None
    return float(found) if found.device.type == "cpu" else found


def skipped(optimizer: Any, via: Optional[int]) -> None:
    """Write the step a scaler left out because of an infinite gradient."""
    number = follow(optimizer, sites.here())
    event = events.write("step", number, None, {}, {"skipped": True}, via)
    steps.write(optimizer, number, event, None, None, True, 0.0)
    gradients.consumed(optimizer, number)
    stopping.stopper.skipped(number)


def _same(optimizer: Any) -> int:
    """One key for an optimizer and what a framework wraps around it."""
    number = things.ident(optimizer)
    return id(optimizer) if number is None else -number


def _zeroing(kind: type) -> None:
    def before(args: Any, kwargs: Any) -> Optional[int]:
        key = ("zero_grad", _same(args[0]))
        if key in state.thread.steps:
            return None
        state.thread.steps = (*state.thread.steps, key)
        return sites.here()

    def after(seen: int, args: Any, kwargs: Any, result: Any, failed: bool) -> None:
        optimizer = args[0]
        state.thread.steps = tuple(s for s in state.thread.steps if s != ("zero_grad", _same(optimizer)))
        if failed or getattr(optimizer, "param_groups", None) is None:
            return
        number = follow(optimizer, seen)
        items = params(optimizer)
        if not trusted:
            # a class of the program's or a framework's may decide to keep the gradients
            kept = gradients.kept(items)
            if items and len(kept) == len(items):
                return
            items = [p for p in items if id(p) not in kept]
        gradients.zeroed(items)
        if events.room():
            from . import values

            events.write("zero_grad", number, seen, {k: values.value(v) for k, v in kwargs.items()})

    trusted = kind.__module__.startswith("torch.")
    if kind.__module__.startswith("accelerate."):
        return  # its wrapper decides whether to pass the call on, and then the optimizer inside tells
    if "zero_grad" in kind.__dict__:
        patching.method(kind, "zero_grad", state.guarded(before), state.guarded(after))


def _noted(kind: type, name: str) -> None:
    """Write calls of a method as events, but not those a constructor makes."""

    def before(args: Any, kwargs: Any) -> Optional[int]:
        return None if id(args[0]) in state.thread.making else sites.here()

    def after(seen: int, args: Any, kwargs: Any, result: Any, failed: bool) -> None:
        number = things.ident(args[0])
        if failed or number is None:
            return
        if name == "add_param_group":
            group = args[1] if len(args) > 1 else kwargs.get("param_group", {})
            given = group.get("params", ())
            items = [given] if hasattr(given, "grad") else params(args[0])[-len(given) :] if hasattr(given, "__len__") else []
            numbers = [things.param(p) for p in items if hasattr(p, "grad")]
            stopping.stopper.optimised.update(things.param(p) for p in params(args[0]))
            events.write(name, number, seen, {"params": numbers})
        else:
            events.write(name, number, seen)

    patching.method(kind, name, state.guarded(before), state.guarded(after))
