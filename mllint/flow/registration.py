"""Classes of modules as text: what they keep where torch finds it, and what in plain lists and dicts."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from mllint.flow.lexical import CodeFile

#: Calls that put a module where torch finds it, by another way than assigning it.
REGISTERING = frozenset(("add_module", "register_module", "register_parameter", "setattr", "__setattr__"))
ADDING = frozenset(("append", "insert", "extend"))
#: What a list of modules is asked that a ModuleList answers too.
SHARED = ADDING | {"pop"}


def has_containers(cls: ast.ClassDef) -> bool:
    """By its text alone, the class may keep modules in a list or dict: asked first, since most classes answer no."""
    kept = False
    named: set[str] = set()
    filled: set[str] = set()
    for node in ast.walk(cls):
        if isinstance(node, ast.Call) and last_name(node.func) in REGISTERING:
            return False
        if isinstance(node, ast.Assign) and is_own(node.targets[0]):
            kept = kept or isinstance(node.value, (ast.List, ast.ListComp, ast.Dict, ast.DictComp))
            named |= {node.value.id} if isinstance(node.value, ast.Name) else set()
        elif isinstance(node, ast.Attribute) and node.attr in ADDING and isinstance(node.value, ast.Name):
            filled.add(node.value.id)
    return kept or bool(named & filled)


def is_own(node: ast.AST) -> bool:
    """`self.x`."""
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"


def plain_containers(code: CodeFile, cls: ast.ClassDef) -> dict[str, tuple[ast.Assign, ast.AST]]:
    """Attributes that hold modules in a list or dict and nowhere else, with the assignment and the first module put in."""
    found: dict[str, tuple[ast.Assign, ast.AST]] = {}
    for kept in (n for n in ast.walk(cls) if isinstance(n, ast.Assign) and len(n.targets) == 1 and is_own(n.targets[0])):
        attribute: str = kept.targets[0].attr  # type: ignore[attr-defined]
        element = held_in(code, kept.value) or added_to(code, cls, kept)
        if element is not None and attribute not in found:
            found[attribute] = (kept, element)
    return {name: held for name, held in found.items() if not used_as_module(code, cls, name)}


def held_in(code: CodeFile, value: ast.expr) -> ast.expr | None:
    """The first module a list or dict is written with."""
    elements: list[ast.expr] = []
    if isinstance(value, ast.List):
        elements = value.elts
    elif isinstance(value, ast.Dict):
        elements = value.values
    elif isinstance(value, ast.ListComp):
        elements = [value.elt]
    elif isinstance(value, ast.DictComp):
        elements = [value.value]
    return next((e for e in elements if has_weights(code, e)), None)


def added_to(code: CodeFile, cls: ast.ClassDef, kept: ast.Assign) -> ast.expr | None:
    """The first module added later to a list or dict that begins empty; of a local list, in the same function and used for nothing else."""
    empty = (isinstance(kept.value, ast.List) and not kept.value.elts) or (isinstance(kept.value, ast.Dict) and not kept.value.keys)
    if empty:
        return next((e for target, e in additions(cls) if ast.dump(target) == load_of(kept.targets[0]) and has_weights(code, e)), None)
    if not isinstance(kept.value, ast.Name):
        return None
    name = kept.value.id
    function = next((n for n in code.around(kept) if isinstance(n, ast.FunctionDef)), None)
    if function is None:
        return None
    begun = [
        n for n in ast.walk(function) if isinstance(n, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in n.targets)
    ]
    loads = [n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load)]
    added = [(t, e) for t, e in additions(function) if isinstance(t, ast.Name) and t.id == name]
    if len(begun) != 1 or not isinstance(begun[0].value, ast.List) or len(loads) != len(added) + 1:
        return None
    return held_in(code, begun[0].value) or next((e for _, e in added if has_weights(code, e)), None)


def load_of(target: ast.expr) -> str:
    return ast.dump(target).replace("ctx=Store()", "ctx=Load()")


def additions(tree: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """(container, what is put into it) of each `x.append(m)`, `x.insert(0, m)` and `x["k"] = m`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("append", "insert") and node.args:
            yield node.func.value, node.args[-1]
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            yield node.targets[0].value, node.value


def has_weights(code: CodeFile, node: ast.AST, depth: int = 3) -> bool:
    """The call makes a module with parameters, as far as its class or the tables tell."""
    kind, row = code.made_kind(node)
    if kind == "parameter":
        return True
    if kind != "module" or row.get("empty") or not isinstance(node, ast.Call):
        return False
    definition = code.class_of(node.func)
    if definition is None:
        return (not row.get("factory") and last_name(node.func) not in ("Sequential", "ModuleList", "ModuleDict")) or any(
            has_weights(code, a, depth) for a in node.args
        )
    inside = definition.code
    return depth > 0 and any(has_weights(inside, n, depth - 1) for n in ast.walk(definition.node) if isinstance(n, ast.Call))


def last_name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def used_as_module(code: CodeFile, cls: ast.ClassDef, attribute: str) -> bool:
    """The container also goes where modules are registered: into a ModuleList or Sequential, or is one at another place."""
    for node in ast.walk(cls):
        if isinstance(node, ast.Assign) and any(is_own(t) and t.attr == attribute for t in node.targets):  # type: ignore[attr-defined]
            if code.made_kind(node.value)[0] == "module":
                return True
        elif isinstance(node, ast.Call) and code.made_kind(node)[0] in ("module", "parameter"):
            given = [a.value if isinstance(a, ast.Starred) else a for a in (*node.args, *(k.value for k in node.keywords))]
            if any(is_own(n) and n.attr == attribute for a in given for n in ast.walk(a)):  # type: ignore[attr-defined]
                return True
    return False
