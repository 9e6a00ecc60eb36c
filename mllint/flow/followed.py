"""Followed objects: how one is made or recognised, and what setting its attributes does."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from mllint.flow.methods import MODULE_METHODS
from mllint.flow.state import State
from mllint.flow.values import (
    NO_GUARD,
    Alts,
    Bound,
    ClassValue,
    Const,
    Instance,
    Mapping,
    Opaque,
    Sequence,
    one,
    parts,
    single,
    values_of,
)
from mllint.model.history import Value

if TYPE_CHECKING:
    from mllint.flow.interpret import Interpreter

#: Attributes of followed objects that are data, not methods.
DATA = frozenset((
    "param_groups", "state", "defaults", "last_epoch", "base_lrs", "_last_lr", "T_max", "dataset", "sampler", "batch_size", "device",
    "is_main_process", "is_local_main_process", "sync_gradients", "gradient_accumulation_steps", "num_processes", "process_index",
))  # fmt: skip


class Followed(State):
    """Followed objects; mixed into the Interpreter."""

    # ------------------------------------------------------- followed objects

    def thing_of(self: Interpreter, value: Any) -> Any:
        """The object an unknown value was found to be, if it was."""
        return self.promoted.get(value.key, value) if isinstance(value, Opaque) else value

    def promote(self: Interpreter, value: Opaque, kind: str, node: ast.AST) -> Instance:
        """An unknown value used as a followed object becomes one; where it came from was not seen, so "never" is not for it."""
        known = self.promoted.get(value.key)
        if known is None:
            known = self.promoted[value.key] = Instance(self.fresh(), self.span(node), kind, "")
            known.lost = self.span(node)
            known.sure = False
            known.name = ast.unparse(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""
            known.partners.extend(s for s in value.sources if s.kind)
            self.things.append(known)
        return known

    def take_for_optimizer(self: Interpreter, thing: Instance) -> None:
        """An unknown object that so far only cleared gradients, as modules do too, turns out to be an optimizer."""
        unseen = thing.kind == "module" and not thing.type and thing.cls is None and any(t is thing for t in self.promoted.values())
        if unseen and all(r.action == "zero_grad" for r in self.records if r.thing is thing):
            thing.kind = "optimizer"

    def declared(self: Interpreter, name: str, key: tuple, node: ast.AST) -> Instance | None:
        """A parameter annotated with a followed class."""
        row = self.knowledge.row("bases", name) or self.knowledge.row("objects", name)
        kind = row.get("kind") if row is not None else None
        if kind not in ("optimizer", "scheduler", "scaler", "module"):
            return None
        known = self.promote(Opaque(key), kind, node)
        known.type = name
        known.name = getattr(node, "arg", "")
        return known

    def class_row(self: Interpreter, cls: ClassValue) -> dict[str, Any] | None:
        """The table row a project class inherits from."""
        for name in cls.externals():
            row = self.knowledge.row("objects", name) if self.knowledge.row("bases", name) is None else None
            base = self.knowledge.row("bases", name)
            if base is not None and base.get("kind"):
                constructor = self.knowledge.row("objects", base.get("row", name)) or {}
                return {**constructor, **base} if constructor.get("kind", base["kind"]) == base["kind"] else base
            if row is not None and row.get("kind"):
                return row
        return None

    def method_row(self: Interpreter, instance: Instance, name: str) -> dict[str, Any] | None:
        """What the tables say of a method: for its class, the project's ancestors of it, then its kind."""
        return self.knowledge.method(instance.kind, name, (instance.type, *(instance.cls.externals() if instance.cls is not None else ())))

    def strange_base(self: Interpreter, cls: ClassValue) -> bool:
        """An ancestor whose code cannot be seen and which no table describes."""
        return cls.unseen_base() or any(
            self.knowledge.row("bases", name) is None and self.knowledge.row("objects", name) is None for name in cls.externals()
        )

    def library_attribute(self: Interpreter, instance: Instance, name: str) -> Alts:
        """An attribute the project did not set: a method, a sub-module, or data."""
        if instance.kind == "module":
            if name in MODULE_METHODS or self.method_row(instance, name) is not None:
                return one(Bound(instance, name))
            return one(Opaque(("attr", instance.key, name), frozenset((instance,)), depth=2))
        if instance.kind:
            row = self.method_row(instance, name)
            if row is None and name in instance.facts.get("attributes", ()):
                return self.held_attribute(instance, name, instance.facts["attributes"][name])
            if row is None and name in instance.arguments and instance.kind in ("scheduler", "loader", "engine"):
                return instance.arguments[name]
            if row is None and name in DATA:
                return one(Opaque(("attr", instance.key, name), frozenset((instance,)), depth=2))
            return one(Bound(instance, name))
        if instance.cls is not None and self.strange_base(instance.cls):
            return one(Bound(instance, name))
        given = instance.slots.get(("given", name))
        return given if given is not None else one(Opaque(("attr", instance.key, name), depth=2))

    def held_attribute(self: Interpreter, instance: Instance, name: str, what: str) -> Alts:
        """An attribute the tables know: the argument of that parameter, or an object of that class, made when first asked for."""
        if "." not in what:
            return instance.arguments.get(what) or one(Opaque(("attr", instance.key, name), depth=2))
        made = Instance(self.fresh(), instance.made_at, (self.knowledge.row("objects", what) or {}).get("kind", ""), what)
        made.lost = instance.made_at  # the framework uses it as well
        self.things.append(made)
        self.write(instance.slots, name, one(made))
        return one(made)

    def library_item(self: Interpreter, instance: Instance, position: Any, node: ast.AST) -> Alts:
        if instance.kind == "module":
            number = position.value if isinstance(position, Const) else None
            inner = single(instance.arguments.get("0", ())) if len(instance.arguments) == 1 else None
            if isinstance(inner, Sequence):
                return self.item(inner, one(position) if position is not None else (), node) or one(self.unknown())
            part = instance.arguments.get(str(number))
            if part is not None:
                return part
        if instance.cls is not None:
            method = self.method_of(instance, "__getitem__")
            if method is not None and not instance.kind:
                return self.call_value(method, [one(position or self.unknown())], {}, node)
        key = position.key if position is not None else ("unknown", self.fresh())
        return one(Opaque(("index", instance.key, key), frozenset((instance,)) if instance.kind else frozenset(), depth=2))

    def library_set(self: Interpreter, instance: Instance, name: str, alts: Alts, node: ast.AST) -> None:
        """An attribute is set: parts of modules are replaced; what a framework's class takes is out of sight."""
        if instance.kind == "module" and instance.ready:
            self.note_replaced(instance, name, alts, node)
        if instance.kind == "parameter" and name == "grad":
            new = single(alts)
            action = "grad-cleared" if isinstance(new, Const) and new.value is None else "grad-written"
            self.record(action, None, node, {"of": self.held_value(one(instance), node)})
        if instance.kind == "optimizer" and name == "param_groups":
            self.record("add_param_group", instance, node)
        if instance.cls is None or instance.kind == "module":
            for value, _ in alts:
                if (
                    isinstance(value, Instance)
                    and value.kind in ("module", "criterion")
                    and value not in instance.partners
                    and instance.kind == "module"
                ):
                    instance.partners.append(value)
            if instance.cls is None:
                return
        if self.strange_base(instance.cls):
            for value, _ in alts:
                if isinstance(value, Instance) and value.kind in ("optimizer", "scheduler", "scaler"):
                    self.lose(value, node)
        else:
            for row in (self.knowledge.row("bases", n) for n in instance.cls.externals()):
                if row is not None and name in row.get("manages", ()):
                    for value in values_of(alts):
                        self.manage(value, node)

    def note_replaced(self: Interpreter, instance: Instance, name: str, alts: Alts, node: ast.AST) -> None:
        for value, _ in alts:
            new = self.thing_of(value)
            if (
                isinstance(new, Instance)
                and new.kind in ("module", "parameter")
                and not new.facts.get("empty")
                and not self.already_inside(instance, new)
            ):
                self.record("replaced", instance, node, {"name": Value(("const", name)), "value": self.value(alts)}, sure=len(alts) == 1)

    def already_inside(self: Interpreter, instance: Instance, new: Instance) -> bool:
        return new.ident in parts(instance)

    def library_set_item(self: Interpreter, instance: Instance, position: Any, alts: Alts, node: ast.AST) -> None:
        if instance.kind == "module" and instance.ready:
            self.note_replaced(instance, str(getattr(position, "value", "")), alts, node)
        elif not instance.kind:
            method = self.method_of(instance, "__setitem__")
            if method is not None:
                self.call_value(method, [one(position or self.unknown()), alts], {}, node)
            else:
                self.lose_all([alts], node)

    def opaque_set(self: Interpreter, value: Opaque, name: str, alts: Alts, node: ast.AST) -> None:
        new = single(alts)
        if name == "grad":
            action = "grad-cleared" if isinstance(new, Const) and new.value is None else "grad-written"
            self.record(action, None, node, {"of": Value(value.key, sources=frozenset(i.ident for i in value.sources))})
            return
        if name == "data":
            return
        thing = self.promoted.get(value.key)
        if thing is not None:
            self.library_set(thing, name, alts, node)
        for owner in value.sources:
            if owner.kind == "module" and owner.ready:
                self.note_replaced(owner, name, alts, node)
        self.write(self.opaque_slots, (value.key, name), alts)
        if not value.sources:
            for inner, _ in alts:
                if isinstance(inner, Instance) and inner.kind in ("optimizer", "scheduler", "scaler"):
                    self.lose(inner, node)

    def opaque_set_item(self: Interpreter, value: Opaque, position: Any, alts: Alts, node: ast.AST) -> None:
        for owner in value.sources:
            if owner.kind == "module" and owner.ready and value.key[0] in ("attr", "index"):
                self.note_replaced(owner, str(getattr(position, "value", "")), alts, node)
        self.lose_all([tuple((v, NO_GUARD) for v, _ in alts if isinstance(v, (Instance, Sequence, Mapping)))], node)
