"""Numbers that lie on a device. They are read together, once after each optimizer step, so that nobody waits for the device more often."""

from typing import Any, Dict, List, Optional, Tuple

from . import state, writer

_waiting: List[Tuple[int, str, Any]] = []
#: The loss of the latest backward pass: its number, or the number still on its device.
loss: Tuple[Optional[float], Any] = (None, None)


def number(item: Any) -> Tuple[Optional[float], Any]:
    """The number of a one-element tensor when reading it is free, else the detached tensor to be read later."""
    torch = state.torch()
    if not isinstance(item, torch.Tensor):
        return (float(item), None) if isinstance(item, (int, float)) else (None, None)
    if item.numel() != 1 or item.is_complex():
        return None, None
    item = item.detach()
    if type(item) is not torch.Tensor:
        return None, None
    if item.device.type == "cpu":
        return float(item), None
    return None, item.clone()


def later(event: int, name: str, item: Any, needed: bool = False) -> None:
    """Read a number of an event with the next step and write it as a `reading` line; at once when there may be no step."""
    _waiting.append((event, name, item))
    if needed or len(_waiting) > 200:
        flush([])


def flush(also: List[Any]) -> List[List[float]]:
    """Read everything that waits, and these tensors; one wait for each device."""
    torch = state.torch()
    waiting = _waiting[:]
    del _waiting[: len(waiting)]
    tensors = [item for _, _, item in waiting] + also
    out: List[List[float]] = [[] for _ in tensors]
    places: Dict[Any, List[int]] = {}
    for index, item in enumerate(tensors):
        places.setdefault(item.device, []).append(index)
    with torch.no_grad():
        for indices in places.values():
            flat = torch.cat([tensors[i].detach().reshape(-1).double() for i in indices]).tolist()
            start = 0
            for i in indices:
                end = start + tensors[i].numel()
                out[i] = flat[start:end]
                start = end
    for (event, name, _), numbers in zip(waiting, out):
        writer.line({"k": "reading", "n": event, "name": name, "value": numbers[0]})
    return out[len(waiting) :]
