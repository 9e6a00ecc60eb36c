"""Arguments as the record writes them: small, finite, and read without calling anything of the program's."""

import inspect
from typing import Any, Callable, Dict, Optional

from . import state, things

SHORT = 200
ITEMS = 20


def name_of(kind: type) -> str:
    """The dotted name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def value(item: Any, depth: int = 0) -> Any:
    """The item in the record's form. A tensor's number is given only where reading it makes nobody wait for a device."""
    if item is None or isinstance(item, (bool, int, float)):
        return item if type(item) in (type(None), bool, int, float) else _plain(item)
    if isinstance(item, str):
        return str(item[:SHORT])
    known = things.ident(item)
    if known is not None:
        return {"thing": known}
    torch = state.torch()
    if isinstance(item, torch.Tensor):
        return {"tensor": tensor(item)}
    if isinstance(item, (torch.dtype, torch.device)):
        return str(item)
    if depth < 3:
        if isinstance(item, dict):
            return {str(k)[:SHORT]: value(v, depth + 1) for k, v in list(item.items())[:ITEMS]}
        if isinstance(item, (list, tuple, set, frozenset)):
            return [value(v, depth + 1) for v in list(item)[:ITEMS]]
    if inspect.isroutine(item) or isinstance(item, type):
        return {"call": "{}.{}".format(getattr(item, "__module__", ""), getattr(item, "__qualname__", ""))}
    return {"type": name_of(type(item))}


def _plain(item: Any) -> Any:
    if isinstance(item, bool):
        return bool(item)
    return int(item) if isinstance(item, int) else float(item)


def tensor(item: Any) -> Dict[str, Any]:
    """Shape and type of a tensor, and its number when it has one and lies in main memory."""
    shape = list(item.shape)
    number = None
    if item.numel() == 1 and item.device.type == "cpu" and not item.is_sparse:
        number = item.detach().item()
    return {
        "shape": shape,
        "dtype": str(item.dtype).replace("torch.", ""),
        "value": number if isinstance(number, (int, float)) else None,
        "requires_grad": bool(item.requires_grad),
    }


_signatures: Dict[int, Any] = {}


def bound(function: Callable, args: Any, kwargs: Any, skip: int = 0) -> Dict[str, Any]:
    """The arguments of a call by parameter name, defaults included, without the first `skip`."""
    signature = signature_of(function)
    if signature is None:
        return {**{str(i): value(a) for i, a in enumerate(args[skip:])}, **{k: value(v) for k, v in kwargs.items()}}
    try:
        call = signature.bind(*args, **kwargs)
    except TypeError:
        return {}
    call.apply_defaults()
    out: Dict[str, Any] = {}
    for number, (name, item) in enumerate(call.arguments.items()):
        if number < skip:
            continue
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            out.update({k: value(v) for k, v in item.items()})
        elif name not in ("params", "parameters"):
            out[name] = value(item)
    return out


def signature_of(function: Callable) -> Optional[inspect.Signature]:
    """The signature of a function, looked up once."""
    key = id(function)
    if key not in _signatures:
        try:
            found: Optional[inspect.Signature] = inspect.signature(function)
        except (TypeError, ValueError):
            found = None
        _signatures[key] = (function, found)
    return _signatures[key][1]
