"""Reading the autograd graph: which parameters a loss reaches, what it was divided by, which loss functions lie under it."""

import weakref
from typing import Any, Dict, List, Optional, Tuple

from . import things

KEY = "mllint"
NODES = 50000
#: Nodes a loss passes unchanged in meaning: shape, type and averaging.
THROUGH = ("Mean", "Sum", "View", "Unsqueeze", "Squeeze", "ToCopy", "Clone", "Neg", "Reshape", "Select", "Alias", "Expand", "NanToNum")


class Found:
    """What lies under the root of a backward pass; `reached` is None when the graph was too large to read."""

    def __init__(self) -> None:
        self.reached: Optional[List[int]] = None
        self.losses: List[Dict[str, Any]] = []
        self.divided = False
        self.divisor: Optional[float] = None


def metadata(tensor: Any) -> Optional[Dict[str, Any]]:
    """Our notes on the node that made a tensor; they die with the graph."""
    node = getattr(tensor, "grad_fn", None)
    if node is None:
        return None
    notes: Optional[Dict[str, Any]] = node.metadata.get(KEY)
    if notes is None:
        notes = node.metadata[KEY] = {}
    return notes


def notes_of(node: Any) -> Dict[str, Any]:
    """Our notes on a node, empty when there are none."""
    return node.metadata.get(KEY) or {}


def walk(roots: List[Any]) -> Found:
    """Everything under these tensors."""
    found = Found()
    stack = [t.grad_fn for t in roots if t.grad_fn is not None]
    found.divided, found.divisor = _division(stack[0], 0) if stack else (False, None)
    seen = set(stack)
    reached = [things.known_param(t) for t in roots if t.grad_fn is None]
    while stack:
        node = stack.pop()
        if hasattr(node, "variable"):
            reached.append(things.param(node.variable) if _is_parameter(node.variable) else things.known_param(node.variable))
            continue
        loss = notes_of(node).get("loss")
        if loss is not None:
            found.losses.append(loss)
        for child, _ in node.next_functions:
            if child is not None and child not in seen:
                seen.add(child)
                stack.append(child)
        if len(seen) > NODES:
            return found
    found.reached = sorted({n for n in reached if n is not None})
    return found


def _is_parameter(item: Any) -> bool:
    return type(item).__name__ == "Parameter" or getattr(item, "_is_param", False) is True


def _division(node: Any, depth: int) -> Tuple[bool, Optional[float]]:
    """Between the root and the loss functions every way goes through a division or a product with something that has no gradient."""
    notes = notes_of(node)
    if "loss" in notes or depth > 30:
        return False, None
    name = node.name()
    children = [child for child, _ in node.next_functions if child is not None]
    if name.startswith(("DivBackward", "MulBackward")) and len(children) == 1 and not notes.get("scaled"):
        return True, _divisor(node, name.startswith("Div"))
    if name.startswith(("AddBackward", "SubBackward", "StackBackward", "CatBackward")) and children:
        below = [_division(child, depth + 1) for child in children]
        numbers = {number for _, number in below}
        return all(divided for divided, _ in below), numbers.pop() if len(numbers) == 1 else None
    if len(children) == 1 and (name.startswith(THROUGH) or name.startswith(("Div", "Mul"))):
        return _division(children[0], depth + 1)
    return False, None


def _divisor(node: Any, divides: bool) -> Optional[float]:
    for attribute in ("_saved_other", "_saved_self"):
        try:
            number = getattr(node, attribute)
        except (AttributeError, RuntimeError):  # freed, or not kept because nothing needs it
            continue
        if hasattr(number, "numel"):
            if number.numel() != 1 or number.device.type != "cpu":
                continue
            number = number.item()
        if isinstance(number, (int, float)) and number:
            return float(number) if divides else 1.0 / number
    return None


class Sentinel:
    """Lies in a node's metadata: alive as long as the graph is."""

    __slots__ = ("__weakref__",)


def watch(tensor: Any) -> Any:
    """A weak reference that dies with the graph of a tensor, or None when there is none or it is watched already."""
    notes = metadata(tensor)
    if notes is None or "sentinel" in notes:
        return None
    sentinel = notes["sentinel"] = Sentinel()
    return weakref.ref(sentinel)
