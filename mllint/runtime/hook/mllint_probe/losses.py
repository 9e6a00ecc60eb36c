"""Loss functions: what they are given, what they return, and that note on the graph by which a total is known to contain them."""

from typing import Any, Callable, Dict, Optional

from . import events, graph, learning, patching, readings, retained, sites, state, steps

NAMES = (
    "cross_entropy",
    "nll_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "mse_loss",
    "l1_loss",
    "smooth_l1_loss",
    "huber_loss",
    "kl_div",
    "hinge_embedding_loss",
    "margin_ranking_loss",
    "triplet_margin_loss",
    "cosine_embedding_loss",
    "ctc_loss",
    "poisson_nll_loss",
    "gaussian_nll_loss",
    "soft_margin_loss",
    "multi_margin_loss",
    "multilabel_soft_margin_loss",
)
#: Operations that change the shape or the type of what they are given and nothing else.
SHAPING = ("Squeeze", "Unsqueeze", "View", "ReshapeAlias", "UnsafeView", "Transpose", "Permute", "T", "ToCopy", "Clone", "Alias", "Slice")
LOOKS = 3  # times the input is looked at, for each site
ROWS = 32

_originals: Dict[str, Callable] = {}
_looked: Dict[int, int] = {}


def install() -> None:
    """Attach to the functions; the loss modules look them up through torch.nn.functional."""
    torch = state.torch()
    functional = torch.nn.functional
    for name in NAMES:
        if hasattr(functional, name):
            patching.function([functional], name, _maker(name))
    # a scripted function is compiled from its source, which must be torch's
    for owner in (torch.jit,):
        for name in ("script", "trace"):
            setattr(owner, name, patching.plain(getattr(owner, name)))


def _maker(name: str) -> Callable[[Callable], Callable]:
    def before(args: Any, kwargs: Any) -> Optional[int]:
        if state.thread.losses:
            return None
        state.thread.losses = 1
        return sites.here()

    def after(site: int, args: Any, kwargs: Any, result: Any, failed: bool) -> None:
        state.thread.losses = 0
        if not failed:
            _write(name, site, args, kwargs, result)

    def make(original: Callable) -> Callable:
        _originals[name] = original
        return patching.observed(original, state.guarded(before), state.guarded(after))

    return make


def _write(name: str, site: int, args: Any, kwargs: Any, result: Any) -> None:
    torch = state.torch()
    given = args[0] if args else kwargs.get("input")
    if not isinstance(given, torch.Tensor) or not isinstance(result, torch.Tensor):
        return
    reduction = kwargs.get("reduction", _positional(name, args))
    training = result.requires_grad
    number, pending = readings.number(result)
    if training:
        steps.component(name, number, pending)
        if state.run.options["examples"]:
            _first_of_the_batch(name, args, kwargs)
    if not events.room():
        return
    observed: Dict[str, Any] = {"value": number, "requires_grad": training}
    observed["maker"] = _maker_of(given)
    if _looked.get(site, 0) < LOOKS:
        _looked[site] = _looked.get(site, 0) + 1
        target = args[1] if len(args) > 1 else kwargs.get("target")
        observed.update(_look(name, given.detach(), target))
    event = events.write("loss", None, site, {"function": name, "reduction": reduction, "shape": list(given.shape)[:8]}, observed)
    if pending is not None:
        readings.later(event, "value", pending)
    notes = graph.metadata(result)
    if notes is not None:
        notes["loss"] = {"n": event, "function": name, "reduction": reduction}
        retained.watch(result, None, site)


def _maker_of(given: Any) -> Optional[str]:
    """The operation whose values these are; operations that change the shape or the type alone are looked through."""
    node = given.grad_fn
    for _ in range(8):
        if node is None or node.name().partition("Backward")[0] not in SHAPING or not node.next_functions:
            break
        before = node.next_functions[0][0]
        if before is None or before.name().startswith("torch::autograd"):
            break
        node = before
    return node.name() if node is not None else None


