"""Names, attributes and items: reading them, writing them, and finding imported ones."""

from __future__ import annotations

import ast
import builtins
from typing import TYPE_CHECKING, Any

from mllint.flow.expressions import LASTING
from mllint.flow.state import State
from mllint.flow.values import (
    DEEPEST_KEY,
    Alts,
    Bound,
    ClassValue,
    Const,
    Deferred,
    Env,
    External,
    Function,
    Generator,
    Instance,
    Mapping,
    ModuleValue,
    Opaque,
    Partial,
    Sequence,
    Slots,
    Super,
    guarded,
    join,
    one,
    single,
    values_of,
)

if TYPE_CHECKING:
    from mllint.flow.interpret import Interpreter

#: Builtin classes that may be subscripted in an annotation.
GENERIC = frozenset(("builtins.list", "builtins.dict", "builtins.tuple", "builtins.set", "builtins.type", "builtins.frozenset"))
BUILTINS = frozenset(dir(builtins))


class Names(State):
    """Names and what hangs on them; mixed into the Interpreter."""

    # ----------------------------------------------------------------- names

    def slots_of(self: Interpreter, name: str) -> Slots | None:
        """The slots an assignment to the name would write."""
        env: Env | None = self.env
        if env is not None and name in env.globals_named:
            outer = env.parent
            while outer is not None:
                if name in outer.slots or outer.parent is None:
                    return outer.slots
                outer = outer.parent
        return None if env is None else env.slots

    def write_name(self: Interpreter, name: str, alts: Alts) -> None:
        slots = self.slots_of(name)
        if slots is not None:
            self.write(slots, name, alts)

    def name(self: Interpreter, node: ast.Name) -> Alts:
        return self.read_name(node.id)

    def find_name(self: Interpreter, name: str) -> Slots | None:
        env: Env | None = self.env
        while env is not None:
            if name in env.slots:
                return env.slots
            env = env.parent
        return None

    def read_name(self: Interpreter, name: str) -> Alts:
        slots = self.find_name(name)
        if slots is not None:
            alts = slots[name]
            for value, _ in alts:
                if type(value) is Deferred:
                    alts = self.resolve_slot(slots, name)
                    break
            return self.held(alts)
        env: Env | None = self.env
        while env is not None:
            for star, _ in env.slots.get("*imports", ()):
                module = self.resolve(star)[0][0]
                found = self.module_attribute(module, name) if isinstance(module, ModuleValue) else None
                if found is not None:
                    env.slots[name] = found
                    return found
            env = env.parent
        if name in BUILTINS:
            return one(External("builtins." + name))
        return one(Opaque(("name", name)))

    def resolve_slot(self: Interpreter, slots: Slots, name: str) -> Alts:
        """Put the imported values where the put-off imports stood; two modules that import a name from each other end here."""
        pending = slots[name]
        slots[name] = one(Opaque(("circular", name)))
        resolved: Alts = ()
        for value, guard in pending:
            resolved = join(resolved, guarded(self.resolve(value), guard))
        slots[name] = resolved
        return resolved

    def bound_in_project(self: Interpreter, name: str) -> bool:
        return self.find_name(name) is not None

    def resolve(self: Interpreter, value: Any) -> Alts:
        """What a put-off import gives: the module is walked now, if it is the project's."""
        if not isinstance(value, Deferred):
            return one(value)
        found = self.project.locate(value.module)
        if found is None:
            dotted = value.module if value.name is None else f"{value.module}.{value.name}"
            inner = self.project.locate(dotted) if value.name is not None else None
            if inner is not None:
                return one(self.run_module(inner))
            if self.project.is_package(value.module):
                return one(Opaque(("package", dotted)))
            return one(External(self.knowledge.canonical(dotted)))
        module = self.run_module(found)
        if value.name is None:
            return one(module)
        attribute = self.module_attribute(module, value.name)
        if attribute is not None:
            return attribute
        inner = self.project.locate(f"{value.module}.{value.name}")
        return one(self.run_module(inner)) if inner is not None else one(Opaque(("missing", value.module, value.name)))

    def module_attribute(self: Interpreter, module: ModuleValue, name: str, asked: tuple[ModuleValue, ...] = ()) -> Alts | None:
        """A name of a module of the project; None when it has none such. `asked` are the modules whose stars led here."""
        if name not in module.slots:
            for star, _ in module.slots.get("*imports", ()):
                inner = self.resolve(star)[0][0]
                if isinstance(inner, ModuleValue) and inner is not module and inner not in asked:
                    found = self.module_attribute(inner, name, (*asked, module))
                    if found is not None:
                        return found
            if asked:
                return None
            submodule = self.project.locate(f"{self.project.module_name(module.file)}.{name}")
            return one(self.run_module(submodule)) if submodule is not None and submodule is not module.file else None
        alts = module.slots[name]
        if any(isinstance(v, Deferred) for v, _ in alts):
            return self.resolve_slot(module.slots, name)
        return alts

    # ------------------------------------------------------------ attributes

    def attribute(self: Interpreter, node: ast.Attribute) -> Alts:
        base = self.held(self.evaluate(node.value))
        found: Alts = ()
        for value, guard in base:
            if isinstance(value, Const) and value.value is None and len(base) > 1:
                continue  # None has no such attribute: on that path the program has ended
            found = join(found, guarded(self.attribute_of(value, node.attr), guard))
        return self.held(found) or one(self.unknown())

    def attribute_of(self: Interpreter, value: Any, name: str) -> Alts:
        """`value.name`."""
        if isinstance(value, Instance):
            return self.instance_attribute(value, name)
        if isinstance(value, External):
            dotted = self.knowledge.canonical(f"{value.name}.{name}")
            return one(External(dotted))
        if isinstance(value, ModuleValue):
            found = self.module_attribute(value, name)
            return found if found is not None else one(Opaque(("attr", value.key, name), depth=2))
        if isinstance(value, ClassValue):
            return self.class_attribute(value, value, name) or one(Opaque(("attr", value.key, name), depth=2))
        if isinstance(value, Super):
            return self.super_attribute(value, name)
        if isinstance(value, (Sequence, Mapping, Const, Generator)):
            return one(Bound(value, name))
        if isinstance(value, (Partial, Function, Bound)):
            return self.function_attribute(value, name)
        return self.opaque_attribute(value, name) if isinstance(value, Opaque) else one(self.unknown())

    def opaque_attribute(self: Interpreter, value: Opaque, name: str) -> Alts:
        thing = self.promoted.get(value.key)
        if thing is not None:
            return self.instance_attribute(thing, name)
        stored = self.opaque_slots.get((value.key, name))
        if stored is not None:
            return stored
        key = ("attr", value.key, name)
        if name in self.option_defaults and value.key[0] == "call" and value.key[1][-1:] in (("parse_args",), ("parse_known_args",)):
            self.option_values[key] = self.option_defaults[name]
        return one(Opaque(key, value.sources, value.tags & LASTING, value.divided, value.scaled, min(value.depth + 1, DEEPEST_KEY)))

    def function_attribute(self: Interpreter, value: Any, name: str) -> Alts:
        if name in ("__name__", "__doc__", "__qualname__", "__module__"):
            return one(self.unknown())
        if name == "func" and isinstance(value, Partial):
            return value.function
        return one(Opaque(("attr", value.key, name)))

    def instance_attribute(self: Interpreter, instance: Instance, name: str) -> Alts:
        if name in instance.slots:
            alts = instance.slots[name]
            if name in self.project.varying and any(isinstance(v, Const) and v.value is not None for v, _ in alts):
                varies = Opaque(("varies", instance.key, name), depth=2)
                alts = tuple((varies if isinstance(v, Const) and v.value is not None else v, g) for v, g in alts)
            return self.held(alts)
        if instance.cls is not None:
            found = self.class_attribute(instance.cls, instance, name)
            if found is not None:
                return found
        return self.library_attribute(instance, name)

    def class_attribute(self: Interpreter, cls: ClassValue, receiver: Any, name: str, after: ClassValue | None = None) -> Alts | None:
        """Look a name up along the ancestors and bind it to the receiver."""
        lineage = cls.mro()
        if after is not None and after in lineage:
            lineage = lineage[lineage.index(after) + 1 :]
        for ancestor in lineage:
            if isinstance(ancestor, ClassValue) and name in ancestor.slots:
                out: Alts = ()
                for value, guard in ancestor.slots[name]:
                    for resolved in values_of(self.resolve(value)):
                        out = join(out, guarded(self.bind_method(resolved, receiver, ancestor), guard))
                return out
        return None

    def bind_method(self: Interpreter, value: Any, receiver: Any, owner: ClassValue) -> Alts:
        if not isinstance(value, Function):
            return one(value)
        if "staticmethod" in value.decorators:
            return one(value)
        if "classmethod" in value.decorators:
            cls = receiver.cls if isinstance(receiver, Instance) and receiver.cls is not None else receiver
            return one(Bound(cls, value, owner))
        if isinstance(receiver, ClassValue):
            return one(value)
        if "property" in value.decorators:
            return self.call_value(Bound(receiver, value, owner), [], {}, value.node)
        return one(Bound(receiver, value, owner))

    def method_of(self: Interpreter, instance: Instance, name: str) -> Bound | None:
        """The project's own method of that name, bound to the instance."""
        if instance.cls is None:
            return None
        found = self.class_attribute(instance.cls, instance, name)
        value = single(found) if found else None
        return value if isinstance(value, Bound) and isinstance(value.function, Function) else None

    def super_attribute(self: Interpreter, value: Super, name: str) -> Alts:
        receiver = value.receiver
        if isinstance(receiver, Instance) and receiver.cls is not None:
            found = self.class_attribute(receiver.cls, receiver, name, after=value.after)
            if found is not None:
                return found
            return one(Bound(value, name))
        if isinstance(receiver, ClassValue):
            return self.class_attribute(receiver, receiver, name, after=value.after) or one(self.unknown())
        return one(self.unknown())

    def set_attribute(self: Interpreter, base: Alts, name: str, alts: Alts, node: ast.AST) -> None:
        base = self.held(base)
        certain = len(base) == 1
        for value, _ in base:
            if isinstance(value, Instance):
                self.library_set(value, name, alts, node)
                if value.lost is not None and not value.kind:
                    self.lose_all([alts], node)
                old = value.slots.get(name)
                self.write(value.slots, name, alts if certain or old is None else join(old, alts))
            elif isinstance(value, (ClassValue, ModuleValue)):
                self.write(value.slots, name, alts)
            elif isinstance(value, Opaque):
                self.opaque_set(value, name, alts, node)
            elif isinstance(value, External):
                self.lose_all([alts], node)

    # ----------------------------------------------------------------- items

    def subscript(self: Interpreter, node: ast.Subscript) -> Alts:
        base = self.held(self.evaluate(node.value))
        index = self.evaluate(node.slice)
        found: Alts = ()
        for value, guard in base:
            found = join(found, guarded(self.item(value, index, node), guard))
        return self.held(found) or one(self.unknown())

    def item(self: Interpreter, value: Any, index: Alts, node: ast.AST) -> Alts:
        """`value[index]`."""
        position = single(index)
        if isinstance(value, Sequence):
            length = value.length
            if isinstance(position, Const) and isinstance(position.value, int) and length is not None:
                number = position.value + length if position.value < 0 else position.value
                return value.slots.get(number, ())
            if isinstance(position, Opaque) and position.key[:1] == ("slice",):
                return one(value)
            element: Alts = ()
            for item in value.elements():
                element = join(element, item)
            return element
        if isinstance(value, Mapping):
            slot = ("k", position.value) if isinstance(position, Const) else None
            if slot is not None and slot in value.slots:
                return value.slots[slot]
            if slot is not None:
                return value.slots.get("*", one(Opaque(("index", value.key, position.key), depth=2)))  # type: ignore[union-attr]
            found: Alts = ()
            for item in value.values():
                found = join(found, item)
            return found or one(self.unknown())
        if isinstance(value, Instance):
            return self.library_item(value, position, node)
        if (
            isinstance(value, External)
            and position is not None
            and value.name.rpartition(".")[2][:1].islower()
            and value.name not in GENERIC
        ):
            return one(Opaque(("index", value.key, position.key), depth=2))
        if isinstance(value, (External, ClassValue)):
            return one(value)  # Generic[T], list[int]
        if position is None:
            return one(self.opaque(("index", value.key, ("unknown", self.fresh())), [value]))
        tags = (
            frozenset(("lr",))
            if isinstance(position, Const) and position.value == "lr" and "param_groups" in str(value.key)
            else frozenset()
        )
        return one(self.opaque(("index", value.key, position.key), [value], tags))

    def set_item(self: Interpreter, base: Alts, index: Alts, alts: Alts, node: ast.AST) -> None:
        position = single(index)
        for value in values_of(self.held(base)):
            if isinstance(value, Mapping):
                key = ("k", position.value) if isinstance(position, Const) else "*"
                self.write(value.slots, key, alts if key != "*" else join(value.slots.get("*", ()), alts))
            elif isinstance(value, Sequence):
                length = value.length
                number = position.value if isinstance(position, Const) and isinstance(position.value, int) else None
                if number is not None and number < 0 and length is not None:
                    number += length
                if number is not None and number in value.slots:
                    self.write(value.slots, number, alts)
                elif length is None:
                    self.write(value.slots, "*", join(value.slots.get("*", ()), alts))
                else:
                    self.blur(value, alts)
            elif isinstance(value, Instance):
                self.library_set_item(value, position, alts, node)
            elif isinstance(value, Opaque):
                self.opaque_set_item(value, position, alts, node)
            elif isinstance(value, External):
                self.lose_all([alts], node)

    def blur(self: Interpreter, value: Sequence, alts: Alts) -> None:
        """The sequence no longer has known positions."""
        rest = alts
        for item in value.elements():
            rest = join(item, rest)
        for key in list(value.slots):
            if key != "#":
                self.journal.append((value.slots, key, value.slots[key]))
                del value.slots[key]
        self.write(value.slots, "*", rest)
        self.write(value.slots, "#", one(Opaque(("len", value.key, self.fresh()))))

    def extend(self: Interpreter, value: Sequence, more: Alts) -> None:
        """`value += more`, `value.extend(more)`."""
        other = single(more)
        if isinstance(other, Sequence) and other.length is not None and value.length is not None and not self.in_loop():
            for element in other.elements():
                self.append(value, element)
            return
        for candidate in values_of(more):
            element, _, _ = self.iteration(candidate)
            self.blur(value, element)

    def append(self: Interpreter, value: Sequence, alts: Alts) -> None:
        length = value.length
        if length is None or length >= 16 or (self.in_loop() and not self.worth_keeping(alts)):
            self.blur(value, alts)
            return
        self.write(value.slots, length, alts)
        self.write(value.slots, "#", one(Const(length + 1)))

    def worth_keeping(self: Interpreter, alts: Alts) -> bool:
        return any(isinstance(v, Instance) and v.kind in ("optimizer", "scheduler", "scaler") for v, _ in alts)

    def in_loop(self: Interpreter) -> bool:
        return any(f.kind == "loop" for f in self.place)

    def element(self: Interpreter, value: Any, number: int) -> Alts:
        """Element `number` of something unpacked."""
        if isinstance(value, Opaque):
            return one(self.opaque(("part", value.key, number), [value], value.tags & frozenset(("batch",))))
        if isinstance(value, Mapping):
            return one(self.unknown())
        return one(Opaque(("part", value.key, number), depth=2))
