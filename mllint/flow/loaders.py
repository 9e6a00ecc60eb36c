"""Data loaders as text: what a call gives them, and what a name surely is where it is read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from mllint.flow.lexical import FUNCTIONS, CodeFile
from mllint.flow.registration import is_own
from mllint.model.fix import DropArgument, Fix, Replace

#: How `DataLoader` takes its arguments by position.
LOADER = ("dataset", "batch_size", "shuffle", "sampler", "batch_sampler", "num_workers")
LOADERS = ("torch.utils.data.DataLoader",)
DISTRIBUTED = frozenset(("torch.utils.data.DistributedSampler", "torch.utils.data.distributed.DistributedSampler"))
SAMPLERS = DISTRIBUTED | {
    f"torch.utils.data{module}.{name}"
    for module in ("", ".sampler")
    for name in ("Sampler", "RandomSampler", "SequentialSampler", "SubsetRandomSampler", "WeightedRandomSampler", "BatchSampler")
}
#: A loader with workers: any number of them but a written 0.
WORKERS = re.compile(rb"num_workers[\"']?\s*[=:]\s*(?!0\b)")
#: What may leave out the statements inside it.
BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.ExceptHandler, ast.match_case)


def loaders(code: CodeFile) -> Iterator[ast.Call]:
    """The calls that make a torch DataLoader, or an object of a project class that is one and takes the same arguments."""
    for call in code.all(ast.Call):
        definition = code.class_of(call.func) if isinstance(call.func, (ast.Name, ast.Attribute)) else None
        if definition is not None:
            own = [definition.node, *(d.node for d in definition.code.ancestry(definition.node).own)]
            if any(isinstance(n, ast.FunctionDef) and n.name == "__init__" for cls in own for n in cls.body):
                continue
        if {*names_of(code, call)} & {*LOADERS}:
            yield call


def argument(call: ast.Call, name: str, positions: tuple[str, ...] = LOADER) -> ast.expr | None:
    """The argument of that name, by keyword or by position; None where it is not given, or hidden behind a star."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    place = positions.index(name) if name in positions else len(call.args)
    if place < len(call.args) and not any(isinstance(a, ast.Starred) for a in call.args[: place + 1]):
        return call.args[place]
    return None


def names_of(code: CodeFile, call: ast.AST | None) -> tuple[str, ...]:
    """The library classes a call makes an object of: the one it names, or those a project class inherits."""
    if not isinstance(call, ast.Call):
        return ()
    definition = code.class_of(call.func)
    if definition is not None:
        return definition.code.ancestry(definition.node).libraries
    name = code.dotted(call.func)
    return (name,) if name is not None else ()


def surely(code: CodeFile, node: ast.expr | None) -> ast.expr | None:
    """The expression a name or an attribute of `self` was given, where nothing else can have been put there; any other node itself."""
    if isinstance(node, ast.Name):
        return _local(code, node)
    return _own(code, node) if isinstance(node, ast.Attribute) and is_own(node) else node


def is_true(node: ast.expr | None) -> bool:
    """The argument is written as True."""
    return isinstance(node, ast.Constant) and node.value is True


def arms(code: CodeFile, node: ast.AST) -> frozenset[tuple[int, str]]:
    """The branches a node stands in, each with the side, up to the function around it."""
    found: set[tuple[int, str]] = set()
    inner = node
    for outer in code.around(node):
        if isinstance(outer, BRANCHES):
            found.add((id(outer), _field(outer, inner)))
        if isinstance(outer, (*FUNCTIONS, ast.ClassDef)):
            break
        inner = outer
    return frozenset(found)


def scope_of(code: CodeFile, node: ast.AST) -> ast.AST:
    """The function a node stands in, or the file."""
    return next((o for o in code.around(node) if isinstance(o, FUNCTIONS)), code.tree)


def _field(outer: ast.AST, inner: ast.AST) -> str:
    for name, value in ast.iter_fields(outer):
        if value is inner or (isinstance(value, list) and inner in value):
            return name
    return ""


