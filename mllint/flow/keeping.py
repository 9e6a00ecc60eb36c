"""What a loop keeps from turn to turn: tensors added to a running sum, or put into a list or dict."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from mllint.flow.state import State
from mllint.flow.values import Alts, Const, Instance, Mapping, Opaque, one, values_of
from mllint.model.history import Value

if TYPE_CHECKING:
    from mllint.flow.interpret import Interpreter

#: Beginnings of the keys of values that may be tensors with a graph.
COMPUTED = frozenset(("call", "attr", "part", "index", "deep", "either", "any", "+", "-", "*", "/", "neg"))


class Keeping(State):
    """Sums and collections over the turns of a loop; mixed into the Interpreter."""

    def note_kept(self: Interpreter, since: int, alts: Alts, node: ast.AST, target: ast.AST, into: tuple = ()) -> None:
        """A value is put where it stays; `since` tells the age of the place: loops with a higher number are younger."""
        added = node.args[:1] if isinstance(node, ast.Call) else [node.value] if isinstance(node, (ast.AugAssign, ast.Assign)) else []
        if any(
            isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id in ("float", "int") for e in added for n in ast.walk(e)
        ):
            return
        for value, _ in alts:
            if isinstance(value, Opaque) and value.key[0] in COMPUTED and "detached" not in value.tags:
                text = self.project.text_of(self.file, target) if isinstance(target, ast.expr) else ""
                told = {"value": self.value(one(value)), "since": Value(("const", since)), "into": Value(into, text)}
                self.record("kept", None, node, told)
                return

    def note_summed(self: Interpreter, node: ast.AST, target: ast.expr, old: Alts, change: Alts) -> None:
        """`total += loss`: how long the sum has been going on is told by what it began with, or by the object that holds it."""
        for value in values_of(old):
            key: Any = value.key
            while key[0] == "+":
                key = key[1]
            if key[0] == "varies" and isinstance(target, ast.Name):
                self.note_kept(key[2], change, node, target, key)
                return
            if isinstance(target, (ast.Attribute, ast.Subscript)) and (isinstance(value, Const) or key[0] in ("varies", "const")):
                for owner in values_of(self.quiet(target.value)):
                    if isinstance(owner, (Instance, Mapping)):
                        self.note_kept(owner.ident, change, node, target, value.key if isinstance(value, Opaque) else ())
                        return

    def note_sum_of_itself(self: Interpreter, node: ast.Assign, added: ast.BinOp) -> None:
        """`total = total + loss`, before the name is given its new value."""
        target = node.targets[0]
        if not (isinstance(target, ast.Name) and isinstance(added.left, ast.Name) and isinstance(added.right, ast.Name)):
            return
        if added.left.id == target.id:
            self.note_summed(node, target, self.quiet(added.left), self.quiet(added.right))
