"""The number a plateau schedule can watch, where exactly one variable of the epoch can be it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from mllint.flow.anchors import FUNCTIONS, Line, Spot, names_read
from mllint.model.history import Thing

#: Words in the name of a value, or of the function it comes from, that say it was measured on held-out data.
HELD_OUT = frozenset(("val", "valid", "validation", "validate", "dev", "eval", "evaluate", "evaluation"))
#: Words that say whether less or more of it is better.
LESS = frozenset(("loss", "error", "err", "nll", "mse", "mae", "rmse", "ppl", "perplexity", "wer", "cer"))
MORE = frozenset(
    ("acc", "accuracy", "f1", "auc", "auroc", "score", "iou", "miou", "dice", "precision", "recall", "bleu", "psnr", "ssim", "r2")
)


@dataclass(frozen=True, slots=True)
class Metric:
    """The expression, and the statement behind which it has its value."""

    text: str
    line: Line


def words(name: str) -> frozenset[str]:
    """The words a name is made of: `valLoss`, `val_loss`."""
    return frozenset(w.lower() for w in re.findall(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+", name))


def metric_in(spot: Spot, owner: ast.AST, trained: Line, scheduler: Thing) -> Metric | None:
    """The only variable given a value in a turn of the loop, behind the training, that can be what the schedule watches."""
    mode = scheduler.arguments.get("mode")
    if mode is not None and mode.constant not in ("min", "max"):
        return None
    wanted = LESS if mode is None or mode.constant == "min" else MORE
    body = getattr(owner, "body", [])
    found: dict[str, list[tuple[Line, ast.expr | None]]] = {}
    for line, target, value in _given(owner, body):
        name = ast.unparse(target)
        measured = words(name) | (_callee(value) if not words(name) & {"train", "training"} else frozenset())
        if measured & HELD_OUT and words(name) & wanted:
            found.setdefault(name, []).append((line, value))
    for name in list(found):  # `val_loss / len(loader)` speaks for `val_loss`
        sources = frozenset().union(*(names_read(v) for n, rows in found.items() if n != name for _, v in rows if v is not None))
        if name in sources:
            del found[name]
    if len(found) != 1:
        return None
    ((name, rows),) = found.items()
    blocks = {id(line.block) for line, _ in rows}
    last = max((line for line, _ in rows), key=lambda line: line.index)
    if len(blocks) != 1 or (last.block is trained.block and last.index <= trained.index):
        return None
    return Metric(name, last)


def _given(owner: ast.AST, block: list[ast.stmt]) -> Iterator[tuple[Line, ast.expr, ast.expr | None]]:
    """Names and attributes the block gives values, with the statement of the block they have them behind.

    A value built up in an inner loop is there behind that loop; one that only an arm sets is there in that arm.
    """
    for index, statement in enumerate(block):
        line = Line(owner, block, index)
        if isinstance(statement, ast.If):
            yield from _given(statement, statement.body)
            yield from _given(statement, statement.orelse)
            continue
        stack: list[ast.AST] = [statement]
        while stack:
            node = stack.pop()
            if isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.Lambda)):
                continue
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    inner = target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]
                    yield from ((line, t, node.value) for t in inner if isinstance(t, (ast.Name, ast.Attribute)))
            elif isinstance(node, (ast.AugAssign, ast.AnnAssign)) and isinstance(node.target, (ast.Name, ast.Attribute)):
                yield line, node.target, node.value
            stack.extend(ast.iter_child_nodes(node))


def _callee(value: ast.expr | None) -> frozenset[str]:
    """The words of the function a value comes from."""
    match value:
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)):
            return words(name)
    return frozenset()
