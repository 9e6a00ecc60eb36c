"""Which functions can matter: those that do something the rules follow, or call by name something that does.

Most of a program is model code, data code and plumbing. Walking it again for every entry is what would make a scan slow, so a long
function that cannot lead to anything the rules follow is not entered when it is given nothing that could.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any

from mllint.flow.gate import ACTIVE, CALLED
from mllint.flow.trees import CHILDREN
from mllint.read.tables import Knowledge

#: Kinds whose constructors make a function worth entering.
MADE = frozenset(("optimizer", "scheduler", "scaler", "accelerator", "engine"))
#: What a finding needs besides a maker: somebody goes backward, or reads a learning rate.
DECISIVE = frozenset(("backward", "GradScaler", "manual_backward", "get_last_lr", "param_groups"))
#: Methods of Python's own containers: a project's method of that name is not what most calls mean.
EVERYDAY = frozenset(dir(dict)) | frozenset(dir(list)) | frozenset(dir(set)) | frozenset(dir(str))
#: A function of so few statements is entered whatever it does: sizes and settings come from such helpers.
SHORT = 25


class Relevance:
    """The names that lead to something, by the trees known; asked about one function at a time."""

    def __init__(self, trees: Iterable[ast.Module], knowledge: Knowledge) -> None:
        makers = {name.rpartition(".")[2] for name, row in knowledge.objects.items() if row.get("kind") in MADE}
        makers = {name for name in makers if "*" not in name} | {"optim", "lr_scheduler"}
        self._used: dict[int, tuple[ast.AST, set[str]]] = {}
        uses: list[tuple[str, set[str]]] = []
        for tree in trees:
            for node, used in definitions(tree.body):
                self._used[id(node)] = (node, used)
                uses.append((node.name, used))
        regions = {"no_grad", "inference_mode", "set_grad_enabled"}
        self.names = spread(set(ACTIVE) | makers | regions | {called(name) for name in CALLED}, uses)
        self.decisive = spread(makers | DECISIVE, uses)
        self._known: dict[int, tuple[ast.AST, bool]] = {}
        self._short: dict[int, tuple[ast.AST, bool]] = {}

    def decides(self, node: ast.AST) -> bool:
        """The code may make a followed object, go backward or read a learning rate: without one of those no rule has anything to say."""
        known = self._used.get(id(node))
        return not self.decisive.isdisjoint(known[1] if known is not None else used_in(node))

    def leads(self, node: ast.AST) -> bool:
        """The function may lead to something the rules follow."""
        known = self._known.get(id(node))
        if known is None:
            used = self._used.get(id(node))
            known = self._known[id(node)] = (node, not self.names.isdisjoint(used[1] if used is not None else used_in(node)))
        return known[1]

    def matters(self, node: ast.AST) -> bool:
        """The function may lead to something the rules follow, or is short."""
        known = self._short.get(id(node))
        if known is None:
            known = self._short[id(node)] = (node, length(node) <= SHORT)
        return known[1] or self.leads(node)


def spread(names: set[str], uses: list[tuple[str, set[str]]]) -> set[str]:
    """Add the names of all functions and classes that use one of these names, until nothing is added."""
    users: dict[str, set[str]] = {}
    fresh: list[str] = []
    for name, used in uses:
        if name.startswith("__") or name in EVERYDAY:
            continue  # every class, every container has those: they say nothing about who is meant
        if used & names and name not in names:
            fresh.append(name)
        for other in used - CALLED:
            users.setdefault(other, set()).add(name)
    while fresh:
        name = fresh.pop()
        if name not in names:
            names.add(name)
            fresh.extend(users.get(name, ()))
    return names


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def definitions(body: list[ast.stmt]) -> Iterable[tuple[Definition, set[str]]]:
    """Every function and class with the names used inside; a class stands for its methods' making, each method for itself."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node, used_in(node)
        elif isinstance(node, ast.ClassDef):
            everything: set[str] = set()
            for base in (*node.bases, *node.decorator_list):
                everything |= used_in(base)
            for inner, used in definitions(node.body):
                everything |= used
                yield inner, used
            for statement in node.body:
                if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                    everything |= used_in(statement)
            yield node, everything
        elif isinstance(node, (ast.If, ast.Try)):
            yield from definitions(node.body)
            yield from definitions(node.orelse)


def called(name: str) -> str:
    """How a name counts that is common as an attribute and means something only where it is called."""
    return name + "()"


def used_in(node: ast.AST) -> set[str]:
    """Every name and attribute read inside."""
    names: set[str] = set()
    stack: list[Any] = [node]
    while stack:
        inner = stack.pop()
        kind = type(inner)
        if kind is ast.Name:
            names.add(inner.id)
            continue
        if kind is ast.Attribute:
            names.add(inner.attr)
        elif kind is ast.Call:
            function = inner.func
            if type(function) is ast.Attribute and function.attr in CALLED:
                names.add(called(function.attr))
        for name in CHILDREN[kind]:
            value = getattr(inner, name)
            if type(value) is list:
                stack.extend(value)
            elif value is not None:
                stack.append(value)
    return names


def length(node: ast.AST) -> int:
    """How many statements a function has, those inside its blocks included."""
    count = 0
    stack: list[ast.AST] = list(getattr(node, "body", ())) if not isinstance(node, ast.Lambda) else []
    while stack:
        inner = stack.pop()
        count += 1
        for field in ("body", "orelse", "finalbody", "handlers"):
            stack.extend(getattr(inner, field, ()))
    return count
