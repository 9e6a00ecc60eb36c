"""Methods of followed objects that no project class defines."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

from mllint.flow.endings import loss_input
from mllint.flow.state import NORMAL, Condition, State
from mllint.flow.values import (
    Alts,
    Bound,
    ClassValue,
    Const,
    Context,
    Deferred,
    Env,
    Function,
    Instance,
    Mapping,
    Opaque,
    Partial,
    Sequence,
    Super,
    guarded,
    join,
    one,
    single,
    values_of,
)

if TYPE_CHECKING:
    from mllint.flow.interpret import Interpreter

#: Methods of every torch module that are no sub-module.
MODULE_METHODS = frozenset((
    "parameters", "named_parameters", "modules", "named_modules", "children", "named_children", "buffers", "named_buffers", "state_dict",
    "load_state_dict", "register_buffer", "register_forward_hook", "register_full_backward_hook", "get_submodule", "get_parameter",
    "forward", "extra_repr", "to_empty", "append", "extend", "insert",
))  # fmt: skip
#: What reaches the parameters of a module.
PARAMETERS = frozenset(("parameters", "named_parameters", "modules", "named_modules", "children", "named_children", "state_dict"))

#: How classes and functions that make a loss are called.
LOSS_NAME = re.compile(r"loss|criterion", re.IGNORECASE)


class Methods(State):
    """Library methods; mixed into the Interpreter."""

    # ---------------------------------------------------------------- methods

    def call_library_method(
        self: Interpreter, receiver: Any, name: str, args: list[Alts], keywords: dict[str, Alts], node: ast.AST
    ) -> Alts:
        """A method no project class defines."""
        if isinstance(receiver, Super):
            return self.super_method(receiver, name, args, keywords, node)
        if not isinstance(receiver, Instance):
            return self.container_method(receiver, name, args, keywords, node)
        if receiver.cls is not None and not receiver.kind and self.strange_base(receiver.cls):
            self.lose_all([one(receiver), *args, *keywords.values()], node)
            return one(self.unknown())
        kind = receiver.kind
        row = self.method_row(receiver, name)
        if kind == "module" and row is None:
            return self.module_method(receiver, name, args, keywords, node)
        return self.followed_method(receiver, name, row, args, keywords, node)

    def followed_method(
        self: Interpreter,
        receiver: Instance,
        name: str,
        row: dict[str, Any] | None,
        args: list[Alts],
        keywords: dict[str, Alts],
        node: ast.AST,
    ) -> Alts:
        known, row = row is not None, row or {}
        sure = self.choices == 0 and receiver.sure
        given = self.by_name(row.get("parameters", ()), args, keywords)
        if receiver.kind == "scheduler" and name == "step" and args:
            given = {str(receiver.facts.get("argument", "0")): args[0], **{k: v for k, v in given.items() if k != "0"}}
        arguments = {n: self.held_value(a, node) for n, a in given.items() if a}
        if receiver.kind in ("optimizer", "scaler") and name == "step" and row.get("effect") != "scaler-step":
            self.run_closure(receiver, given, node)
        if name == "step" and receiver.kind == "optimizer":
            self.run_hooks(receiver, "register_step_pre_hook", node)
        if name == "backward" and "effect" not in row:
            row = {**row, "effect": "backward"}
        if row.get("effect") in (None, "scale", "scaler-step"):
            self.record(name, receiver, node, arguments, sure=sure)
        if name == "step" and receiver.kind == "optimizer":
            self.run_hooks(receiver, "register_step_post_hook", node)
        if "hook" in row and args:
            receiver.slots[("hook", name)] = join(receiver.slots.get(("hook", name), ()), args[0])
            return one(self.unknown())
        if not known:
            self.lose_all([*args, *keywords.values()], node)
        return self.method_result(receiver, name, row, given, args, keywords, node, sure)

    def method_result(
        self: Interpreter,
        receiver: Instance,
        name: str,
        row: dict[str, Any],
        given: dict[str, Alts],
        args: list[Alts],
        keywords: dict[str, Alts],
        node: ast.AST,
        sure: bool,
    ) -> Alts:
        effect = row.get("effect")
        if effect == "scale":
            return self.scaled(receiver, args[0] if args else ())
        if effect == "whole-step":
            return self.whole_step(receiver, given, node, sure)
        if effect == "scaler-step":
            for value in values_of(given.get("optimizer", ())):
                target = self.thing_of(value)
                if isinstance(value, Opaque) and target is value:
                    target = self.promote(value, "optimizer", node)
                elif isinstance(target, Instance):
                    self.take_for_optimizer(target)
                if isinstance(target, Instance) and target.kind == "optimizer":
                    self.run_hooks(target, "register_step_pre_hook", node)
                    self.record("step", target, node, via=receiver, sure=sure and len(given["optimizer"]) == 1)
                    self.run_hooks(target, "register_step_post_hook", node)
            return one(self.unknown())
        if effect is not None:
            self.effect(effect, row, receiver, args, keywords, node)
        for action in row.get("does", ()):
            for partner in (p for p in receiver.partners if p.kind in row.get("to", ("optimizer",))):
                self.record(action, partner, node, via=receiver, sure=sure)
        if "manages" in row:
            for parameter in row["manages"]:
                for value in values_of(given.get(parameter, ())):
                    self.manage(value, node)
        if "context" in row:
            return one(
                Context(row["context"], {"via": receiver.ident}, self.inside(self.meet(args[0])) if args else frozenset((receiver,)))
            )
        if "replaces" in row:
            name_alts, value_alts = given.get(str(row["replaces"]), ()), given.get(str(row["value"]), ())
            self.note_replaced(receiver, str(getattr(single(name_alts), "value", "")) if name_alts else "", value_alts, node)
        if row.get("returns") == "self":
            return one(receiver)
        if "registers" in row:
            return one(Bound(receiver, row["registers"]))
        if "configured" in row:
            return self.configured(receiver, row["configured"])
        if row.get("returns") == "arguments":
            if "*" in keywords:
                return one(Sequence(self.fresh(), None, "tuple", keywords["*"]))
            for value in (v for a in args for v, _ in a if isinstance(v, Instance)):
                if receiver not in value.partners and value.kind != "module":
                    value.facts["prepared_by"] = receiver.ident
            return args[0] if len(args) == 1 else one(Sequence(self.fresh(), args, "tuple"))
        if isinstance(row.get("returns"), int):
            return args[row["returns"]] if row["returns"] < len(args) else one(self.unknown())
        tags = frozenset((row["gives"],)) if "gives" in row else frozenset()
        sources = frozenset((receiver,)) if receiver.kind in ("optimizer", "module", "engine") else frozenset()
        return one(Opaque(("call", ("attr", receiver.key, name), self.fresh() if args else 0), sources, tags, depth=3))

    def whole_step(self: Interpreter, receiver: Instance, given: dict[str, Alts], node: ast.AST, sure: bool) -> Alts:
        """One call scales, goes backward, clips and steps (timm's loss scalers); `need_update` says whether it steps this time."""
        loss = self.scaled(receiver, given.get("loss", ()))
        self.record("scale", receiver, node, sure=sure)
        self.record("backward", None, node, {"loss": self.held_value(loss, node)})

        def update() -> int:
            limit = single(given.get("clip_grad", one(Const(None))))
            if given.get("parameters") and not (isinstance(limit, Const) and limit.value is None):
                unscaled = frozenset(("unscales",))
                of, threshold = self.held_value(given["parameters"], node, unscaled), self.value(given["clip_grad"], node)
                self.record("clip", None, node, {"of": of, "threshold": threshold}, via=receiver)
            self.record("step", receiver, node, {"optimizer": self.held_value(given.get("optimizer", ()), node)}, sure=sure)
            self.method_result(receiver, "step", {"effect": "scaler-step"}, given, [], {}, node, sure)
            self.record("update", receiver, node, sure=sure)
            return NORMAL

        asked = next((k.value for k in getattr(node, "keywords", ()) if k.arg == "need_update"), None)
        condition = self.condition(asked) if asked is not None else Condition(True)
        if condition.verdict is None:
            self.fork(node, condition, update, lambda: NORMAL)
        elif condition.verdict:
            update()
        return one(self.unknown())

    def configured(self: Interpreter, receiver: Instance, kind: str) -> Alts:
        """The objects of that kind a framework was given by the configuring hook, as it hands them back: alone, or as a list."""
        out: Alts = ()
        for value, guard in receiver.slots.get(("configured",), ()):
            found = self.in_order(value, kind, 4)
            if found:
                out = join(out, guarded(one(found[0]) if len(found) == 1 else one(Sequence(self.fresh(), [one(f) for f in found])), guard))
        return out or one(self.unknown())

    def in_order(self: Interpreter, value: Any, kind: str, depth: int) -> list[Instance]:
        """The objects of that kind inside lists, tuples and dicts, in the order they stand there."""
        if isinstance(value, Instance):
            return [value] if value.kind == kind else []
        if depth == 0 or not isinstance(value, (Sequence, Mapping)):
            return []
        slots = value.elements() if isinstance(value, Sequence) else value.values()
        found: list[Instance] = []
        for alts in slots:
            for inner, _ in alts:
                found.extend(f for f in self.in_order(inner, kind, depth - 1) if f not in found)
        return found

    def run_closure(self: Interpreter, receiver: Instance, given: dict[str, Alts], node: ast.AST) -> None:
        """`optimizer.step(closure)` calls the closure first."""
        for value in values_of(given.get("closure", given.get("0", ()))):
            if isinstance(value, (Function, Bound, Partial)):
                self.call_value(value, [], {}, node)

    def run_hooks(self: Interpreter, receiver: Instance, hook: str, node: ast.AST) -> None:
        for value in values_of(receiver.slots.get(("hook", hook), ())):
            if isinstance(value, (Function, Bound, Partial)):
                self.call_value(value, [one(receiver), one(self.unknown()), one(self.unknown())], {}, node)

    def scaled(self: Interpreter, scaler: Instance, loss: Alts) -> Alts:
        out: Alts = ()
        for value, guard in loss or one(self.unknown()):
            if isinstance(value, Opaque):
                value = Opaque(("scaled", value.key), value.sources, value.tags, value.divided, scaler, value.depth + 1)
            elif isinstance(value, Sequence):
                value = Sequence(
                    self.fresh(),
                    [self.scaled(scaler, e) for e in value.elements()] if value.length is not None else None,
                    value.kind,
                    self.scaled(scaler, value.elements()[0]) if value.elements() else (),
                )
            out = join(out, guarded(one(value), guard))
        return out

    def module_method(self: Interpreter, receiver: Instance, name: str, args: list[Alts], keywords: dict[str, Alts], node: ast.AST) -> Alts:
        if name == "forward":
            return self.forward(receiver, args, keywords, node)
        tags = frozenset(("params",)) if name in PARAMETERS else frozenset()
        if name in ("append", "extend", "insert"):
            return self.module_list(receiver, name, args, node)
        if name == "backward":
            self.effect("backward", {}, receiver, args, keywords, node)
        elif name not in MODULE_METHODS:
            self.record(name, receiver, node)
        return one(Opaque(("call", ("attr", receiver.key, name), 0), frozenset((receiver,)), tags, depth=3))

    def forward(self: Interpreter, receiver: Instance, args: list[Alts], keywords: dict[str, Alts], node: ast.AST) -> Alts:
        """A module is called: what comes out carries its gradient and that of what went in."""
        arguments = loss_input(self, args, keywords, node) if receiver.kind == "criterion" else None
        self.record("forward", receiver, node, arguments, sure=self.choices == 0)
        inputs = [self.meet(a) for a in (*args, *keywords.values()) if a]
        held: list[Any] = [receiver, *inputs]
        for value in inputs:
            if isinstance(value, (Sequence, Mapping)):
                held.extend(v for e in value.slots.values() for v, _ in e)
        if receiver.kind == "criterion":
            held = held[1:]
        elif receiver.kind == "engine":
            held.extend(p for p in receiver.partners if p.kind == "module")
        tags = frozenset(("sum",)) if receiver.kind == "criterion" and self.reduction(receiver.arguments) else frozenset()
        if receiver.cls is not None:
            tags = tags.union(*(self.reduction_of(a) for a in receiver.cls.mro() if isinstance(a, ClassValue)))
        if receiver.cls is None and receiver.partners:
            for part in self.listed(receiver):
                self.forward(part, args, {}, node)
        if receiver.cls is not None and self.acts_inside(receiver, set()):
            method = self.method_of(receiver, "forward")
            if method is not None:
                result = self.call_value(method, args, keywords, node)
                return tuple((self.opaque(v.key, [v, receiver], v.tags) if isinstance(v, Opaque) else v, g) for v, g in result)
        simple = all(isinstance(v, (Const, Opaque, Instance)) for v in inputs) and len(inputs) <= 4
        key = ("call", receiver.key, *(v.key for v in inputs)) if simple else ("call", receiver.key, self.fresh())
        output = self.opaque(key, held, tags)
        self.reduce(output, tags)
        return one(output)

    def reduction_of(self: Interpreter, cls: ClassValue) -> frozenset[str]:
        """What comes out of a module that is not walked: by its own code, and by the losses of the project it names."""
        known = self.project.handed_on.get(id(cls.node))
        if known is None:
            names = {n.id for n in ast.walk(cls.node) if isinstance(n, ast.Name) and LOSS_NAME.search(n.id)}
            nodes = [cls.node, *(node for name in names if (node := self.definition(cls, name)) is not None)]
            known = self.project.handed_on[id(cls.node)] = frozenset().union(*(self.project.reduction_of(n) for n in nodes))
        return known

    def definition(self: Interpreter, cls: ClassValue, name: str) -> ast.AST | None:
        """The class or function a name stands for in the module of a class, where it is one of the project's; nothing is walked for it."""
        env: Env | None = cls.env.parent
        while env is not None and name not in env.slots:
            env = env.parent
        for value in values_of(env.slots[name]) if env is not None else ():
            if isinstance(value, (ClassValue, Function)):
                return value.node
            file = self.project.locate(value.module) if isinstance(value, Deferred) and value.name is not None else None
            body = file.tree.body if file is not None else []
            return next((n for n in body if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and n.name == value.name), None)
        return None

    def acts_inside(self: Interpreter, module: Instance, seen: set[int]) -> bool:
        """The module, or one it holds, is of a class of the project that does something the rules follow."""
        if module.ident in seen:
            return False
        seen.add(module.ident)
        if module.cls is not None and self.project.active(module.cls):
            return True
        held = [*module.partners, *(v for alts in module.slots.values() for v, _ in alts if isinstance(v, Instance))]
        return any(part.kind == "module" and self.acts_inside(part, seen) for part in held)

    def listed(self: Interpreter, container: Instance) -> list[Instance]:
        """The modules of the project a library container (Sequential) calls one after the other, where that can matter."""
        if container.type != "torch.nn.Sequential":
            return []
        return [p for p in container.partners if p.kind == "module" and self.acts_inside(p, set())]

    def super_method(self: Interpreter, receiver: Super, name: str, args: list[Alts], keywords: dict[str, Alts], node: ast.AST) -> Alts:
        """`super().method()` that ends in a library class."""
        instance = receiver.receiver
        if not isinstance(instance, Instance) or instance.cls is None:
            return one(self.unknown())
        if name == "__init__":
            row = self.class_row(instance.cls)
            if row is not None and instance.kind:
                self.construct(instance, row, args, keywords, node)
            elif self.strange_base(instance.cls):
                self.lose_all([*args, *keywords.values()], node)
            return one(Const(None))
        if instance.kind:
            if any(c.function is not None and c.function.name == name for c in self.calls) and name in ("step", "zero_grad", "update"):
                instance.facts["deferring"] = instance.facts.get("deferring", frozenset()) | {name}
                return one(self.unknown())  # the call of the override is the event
            return self.call_library_method(instance, name, args, keywords, node)
        self.lose_all([*args, *keywords.values()], node)
        return one(self.unknown())
