"""Whether training and evaluation are different things to a model: does anything in it depend on the mode?"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from mllint.flow.values import ClassValue, Const, Instance, Opaque, single

if TYPE_CHECKING:
    from mllint.flow.interpret import Interpreter

#: Functions whose result depends on the mode, by the last part of their name.
MODAL_FUNCTIONS = frozenset(
    ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "batch_norm", "rrelu")
)


def modal(interpreter: Interpreter, module: Instance) -> bool | None:
    """True where something in the module depends on the mode, False where nothing does, None where a part is not known."""
    answer: bool | None = False
    for part in inside(module, set()):
        told = part_modal(interpreter, part)
        if told is True:
            return True
        answer = None if told is None else answer
    return answer


def inside(module: Instance, seen: set[int]) -> Iterator[Instance]:
    """The module and the modules in it."""
    if module.ident in seen:
        return
    seen.add(module.ident)
    yield module
    held = [*module.partners, *(v for alts in module.slots.values() for v, _ in alts if isinstance(v, Instance))]
    for part in held:
        if part.kind == "module":
            yield from inside(part, seen)


def part_modal(interpreter: Interpreter, part: Instance) -> bool | None:
    """The same of one module, without those it holds."""
    if part.cls is not None:
        if part.cls.unseen_base() or any(not name.startswith("torch.nn.") and name != "torch.nn.Module" for name in part.cls.externals()):
            return None
        own = [c for c in part.cls.mro() if isinstance(c, ClassValue)]
        if any(asks_mode(c.node) for c in own):
            return True
        called = frozenset().union(*(calls_of_own(c.node) for c in own))
        return None if any(called_but_unknown(part, name) for name in called) and any(speaks_of_mode(c.node) for c in own) else False
    row = interpreter.knowledge.row("objects", part.type)
    if row is None or not part.type.startswith("torch.nn."):
        return None
    told = row.get("modal", False)
    if not isinstance(told, str):
        return bool(told)
    value = single(part.arguments.get(told, ()))
    if value is None:
        return None if part.arguments.get(told) else False
    return bool(value.value) if isinstance(value, Const) else None


def called_but_unknown(part: Instance, name: str) -> bool:
    """What the class calls by this attribute came from outside and was not followed: it may be a module."""
    return any(isinstance(value, Opaque) for value, _ in part.slots.get(name, ()))


@cache
def asks_mode(cls: ast.ClassDef) -> bool:
    """The class reads `self.training`, or calls a function that depends on the mode."""
    for node in ast.walk(cls):
        if isinstance(node, ast.Attribute) and node.attr == "training" and isinstance(node.value, ast.Name) and node.value.id == "self":
            return True
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            held = isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) and node.func.value.id == "self"
            if name in MODAL_FUNCTIONS and not held:
                return True
    return False


@cache
def speaks_of_mode(cls: ast.ClassDef) -> bool:
    """A name in the class speaks of dropout or batch norm."""
    names = (getattr(n, "id", None) or getattr(n, "attr", None) or getattr(n, "arg", None) or "" for n in ast.walk(cls))
    return any(
        "drop" in name or name == "bn" or name.startswith("bn") or ("batch" in name and "norm" in name)
        for name in map(str.lower, map(str, names))
    )


@cache
def calls_of_own(cls: ast.ClassDef) -> frozenset[str]:
    """The attributes of `self` the class calls."""
    calls = (n.func for n in ast.walk(cls) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute))
    return frozenset(f.attr for f in calls if isinstance(f.value, ast.Name) and f.value.id == "self")
