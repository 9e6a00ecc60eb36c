"""Replacing a function by one that behaves the same and lets a probe look on."""

import functools
from types import FunctionType
from typing import Any, Callable, Dict, List, Optional, Tuple

from . import sites, state

_replaced: List[Tuple[Any, str, Any, Any]] = []  # what stands in a module instead of a function: owner, name, original, ours


def disguised(wrapper: Callable, original: Callable) -> Any:
    """The wrapper with the name, documentation and signature of the original."""
    out: Any = functools.wraps(original)(wrapper)
    if isinstance(out, FunctionType):
        out.__code__ = out.__code__.replace(co_filename=sites.WRAPPER)
    return out


def observed(original: Callable, before: Callable, after: Callable) -> Any:
    """The function with a look before it, `before(args, kwargs)`, and one after, `after(seen, args, kwargs, result, failed)`.

    What `before` returns is handed to `after`; None (also from a probe that is off) leaves `after` out. `after` is called when the
    function raises, too.
    """

    run = state.run

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if run.off or (run.compiles and state.traced()):
            return original(*args, **kwargs)
        seen = before(args, kwargs)
        if seen is None:
            return original(*args, **kwargs)
        try:
            result = original(*args, **kwargs)
        except BaseException:
            after(seen, args, kwargs, None, True)
            raise
        after(seen, args, kwargs, result, False)
        return result

    return disguised(wrapper, original)


def method(kind: type, name: str, before: Callable, after: Callable) -> None:
    """Look on at a method in the class that defines it."""
    original = kind.__dict__[name]
    if isinstance(original, FunctionType) and not hasattr(original, "__mllint__"):
        wrapper = observed(original, before, after)
        wrapper.__mllint__ = True
        setattr(kind, name, wrapper)


def function(owners: List[Any], name: str, make: Callable[[Callable], Callable]) -> None:
    """Replace a module's function wherever the module is the same function's home or shows it again."""
    original = getattr(owners[0], name)
    wrapper = make(original)
    for owner in owners:
        if getattr(owner, name, None) is original:
            setattr(owner, name, wrapper)
            _replaced.append((owner, name, original, wrapper))


class originals:
    """While entered, module functions are the original ones: for code that reads their source, like torch.jit.script."""

    depth = 0

    def __enter__(self) -> None:
        originals.depth += 1
        if originals.depth > 1:
            return
        for owner, name, original, wrapper in _replaced:
            if getattr(owner, name, None) is wrapper:
                setattr(owner, name, original)

    def __exit__(self, *_: Any) -> None:
        originals.depth -= 1
        if originals.depth:
            return
        for owner, name, original, wrapper in _replaced:
            if getattr(owner, name, None) is original:
                setattr(owner, name, wrapper)


def plain(original: Callable) -> Callable:
    """The function, run with the originals in place."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with originals():
            return original(*args, **kwargs)

    return disguised(wrapper, original)


def family(base: type) -> List[type]:
    """A class and everything derived from it."""
    out = [base]
    for kind in out:
        below: List[type] = type.__subclasses__(kind)
        out.extend(k for k in below if k not in out)
    return out


def each_class(base: type, prepare: Callable[[type], None]) -> None:
    """Do something to a class, to those derived from it and to those still to come."""
    for kind in family(base):
        prepare(kind)
    own = base.__dict__.get("__init_subclass__")

    def __init_subclass__(cls: Any, **kwargs: Any) -> None:
        if own is not None:
            own.__get__(None, cls)(**kwargs)
        else:
            parent: Any = base
            super(parent, cls).__init_subclass__(**kwargs)
        try:
            prepare(cls)
        except Exception as error:
            state.fault("each_class", error)

    setattr(base, "__init_subclass__", classmethod(__init_subclass__))  # noqa: B010  # mypy refuses the plain assignment


def constructor(kind: type, made: Callable[[Any, Callable, Tuple, Dict[str, Any], int], None]) -> None:
    """Call `made(object, constructor, args, kwargs, site)` after the outermost constructor of an object returned."""
    original = kind.__dict__.get("__init__")
    if not isinstance(original, FunctionType) or hasattr(original, "__mllint__"):
        return
    look = state.guarded(sites.here)
    done = state.guarded(made)
    thread = state.thread

    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        ident = id(self)
        if state.run.off or ident in thread.making:
            return original(self, *args, **kwargs)
        site = look()
        outer = thread.making
        thread.making = (*outer, ident)
        try:
            original(self, *args, **kwargs)
        finally:
            thread.making = outer
        if site is not None:
            done(self, original, (self, *args), kwargs, site)
        return None

    out = disguised(wrapper, original)
    out.__mllint__ = True
    setattr(kind, "__init__", out)  # noqa: B010  # mypy refuses the plain assignment


def attach(what: str, install: Callable[[], Optional[bool]]) -> None:
    """Install one group of probes; what fails is named."""
    try:
        if install() is False:
            state.unavailable(what)
    except Exception as error:
        state.unavailable(what, error)
