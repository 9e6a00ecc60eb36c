"""Autocast and gradient contexts: which are entered, as they were asked for."""

import sys
import threading
from typing import Any, Dict, List, Optional, Set, Tuple

from . import patching, sites, state, things, writer

GRADIENT = ("no_grad", "enable_grad", "inference_mode", "set_grad_enabled")


class _Stack(threading.local):
    """What this thread has entered, outermost first; each thread begins with none."""

    def __init__(self) -> None:
        self.entered: List[_Entered] = []


class _Entered:
    """One entry; numbered when an event first happens inside."""

    def __init__(self, of: int, name: str, key: Tuple[int, ...], facts: Dict[str, Any]) -> None:
        self.of = of
        self.name = name
        self.key = key
        self.facts = facts
        self.number: Optional[int] = None


_stack = _Stack()
_known: Dict[Any, int] = {}
_asked: Dict[int, Tuple[Any, Dict[str, Any]]] = {}
disabled: Set[Any] = set()  # kinds that switched themselves off for lack of CUDA


def active() -> List[int]:
    """The numbers of the contexts around this moment, outermost first."""
    out = []
    for entry in _stack.entered:
        if entry.key:
            if entry.number is None:
                entry.number = _number(entry)
            out.append(entry.number)
    return out


def _number(entry: _Entered) -> int:
    key = (entry.name, entry.key, tuple(sorted((k, str(v)) for k, v in entry.facts.items())))
    known = _known.get(key)
    if known is None:
        site = sites.of(entry.key)
        known = _known[key] = len(_known) + 1
        fields = {"k": "context", "id": known, "name": entry.name, "site": site}
        fields.update({"device": None, "dtype": None, "enabled": None, "effective": None}, **entry.facts)
        writer.line(fields)
    return known


def _enter(item: Any, name: str, facts: Dict[str, Any]) -> None:
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith((sites._OWN, sites.WRAPPER)):
        frame = frame.f_back  # type: ignore[assignment]
    # torch enters no_grad itself all the time; only what the program enters is of interest, also by way of a decorator
    ours = frame is not None and (sites.visible(frame) or frame.f_code.co_filename.endswith(("_contextlib.py", "autocast_mode.py")))
    _stack.entered.append(_Entered(id(item), name, sites.stack(frame) if ours else (), facts))


def _leave(item: Any) -> None:
    entered = _stack.entered
    for index in range(len(entered) - 1, -1, -1):
        if entered[index].of == id(item):
            del entered[index]
            return


class Named:
    """A context manager of a framework, followed while it is entered; everything else about it is the manager's own."""

    def __init__(self, manager: Any, name: str, facts: Dict[str, Any]) -> None:
        self._manager = manager
        self._name = name
        self._facts = facts

    def __enter__(self) -> Any:
        result = self._manager.__enter__()
        try:
            _enter(self, self._name, self._facts)
        except Exception as error:
            state.fault("contexts", error)
        return result

    def __exit__(self, *args: Any) -> Any:
        _leave(self)
        return self._manager.__exit__(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)


def _watch(kind: type, name: str, facts: Any) -> None:
    """Follow `with` of a context class. These run around everything, so they stay apart from `guarded`, which would skip our own."""

    def entering(args: Any, kwargs: Any) -> bool:
        return True

    def entered(seen: Any, args: Any, kwargs: Any, result: Any, failed: bool) -> None:
        if failed or state.thread.busy:
            return
        try:
            _enter(args[0], name, facts(args[0]))
        except Exception as error:
            state.fault("contexts", error)

    def leaving(args: Any, kwargs: Any) -> bool:
        if not state.thread.busy:
            _leave(args[0])
        return False

    if "__enter__" in kind.__dict__ and "__exit__" in kind.__dict__:
        patching.method(kind, "__enter__", entering, entered)
        original = kind.__dict__["__exit__"]

        def exiting(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not state.run.off:
                leaving((self,), kwargs)
            return original(self, *args, **kwargs)

        setattr(kind, "__exit__", patching.disguised(exiting, original))  # noqa: B010


def _gradient_facts(item: Any) -> Dict[str, Any]:
    mode = getattr(item, "mode", None)
    return {"enabled": bool(mode)} if isinstance(mode, bool) else {}


def gradient() -> None:
    """Watch no_grad and its relatives."""
    from torch.autograd import grad_mode

    for name in GRADIENT:
        kind = getattr(grad_mode, name, None)
        if kind is not None:
            _watch(kind, name, _gradient_facts)


def _autocast_facts(item: Any) -> Dict[str, Any]:
    entry = _asked.get(id(item))
    asked = entry[1] if entry is not None and entry[0]() is item else {}
    effective = bool(getattr(item, "_enabled", True))
    facts = {
        "device": str(getattr(item, "device", "")) or None,
        "dtype": str(getattr(item, "fast_dtype", "")).replace("torch.", "") or None,
        "enabled": bool(asked.get("enabled", effective)),
        "effective": effective,
    }
    if facts["enabled"] and not effective:
        disabled.add("autocast")
    return facts


def autocast() -> None:
    """Watch autocast, with what the program asked for even where it switched itself off."""
    from torch.amp import autocast_mode

    from . import values

    kind = autocast_mode.autocast
    original = kind.__init__

    def before(args: Any, kwargs: Any) -> bool:
        return True

    def after(seen: Any, args: Any, kwargs: Any, result: Any, failed: bool) -> None:
        if not failed:
            _asked[id(args[0])] = (things._weak(args[0], _asked), values.bound(original, args, kwargs, 1))

    patching.method(kind, "__init__", state.guarded(before), _quiet(after))
    _watch(kind, "autocast", _autocast_facts)


def _quiet(after: Any) -> Any:
    probe = state.guarded(after)
    return probe
