"""Gradients: the backward passes that make them, the zeroing that ends them, clipping, and those used twice."""

import time
import weakref
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from . import changes, events, graph, patching, readings, retained, sites, state, steps, stopping, things

WALKS = 4  # times the graph is read at each site before two equal readings are taken for all

_live: Set[int] = set()  # parameters that had a gradient after the last backward pass
_consumed: Dict[int, Dict[int, Any]] = {}  # optimizer -> parameter -> weak reference of the gradient it used
_walks: Dict[int, List[Any]] = {}  # site -> what each reading found
_used: Set[int] = set()  # losses known to be part of a total
backwards = [0]


def install() -> None:
    """Attach to backward and its relatives."""
    torch = state.torch()
    before, after = state.guarded(_before), state.guarded(_after)
    patching.function([torch.autograd], "backward", lambda original: patching.observed(original, before, after))
    before_grad, after_grad = state.guarded(_before_grad), state.guarded(_after_grad)
    patching.function([torch.autograd], "grad", lambda original: patching.observed(original, before_grad, after_grad))


def clipping() -> None:
    """Attach to gradient clipping."""
    from torch.nn import utils
    from torch.nn.utils import clip_grad

    for name in ("clip_grad_norm_", "clip_grad_value_", "clip_grad_norm"):
        if hasattr(clip_grad, name):
            patching.function([clip_grad, utils], name, _clipper)


# ---- zeroing ------------------------------------------------------------------------------------------------------------------------


def zeroed(params: List[Any]) -> None:
    """These gradients were cleared: whatever was consumed of them is consumed no longer."""
    for item in params:
        number = things.known_param(item)
        if number is not None:
            _dropped(number)


def kept(params: List[Any]) -> Set[int]:
    """The ids of those that still have a gradient with something in it."""
    with_grad = [p for p in params if p.grad is not None]
    if not with_grad:
        return set()
    norms = changes.Norms([(index, p) for index, p in enumerate(with_grad)])
    return {id(with_grad[n]) for numbers, tensor in norms.parts for n, norm in zip(numbers, tensor.tolist()) if norm != 0.0}


def _dropped(number: int) -> None:
    _live.discard(number)
    for table in _consumed.values():
        table.pop(number, None)


def consumed(optimizer: Any, number: int) -> None:
    """An optimizer used the gradients its parameters have."""
    table = _consumed[number] = {}
    reference = weakref.ref
    for group in optimizer.param_groups:
        for item in group["params"]:
            grad = getattr(item, "grad", None)
            if grad is not None:
                table[things.param(item)] = reference(grad)


def stale(number: int, params: List[Tuple[int, Any]]) -> List[int]:
    """Parameters whose gradient this optimizer used in its previous step already, never zeroed since."""
    table = _consumed.get(number)
    if not table:
        return []
    return [p for p, item in params if p in table and item.grad is not None and table[p]() is item.grad]


def noticed(site: int, content: bool = False) -> None:
    """Write the gradients that are gone though nobody called zero_grad; with `content`, also those overwritten with zeros."""
    gone = []
    for number in list(_live):
        item = things.parameter(number)
        if item is None or item.grad is None:
            gone.append(number)
    if content:
        gone.extend(_zeros(set(gone)))
    for number in gone:
        _dropped(number)
    gone = [n for n in gone if things.parameter(n) is not None]
    if gone and events.room():
        events.write("grad-cleared", None, site, {"of": {"params": sorted(gone)}})


def _zeros(without: Set[int]) -> List[int]:
    """Used gradients that are all zero by now. Reading them waits for the device, so it is done where one was left unzeroed only."""
    torch = state.torch()
    asked: Dict[int, Any] = {}
    for table in _consumed.values():
        for number, reference in list(table.items()):
            item = things.parameter(number)
            if item is None or item.grad is None or reference() is not item.grad:
                del table[number]
            elif number not in without:
                asked[number] = item.grad
    if not stopping.stopper.optimizers and backwards[0] < 50:
        for number in _live - without:
            asked[number] = things.parameter(number).grad
    if not asked:
        return []
    with torch.no_grad():
        norms = changes.Norms([(n, _Holder(g)) for n, g in asked.items()])
        return [n for numbers, tensor in norms.parts for n, norm in zip(numbers, tensor.tolist()) if norm == 0.0]


class _Holder:
    """A gradient where a parameter is expected."""

    __slots__ = ("grad",)

    def __init__(self, grad: Any) -> None:
        self.grad = grad


# ---- backward -----------------------------------------------------------------------------------------------------------------------


class _Backward:
    """A backward pass that has begun."""

    def __init__(self, site: int) -> None:
        self.site = site
        self.loss: Dict[str, Any] = {}
        self.pending: Any = None
        self.losses: List[Dict[str, Any]] = []
        self.began = time.perf_counter()


