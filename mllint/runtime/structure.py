"""What stands around a place on a stack: the loops, branches and `with` blocks of its function, read from the source.

A run shows which calls happened; only the text says which loop they happened in. Files of libraries are read the same way, so that
the loops inside a framework's trainer count like the user's own.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from mllint.model.finding import Span
from mllint.read import PythonFile, Unreadable, read_code
from mllint.runtime.record import Step

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
#: Comprehensions run in functions of their own, which Python names so.
_COMPREHENDED = frozenset(("<genexpr>", "<listcomp>", "<setcomp>", "<dictcomp>"))
_BLOCKS = (*_LOOPS, *_COMPREHENSIONS, ast.If, ast.With, ast.AsyncWith)


@dataclass(frozen=True, slots=True)
class Block:
    """One statement around a place. kind is "loop", "arm" or "with"; `name` is the last word of what a `with` enters.

    `branch` tells the statement from all others of its file, `polarity` which side of an `if` the place stands on.
    """

    kind: str
    span: Span
    branch: int
    name: str = ""
    polarity: bool = True
    header: Span | None = None


class Structure:
    """Reads the files of one run. `root` is the folder the relative names of steps start from."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._files: dict[str, PythonFile | None] = {}
        self._bodies: dict[str, list[ast.AST]] = {}
        self.blocks = lru_cache(maxsize=None)(self._blocks)
        self.call = lru_cache(maxsize=None)(self._call)
        self.header = lru_cache(maxsize=None)(self._header)
        self.statement = lru_cache(maxsize=None)(self._statement)

    def span(self, step: Step) -> Span:
        """The place of a step as reports name it; where columns are unknown, the calls that begin on the line are."""
        if step.column > 0:
            return Span(step.file, step.line, step.column, step.end_line, step.end_column)
        node = self.call(step)
        file = self.file(step.file)
        if node is not None and file is not None:
            return file.source.span(node)
        return Span(step.file, step.line, 1, step.line, 1)

    def file(self, name: str) -> PythonFile | None:
        """The file, or None where it cannot be read (generated code, a zip, a file that is gone)."""
        if name not in self._files:
            try:
                with open(os.path.join(self.root, name), "rb") as stream:
                    self._files[name] = read_code(name, stream.read())
            except (OSError, Unreadable, ValueError):
                self._files[name] = None
        return self._files[name]

    def bound_name(self, step: Step) -> str:
        """The name the statement at the step gives to what its call makes: `scheduler`, `self.scheduler`; else nothing."""
        statement = self.statement(step)
        if isinstance(statement, ast.Assign):
            target: ast.expr | None = statement.targets[0]
        elif isinstance(statement, (ast.AnnAssign, ast.NamedExpr)):
            target = statement.target
        else:
            return ""
        call, value = self.call(step), statement.value
        while value is not call and isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
            value = value.func.value  # `Net().to(device)` is the net
        return ast.unparse(target) if call is value and isinstance(target, (ast.Name, ast.Attribute)) else ""

    def receiver(self, step: Step) -> str:
        """What a method is called on: `loss` in `loss.backward()`, `scaler.scale(loss)` in its own backward."""
        node = self.call(step)
        return ast.unparse(node.func.value) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""

    def function(self, step: Step) -> ast.AST | None:
        """The function the step stands in, or the whole file."""
        return next(iter(self._within(step)), None)

    def heads(self, step: Step) -> Iterator[int]:
        """The lines on which the functions and classes around the step begin."""
        file = self.file(step.file)
        for node in ast.walk(file.tree) if file is not None else ():
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                continue
            if node.lineno <= step.line <= (node.end_lineno or 0):
                yield node.lineno

    # ---------------------------------------------------------------- trees

    def _within(self, step: Step) -> list[ast.AST]:
        """The nodes around the step, outermost first, from its own function inwards."""
        file = self.file(step.file)
        if file is None:
            return []
        if step.file not in self._bodies:
            self._bodies[step.file] = [n for n in ast.walk(file.tree) if isinstance(n, _FUNCTIONS)]
        functions = [n for n in self._bodies[step.file] if _holds(file, n, step)]
        inner: ast.AST = max(functions, key=lambda n: (n.lineno, n.col_offset), default=file.tree)  # type: ignore[attr-defined]
        around = list(_path(file, inner, step))
        if step.function in _COMPREHENDED:
            inside = [number for number, node in enumerate(around) if isinstance(node, _COMPREHENSIONS)]
            return around[inside[-1] :] if inside else around
        return around

    def _blocks(self, step: Step) -> tuple[Block, ...]:
        file = self.file(step.file)
        if file is None:
            return ()
        around = self._within(step)
        found = []
        for node, inner in zip(around, [*around[1:], None], strict=True):
            if not isinstance(node, _BLOCKS) or inner is None:
                continue
            span = file.source.span(node)
            branch = hash((step.file, span.line, span.column))
            if isinstance(node, _LOOPS):
                if inner in node.body:
                    header = file.source.span(node.test if isinstance(node, ast.While) else node.iter)
                    found.append(Block("loop", span, branch, header=header))
            elif isinstance(node, _COMPREHENSIONS):
                if not isinstance(inner, ast.comprehension):
                    found += [_turning(file, generator) for generator in node.generators]
            elif isinstance(node, ast.If):
                if inner in node.body or inner in node.orelse:
                    found.append(Block("arm", span, branch, "", inner in node.body, file.source.span(node.test)))
            elif inner in node.body:
                found += [Block("with", file.source.span(item.context_expr), branch, _entered(item.context_expr)) for item in node.items]
        return tuple(found)

    def _call(self, step: Step) -> ast.Call | None:
        """The call in progress at the step."""
        around = self._within(step)
        calls = [n for n in around if isinstance(n, ast.Call)]
        if step.column > 0:
            file = self.file(step.file)
            assert file is not None or not calls
            exact = [n for n in calls if file is not None and _starts(file, n, step)]
            return exact[-1] if exact else None
        return calls[0] if calls else None

    def _statement(self, step: Step) -> ast.AST | None:
        statements = [n for n in self._within(step) if isinstance(n, (ast.stmt, ast.NamedExpr))]
        return statements[-1] if statements else None

    def _header(self, step: Step) -> Span | None:
        """The loop in whose head the step stands: what it iterates over is made or asked for there."""
        file = self.file(step.file)
        around = self._within(step)
        if around and isinstance(around[-1], _COMPREHENSIONS) and file is not None:
            return file.source.span(around[-1].generators[0].iter)
        if around and isinstance(around[-1], (ast.For, ast.AsyncFor)) and file is not None:
            return file.source.span(around[-1])  # before Python 3.12 asking for an iterator is told at the whole statement
        for node, inner in pairwise(around):
            if isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)) and inner is node.iter and file is not None:
                return file.source.span(node.iter if isinstance(node, ast.comprehension) else node)
        return None


