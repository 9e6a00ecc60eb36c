"""Detectors of the topic data: what goes into training, and how it is compared."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from mllint.checks import each
from mllint.flow.lexical import CodeFile
from mllint.flow.loaders import DISTRIBUTED, arms, names_of, sampled, scope_of, surely, unshuffled
from mllint.flow.questions import path
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


# ------------------------------------------------------------------------- splits

#: What learns statistics of the rows it is fitted on; a Normalizer, a HashingVectorizer and their like learn nothing.
FITTED = frozenset(
    [f"sklearn.preprocessing.{n}" for n in ("StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler", "PowerTransformer",
                                            "QuantileTransformer", "KBinsDiscretizer", "TargetEncoder")]
    + [f"sklearn.impute.{n}" for n in ("SimpleImputer", "KNNImputer", "IterativeImputer")]
    + [f"sklearn.decomposition.{n}" for n in ("PCA", "TruncatedSVD", "FastICA", "NMF", "KernelPCA")]
    + [f"sklearn.feature_selection.{n}" for n in ("SelectKBest", "SelectPercentile", "SelectFromModel", "RFE", "RFECV")]
    + [f"sklearn.feature_extraction.text.{n}" for n in ("TfidfVectorizer", "CountVectorizer")]
)  # fmt: skip
SPLIT = "sklearn.model_selection.train_test_split"
#: A part of the rows, by its name: what is fitted on it has not seen the others. And what is predicted, whose scale gives nothing away.
PART = re.compile(r"(?i)(?:^|_|\b)(?:x?_?)(?:train|test|val|valid|dev|fold)(?:ing|idation)?(?:$|_|\d|\b)|^y$|^y_|target|label")
FITTING = frozenset(("fit", "fit_transform"))


@each(CodeFile)
def fit_before_split(code: CodeFile) -> Iterator[Hit]:
    splits = [call for call in code.all(ast.Call) if code.dotted(call.func) == SPLIT]
    if not splits:
        return
    for call in code.all(ast.Call):
        if not (isinstance(call.func, ast.Attribute) and call.func.attr in FITTING and call.args and not splits_own(call.args[0])):
            continue
        maker = surely(code, call.func.value)
        kind = next(iter(FITTED & {*names_of(code, maker)}), None)
        split = next((s for s in splits if kind is not None and goes_into(code, call, s)), None)
        if kind is None or split is None:
            continue
        yield Hit(
            code.span(call),
            f"`{code.text(call.func.value)}` learns from all rows of `{code.text(call.args[0])}` before they are split, so the held-out"
            " score is too good",
            path((code.span(call), "fitted on all rows"), (code.span(split), "split only here")),
        )


def splits_own(node: ast.expr) -> bool:
    """The rows are a part already, by their own name."""
    return any(PART.search(n.id if isinstance(n, ast.Name) else n.attr if isinstance(n, ast.Attribute) else str(n.value))
               for n in ast.walk(node) if isinstance(n, (ast.Name, ast.Attribute, ast.Constant)))  # fmt: skip


def goes_into(code: CodeFile, fit: ast.Call, split: ast.Call) -> bool:
    """The rows that were fitted on, or what came out of them, are split later in the same scope, and nothing was put in their place."""
    scope = scope_of(code, fit)
    if scope is not scope_of(code, split) or split.lineno <= fit.lineno or not arms(code, fit) <= arms(code, split):
        return False
    rows = {ast.dump(node) for node in (fit.args[0], *results(code, fit)) if isinstance(node, (ast.Name, ast.Attribute, ast.Subscript))}
    rows = {row.replace("ctx=Store()", "ctx=Load()") for row in rows}
    given = [a for a in split.args if isinstance(a, (ast.Name, ast.Attribute, ast.Subscript)) and ast.dump(a) in rows]
    anew = {
        n.lineno for n in ast.walk(scope) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store) and given and n.id == root(given[0])
    }
    return bool(given) and not any(fit.lineno < line < split.lineno for line in anew)


def results(code: CodeFile, fit: ast.Call) -> list[ast.expr]:
    """What the outcome of `fit_transform` is called, straight or through one more call (`pd.DataFrame(scaler.fit_transform(X))`)."""
    if not isinstance(fit.func, ast.Attribute) or fit.func.attr != "fit_transform":
        return []
    holder = code.parents.get(fit)
    while isinstance(holder, (ast.Call, ast.Attribute, ast.keyword)):
        holder = code.parents.get(holder)
    return holder.targets if isinstance(holder, ast.Assign) and len(holder.targets) == 1 else []


def root(node: ast.expr) -> str:
    """The name an expression starts with."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""
