"""The first batch, looked at once more before each step: how the loss and prediction of each of its examples change.

Only where examples were asked for. The model is called as the program called it, in eval mode and without gradients, and the states of
random number generators are put back. Where the input of the loss cannot be traced to the model's output, or calling it again fails,
nothing is followed; the examples of each step's own batch are written instead.
"""

import weakref
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from . import state


class _First:
    """The first batch: the module that was called, with what, and how the loss was made of what came out."""

    def __init__(self, module: Any, args: Any, kwargs: Any) -> None:
        self.module = weakref.ref(_inner(module))
        self.args = args
        self.kwargs = kwargs
        self.outputs: List[Any] = []  # weak references
        self.function = ""
        self.options: Dict[str, Any] = {}
        self.target: Any = None
        self.output: Optional[int] = None  # None: the module computes its loss itself
        self.shape: Tuple[int, ...] = ()
        self.optimizer: Optional[int] = None


_first: Optional[_First] = None
_over = False  # it has been found out that there is nothing to follow


def _wanted() -> bool:
    return bool(state.run.options["examples"]) and not _over


def forward(module: Any, args: Any, kwargs: Any) -> None:
    """A root module is called for training; the first such call may be the one that is followed."""
    global _first
    if _wanted() and (_first is None or not _first.function) and state.torch().is_grad_enabled() and module.training:
        _first = _First(module, _copied(args), _copied(kwargs))


def returned(result: Any) -> None:
    """What the module gave."""
    if _wanted() and _first is not None and not _first.function:
        from . import modules

        _first.outputs = [weakref.ref(tensor) for tensor in modules.tensors(result)]


def loss(name: str, given: Any, target: Any, options: Dict[str, Any]) -> bool:
    """A loss function was called in training. Whether this is the one the first batch is judged by: the first after the module's call."""
    if not _wanted() or _first is None or _first.function:
        return False
    if not _first.outputs and not state.thread.forwards:
        return False
    for number, output in enumerate(_first.outputs):
        known = output()
        if known is not None and known.numel() == given.numel() and (known is given or known.data_ptr() == given.data_ptr()):
            _first.output = number
            break
    else:
        if _first.outputs:
            _give_up()
            return False
    _first.function, _first.options = name, _copied(options)
    _first.target, _first.shape = target.detach().clone(), tuple(given.shape)
    return True


def look(optimizer: int, judge: Callable) -> Optional[Dict[str, Any]]:
    """What the model says of the first batch now, just before a step of the optimizer that made the first step; None where it does not."""
    if not _wanted() or _first is None or not _first.function:
        return None
    if _first.optimizer is None:
        _first.optimizer = optimizer
    if _first.optimizer != optimizer:
        return None
    try:
        row = judge(_first.function, _again(_first), _first.target, _first.options)
    except Exception:  # the program's own code, called in a way it may not be meant to be
        row = None
    if row is None:
        _give_up()
        return None
    return {**row, "followed": True}


def _give_up() -> None:
    global _first, _over
    _first, _over = None, True


def _again(first: _First) -> Any:
    """The input of the loss function for the first batch, with the weights as they are."""
    from . import modules

    torch = state.torch()
    module = first.module()
    if module is None:
        raise RuntimeError("the module is gone")
    args, kwargs = _copied(first.args), _copied(first.kwargs)
    with torch.no_grad(), _evaluating(module), _random_kept(torch, module):
        if first.output is not None:
            return modules.tensors(module(*args, **kwargs))[first.output].reshape(first.shape)
        seen: List[Any] = []
        with _listening(torch, first.function, seen):
            module(*args, **kwargs)
        return seen[0]


@contextmanager
def _listening(torch: Any, name: str, seen: List[Any]) -> Iterator[None]:
    """The inputs of one loss function, as long as the module looks it up where it lives."""
    home = torch.nn.functional
    original = getattr(home, name)

    def listening(*args: Any, **kwargs: Any) -> Any:
        seen.append(args[0] if args else kwargs["input"])
        return original(*args, **kwargs)

    setattr(home, name, listening)
    try:
        yield
    finally:
        setattr(home, name, original)


@contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """Eval mode by the flags alone: the methods that set them may be the program's own and do more."""
    flags = [(child, child.training) for child in module.modules()]
    for child, _ in flags:
        child.training = False
    try:
        yield
    finally:
        for child, training in flags:
            child.training = training


@contextmanager
def _random_kept(torch: Any, module: Any) -> Iterator[None]:
    devices = sorted({p.device.index or 0 for p in module.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        yield


def _inner(module: Any) -> Any:
    """What a wrapper for several processes wraps: another call of the wrapper itself would have to be made by all of them."""
    kind = type(module).__name__
    if kind in ("DistributedDataParallel", "DataParallel"):
        return module.module
    if kind == "FullyShardedDataParallel":
        _give_up()
    return module


def _copied(item: Any, depth: int = 0) -> Any:
    """The item with every tensor copied, so that what the program does to its own is not seen."""
    torch = state.torch()
    if isinstance(item, torch.Tensor):
        return item.detach().clone()
    if depth < 4:
        if type(item) in (list, tuple):
            return type(item)(_copied(part, depth + 1) for part in item)
        if isinstance(item, dict) and type(item).__name__ in ("dict", "OrderedDict", "BatchEncoding"):
            return {key: _copied(part, depth + 1) for key, part in item.items()}
    return item
