"""Losing sight: what happens to objects that go to code nobody can see."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mllint.flow.state import NARROW, NORMAL, Condition, State
from mllint.flow.values import (
    Alts,
    Bound,
    ClassValue,
    Const,
    Context,
    Env,
    External,
    Function,
    Generator,
    Instance,
    Mapping,
    Opaque,
    Partial,
    Sequence,
    one,
)

if TYPE_CHECKING:
    from mllint.flow.interpret import Interpreter


# Decorators of these libraries change a function and keep it for nobody else.
PLAIN = sys.stdlib_module_names | {"torch"}


class Losing(State):
    """Losing sight; mixed into the Interpreter."""

    # ----------------------------------------------------------------- losing

    def lose_all(self: Interpreter, many: list[Alts], node: ast.AST, seen: set[int] | None = None) -> None:
        seen = set() if seen is None else seen
        for alts in many:
            self.apart(alts, node, lambda value: self.lose(value, node, seen))

    def apart(self: Interpreter, alts: Alts, node: ast.AST, do: Callable[[Any], None]) -> None:
        """Do it to each alternative; one of several functions is what the unseen code calls, so each has an arm of its own."""
        choice = self.fresh() if sum(isinstance(v, (Function, Bound)) for v, _ in alts) > 1 else 0
        for value, guard in alts:
            if not choice or not isinstance(value, (Function, Bound)):
                do(value)
                continue
            condition = Condition(None, (tuple(guard) or ((("one of", choice, value.key), True),), ()))
            _, changes, facts = self.arm(node, -self.fresh(), condition, True, lambda value=value: do(value) or NORMAL, "choice")  # type: ignore[func-returns-value]
            self.merge(changes, {}, facts)

    def lose(self: Interpreter, value: Any, node: ast.AST, seen: set[int] | None = None) -> None:
        """The value goes to code that cannot be seen: it and all that is reached from it may be used there."""
        seen = set() if seen is None else seen
        if isinstance(value, (Const, External, ClassValue, Context)) or id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, Instance):
            if value.lost is not None:
                value.facts["handed"] = True
                return  # what it is given later is lost when it is given
            value.lost = self.span(node)
            if (value.cls is not None or not value.kind) and value.kind in ("", "scheduler", "optimizer", "module"):
                for alts in list(value.slots.values()):
                    for inner, _ in alts:
                        if value.kind != "module" or getattr(inner, "kind", "") in NARROW:  # a trainer that is a module as well
                            self.lose(inner, node, seen)
        elif isinstance(value, Opaque):
            thing = self.promoted.get(value.key)
            if thing is not None:
                self.lose(thing, node, seen)
            for source in value.sources:
                if source.kind in ("optimizer", "scheduler", "scaler") and value.key[0] == "attr":
                    self.lose(source, node, seen)
        elif isinstance(value, (Sequence, Mapping)):
            for alts in list(value.slots.values()):
                for inner, _ in alts:
                    self.lose(inner, node, seen)
        elif isinstance(value, Partial):
            for alts in (value.function, *value.args, *value.keywords.values()):
                for inner, _ in alts:
                    self.lose(inner, node, seen)
        elif isinstance(value, Bound):
            if isinstance(value.function, Function):
                self.called_back(value, node, seen)
            elif isinstance(value.receiver, Instance) and value.receiver.kind:
                self.lose(value.receiver, node, seen)
        elif isinstance(value, Function):
            self.called_back(value, node, seen)
        elif isinstance(value, Generator):
            value.run(lambda alts: self.lose_all([alts], node, seen) or NORMAL)  # type: ignore[func-returns-value]

    def registered(self: Interpreter, decorator: External | Opaque, function: Function, node: ast.AST) -> None:
        """A decorator that cannot be seen may keep the function and call it: that matters where it acts on objects from outside."""
        key = decorator.key[1] if decorator.key[:1] == ("call",) else decorator.key
        name = key[1] if isinstance(key, tuple) and key[:1] == ("ext",) else ""
        if self.env.is_class or (isinstance(name, str) and name.split(".")[0] in PLAIN):
            return
        names = {n.id for n in ast.walk(function.node) if isinstance(n, ast.Name)}
        held: set[Instance] = set()
        env: Env | None = function.env
        while env is not None:
            held.update(i for n in names & env.slots.keys() for v, _ in env.slots[n] for i in self.inside(v))
            env = env.parent
        if any(i.kind in NARROW or (not i.kind and i.cls is not None and self.project.active(i.cls)) for i in held):
            self.called_back(function, node, set())

    def called_back(self: Interpreter, value: Function | Bound, node: ast.AST, seen: set[int]) -> None:
        """A function handed to unseen code: it may be called, with what it knows and arguments that are not known."""
        function = value.function if isinstance(value, Bound) else value
        if not isinstance(function, Function):
            return
        if self.entries.get(id(function.node), 0) > 1:  # walked before; what this one closes over may be used all the same
            self.lose_all([one(value.receiver)] if isinstance(value, Bound) else [], node, seen)
            if function.env.parent is not None:
                self.lose_all(list(function.env.slots.values()), node, seen)
            return
        before, made = len(self.records), self.counter
        result = self.call_value(value, [], {}, node)
        self.lose_all([result], node, seen)
        for record in self.records[before:]:  # when and how often is up to the caller; what the function makes for itself it uses itself
            if record.thing is not None and record.thing.kind in ("scheduler", "optimizer", "scaler") and record.thing.ident <= made:
                record.thing.lost = record.thing.lost or self.span(node)