def _tensors(args: Any, kwargs: Any, name: str) -> List[Any]:
    given: Any = args[0] if args else kwargs.get(name)
    items = list(given) if isinstance(given, (list, tuple)) else [given]
    return [t for t in items if isinstance(t, state.torch().Tensor)]


def _before(args: Any, kwargs: Any) -> Optional[_Backward]:
    if state.thread.backwards:
        return None  # a checkpoint or a custom function inside another pass
    stopping.stopper.at_backward()
    entry = _Backward(sites.here())
    noticed(entry.site, content=True)
    roots = _tensors(args, kwargs, "tensors")
    if roots:
        _describe(entry, roots)
    retain = kwargs.get("retain_graph", args[2] if len(args) > 2 else None)
    create = kwargs.get("create_graph", args[3] if len(args) > 3 else False)
    entry.loss["retain_graph"] = bool(create if retain is None else retain)
    state.thread.backwards += 1
    stopping.stopper.in_backward += 1
    entry.began = time.perf_counter()
    return entry


def _describe(entry: _Backward, roots: List[Any]) -> None:
    root = roots[0]
    notes = graph.notes_of(root.grad_fn) if root.grad_fn is not None else {}
    scaled = notes.get("scaled")
    value, entry.pending = readings.number(scaled[1] if scaled else root)
    # a scaler that switched itself off hands the same tensor on
    entry.loss = {"value": value, "scaled_by": scaled[0] if scaled else notes.get("passed")}
    readings.loss = (value, entry.pending)
    retained.watch(root, None, entry.site)
    history = _walks.setdefault(entry.site, [])
    if len(history) < WALKS or history[-1] != history[-2]:
        found = graph.walk(roots)
        entry.losses = found.losses
        sums = [loss["reduction"] == "sum" for loss in found.losses]
        seen = {
            "reached": found.reached,
            "divided": found.divided,
            "divisor": found.divisor,
            "sum": bool(sums) and all(sums),
            "functions": sorted({loss["function"] for loss in found.losses}),
        }
        history.append(seen)
        if len(history) > WALKS:
            del history[0]
    entry.loss.update(history[-1])


def _after(entry: _Backward, args: Any, kwargs: Any, result: Any, failed: bool) -> None:
    state.thread.backwards -= 1
    stopping.stopper.in_backward -= 1
    if failed:
        return
    steps.spent("backward", time.perf_counter() - entry.began)
    backwards[0] += 1
    _live.update(things.with_gradient())
    stopping.stopper.had_gradient.update(_live)
    number = events.write("backward", None, entry.site, {"loss": entry.loss})
    if entry.pending is not None:
        readings.later(number, "value", entry.pending, needed=not stopping.stopper.optimizers)
    for loss in entry.losses:
        if loss["n"] not in _used and events.room():
            _used.add(loss["n"])
            events.write("loss-used", None, entry.site, {"loss_n": loss["n"]})
    stopping.stopper.backward()


def _before_grad(args: Any, kwargs: Any) -> Optional[int]:
    return None if state.thread.backwards or not events.room() else sites.here()


def _after_grad(site: int, args: Any, kwargs: Any, result: Any, failed: bool) -> None:
    if not failed:
        events.write("autograd-grad", None, site)


# ---- clipping -----------------------------------------------------------------------------------------------------------------------


def _clipper(original: Callable) -> Callable:
    before, after = state.guarded(_before_clip), state.guarded(_after_clip)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if state.run.off or state.thread.clips:
            return original(*args, **kwargs)
        given: Any = args[0] if args else kwargs.get("parameters")
        if hasattr(given, "__next__"):
            # a generator can be read once: the original gets the list instead
            given = list(given)
            if args:
                args = (given, *args[1:])
            else:
                kwargs["parameters"] = given
        seen = before(given)
        state.thread.clips += 1
        try:
            result = original(*args, **kwargs)
        finally:
            state.thread.clips -= 1
        if seen is not None:
            after(seen, original, args, kwargs, result)
        return result

    return patching.disguised(wrapper, original)


def _before_clip(given: Any) -> Tuple[int, List[int], int]:
    torch = state.torch()
    params = [given] if isinstance(given, torch.Tensor) else [p for p in given if isinstance(p, torch.Tensor)]
    return sites.here(), [things.param(p) for p in params], sum(p.is_leaf and p.grad is not None for p in params)


def _after_clip(seen: Tuple[int, List[int], int], original: Callable, args: Any, kwargs: Any, result: Any) -> None:
    from . import values

    site, params, grads = seen
    if not events.room():
        return
    named = values.bound(original, args, kwargs)
    threshold = named.get("max_norm", named.get("clip_value"))
    norm, pending = readings.number(result)
    arguments = {"of": {"params": params}, "threshold": threshold, "function": original.__name__}
    number = events.write("clip", None, site, arguments, {"norm": norm, "grads": grads})
    if pending is not None:
        readings.later(number, "norm", pending)
