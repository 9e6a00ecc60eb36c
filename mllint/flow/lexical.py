"""What names mean in one file without running it: imports, classes and their bases, across the files of the project.

The interpreter follows objects; some rules ask only about the text of a class or a call. They look here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mllint.flow.trees import CHILDREN
from mllint.model.finding import Span

if TYPE_CHECKING:
    from mllint.flow.project import Project
    from mllint.read import PythonFile

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
SCOPES = (*FUNCTIONS, ast.ClassDef, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
#: Imports that hand a name on are followed so many files deep.
DEEPEST_IMPORT = 6
OTHER = "other"


def children(node: ast.AST) -> list[ast.AST]:
    """The nodes right inside a node."""
    found: list[ast.AST] = []
    for name in CHILDREN[type(node)]:
        value = getattr(node, name)
        if type(value) is list:
            found += [item for item in value if item is not None]
        elif value is not None:
            found.append(value)
    return found


@dataclass(frozen=True, slots=True)
class Definition:
    """A class or function of the project, with the file it stands in."""

    code: CodeFile
    node: Any

    @property
    def name(self) -> str:
        return str(self.node.name)


@dataclass(frozen=True, slots=True)
class Ancestry:
    """What a class comes from, nearest first: classes of the project, and dotted names of library classes.

    `known` is False where a base could not be understood, so that anything may be inherited from it.
    """

    own: tuple[Definition, ...]
    libraries: tuple[str, ...]
    known: bool


class CodeFile:
    """One Python file or notebook of the project, read."""

    def __init__(self, project: Project, file: PythonFile) -> None:
        self.project = project
        self.file = file
        self.tree = file.tree
        self.path = file.source.path

    def span(self, node: ast.AST) -> Span:
        """Where a node stands, as reports name it."""
        return self.file.source.span(node)

    def text(self, node: ast.AST) -> str:
        """A node as it is written."""
        return self.file.source.segment(node)

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        """The node around each node."""
        return self._nodes[0]

    @cached_property
    def _nodes(self) -> tuple[dict[ast.AST, ast.AST], dict[type, list[ast.AST]]]:
        """The node around each node, and all nodes by their class, in the order of the text: one walk for whoever asks."""
        parents: dict[ast.AST, ast.AST] = {}
        kinds: dict[type, list[ast.AST]] = {}
        stack: list[ast.AST] = [self.tree]
        while stack:
            node = stack.pop()
            kinds.setdefault(type(node), []).append(node)
            inner = children(node)
            for child in inner:
                parents[child] = node
            inner.reverse()
            stack += inner
        return parents, kinds

    def around(self, node: ast.AST) -> Iterator[ast.AST]:
        """The nodes around a node, nearest first."""
        while (outer := self.parents.get(node)) is not None:
            yield outer
            node = outer

    def all(self, *kinds: type[ast.AST]) -> Iterator[Any]:
        """Every node of these kinds, in the order of the text."""
        found = [node for kind in kinds for node in self._nodes[1].get(kind, ())]
        if len(kinds) > 1:
            found.sort(key=lambda n: (getattr(n, "lineno", 0), getattr(n, "col_offset", 0)))
        return iter(found)

    # ---------------------------------------------------------------- names

    @cached_property
    def _scopes(self) -> dict[ast.AST, dict[str, set[str]]]:
        """For each scope, what each name is bound to there: dotted names of imports, or OTHER."""
        scopes: dict[ast.AST, dict[str, set[str]]] = {self.tree: {}}

        def bind(scope: ast.AST, name: str, what: str) -> None:
            scopes.setdefault(scope, {}).setdefault(name, set()).add(what)

        def visit(node: ast.AST, scope: ast.AST) -> None:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                bind(scope, node.name, "def")
                for outside in (*node.decorator_list, *(node.bases if isinstance(node, ast.ClassDef) else ())):
                    visit(outside, scope)
            if isinstance(node, SCOPES):
                scopes.setdefault(node, {})
                if isinstance(node, FUNCTIONS):
                    for argument in ast.walk(node.args):
                        if isinstance(argument, ast.arg):
                            bind(node, argument.arg, OTHER)
                scope = node
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    bind(scope, alias.asname or alias.name.partition(".")[0], alias.name if alias.asname else alias.name.partition(".")[0])
            elif isinstance(node, ast.ImportFrom):
                module = self.project.absolute(self.file, node.module, node.level)
                for alias in node.names:
                    bind(scope, alias.asname or alias.name, f"{module}.{alias.name}")
            elif isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
                bind(scope, node.id, OTHER)
            elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
                bind(scope, node.name, OTHER)
            elif isinstance(node, (ast.Global, ast.Nonlocal)):
                for name in node.names:
                    bind(self.tree, name, OTHER)
            for child in children(node):
                visit(child, scope)

        for child in children(self.tree):
            visit(child, self.tree)
        return scopes

    def _bound(self, node: ast.Name) -> set[str]:
        """What a name may be bound to where it is read; a class's names are not seen from inside its methods."""
        inside_function = False
        for outer in (*self.around(node), self.tree):
            if isinstance(outer, SCOPES) or outer is self.tree:
                found = self._scopes.get(outer, {}).get(node.id)
                if found and not (isinstance(outer, ast.ClassDef) and inside_function):
                    return found
                inside_function = inside_function or isinstance(outer, FUNCTIONS)
        return set()

    def dotted(self, node: ast.AST | None) -> str | None:
        """The dotted name a name or attribute stands for, as libraries spell it; None for what is no import or not one alone.

        A name of the project that only hands a library's on gives the library's; builtins are `builtins.x`.
        """
        if isinstance(node, ast.Attribute):
            inner = self.dotted(node.value)
            return None if inner is None else self._canonical(f"{inner}.{node.attr}")
        if not isinstance(node, ast.Name):
            return None
        found = self._bound(node)
        if not found:
            return f"builtins.{node.id}"
        if len(found) != 1:
            return None
        (name,) = found
        return None if name in (OTHER, "def") else self._canonical(name)

    def _canonical(self, name: str, depth: int = DEEPEST_IMPORT) -> str | None:
        """A name behind the imports of the project's own modules."""
        module, _, last = name.rpartition(".")
        code = self.project.code(module) if module and depth else None
        if code is None:
            return self.project.knowledge.canonical(name)
        bound = code._scopes[code.tree].get(last, set())
        if len(bound) == 1 and not bound & {OTHER, "def"}:
            return code._canonical(next(iter(bound)), depth - 1)
        return name

    # ---------------------------------------------------------------- classes

    @cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        """The classes of the file's top level and those in its branches, the last of each name."""
        return {node.name: node for node in self.all(ast.ClassDef) if not any(isinstance(o, SCOPES) for o in self.around(node))}

    def class_of(self, node: ast.AST | None) -> Definition | None:
        """The class of the project an expression names, here or in the file it is imported from."""
        if isinstance(node, ast.Name) and "def" in self._bound(node) and node.id in self.classes:
            return Definition(self, self.classes[node.id])
        name = self.dotted(node)
        if name is None:
            return None
        module, _, last = name.rpartition(".")
        code = self.project.code(module) if module else None
        return Definition(code, code.classes[last]) if code is not None and last in code.classes else None

    def ancestry(self, node: ast.ClassDef) -> Ancestry:
        """Everything a class comes from."""
        own: list[Definition] = []
        libraries: list[str] = []
        known = True
        waiting: list[tuple[CodeFile, ast.ClassDef]] = [(self, node)]
        while waiting:
            code, cls = waiting.pop(0)
            for base in cls.bases:
                plain = base.value if isinstance(base, ast.Subscript) else base
                definition = code.class_of(plain)
                if definition is not None:
                    if definition.node is not node and all(definition.node is not d.node for d in own):
                        own.append(definition)
                        waiting.append((definition.code, definition.node))
                    continue
                name = code.dotted(plain)
                if name is None:
                    known = False
                elif name not in libraries:
                    libraries.append(name)
        return Ancestry(tuple(own), tuple(libraries), known)

    def kind_of(self, node: ast.ClassDef) -> str | None:
        """What the tables say a class is by its bases: "module", "optimizer" ...; None for another."""
        for name in self.ancestry(node).libraries:
            row = self.project.knowledge.row("bases", name)
            if row is not None and row.get("kind"):
                return str(row["kind"])
        return None

    def made_kind(self, call: ast.AST | None) -> tuple[str | None, dict[str, Any]]:
        """What a call makes, with the table's row: ("module", row); (None, {}) for what is not known to make anything followed."""
        if not isinstance(call, ast.Call):
            return None, {}
        definition = self.class_of(call.func)
        if definition is not None:
            return definition.code.kind_of(definition.node), {}
        name = self.dotted(call.func)
        row = self.project.knowledge.row("objects", name) if name is not None else None
        if row is None or not name or not (name.rpartition(".")[2][:1].isupper() or row.get("factory")):
            return None, {}
        return (str(row["kind"]) if row.get("kind") else None), row
