"""Modules: forward calls at the root, train and eval mode, and where parameters and submodules sit."""

import functools
import time
import weakref
from typing import Any, Dict, List, Optional, Tuple

from . import events, gradients, learning, patching, retained, sites, state, steps, stopping, things

_sensitive: Dict[int, Tuple[Any, List[Any]]] = {}  # id(root) -> (weak root, weak references of dropout and normalisation)
_bare: Dict[int, Tuple[Any, bool]] = {}  # modules without parameters: losses, activations


def install() -> None:
    """Attach to calls of modules. One wrapper of __call__ costs less than torch's global hooks and keeps its quick way."""
    kind = state.torch().nn.Module
    original = kind.__call__
    before, after = state.guarded(_before), state.guarded(_after)
    thread, run = state.thread, state.run

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if run.off or (run.compiles and state.traced()) or thread.forwards or thread.busy:
            return original(self, *args, **kwargs)
        thread.forwards = 1
        try:
            seen = before(self, args, kwargs)
            if seen is None:
                return original(self, *args, **kwargs)
            try:
                result = original(self, *args, **kwargs)
            except BaseException:
                after(seen, self, None, True)
                raise
            after(seen, self, result, False)
            return result
        finally:
            thread.forwards = 0

    functools.update_wrapper(__call__, original)
    kind.__call__ = patching.disguised(__call__, original)


def modes() -> None:
    """Attach to train, eval and zero_grad."""
    kind = state.torch().nn.Module
    patching.method(kind, "train", state.guarded(_before_mode), state.guarded(_after_mode))
    patching.method(kind, "zero_grad", state.guarded(_before_zero), state.guarded(_after_zero))


def places() -> Optional[bool]:
    """Follow what is registered in what, and where modules are made."""
    from torch.nn.modules import module as home

    patching.method(home.Module, "__init__", _before_init, _never)
    if not hasattr(home, "register_module_parameter_registration_hook"):
        return False
    parameter, submodule = state.guarded(_registered), state.guarded(things.placed)

    def on_parameter(module: Any, name: str, item: Any) -> None:
        parameter(module, name, item)

    def on_module(module: Any, name: str, item: Any) -> None:
        submodule(module, name, item)
        if item is not None:
            replaced(module, name, item)

    replaced = state.guarded(_replaced)
    home.register_module_parameter_registration_hook(on_parameter)
    home.register_module_module_registration_hook(on_module)
    return None


_built = state.guarded(things.built)


def _before_init(args: Any, kwargs: Any) -> None:
    _built(args[0])


def _never(*_: Any) -> None:
    raise AssertionError("nothing was seen before, so nothing is seen after")


def _registered(module: Any, name: str, item: Any) -> None:
    if item is None:
        return
    things.placed(module, name, item)
    if stopping.stopper.optimizers:
        _late(module, name, [item])


def _replaced(module: Any, name: str, item: Any) -> None:
    if stopping.stopper.optimizers:
        _late(module, name, list(item.parameters()))


def _late(module: Any, name: str, items: List[Any]) -> None:
    """Something was put into a module after an optimizer took its parameters."""
    top = things.top_of(module)
    if not items or not any(things.known_param(p) in stopping.stopper.optimised for p in top.parameters()):
        return
    fresh = [p for p in items if things.known_param(p) not in stopping.stopper.optimised]
    if fresh and events.room():
        prefix = things.name_of(module)[0]
        arguments = {"name": prefix + "." + name if prefix else name, "params": [things.param(p) for p in fresh]}
        events.write("replaced", follow(top, sites.here()), None, arguments)


# ---- roots --------------------------------------------------------------------------------------------------------------------------


def follow(module: Any, site: int) -> int:
    """The number of a root module, made known now if it was not; its site is where it was made, when that was seen."""
    known = things.ident(module)
    if known is not None:
        return known
    inner = getattr(module, "module", None)
    partners = [follow(inner, site)] if _is_wrapper(module) and inner is not None else []
    sensitive = sensitive_of(module)
    names = [name for name, child in module.named_modules() if any(child is s() for s in sensitive)]
    number = things.add(
        module,
        "module",
        things.making_site(module) or site,
        None,
        [things.param(p) for p in module.parameters()],
        partners,
        training_sensitive=names[:50],
        trainable=sum(p.requires_grad for p in module.parameters()),
        first_use=site,
    )
    things.own(module, number)
    return number


_WRAPPERS = ("DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "OptimizedModule")


def _is_wrapper(module: Any) -> bool:
    return type(module).__name__ in _WRAPPERS


def sensitive_of(root: Any) -> List[Any]:
    """Weak references of the modules inside that behave otherwise in training: dropout, batch normalisation."""
    entry = _sensitive.get(id(root))
    if entry is None or entry[0]() is not root:
        entry = _sensitive[id(root)] = (things._weak(root, _sensitive), [weakref.ref(m) for m in root.modules() if _acts(m)])
    return entry[1]


def _acts(module: Any) -> bool:
    nn = state.torch().nn
    if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)):
        return bool(module.track_running_stats)
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return bool(module.p)
    if isinstance(module, nn.RNNBase):
        return bool(module.dropout) and module.num_layers > 1
    return type(module).__name__ in ("DropPath", "StochasticDepth") or (isinstance(module, nn.MultiheadAttention) and bool(module.dropout))