def _first_of_the_batch(name: str, args: Any, kwargs: Any) -> None:
    """Note the first examples of the first batch since the last step; the very first one is followed."""
    given = args[0] if args else kwargs.get("input")
    target = args[1] if len(args) > 1 else kwargs.get("target")
    if name not in _EACH or not isinstance(target, state.torch().Tensor) or not given.dim():
        return
    more = {k: v for k, v in kwargs.items() if k in ("weight", "ignore_index", "label_smoothing", "pos_weight")}
    first = learning.loss(name, given, target, more)
    if steps.examples is None:
        # A step with a closure computes the first loss after it was looked at, so that this is the row of the first step.
        steps.examples = {**each(name, given, target, more), **({"followed": True} if first else {})}


def each(name: str, given: Any, target: Any, more: Dict[str, Any]) -> Dict[str, Any]:
    """Loss, prediction and target of the first examples, each computed for itself by the same function without its reduction."""
    torch = state.torch()
    count = int(state.run.options["examples"])
    with torch.no_grad():
        given, target = given.detach()[:count], target.detach()[:count]
        loss = _originals[name](given, target, reduction="none", **more)
        loss = loss.reshape(loss.shape[0], -1).float().mean(1)
        if name in ("cross_entropy", "nll_loss"):
            shown = given.argmax(1)
            target = target.argmax(1) if target.shape == given.shape else target
        else:
            shown = torch.sigmoid(given) if name.endswith("with_logits") else given
    return {"loss": loss.tolist(), "prediction": _first_values(shown), "target": _first_values(target)}


_EACH = ("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "mse_loss", "l1_loss", "smooth_l1_loss")


def _first_values(item: Any) -> Any:
    """One number for each example, or the first few where an example has many."""
    rows = item.reshape(item.shape[0], -1)[:, :8]
    return rows[:, 0].tolist() if rows.shape[1] == 1 else rows.tolist()


def _positional(name: str, args: Any) -> str:
    """The reduction given by position, or the default. kl_div and the pair losses take it last, all as a word."""
    for item in args[2:]:
        if isinstance(item, str) and item in ("none", "mean", "sum", "batchmean"):
            return item
    return "mean"


def _look(name: str, given: Any, target: Any) -> Dict[str, Any]:
    """What the values of the input say: probabilities, log-probabilities, or neither. A few rows tell."""
    torch = state.torch()
    if not given.is_floating_point() or given.numel() == 0 or type(given) not in (torch.Tensor, torch.nn.Parameter):
        return {}
    with torch.no_grad():
        rows = _rows(given).float()
        parts = [rows.min(), rows.max()]
        if rows.dim() == 2 and rows.shape[1] > 1:
            parts += [(rows.sum(1) - 1).abs().max(), torch.logsumexp(rows, 1).abs().max()]
        low, high, *sums = torch.stack(parts).tolist()
    out: Dict[str, Any] = {"minimum": low, "maximum": high, "nonnegative": low >= 0, "sums_to_one": False, "log_probabilities": False}
    if sums:
        out["sums_to_one"] = bool(low >= 0 and sums[0] < 1e-3)
        out["log_probabilities"] = bool(high <= 1e-6 and sums[1] < 1e-3)
    out["out_of_range"] = _out_of_range(name, low, high, target)
    return out


def _rows(given: Any) -> Any:
    """Some rows with the classes along the second dimension."""
    if given.dim() > 2:
        given = given[:4].movedim(1, -1).reshape(-1, given.shape[1])
    return given[:ROWS] if given.dim() == 2 else given.reshape(-1)[: ROWS * 64]


def _out_of_range(name: str, low: float, high: float, target: Any) -> bool:
    """The input, or the target of a binary loss, lies where the function does not expect it."""
    if name == "nll_loss":
        return bool(high > 1e-6)
    if name.startswith("binary_cross_entropy"):
        torch = state.torch()
        if isinstance(target, torch.Tensor) and target.numel() and target.is_floating_point():
            ends = torch.stack([target.min(), target.max()]).tolist()
            return bool(ends[0] < 0 or ends[1] > 1)
    return False