def _value(code: CodeFile, target: ast.AST) -> ast.expr | None:
    """What an assignment of one target puts into it."""
    statement = code.parents.get(target)
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and statement.targets[0] is target:
        return statement.value
    return statement.value if isinstance(statement, ast.AnnAssign) else None


def _local(code: CodeFile, node: ast.Name) -> ast.expr | None:
    """The last assignment before the name, where every way to it leads there and it stands in the same scope."""
    scope = scope_of(code, node)
    stores = [
        n
        for n in ast.walk(scope)
        if isinstance(n, ast.Name) and n.id == node.id and isinstance(n.ctx, ast.Store) and scope_of(code, n) is scope
    ]
    own = next((o for o in code.around(node) if isinstance(o, (ast.Assign, ast.AnnAssign))), None)  # it is evaluated before it stores
    before = [n for n in stores if (n.lineno, n.col_offset) < (node.lineno, node.col_offset) and code.parents.get(n) is not own]
    if not before:
        return None
    last = max(before, key=lambda n: (n.lineno, n.col_offset))
    return _value(code, last) if arms(code, last) <= arms(code, node) else None


def _own(code: CodeFile, node: ast.Attribute) -> ast.expr | None:
    """The only assignment of the attribute in its class, which cannot be skipped: before the use, or in `__init__`."""
    cls = next((o for o in code.around(node) if isinstance(o, ast.ClassDef)), None)
    if cls is None:
        return None
    attributes = [n for n in ast.walk(cls) if isinstance(n, ast.Attribute) and is_own(n)]
    stores = [n for n in attributes if n.attr == node.attr and isinstance(n.ctx, ast.Store)]
    if len(stores) != 1:
        return None
    here, there = scope_of(code, node), scope_of(code, stores[0])
    if here is there and (stores[0].lineno > node.lineno or not arms(code, stores[0]) <= arms(code, node)):
        return None
    if here is not there and (arms(code, stores[0]) or getattr(there, "name", "") != "__init__"):
        return None
    return _value(code, stores[0])


def sampled(code: CodeFile) -> Iterator[tuple[ast.Call, ast.expr, frozenset[str]]]:
    """Each loader told to shuffle that surely has a sampler, with the sampler and the library classes it is of."""
    for call in loaders(code):
        if not is_true(argument(call, "shuffle")):
            continue
        for name in ("sampler", "batch_sampler"):
            given = argument(call, name)
            classes = frozenset(names_of(code, surely(code, given))) & SAMPLERS
            if given is not None and classes:
                yield call, given, classes
                break


def unshuffled(code: CodeFile, call: ast.Call) -> Fix:
    """The order is the sampler's: `shuffle` is taken out of the call."""
    by_name = any(k.arg == "shuffle" for k in call.keywords)
    edit = DropArgument(code.span(call), "shuffle") if by_name else Replace(code.span(call.args[LOADER.index("shuffle")]), "False")
    return Fix("leave the order to the sampler", "safe", (edit,))


def is_in(body: Sequence[ast.AST], node: ast.AST) -> bool:
    """The node is one of these, or inside one of them."""
    return any(inner is node for outer in body for inner in ast.walk(outer))


def workers_are_told(code: CodeFile) -> bool:
    """The project seeds the workers of its loaders, or has no workers."""
    sources = [code.project.bytes_of(path) for path in code.project.files]
    return any(b"worker_init_fn" in data for data in sources) or not any(WORKERS.search(data) for data in sources)


def reached(cls: ast.ClassDef, start: str) -> list[ast.FunctionDef]:
    """The method of that name and those of the class it calls on itself, directly or not."""
    methods = {n.name: n for n in cls.body if isinstance(n, ast.FunctionDef)}
    waiting, found = [start], []
    while waiting:
        method = methods.pop(waiting.pop(), None)
        if method is not None:
            found.append(method)
            waiting.extend(n.attr for n in ast.walk(method) if isinstance(n, ast.Attribute) and is_own(n))
    return found
