"""What one optimizer step changed: samples of the parameters from before, the gradients' norms, and one reading of the device."""

from typing import Any, Dict, List, Optional, Set, Tuple

from . import state, things

SAMPLE = 1024
TOTAL = 1 << 18  # sampled values over all parameters
LARGEST = 1 << 26  # a tensor above this is not compared in full

_proven: Set[Any] = set()  # parameters seen to change once: an equal sample says nothing any more
_suspect: Set[Any] = set()  # parameters whose sample stayed equal: compared in full at the next step

_BITS = {1: "int8", 2: "int16", 4: "int32", 8: "int64"}


class Before:
    """The state of an optimizer's parameters before a step. It lives for the length of the step only."""

    def __init__(self, optimizer: Any, number: int) -> None:
        torch = state.torch()
        self.lr = [_number(g.get("lr")) for g in optimizer.param_groups]
        self.momentum = _momentum(optimizer.param_groups)
        self.params: List[Tuple[int, Any, float]] = []  # number, parameter, its learning rate
        for group, lr in zip(optimizer.param_groups, self.lr):
            for item in group["params"]:
                if hasattr(item, "grad"):
                    self.params.append((things.param(item), item, lr if lr is not None else 1.0))
        self.samples: Dict[Any, List[Tuple[int, Any, Any, int]]] = {}  # device and type -> number, parameter, view, address
        self.copies: Dict[Any, Any] = {}
        self.whole: Dict[int, Any] = {}
        with torch.no_grad():
            self._sample(torch)

    def _sample(self, torch: Any) -> None:
        self.share = share = max(32, min(SAMPLE, TOTAL // max(1, len(self.params))))
        for number, item, _ in self.params:
            if not _readable(item):
                continue
            data = item.data
            if number in _suspect and number not in _proven and data.numel() <= LARGEST:
                self.whole[number] = data.clone()
            entry = (number, item, _strided(data, share), data.data_ptr())
            self.samples.setdefault((data.device, data.dtype), []).append(entry)
        for key, entries in self.samples.items():
            self.copies[key] = torch.cat([view for _, _, view, _ in entries])

    def after(self, torch: Any) -> Tuple[List[int], List[Any]]:
        """Which parameters certainly changed, and counts of changed values still on their devices: `(numbers, tensor)` pairs."""
        certain: List[int] = []
        counts: List[Any] = []
        with torch.no_grad():
            for key, entries in self.samples.items():
                old = self.copies[key]
                new = torch.cat([self._again(item, view) for _, item, view, _ in entries])
                bits = getattr(torch, _BITS[new.element_size()])
                apart = (new.view(bits) != old.view(bits)).to(torch.int32).cumsum(0)
                ends, total = [], 0
                for _, _, view, _ in entries:
                    total += view.numel()
                    ends.append(total - 1)
                counts.append(([n for n, _, _, _ in entries], apart[torch.tensor(ends, device=apart.device)]))
                certain.extend(n for n, item, _, address in entries if item.data.data_ptr() != address)
            for number, item, _ in self.params:
                old = self.whole.get(number)
                if old is not None and old.shape == item.shape and not torch.equal(old, item.data):
                    certain.append(number)
        return certain, counts

    def _again(self, item: Any, view: Any) -> Any:
        """The view where it still shows the parameter's memory, else the sample taken anew."""
        data = item.data
        return view if view.data_ptr() == data.data_ptr() else _strided(data, self.share)

    def forget(self) -> None:
        """Let go of every tensor."""
        self.params, self.samples, self.copies, self.whole = [], {}, {}, {}


def judge(changed: List[int], equal: List[int]) -> List[int]:
    """Those of the equal ones that really stand still: one seen to change in full is taken to change where the sample misses it."""
    _proven.update(changed)
    _suspect.difference_update(changed)
    still = [n for n in equal if n not in _proven]
    _suspect.update(still)
    return still


def _readable(item: Any) -> bool:
    torch = state.torch()
    if type(item) is not torch.Tensor and type(item) is not torch.nn.Parameter:
        return False
    return item.layout is torch.strided and item.device.type in ("cpu", "cuda") and item.numel() > 0 and item.element_size() in _BITS


def _strided(data: Any, share: int) -> Any:
    """A flat view of evenly spaced values; where the memory has holes, a copy, which must be taken again after the step."""
    count = data.numel()
    step = max(1, count // share)
    size = min(share, (count + step - 1) // step)
    extent = 1 + sum((length - 1) * stride for length, stride in zip(data.shape, data.stride()))
    if extent == count:
        return data.as_strided((size,), (step,))
    return data.reshape(-1)[::step][:size]


def _number(item: Any) -> Optional[float]:
    if isinstance(item, (int, float)):
        return float(item)
    torch = state.torch()
    if isinstance(item, torch.Tensor) and item.numel() == 1 and item.device.type == "cpu":
        return float(item)
    return None


def _momentum(groups: List[Dict[str, Any]]) -> Optional[List[Optional[float]]]:
    out = []
    for group in groups:
        betas = group.get("betas")
        out.append(_number(group.get("momentum", betas[0] if isinstance(betas, (list, tuple)) and betas else None)))
    return out if any(m is not None for m in out) else None


class Norms:
    """The norm of each gradient, still on its device."""

    def __init__(self, params: List[Tuple[int, Any, float]]) -> None:
        torch = state.torch()
        self.none: List[int] = []
        self.parts: List[Tuple[List[int], Any]] = []
        groups: Dict[Any, Tuple[List[int], List[Any]]] = {}
        with torch.no_grad():
            for number, item, _ in params:
                grad = item.grad
                if grad is None:
                    self.none.append(number)
                    continue
                grad = grad.detach()
                if grad.layout is not torch.strided:
                    grad = grad._values() if grad.is_sparse else grad.to_dense()
                if type(grad) is torch.Tensor and grad.device.type in ("cpu", "cuda"):
                    numbers, grads = groups.setdefault((grad.device, grad.dtype), ([], []))
                    numbers.append(number)
                    grads.append(grad)
            for (_, dtype), (numbers, grads) in groups.items():
                self.parts.append((numbers, torch.stack(_norms(torch, dtype, grads)).float()))


def _norms(torch: Any, dtype: Any, grads: List[Any]) -> List[Any]:
    if dtype in (torch.float32, torch.float64):
        return list(torch._foreach_norm(grads, 2.0))
    try:
        # half precision overflows where the gradient does not
        return list(torch._foreach_norm(grads, 2.0, dtype=torch.float32))
    except TypeError:
        return [torch.linalg.vector_norm(g, 2.0, dtype=torch.float32) for g in grads]


