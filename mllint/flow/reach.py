"""What can be named where: the expressions by which the code around an event could speak of the optimizers, schedulers and scalers.

A fix writes into the user's code and must use the user's own names. Which names hold what is known only while the interpreter stands
there; it is noted for the few events at which fixes begin.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from mllint.flow.state import NARROW, State
from mllint.flow.values import Alts, Call, Const, Env, Instance, Mapping, Opaque
from mllint.model.history import OTHER, Reach

if TYPE_CHECKING:
    from mllint.flow.interpret import Interpreter

#: `self.parts.scheduler` is still a name somebody would write; what lies deeper is not.
DEEPEST_NAME = 2

#: Types of values that are such an object or may hold one.
HOLDERS = frozenset((Instance, Opaque, Mapping))

Names = dict[str, tuple[tuple[int | None, frozenset], ...]]


class Reaching(State):
    """Names around an event; mixed into the Interpreter."""

    def names_around(self: Interpreter, node: ast.AST) -> tuple[Reach, ...]:
        """What can be named here, then in the functions that called this one, innermost first."""
        call, env = self.call, self.env
        at, depth = self.span(node), len(self.place)
        levels = [Reach(at, depth, self.names_of(env))]
        while call is not None and call.caller is not None:
            depth = next((n for n in range(call.place - 1, -1, -1) if self.place[n].kind == "call"), 0)
            at, env = self.place[depth].span, call.caller
            levels.append(Reach(at, depth, self.names_of(env)))
            call = self.call_with(env, call)
        return tuple(levels)

    def call_with(self: Interpreter, env: Env, inner: Call) -> Call | None:
        """The call that runs with these names, below the inner one."""
        below = self.calls[: self.calls.index(inner)] if inner in self.calls else []
        return next((c for c in reversed(below) if c.env is env), None)

    def names_of(self: Interpreter, env: Env) -> Names:
        """The expressions that are an optimizer, scheduler or scaler, or may be one."""
        found: Names = {}
        seen: set[str] = set()
        inner: Env | None = env
        while inner is not None:
            for name, alts in list(inner.slots.items()):
                if type(name) is str and name not in seen:
                    seen.add(name)
                    if (len(alts) > 1 or (alts and type(alts[0][0]) in HOLDERS)) and name.isidentifier():
                        self.look_into(name, alts, DEEPEST_NAME, found)
            inner = inner.parent
        return found

    def look_into(self: Interpreter, text: str, alts: Alts, depth: int, found: Names) -> None:
        """Note the expression when it holds such an object; go on into objects of the project and dicts."""
        for value, _ in alts:
            kind = type(value)
            if (kind is Instance or kind is Opaque) and self.followed(value) not in (None, OTHER):
                found[text] = tuple((self.followed(v), guard) for v, guard in alts)
                return
        if len(alts) != 1 or depth == 0:
            return
        value = alts[0][0]
        if type(value) is Instance and value.cls is not None and value.kind in ("", "module"):
            depth = 1 if value.kind else depth  # what a module holds are modules, and their number is great
            for name, inner in list(value.slots.items()):
                if not (len(inner) > 1 or (inner and type(inner[0][0]) in HOLDERS)):
                    continue
                if type(name) is str and name.isidentifier() and not name.startswith("__"):
                    self.look_into(f"{text}.{name}", inner, depth - 1, found)
        elif type(value) is Mapping:
            for key, inner in list(value.slots.items()):
                if type(key) is tuple and type(key[1]) is str and key[1].isprintable() and not set(key[1]) & {'"', "\\"}:
                    self.look_into(f'{text}["{key[1]}"]', inner, depth - 1, found)

    def followed(self: Interpreter, value: Any) -> int | None:
        """The id of an optimizer, scheduler or scaler; None for the constant None; OTHER for anything else."""
        if type(value) is Opaque:
            value = self.promoted.get(value.key)
        if type(value) is Instance and value.kind in NARROW:
            return value.ident
        return None if type(value) is Const and value.value is None else OTHER