def _turning(file: PythonFile, generator: ast.comprehension) -> Block:
    """The loop of a comprehension, known by what it goes over."""
    span = file.source.span(generator.iter)
    return Block("loop", span, hash((span.path, span.line, span.column)), header=span)


def _holds(file: PythonFile, node: ast.AST, step: Step) -> bool:
    """The node's text holds the step's place; the decorators of a function do not belong to it."""
    span = file.source.span(node)
    if step.column <= 0:
        return span.line <= step.line <= span.end_line
    return (span.line, span.column) <= (step.line, step.column) and (step.end_line, step.end_column) <= (span.end_line, span.end_column)


def _starts(file: PythonFile, node: ast.AST, step: Step) -> bool:
    span = file.source.span(node)
    return (span.line, span.column, span.end_line, span.end_column) == (step.line, step.column, step.end_line, step.end_column)


def _path(file: PythonFile, node: ast.AST, step: Step) -> Iterator[ast.AST]:
    """From a node down to the smallest one around the step."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.AST) and hasattr(child, "lineno") and not isinstance(child, _FUNCTIONS) and _holds(file, child, step):
            yield from _path(file, child, step)
            return
        if isinstance(child, (ast.withitem, ast.comprehension, ast.keyword, ast.ExceptHandler, ast.match_case)):
            inner = list(_path(file, child, step))
            if len(inner) > 1:
                yield from inner
                return


def _entered(expression: ast.expr) -> str:
    """The last word of what is entered: "accumulate" in `accelerator.accumulate(model)`."""
    node = expression.func if isinstance(expression, ast.Call) else expression
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
