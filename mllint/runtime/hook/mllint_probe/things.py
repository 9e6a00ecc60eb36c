"""The objects that are followed, by number. Nothing is kept alive: an object that dies takes its entry along."""

import sys
import weakref
from typing import Any, Dict, Iterable, List, Optional, Tuple

from . import sites, state, writer

_ids: Dict[int, Tuple[Any, int]] = {}  # id(object) -> (weak reference, number)
_count = [0]
kinds: Dict[int, str] = {}  # number -> kind
_next = {"param": 0}
_params: Dict[int, Tuple[Any, int]] = {}
_by_number: Dict[int, Any] = {}  # parameter number -> weak reference
_written: Dict[int, Tuple[str, Optional[int]]] = {}  # parameter number -> name and owner as last written
_places: Dict[int, Tuple[Any, Any, str]] = {}  # id(child) -> (weak child, weak parent, name): parameters and submodules
_built: Dict[int, Tuple[Any, Tuple[int, ...]]] = {}  # id(module) -> (weak module, stack of its construction)


def _weak(item: Any, table: Dict[int, Any]) -> Any:
    """A weak reference that removes the entry of `id(item)` with the object."""
    key = id(item)
    return weakref.ref(item, lambda _, pop=table.pop: pop(key, None))  # type: ignore[misc]


def ident(item: Any) -> Optional[int]:
    """The number of a followed object, or None."""
    entry = _ids.get(id(item))
    return entry[1] if entry is not None and entry[0]() is item else None


def alias(item: Any, number: int) -> None:
    """An object that stands for another: a framework's wrapper around an optimizer."""
    _ids[id(item)] = (_weak(item, _ids), number)


def add(
    item: Any,
    kind: str,
    site: int,
    arguments: Optional[Dict[str, Any]] = None,
    params: Optional[List[int]] = None,
    partners: Iterable[Optional[int]] = (),
    **more: Any
) -> int:
    """Follow an object: write it and its `make` event. Its number is returned; an object known already keeps its own."""
    from . import events, values

    known = ident(item)
    if known is not None:
        return known
    with state.run.lock:
        _count[0] += 1
        number = _count[0]
        _ids[id(item)] = (_weak(item, _ids), number)
        kinds[number] = kind
    fields = {
        "k": "thing",
        "id": number,
        "kind": kind,
        "type": values.name_of(type(item)),
        "bases": [values.name_of(k) for k in type(item).__mro__[1:-1]],
        "site": site,
        "t": round(state.now(), 6),
        "arguments": arguments or {},
        "params": params or [],
        "partners": [p for p in partners if p is not None],
    }
    fields.update(more)
    writer.line(fields)
    events.write("make", number, site=site)
    return number


# ---- parameters ---------------------------------------------------------------------------------------------------------------------


def param(item: Any) -> int:
    """The number of a parameter, written out when it is new."""
    entry = _params.get(id(item))
    if entry is not None and entry[0]() is item:
        return entry[1]
    with state.run.lock:
        _next["param"] += 1
        number = _next["param"]
        reference = _weak(item, _params)
        _params[id(item)] = (reference, number)
        _by_number[number] = reference
    name, top = name_of(item)
    _write_param(number, item, name, None if top is None else ident(top))
    return number


def known_param(item: Any) -> Optional[int]:
    """The number of a parameter met before."""
    entry = _params.get(id(item))
    return entry[1] if entry is not None and entry[0]() is item else None


def parameter(number: int) -> Any:
    """The parameter of a number while it lives."""
    reference = _by_number.get(number)
    return None if reference is None else reference()


def all_params() -> List[Tuple[int, Any]]:
    """Every living parameter met so far."""
    out = []
    for number, reference in list(_by_number.items()):
        item = reference()
        if item is not None:
            out.append((number, item))
    return out


def with_gradient() -> List[int]:
    """The numbers of those that have a gradient now."""
    out = []
    for number, reference in list(_by_number.items()):
        item = reference()
        # a tensor that is no leaf warns when it is asked for its gradient
        if item is not None and item.is_leaf and item.grad is not None:
            out.append(number)
    return out


def _write_param(number: int, item: Any, name: str, owner: Optional[int]) -> None:
    if _written.get(number) == (name, owner):
        return
    _written[number] = (name, owner)
    writer.line(
        {
            "k": "param",
            "id": number,
            "name": name,
            "owner": owner,
            "numel": item.numel(),
            "shape": list(item.shape),
            "dtype": str(item.dtype).replace("torch.", ""),
            "requires_grad": bool(item.requires_grad),
        }
    )


def own(module: Any, number: int) -> List[int]:
    """The numbers of a root module's parameters, written again where their name or owner became known by it."""
    out = []
    for name, item in module.named_parameters():
        known = param(item)
        written = _written.get(known)
        if written is None or written[1] is None or not written[0]:
            _write_param(known, item, name, number)
        out.append(known)
    return out


# ---- where a parameter or module sits -----------------------------------------------------------------------------------------------


def placed(parent: Any, name: str, child: Any) -> None:
    """Note that a module got a parameter or submodule."""
    if child is not None:
        _places[id(child)] = (_weak(child, _places), weakref.ref(parent), name)


def name_of(item: Any) -> Tuple[str, Any]:
    """The dotted name of a parameter or module below its outermost module, and that module."""
    names: List[str] = []
    top = None
    for _ in range(200):
        entry = _places.get(id(item))
        if entry is None or entry[0]() is not item:
            break
        parent = entry[1]()
        if parent is None:
            break
        names.append(entry[2])
        item = top = parent
    return ".".join(reversed(names)), top


def built(module: Any) -> None:
    """Remember where a module is being made: the frame behind those of its own constructors."""
    if id(module) in _built:
        return
    frame = sys._getframe(1)
    while frame is not None and not sites.visible(frame):
        frame = frame.f_back  # type: ignore[assignment]
    while frame is not None and frame.f_code.co_name == "__init__" and _first_local(frame) is module:
        frame = frame.f_back  # type: ignore[assignment]
    _built[id(module)] = (_weak(module, _built), sites.stack(frame))


def _first_local(frame: Any) -> Any:
    names = frame.f_code.co_varnames
    return frame.f_locals.get(names[0]) if frame.f_code.co_argcount and names else None


def making_site(module: Any) -> Optional[int]:
    """The site at which a module was made, when that was seen."""
    entry = _built.get(id(module))
    return sites.of(entry[1]) if entry is not None and entry[0]() is module and entry[1] else None


def top_of(module: Any) -> Any:
    """The outermost module that holds this one, or itself."""
    return name_of(module)[1] or module


def root_number(module: Any) -> Optional[int]:
    """The number of the nearest followed module at or above this one."""
    for _ in range(200):
        number = ident(module)
        if number is not None:
            return number
        entry = _places.get(id(module))
        parent = entry[1]() if entry is not None and entry[0]() is module else None
        if parent is None:
            return None
        module = parent
    return None
