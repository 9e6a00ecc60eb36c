"""What code that is not walked makes of a loss: a mean, a sum over the samples, or a mean times their number."""

from __future__ import annotations

import ast
from collections.abc import Iterator

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def reduction_of(node: ast.AST) -> frozenset[str]:
    """The tags of a loss that comes out of this function or class: "sum", "weighted", or none where it is a mean as far as can be told."""
    functions = [n for n in getattr(node, "body", ()) if isinstance(n, FunctionNode)] if isinstance(node, ast.ClassDef) else [node]
    functions = [n for n in functions if isinstance(n, FunctionNode)]
    return frozenset(tag for tag, holds in (("sum", sums), ("weighted", weighs)) if any(holds(n) for n in functions))


def sums(function: FunctionNode) -> bool:
    """Some call asks for the sum of a loss (`reduction="sum"`), or for what is not known here."""
    spec = function.args
    positional = zip([*spec.posonlyargs, *spec.args][::-1], spec.defaults[::-1], strict=False)
    defaults = {a.arg: d for a, d in (*positional, *zip(spec.kwonlyargs, spec.kw_defaults, strict=True))}
    for call in ast.walk(function):
        for keyword in call.keywords if isinstance(call, ast.Call) else ():
            if keyword.arg not in ("reduction", "size_average"):
                continue
            value = defaults.get(keyword.value.id, keyword.value) if isinstance(keyword.value, ast.Name) else keyword.value
            if not isinstance(value, ast.Constant) or value.value in ("sum", False):
                return True
    return False


def weighs(function: FunctionNode) -> bool:
    """What it returns is multiplied by the number of samples (`return loss * batch_size`, `loss *= len(images)`)."""
    sizes = {
        target.id
        for n in ast.walk(function)
        if isinstance(n, ast.Assign) and counts_samples(n.value)
        for target in n.targets
        if isinstance(target, ast.Name)
    }
    returned = {n.id for r in returns(function) for n in ast.walk(r) if isinstance(n, ast.Name)}
    products: list[ast.AST] = [n for r in returns(function) for n in ast.walk(r)]
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id in returned for t in node.targets):
            products.extend(ast.walk(node.value))
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id in returned:
            products.append(ast.BinOp(node.target, node.op, node.value))
    factors = (f for n in products if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Mult) for f in (n.left, n.right))
    return any(counts_samples(f) or (isinstance(f, ast.Name) and f.id in sizes) for f in factors)


def returns(function: FunctionNode) -> Iterator[ast.expr]:
    for node in ast.walk(function):
        if isinstance(node, ast.Return) and node.value is not None:
            yield node.value


def counts_samples(node: ast.expr) -> bool:
    """`x.shape[0]`, `x.size(0)`, `len(x)`."""
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name):
            return node.func.id == "len"
        first = node.args[0] if len(node.args) == 1 else None
        return isinstance(node.func, ast.Attribute) and node.func.attr == "size" and isinstance(first, ast.Constant) and first.value == 0
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr == "shape":
        return isinstance(node.slice, ast.Constant) and node.slice.value == 0
    return False
