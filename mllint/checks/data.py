"""Detectors of the topic data: what goes into training, and how it is compared."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator

from mllint.checks import each
from mllint.flow.lexical import CodeFile
from mllint.flow.loaders import (
    DISTRIBUTED,
    argument,
    arms,
    loaders,
    names_of,
    reached,
    sampled,
    scope_of,
    surely,
    unshuffled,
    workers_are_told,
)
from mllint.flow.questions import path
from mllint.flow.registration import is_own, last_name
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


# ----------------------------------------------------------- training and evaluation data

TRAINING = re.compile(r"(?i)train")
EVALUATION = re.compile(r"(?i)(?:^|_)(?:val|valid|validation|eval|evaluation|test|dev)(?:_|$|\d|loader|data|iter|dl\b|ds\b)")
#: A check that a model can learn some rows by heart is named as one.
ON_PURPOSE = re.compile(r"(?i)over_?fit|sanity|smoke|memori[sz]e|debug|dummy|toy")
#: Tests train on whatever there is.
TESTS = re.compile(r"(?:^|/)(?:tests?|testing)/|(?:^|/)(?:test_[^/]*|[^/]*_test|conftest)\.py$")


@each(CodeFile)
def train_eval_same_data(code: CodeFile) -> Iterator[Hit]:
    if TESTS.search(code.path):
        return
    for training, evaluation in (*given_twice(code), *loaded_twice(code)):
        scope = scope_of(code, evaluation)
        around = code.text(scope) if scope is not code.tree else code.text(evaluation)
        if not ON_PURPOSE.search(around) and not ON_PURPOSE.search(code.path):
            yield Hit(
                code.span(evaluation),
                f"`{code.text(evaluation)}` is what the model is trained on, so its evaluation says nothing about other data",
                path((code.span(training), "given for training"), (code.span(evaluation), "given for evaluation")),
            )


def given_twice(code: CodeFile) -> Iterator[tuple[ast.expr, ast.expr]]:
    """(training data, evaluation data) of calls that take both and are given one thing."""
    for call in code.all(ast.Call):
        named = {k.arg: k.value for k in call.keywords}
        training, evaluation = named.get("train_dataset"), named.get("eval_dataset")
        if isinstance(call.func, ast.Attribute) and call.func.attr == "fit" and call.args and "validation_data" in named:
            training, evaluation = call.args[0], named["validation_data"]
            evaluation = evaluation.elts[0] if isinstance(evaluation, ast.Tuple) and evaluation.elts else evaluation
        if training is not None and evaluation is not None and one_thing(training, evaluation):
            yield training, evaluation


def loaded_twice(code: CodeFile) -> Iterator[tuple[ast.expr, ast.expr]]:
    """(training data, evaluation data) of two loaders named so in one scope, which have the same data and all of it."""
    known: list[tuple[ast.expr, ast.Call, ast.expr]] = []
    for call in loaders(code):
        target, given = target_of(code, call), argument(call, "dataset")
        if target and given is not None and argument(call, "sampler") is argument(call, "batch_sampler") is None and starred(call) is None:
            known.append((target, call, given))
    for target, call, given in known:
        if not TRAINING.search(last_name(target)):
            continue
        for other, evaluated, data in known:
            name = last_name(other)
            if TRAINING.search(name) or not EVALUATION.search(name) or evaluated.lineno < call.lineno or not one_thing(given, data):
                continue
            if (
                scope_of(code, call) is scope_of(code, evaluated)
                and arms(code, call) == arms(code, evaluated)
                and kept(code, call, evaluated, data)
            ):
                yield given, data


def target_of(code: CodeFile, call: ast.Call) -> ast.expr | None:
    """What the outcome of a call is called."""
    statement = code.parents.get(call)
    return statement.targets[0] if isinstance(statement, ast.Assign) and len(statement.targets) == 1 else None


def starred(call: ast.Call) -> ast.expr | None:
    """Arguments that are not to be seen in the call."""
    return next((k.value for k in call.keywords if k.arg is None), next((a for a in call.args if isinstance(a, ast.Starred)), None))


def one_thing(a: ast.expr, b: ast.expr) -> bool:
    """Both are the same name, attribute or entry."""
    return isinstance(a, (ast.Name, ast.Attribute, ast.Subscript)) and ast.dump(a) == ast.dump(b)


def kept(code: CodeFile, first: ast.Call, second: ast.Call, data: ast.expr) -> bool:
    """Nothing else is put into the name between the two calls."""
    stores = (n for n in ast.walk(scope_of(code, first)) if isinstance(n, (ast.Name, ast.Attribute)) and isinstance(n.ctx, ast.Store))
    return not any(first.lineno < n.lineno <= second.lineno and last_name(n) in (root(data), last_name(data)) for n in stores)


# ------------------------------------------------------------------------- workers

#: What draws numbers from a state of its own, which each worker process gets a copy of.
GENERATORS = frozenset(("numpy.random.default_rng", "numpy.random.RandomState", "numpy.random.Generator", "random.Random"))
DATASETS = frozenset(("torch.utils.data.Dataset", "torch.utils.data.dataset.Dataset"))
#: torch seeds the global state of numpy in each worker from 1.9 on.
OLD_TORCH = re.compile(r"(?m)^torch *(?:==|~=|<=?) *1\.[0-8](?:[.,\s]|$)")
#: What is asked of `numpy.random` without drawing from its global state.
STATELESS = frozenset(("default_rng", "RandomState", "Generator", "SeedSequence", "seed", "get_state", "set_state"))


@each(CodeFile)
def worker_seeds(code: CodeFile) -> Iterator[Hit]:
    old = code.project.root is not None and OLD_TORCH.search(requirements(code.project.root)) is not None
    for cls in code.all(ast.ClassDef):
        if not DATASETS & {*code.ancestry(cls).libraries} or "get_worker_info" in code.text(cls):
            continue
        copied = made_once(code, cls)
        for method in reached(cls, "__getitem__"):
            for call in (n for n in ast.walk(method) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)):
                name = code.dotted(call.func) or "" if old else ""
                own = is_own(call.func.value) and last_name(call.func.value) in copied  # type: ignore[attr-defined]
                shared = name.startswith("numpy.random.") and last_name(call.func) not in STATELESS
                if (own or shared) and not workers_are_told(code):
                    drawn = code.text(call.func.value)  # type: ignore[attr-defined]
                    why = "has a copy of its state" if own else "has the same state, which this torch does not seed"
                    yield Hit(
                        code.span(call),
                        f"every worker of a loader draws the same numbers from `{drawn}`, because each {why}",
                        path((code.span(copied[last_name(call.func.value)]), "made once, before the workers start")) if own else (),  # type: ignore[attr-defined]
                    )


def made_once(code: CodeFile, cls: ast.ClassDef) -> dict[str, ast.AST]:
    """Attributes that hold a generator of random numbers made in `__init__`, and nothing else ever."""
    stores = [n for n in ast.walk(cls) if isinstance(n, ast.Attribute) and is_own(n) and isinstance(n.ctx, ast.Store)]
    found: dict[str, ast.AST] = {}
    for store in stores:
        statement = code.parents.get(store)
        made = isinstance(statement, ast.Assign) and bool(GENERATORS & {*names_of(code, statement.value)})
        if made and getattr(scope_of(code, store), "name", "") == "__init__" and sum(s.attr == store.attr for s in stores) == 1:
            found[store.attr] = store
    return found


def requirements(root: str) -> str:
    """The pinned requirements of the project, or nothing."""
    try:
        with open(os.path.join(root, "requirements.txt"), encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""
