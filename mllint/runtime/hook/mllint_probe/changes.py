"""What one optimizer step changed: samples of the parameters from before, the gradients' norms, and one reading of the device."""

from typing import Any, Dict, List, Optional, Set, Tuple

from . import state, things

SAMPLE = 1024
WIDTH = 16  # values of a sample that lie side by side: each row costs one access to far memory
TOTAL = 1 << 18  # sampled values over all parameters
SIDE_BY_SIDE = 1 << 18  # gradients of no more values than this are laid side by side
LARGEST = 1 << 26  # a tensor above this is not compared in full

_proven: Set[Any] = set()  # parameters seen to change once: an equal sample says nothing any more
_suspect: Set[Any] = set()  # parameters whose sample stayed equal: compared in full at the next step

_BITS = {1: "int8", 2: "int16", 4: "int32", 8: "int64"}


class _Plan:
    """How the parameters of an optimizer are read: the same at each step, so worked out once. It holds numbers, no tensors."""

    def __init__(self, items: List[Any]) -> None:
        self.numbers = [things.param(item) for item in items]
        self.groups: Dict[Any, _Group] = {}
        share = max(32, min(SAMPLE, TOTAL // max(1, len(items))))
        for index, item in enumerate(items):
            if not _readable(item):
                continue
            group = self.groups.setdefault((item.device, item.dtype), _Group(_BITS[item.element_size()]))
            if item.numel() <= share:
                group.small.append(index)
                group.small_sizes.append(item.numel())
            else:
                rows, step, dense = _geometry(item, share)
                group.large.append((index, rows, step if dense else 0, item.numel()))
        for group in self.groups.values():
            group.finish(self.numbers)


class _Group:
    """Parameters of one device and type: small ones are copied whole, of large ones a sample."""

    def __init__(self, bits: str) -> None:
        self.bits = bits
        self.small: List[int] = []
        self.small_sizes: List[int] = []
        self.large: List[Tuple[int, int, int, int]] = []  # index, rows of the sample, their distance (0: not evenly stored), values
        self.names: List[int] = []
        self.ends: List[int] = []

    def finish(self, numbers: List[int]) -> None:
        """Where the values of each parameter end when all are laid side by side."""
        total = 0
        sizes = self.small_sizes + [rows * WIDTH for _, rows, _, _ in self.large]
        for size in sizes:
            total += size
            self.ends.append(total - 1)
        self.names = [numbers[i] for i in self.small] + [numbers[entry[0]] for entry in self.large]


_plans: Dict[int, Tuple[Tuple[int, ...], _Plan]] = {}


def _plan(number: int, items: List[Any]) -> _Plan:
    key = tuple(map(id, items))
    known = _plans.get(number)
    if known is None or known[0] != key:
        known = _plans[number] = (key, _Plan(items))
    return known[1]


class Before:
    """The state of an optimizer's parameters before a step. It lives for the length of the step only."""

    def __init__(self, optimizer: Any, number: int) -> None:
        torch = state.torch()
        self.lr = [_number(g.get("lr")) for g in optimizer.param_groups]
        self.momentum = _momentum(optimizer.param_groups)
        self.items: List[Any] = []
        rates: List[float] = []
        for group, lr in zip(optimizer.param_groups, self.lr):
            members = [p for p in group["params"] if hasattr(p, "grad")]
            self.items.extend(members)
            rates.extend([1.0 if lr is None else lr] * len(members))
        self.plan = _plan(number, self.items)
        self.rates = dict(zip(self.plan.numbers, rates))
        self.views: Dict[Any, List[Any]] = {}
        self.copies: Dict[Any, Any] = {}
        self.whole: Dict[int, Any] = {}
        with torch.no_grad():
            for key, group in self.plan.groups.items():
                self.views[key] = [self._view(entry) for entry in group.large]
                self.copies[key] = self._together(torch, group, self.views[key])
            if _suspect:
                for name, item in self.params():
                    if name in _suspect and _readable(item) and item.numel() <= LARGEST:
                        self.whole[name] = item.detach().clone()

    def params(self) -> List[Tuple[int, Any]]:
        """The parameters with their numbers."""
        return list(zip(self.plan.numbers, self.items))

    def _view(self, entry: Tuple[int, int, int, int]) -> Any:
        index, rows, step, count = entry
        item = self.items[index]
        if item.numel() != count:
            raise ValueError("a parameter changed its size")
        flat = item if step else item.detach().reshape(-1)
        return flat.as_strided((rows, WIDTH), (step or count // rows, 1))

    def _together(self, torch: Any, group: _Group, views: List[Any]) -> Any:
        """All values of a group side by side, copied."""
        parts = [torch.cat(views).reshape(-1)] if views else []
        if group.small:
            parts.insert(0, torch._C._nn.flatten_dense_tensors([self.items[i] for i in group.small]))
        # a single tensor flattens to itself, and what is kept must be a copy
        return torch.cat(parts) if len(parts) > 1 or views else parts[0].clone()

    def after(self, torch: Any) -> Tuple[List[int], List[Any]]:
        """Which parameters certainly changed, and counts of changed values still on their devices: `(numbers, tensor)` pairs."""
        certain: List[int] = []
        counts: List[Any] = []
        with torch.no_grad():
            for key, group in self.plan.groups.items():
                views = self.views[key]
                for position, (entry, view) in enumerate(zip(group.large, views)):
                    if not entry[2] or self.items[entry[0]].data_ptr() != view.data_ptr():
                        views[position] = self._view(entry)  # the values lie elsewhere now
                bits = getattr(torch, group.bits)
                old, new = self.copies[key].view(bits), self._together(torch, group, views).view(bits)
                apart = (new != old).cumsum(0)
                counts.append((group.names, apart[torch.tensor(group.ends, device=apart.device)]))
            for name, item in self.params() if self.whole else ():
                old = self.whole.get(name)
                if old is not None and old.shape == item.shape and not torch.equal(old, item.detach()):
                    certain.append(name)
        return certain, counts

    def forget(self) -> None:
        """Let go of every tensor."""
        self.items, self.views, self.copies, self.whole = [], {}, {}, {}


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


def _geometry(item: Any, share: int) -> Tuple[int, int, bool]:
    """How many rows of values to take, how far apart, and whether the memory of the tensor is without holes."""
    count = item.numel()
    rows = max(1, min(share, count) // WIDTH)
    extent = 1 + sum((length - 1) * stride for length, stride in zip(item.shape, item.stride()))
    return rows, count // rows, extent == count


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

    def __init__(self, params: List[Tuple[int, Any]]) -> None:
        torch = state.torch()
        self.none: List[int] = []
        self.parts: List[Tuple[List[int], Any]] = []
        groups: Dict[Any, Tuple[List[int], List[Any]]] = {}
        with torch.no_grad():
            for number, item in params:
                grad = item.grad
                if grad is None:
                    self.none.append(number)
                    continue
                if grad.layout is not torch.strided:
                    grad = grad._values() if grad.is_sparse else grad.to_dense()
                if type(grad) is torch.Tensor:
                    numbers, grads = groups.setdefault((grad.device, grad.dtype), ([], []))
                    numbers.append(number)
                    grads.append(grad)
            for (device, dtype), (numbers, grads) in groups.items():
                if device.type in ("cpu", "cuda"):
                    self.parts.append((numbers, _norms(torch, device, dtype, grads)))


def _norms(torch: Any, device: Any, dtype: Any, grads: List[Any]) -> Any:
    if device.type == "cpu" and dtype is torch.float32 and hasattr(torch, "segment_reduce"):
        sizes = [g.numel() for g in grads]
        if sum(sizes) <= SIDE_BY_SIDE and all(sizes):
            # one pass over all: many small tensors cost more in calls than in arithmetic
            flat = torch._C._nn.flatten_dense_tensors([g.detach() for g in grads]).double()
            return torch.segment_reduce(flat * flat, "sum", lengths=torch.tensor(sizes), unsafe=True).sqrt()
    if dtype in (torch.float32, torch.float64):
        norms = torch._foreach_norm(grads, 2.0)
    else:
        try:
            # half precision overflows where the gradient does not
            norms = torch._foreach_norm(grads, 2.0, dtype=torch.float32)
        except TypeError:
            norms = [torch.linalg.vector_norm(g, 2.0, dtype=torch.float32) for g in grads]
    return torch.stack(list(norms)).detach().float()
