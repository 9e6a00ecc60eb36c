"""Detectors of the topic data: what goes into training, and how it is compared."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from mllint.checks import each
from mllint.flow.lexical import CodeFile
from mllint.flow.loaders import DISTRIBUTED, sampled, unshuffled
from mllint.model.finding import Hit
from mllint.model.fix import AddImport, Fix, Replace

#: Not-a-number as libraries spell it, and the function of the same library that asks for it.
NAN = {
    "numpy.nan": "numpy.isnan", "numpy.NaN": "numpy.isnan", "numpy.NAN": "numpy.isnan", "torch.nan": "torch.isnan",
    "math.nan": "math.isnan", "cmath.nan": "cmath.isnan", "jax.numpy.nan": "jax.numpy.isnan",
}  # fmt: skip
#: What a function of these libraries gives may be an array, which `not` cannot turn.
OF_ARRAYS = ("numpy", "torch", "jax.numpy")


@each(CodeFile)
def nan_comparison(code: CodeFile) -> Iterator[Hit]:
    for compare in code.all(ast.Compare):
        operands = [compare.left, *compare.comparators]
        for number, operator in enumerate(compare.ops):
            left, right = operands[number], operands[number + 1]
            found = meant(code, left, right) if isinstance(operator, (ast.Eq, ast.NotEq)) else None
            if isinstance(operator, (ast.In, ast.NotIn)):
                found = next(((nan, left) for nan in (left, *listed(right)) if asks(code, nan)), None)
            if found is None:
                continue
            answer = "true" if isinstance(operator, (ast.NotEq, ast.NotIn)) else "false"
            fix = asked_rightly(code, compare, *found) if len(compare.ops) == 1 and isinstance(operator, (ast.Eq, ast.NotEq)) else None
            yield Hit(code.span(compare), f"a comparison with `{code.text(found[0])}` is always {answer}: nan equals nothing", fix=fix)
            break


def meant(code: CodeFile, left: ast.expr, right: ast.expr) -> tuple[ast.expr, ast.expr] | None:
    """The side that is nan, and the other."""
    if asks(code, right):
        return right, left
    return (left, right) if asks(code, left) else None


def listed(node: ast.expr) -> list[ast.expr]:
    return list(node.elts) if isinstance(node, (ast.List, ast.Tuple, ast.Set)) else []


def asks(code: CodeFile, node: ast.expr) -> str | None:
    """The function that asks for the nan an expression stands for; None for what is no nan."""
    if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords and code.dotted(node.func) == "builtins.float":
        value = node.args[0]
        word = value.value if isinstance(value, ast.Constant) else None
        return "math.isnan" if isinstance(word, str) and word.strip().lower() in ("nan", "+nan", "-nan") else None
    name = code.dotted(node) if isinstance(node, (ast.Name, ast.Attribute)) else None
    return NAN.get(name) if name is not None else None


def asked_rightly(code: CodeFile, compare: ast.Compare, nan: ast.expr, other: ast.expr) -> Fix | None:
    """The same question with `isnan`, in the spelling the file already uses for the library."""
    function = asks(code, nan)
    if function is None or asks(code, other):
        return None
    module, _, name = function.rpartition(".")
    imports: tuple[AddImport, ...] = ()
    if isinstance(nan, ast.Attribute):
        spelled = f"{code.text(nan.value)}.{name}"
    elif isinstance(nan, ast.Name):
        spelled, imports = name, (AddImport(code.path, module, name, cell=code.span(nan).cell),)
    else:
        spelled, imports = function, (AddImport(code.path, module, cell=code.span(nan).cell),)
    turned = {True: "~", False: "not "}[module in OF_ARRAYS] if isinstance(compare.ops[0], ast.NotEq) else ""
    text = f"{turned}{spelled}({code.text(other)})"
    if turned and isinstance(code.parents.get(compare), (ast.Compare, ast.BinOp, ast.UnaryOp)):
        text = f"({text})"
    return Fix(f"ask with `{spelled}`", "safe", (Replace(code.span(compare), text), *imports))


# ------------------------------------------------------------------------ loaders


@each(CodeFile)
def sampler_with_shuffle(code: CodeFile) -> Iterator[Hit]:
    for call, sampler, classes in sampled(code):
        if not classes & DISTRIBUTED:
            yield Hit(
                code.span(call),
                f"a loader with the sampler `{code.text(sampler)}` is told to shuffle, which it refuses with a ValueError",
                fix=unshuffled(code, call),
            )