def _is_bare(module: Any) -> bool:
    entry = _bare.get(id(module))
    if entry is None or entry[0]() is not module:
        bare = next(module.parameters(), None) is None and next(module.buffers(), None) is None
        entry = _bare[id(module)] = (things._weak(module, _bare), bare)
    return entry[1]


class _Forward:
    """A root's forward call that has begun."""

    def __init__(self, site: int, number: int, observed: Dict[str, Any]) -> None:
        self.site = site
        self.number = number
        self.observed = observed
        self.began = time.perf_counter()


def _before(module: Any, args: Any, kwargs: Any) -> Optional[_Forward]:
    # a checkpoint computes its part again during backward, on the device's own thread; replicas run on threads of their wrapper
    if stopping.stopper.in_backward or getattr(module, "_is_replica", False) or _is_bare(module):
        return None
    torch = state.torch()
    site = sites.here()
    number = follow(module, site)
    sensitive = [m for m in (ref() for ref in sensitive_of(module)) if m is not None]
    active = sum(m.training for m in sensitive)
    grad = torch.is_grad_enabled()
    device = _device(module)
    autocast, dtype = _autocast(torch, device)
    stopping.stopper.forward(grad)
    learning.forward(module, args, kwargs)
    return _Forward(
        site,
        number,
        {
            "training": bool(module.training),
            "grad": grad,
            "sensitive_training": active,
            "sensitive_eval": len(sensitive) - active,
            "autocast": autocast,
            "dtype": dtype,
            "device": device,
            "batch": _batch(args, kwargs),
        },
    )


def _device(module: Any) -> str:
    first = next(module.parameters(), None)
    return first.device.type if first is not None else "cpu"


def _autocast(torch: Any, device: str) -> Tuple[bool, Optional[str]]:
    try:
        enabled = bool(torch.is_autocast_enabled(device))
        dtype = torch.get_autocast_dtype(device)
    except (TypeError, AttributeError, RuntimeError):  # before torch 2.4, or a device without autocast
        enabled = bool(torch.is_autocast_enabled() if device == "cuda" else torch.is_autocast_cpu_enabled())
        dtype = torch.get_autocast_gpu_dtype() if device == "cuda" else torch.get_autocast_cpu_dtype()
    return enabled, str(dtype).replace("torch.", "") if enabled else None


def tensors(item: Any, depth: int = 0) -> List[Any]:
    """The tensors of a nested argument or result, the first few."""
    torch = state.torch()
    if isinstance(item, torch.Tensor):
        return [item]
    if depth < 3:
        if isinstance(item, dict):
            item = list(item.values())
        if isinstance(item, (list, tuple)):
            return [t for part in item[:16] for t in tensors(part, depth + 1)][:16]
    return []


def _batch(args: Any, kwargs: Any) -> Optional[int]:
    first = next((t for t in tensors((*args, kwargs)) if t.dim()), None)
    return int(first.shape[0]) if first is not None else None


def _after(entry: _Forward, module: Any, result: Any, failed: bool) -> None:
    seconds = time.perf_counter() - entry.began
    steps.spent("forward", seconds)
    if failed:
        return
    learning.returned(result)
    outputs = [t for t in tensors(result) if t.requires_grad]
    for output in outputs[:4]:
        retained.watch(output, entry.number, entry.site)
    if events.room():
        entry.observed["requires_grad_output"] = bool(outputs)
        entry.observed["seconds"] = round(seconds, 6)
        events.write("forward", entry.number, entry.site, {}, entry.observed)


# ---- modes and zeroing --------------------------------------------------------------------------------------------------------------


def _before_mode(args: Any, kwargs: Any) -> Optional[int]:
    # a module tells its children; the outermost call is the program's
    if state.thread.modes or state.thread.making or not events.room():
        return None
    state.thread.modes = 1
    return sites.here()


def _after_mode(site: int, args: Any, kwargs: Any, result: Any, failed: bool) -> None:
    state.thread.modes = 0
    mode = args[1] if len(args) > 1 else kwargs.get("mode", True)
    if failed or (_is_bare(args[0]) and not sensitive_of(args[0])):
        return
    number = things.root_number(args[0])
    if number is None and things.top_of(args[0]) is args[0]:
        number = follow(args[0], site)
    below, _ = things.name_of(args[0])
    arguments = {"mode": bool(mode), "part": below} if below else {"mode": bool(mode)}
    events.write("train" if mode else "eval", number, site, arguments)


def _before_zero(args: Any, kwargs: Any) -> Optional[int]:
    return sites.here()


def _after_zero(site: int, args: Any, kwargs: Any, result: Any, failed: bool) -> None:
    module = args[0]
    if failed or _is_bare(module):
        return
    gradients.zeroed(list(module.parameters()))
    if events.room():
        number = things.root_number(module)
        events.write("zero_grad", follow(module, site) if number is None else number, site)
