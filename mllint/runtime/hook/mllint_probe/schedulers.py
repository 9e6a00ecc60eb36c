"""Schedulers: their making, their steps, and the rates they report."""

from typing import Any, Dict, List, Optional, Tuple

from . import events, optimizers, patching, sites, state, stopping, things, values


def install() -> None:
    """Attach to every scheduler class there is and will be."""
    from torch.optim import lr_scheduler

    base = getattr(lr_scheduler, "LRScheduler", None) or lr_scheduler._LRScheduler
    roots = [base]
    plateau = lr_scheduler.ReduceLROnPlateau
    if not issubclass(plateau, base):  # before torch 2.2
        roots.append(plateau)
    if hasattr(lr_scheduler, "ChainedScheduler") and not issubclass(lr_scheduler.ChainedScheduler, base):
        roots.append(lr_scheduler.ChainedScheduler)
    for root in roots:
        patching.each_class(root, _prepare)


def _prepare(kind: type) -> None:
    patching.constructor(kind, _made)
    for name in ("step", "get_last_lr", "state_dict", "load_state_dict"):
        if name in kind.__dict__:
            _watch(kind, name)


def _made(scheduler: Any, function: Any, args: Any, kwargs: Any, site: int) -> None:
    arguments = values.bound(function, args, kwargs, 1)
    number = things.add(scheduler, "scheduler", site, arguments, None, _partners(scheduler, site))
    if not state.thread.making:
        stopping.stopper.scheduler_made(number)


def _partners(scheduler: Any, site: int) -> List[int]:
    """The optimizer it drives and the schedulers inside it."""
    out = []
    optimizer = getattr(scheduler, "optimizer", None)
    if isinstance(optimizer, state.torch().optim.Optimizer):
        out.append(optimizers.follow(optimizer, site))
    for inner in getattr(scheduler, "_schedulers", None) or ():
        number = things.ident(inner)
        if number is not None:
            out.append(number)
    return out


def _watch(kind: type, name: str) -> None:
    def before(args: Any, kwargs: Any) -> Optional[Tuple[int, Optional[int], int]]:
        thread = state.thread
        scheduler = args[0]
        # the constructor makes a step of its own, and a scheduler of schedulers moves its children while it is made
        if thread.making or (name, id(scheduler)) in thread.steps:
            return None
        if name != "step" and any(n == "step" for n, _ in thread.steps):
            return None
        seen = (sites.here(), thread.via, sum(1 for n, _ in thread.steps if n == "step"))
        thread.steps = (*thread.steps, (name, id(scheduler)))
        if name == "step":
            thread.via = things.ident(scheduler)
        return seen

    def after(seen: Tuple[int, Optional[int], int], args: Any, kwargs: Any, result: Any, failed: bool) -> None:
        thread = state.thread
        scheduler = args[0]
        thread.steps = tuple(s for s in thread.steps if s != (name, id(scheduler)))
        site, via, depth = seen
        if name == "step":
            thread.via = via
        if failed:
            return
        number = things.ident(scheduler)
        if number is None:
            number = things.add(scheduler, "scheduler", site, {}, None, _partners(scheduler, site))
        if name == "step":
            stopping.stopper.scheduler_stepped(number)
        if events.room():
            observed: Dict[str, Any] = {}
            if name == "step":
                optimizer = getattr(scheduler, "optimizer", None)
                observed["lr"] = [values.value(g.get("lr")) for g in getattr(optimizer, "param_groups", ())]
            given = {str(i): values.value(a) for i, a in enumerate(args[1:])}
            given.update({k: values.value(v) for k, v in kwargs.items()})
            events.write(name, number, site, _named(kind, name, given), observed, via, depth)

    patching.method(kind, name, state.guarded(before), state.guarded(after))


def _named(kind: type, name: str, given: Dict[str, Any]) -> Dict[str, Any]:
    """Positional arguments under the names the method gives them; only what was given."""
    signature = values.signature_of(kind.__dict__[name])
    if signature is None or not given:
        return given
    names = list(signature.parameters)[1:]
    return {names[int(k)] if k.isdigit() and int(k) < len(names) else k: v for k, v in given.items()}
