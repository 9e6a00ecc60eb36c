"""Expressions: what a piece of code evaluates to, and what a condition tells."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from mllint.flow.state import Condition, State
from mllint.flow.values import (
    DEEPEST_KEY,
    NO_GUARD,
    Alts,
    Bound,
    ClassValue,
    Const,
    Context,
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
    instances,
    join,
    one,
    same,
    single,
    values_of,
)
from mllint.model.history import Frame, Value

if TYPE_CHECKING:
    from mllint.flow.interpret import Interpreter

OPERATORS: dict[type, str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**", ast.MatMult: "@",
    ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>",
}  # fmt: skip
#: Builtin classes that may be subscripted in an annotation.
GENERIC = frozenset(("builtins.list", "builtins.dict", "builtins.tuple", "builtins.set", "builtins.type", "builtins.frozenset"))
#: Tags a value keeps through arithmetic and method calls.
LASTING = frozenset(("lr", "sum", "weighted", "half", "unknown", "params", "metric"))


def combined(values: list[Any]) -> tuple[frozenset[Instance], frozenset[str], frozenset[tuple], Instance | None]:
    """Sources, tags, divisors and scaler of something computed from all of these."""
    sources: frozenset[Instance] = frozenset()
    tags: frozenset[str] = frozenset()
    divided: frozenset[tuple] = frozenset()
    scaled: Instance | None = None
    for value in values:
        if isinstance(value, Opaque):
            sources |= value.sources
            tags |= value.tags & LASTING
            divided |= value.divided
            scaled = scaled or value.scaled
        elif isinstance(value, Instance):
            sources |= {value}
    return sources, tags, divided, scaled


def counts_samples(key: tuple) -> bool:
    """The key is the size of a batch: `x.shape[0]`, `x.size(0)`, `len(x)`."""
    if key[:1] == ("len",):
        return True
    if key[:1] in (("index",), ("call",)) and key[-1:] == (("const", 0),):
        return isinstance(key[1], tuple) and key[1][:1] == ("attr",) and key[1][2] in ("shape", "size")
    return False


class Expressions(State):
    """Evaluation of expressions; mixed into the Interpreter."""

    env: Env

    def evaluate(self: Interpreter, node: ast.expr | None) -> Alts:
        """The alternatives an expression may be; calls inside it happen."""
        if node is None:
            return ()
        method = _EXPRESSIONS.get(type(node))
        if method is not None:
            return method(self, node)  # type: ignore[no-any-return]
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.evaluate(child)
        return one(self.unknown())

    def unknown(self: Interpreter, sources: frozenset[Instance] = frozenset()) -> Opaque:
        return Opaque(("unknown", self.fresh()), sources)

    def opaque(self: Interpreter, key: tuple, inputs: list[Any], tags: frozenset[str] = frozenset()) -> Opaque:
        """An unknown value computed from these, named by structure while the structure is small."""
        sources, kept, divided, scaled = combined(inputs)
        depth = 1 + max((getattr(v, "depth", 1) for v in inputs), default=0)
        if depth > DEEPEST_KEY:
            key, depth = ("deep", self.fresh()), 1
        return Opaque(key, sources, kept | tags, divided, scaled, depth)

    def carried(self: Interpreter, value: Any) -> frozenset[Instance]:
        """What an element or attribute of the value still carries: gradients of a tensor, but not the identity of a loader."""
        return value.sources if isinstance(value, Opaque) else frozenset()

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
            elif isinstance(value, ClassValue):
                self.write(value.slots, name, alts)
            elif isinstance(value, ModuleValue):
                self.write(value.slots, name, alts)
            elif isinstance(value, Opaque):
                self.opaque_set(value, name, alts, node)

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
        if isinstance(value, External) and position is not None and value.name.rpartition(".")[2][:1].islower() and value.name not in GENERIC:
            return one(Opaque(("index", value.key, position.key), depth=2))
        if isinstance(value, (External, ClassValue)):
            return one(value)  # Generic[T], list[int]
        if position is None:
            return one(self.opaque(("index", value.key, ("unknown", self.fresh())), [value]))
        tags = frozenset(("lr",)) if isinstance(position, Const) and position.value == "lr" and "param_groups" in str(value.key) else frozenset()
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

    # ------------------------------------------------------------- operators

    def binary(self: Interpreter, node: ast.BinOp) -> Alts:
        return self.arithmetic(node.op, self.held(self.evaluate(node.left)), self.held(self.evaluate(node.right)), node)

    def arithmetic(self: Interpreter, op: ast.operator, left: Alts, right: Alts, node: ast.AST) -> Alts:
        sign = OPERATORS[type(op)]
        a, b = self.meet(left), self.meet(right)
        if isinstance(a, Const) and isinstance(b, Const):
            folded = self.fold(sign, a.value, b.value)
            if folded is not None:
                return one(Const(folded, a.soft or b.soft))
        if isinstance(a, Sequence) and isinstance(b, Sequence) and sign == "+":
            if a.length is not None and b.length is not None:
                return one(Sequence(self.fresh(), [*a.elements(), *b.elements()], a.kind))
            rest: Alts = ()
            for item in (*a.elements(), *b.elements()):
                rest = join(rest, item)
            return one(Sequence(self.fresh(), None, a.kind, rest))
        if isinstance(a, Sequence) and isinstance(b, Const) and sign == "*" and a.length is not None and isinstance(b.value, int):
            return one(Sequence(self.fresh(), a.elements() * b.value if a.length * b.value <= 16 else None, a.kind, a.elements()[0] if a.length else ()))
        if isinstance(a, Mapping) and isinstance(b, Mapping) and sign == "|":
            merged = Mapping(self.fresh())
            merged.slots.update(a.slots)
            merged.slots.update(b.slots)
            return one(merged)
        if sign == "%" and isinstance(a, Const) and isinstance(a.value, str):
            self.percent_format(a.value, right, node)
            return one(self.unknown())
        result = self.opaque((sign, a.key, b.key), [a, b])
        if sign in "+-":  # a sum is divided by what all its terms are divided by
            terms = [v.divided for v in (a, b) if isinstance(v, Opaque) and v.sources]
            result.divided = frozenset.intersection(*terms) if terms else frozenset()
            if sign == "+" and any(v.key[:1] == ("varies",) for v in (a, b)) and terms:
                result.tags |= {"sum"}  # `loss += ...` in a loop, begun with a number
        if sign == "/" and (instances(a) or not isinstance(a, Const)):
            result.divided = result.divided | {b.key}
        elif sign == "*":
            for factor, other in ((a, b), (b, a)):
                inverse = self.inverse(factor)
                if inverse is not None and not isinstance(other, Const):
                    result.divided = result.divided | {inverse}
                if counts_samples(factor.key):
                    result.tags |= {"weighted"}
        return one(result)

    def inverse(self: Interpreter, factor: Any) -> tuple | None:
        """What a multiplication by this divides by: `loss * (1 / n)`, `loss * 0.25`, `loss * (len(part) / len(batch))`."""
        if isinstance(factor, Const) and isinstance(factor.value, float) and 0 < factor.value < 1:
            return ("const", round(1 / factor.value, 6))
        if isinstance(factor, Opaque) and factor.key[:1] == ("/",) and not factor.sources:
            return factor.key[2]  # type: ignore[no-any-return]
        return None

    def meet(self: Interpreter, alts: Alts) -> Any:
        """One value to compute with: the value itself, or an unknown that joins the alternatives."""
        if len(alts) == 1:
            return alts[0][0]
        if not alts:
            return self.unknown()
        found = values_of(alts)
        sources, tags, divided, scaled = combined(found)
        key = ("either", *sorted((v.key for v in found), key=repr)) if len(found) <= 3 else ("any", self.fresh())
        return Opaque(key, sources, tags, divided, scaled, 1 + max(getattr(v, "depth", 1) for v in found))

    def fold(self: Interpreter, sign: str, a: Any, b: Any) -> Any:
        if isinstance(a, (int, float)) and isinstance(b, (int, float)) and not (sign == "**" and abs(b) > 64) and not (sign == "<<" and b > 64):
            try:
                return {
                    "+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b, "//": lambda: a // b,
                    "%": lambda: a % b, "**": lambda: a**b,
                }[sign]()  # fmt: skip
            except (KeyError, ArithmeticError, TypeError, ValueError):
                return None
        if sign == "+" and isinstance(a, str) and isinstance(b, str) and len(a) + len(b) < 500:
            return a + b
        return None

    def unary(self: Interpreter, node: ast.UnaryOp) -> Alts:
        if isinstance(node.op, ast.Not):
            condition = self.condition(node.operand)
            if condition.verdict is not None:
                return one(Const(not condition.verdict))
            return one(self.opaque(("not", condition.facts[0]), []))
        value = self.meet(self.held(self.evaluate(node.operand)))
        if isinstance(value, Const) and isinstance(value.value, (int, float)) and isinstance(node.op, ast.USub):
            return one(Const(-value.value, value.soft))
        if isinstance(value, Const):
            return one(value)
        return one(self.opaque(("neg", value.key), [value]))

    def compare(self: Interpreter, node: ast.Compare) -> Alts:
        if len(node.ops) > 1:
            parts = [self.joint_key(self.held(self.evaluate(e))) for e in (node.left, *node.comparators)]
            return one(Opaque(("between", *parts), depth=4))
        condition = self.condition(node)
        if condition.verdict is not None:
            return one(Const(condition.verdict))
        outputs = any(instances(v) and not isinstance(v, Instance) for side in self.compared for v in values_of(side))
        return one(Opaque(("test", condition.facts[0]), tags=frozenset(("metric",)) if outputs else frozenset()))

    def boolean(self: Interpreter, node: ast.BoolOp) -> Alts:
        """`a or b` gives one of its operands: a default, or a factory's None replaced."""
        out: Alts = ()
        for number, operand in enumerate(node.values):
            alts = self.held(self.evaluate(operand))
            last = number == len(node.values) - 1
            for value, guard in alts:
                truth = self.truth_of(value)
                stops = truth is None or truth == isinstance(node.op, ast.Or) or last
                if stops:
                    out = join(out, ((value, guard),))
            if not last and all(self.truth_of(v) == isinstance(node.op, ast.Or) for v, _ in alts):
                break
        return out or one(self.unknown())

    def conditional(self: Interpreter, node: ast.IfExp) -> Alts:
        condition = self.condition(node.test)
        if condition.verdict is not None:
            return self.evaluate(node.body if condition.verdict else node.orelse)
        results: list[Alts] = []
        branch = self.fresh()
        changes, facts = [], []
        for side, part in ((True, node.body), (False, node.orelse)):
            _, changed, held = self.arm(node, branch, condition, side, lambda part=part: results.append(self.evaluate(part)) or 0)  # type: ignore[misc, func-returns-value]
            changes.append(changed)
            facts.append(held)
        self.merge(changes[0], changes[1], facts[0], facts[1])
        return join(guarded(results[0], facts[0]), guarded(results[1], facts[1]))

    # --------------------------------------------------------------- literals

    def constant(self: Interpreter, node: ast.Constant) -> Alts:
        return one(Const(node.value))

    def sequence(self: Interpreter, node: ast.List | ast.Tuple | ast.Set) -> Alts:
        kind = type(node).__name__.lower()
        items: list[Alts] = []
        for element in node.elts:
            alts = self.evaluate(element.value if isinstance(element, ast.Starred) else element)
            if isinstance(element, ast.Starred):
                inner = single(alts)
                if isinstance(inner, Sequence) and inner.length is not None:
                    items.extend(inner.elements())
                    continue
                rest: Alts = ()
                for value in values_of(alts):
                    rest = join(rest, self.iteration(value)[0])
                for item in items:
                    rest = join(rest, item)
                return one(Sequence(self.fresh(), None, kind, rest))
            items.append(alts)
        if len(items) > 32:
            rest = ()
            for item in items[:32]:
                rest = join(rest, item)
            return one(Sequence(self.fresh(), None, kind, rest[:6], one(Const(len(items)))))
        return one(Sequence(self.fresh(), items, kind))

    def dictionary(self: Interpreter, node: ast.Dict) -> Alts:
        mapping = Mapping(self.fresh())
        for key, value in zip(node.keys, node.values, strict=True):
            alts = self.evaluate(value)
            if key is None:
                for inner in values_of(alts):
                    if isinstance(inner, Mapping):
                        mapping.slots.update(inner.slots)
                    else:
                        mapping.slots["*"] = join(mapping.slots.get("*", ()), one(self.unknown()))
                continue
            name = single(self.evaluate(key))
            slot = ("k", name.value) if isinstance(name, Const) else "*"
            mapping.slots[slot] = alts if slot != "*" else join(mapping.slots.get("*", ()), alts)
        return one(mapping)

    def formatted(self: Interpreter, node: ast.JoinedStr) -> Alts:
        texts: list[str] = []
        known = True
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                alts = self.held(self.evaluate(part.value))
                spec = self.evaluate(part.format_spec) if part.format_spec is not None else ()
                self.note_format(alts, spec, part.value)
                value = single(alts)
                if isinstance(value, Const) and not spec:
                    texts.append(str(value.value))
                else:
                    known = False
            elif isinstance(part, ast.Constant):
                texts.append(str(part.value))
        return one(Const("".join(texts))) if known else one(self.unknown())

    def named(self: Interpreter, node: ast.NamedExpr) -> Alts:
        alts = self.evaluate(node.value)
        self.bind(node.target, alts, node)
        return alts

    def lambda_(self: Interpreter, node: ast.Lambda) -> Alts:
        return one(Function(node, self.env))

    def slice_(self: Interpreter, node: ast.Slice) -> Alts:
        parts = [self.evaluate(p) for p in (node.lower, node.upper, node.step)]
        return one(Opaque(("slice", *(self.joint_key(p) if p else None for p in parts)), depth=2))

    def await_(self: Interpreter, node: ast.Await) -> Alts:
        return self.evaluate(node.value)

    def yield_(self: Interpreter, node: ast.Yield) -> Alts:
        alts = self.evaluate(node.value) if node.value is not None else one(Const(None))
        if self.call is not None and self.call.on_yield is not None:
            self.call.on_yield(alts)
        return one(self.unknown())

    def yield_from(self: Interpreter, node: ast.YieldFrom) -> Alts:
        call = self.call
        for value in values_of(self.evaluate(node.value)):
            if call is None or call.on_yield is None:
                continue
            if isinstance(value, Generator):
                value.run(call.on_yield)
            else:
                call.on_yield(self.iteration(value)[0])
        return one(self.unknown())

    def comprehension(self: Interpreter, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> Alts:
        """Walked like a loop; what it gives has one shared slot, or one per element of a short known list."""
        outer = self.env
        place = len(self.place)
        self.env = Env(self.file, outer)
        rounds: list[Alts] | None = None
        size: Value | None = None
        over: frozenset[int] = frozenset()
        sources: frozenset[Instance] = frozenset()
        for number, clause in enumerate(node.generators):
            alts = self.held(self.evaluate(clause.iter))
            items, turns, ids = self.rounds(alts, clause)  # type: ignore[arg-type]
            if number == 0:
                rounds, size, over = items, turns, ids
                sources = frozenset().union(*(self.iteration(v)[2] for v, _ in alts))
            self.place.append(Frame("loop", self.span(clause.iter), ("loop", self.fresh()), "comprehension", size=turns, over=ids))
            if number:
                self.bind(clause.target, items[0], node)
        results: list[Alts] = []
        mapping = Mapping(self.fresh())
        filtered = False
        for item in rounds or [()]:
            self.bind(node.generators[0].target, item or one(self.unknown()), node)
            kept = True
            for test in (t for clause in node.generators for t in clause.ifs):
                verdict = self.condition(test).verdict
                filtered = filtered or verdict is None
                kept = kept and verdict is not False
            if not kept:
                continue
            if isinstance(node, ast.DictComp):
                name = single(self.evaluate(node.key))
                slot = ("k", name.value) if isinstance(name, Const) else "*"
                mapping.slots[slot] = join(mapping.slots.get(slot, ()), self.evaluate(node.value))
            else:
                results.append(self.evaluate(node.elt))
        del self.place[place:]
        self.env = outer
        if isinstance(node, ast.DictComp):
            return one(mapping)
        if len(results) > 1 and not filtered:
            return one(Sequence(self.fresh(), results))
        rest: Alts = ()
        for result in results:
            rest = join(rest, result)
        length: Alts | None = None
        if size is not None and not filtered:
            length = one(Opaque(size.key, depth=3)) if not size.is_constant else one(Const(size.constant))
        return one(Sequence(self.fresh(), None, "list", rest, length, frozenset(s for s in sources if s.ident in over)))

    # ----------------------------------------------------------- for the record

    def value(self: Interpreter, alts: Alts, node: ast.AST | None = None) -> Value:
        """What the History keeps of an argument."""
        found = self.meet(alts)
        text = self.project.text_of(self.file, node) if isinstance(node, ast.expr) else ""
        if isinstance(found, Const):
            return Value(found.key if isinstance(found.value, (str, int, float, bool, type(None))) else ("const", repr(found.value)), text)
        inner = self.inside(found)
        if isinstance(found, Sequence) and found.length is not None:
            items = [single(e) for e in found.elements()]
            if items and all(isinstance(i, Const) for i in items):
                return Value(("list", *(i.key for i in items if isinstance(i, Const))), text)
        if isinstance(found, Opaque):
            scaled = None if found.scaled is None else found.scaled.ident
            sources = frozenset(i.ident for i in found.sources)
            return Value(found.key, text, sources, found.tags, found.divided, scaled)
        return Value(found.key, text, frozenset(i.ident for i in inner))

    def inside(self: Interpreter, value: Any, depth: int = 4) -> frozenset[Instance]:
        """The objects a value holds: itself, what it was computed from, what its elements are."""
        if depth == 0:
            return frozenset()
        if isinstance(value, Sequence):
            return frozenset().union(*(self.inside(v, depth - 1) for e in value.elements() for v, _ in e), value.over)
        if isinstance(value, Mapping):
            return frozenset().union(*(self.inside(v, depth - 1) for e in value.values() for v, _ in e))
        if isinstance(value, Bound):
            return self.inside(value.receiver, depth - 1)
        return instances(value)


BUILTINS = frozenset(dir(__builtins__) if not isinstance(__builtins__, dict) else __builtins__)

_EXPRESSIONS: dict[type, Any] = {
    ast.Name: Expressions.name,
    ast.Attribute: Expressions.attribute,
    ast.Subscript: Expressions.subscript,
    ast.Constant: Expressions.constant,
    ast.BinOp: Expressions.binary,
    ast.UnaryOp: Expressions.unary,
    ast.Compare: Expressions.compare,
    ast.BoolOp: Expressions.boolean,
    ast.IfExp: Expressions.conditional,
    ast.List: Expressions.sequence,
    ast.Tuple: Expressions.sequence,
    ast.Set: Expressions.sequence,
    ast.Dict: Expressions.dictionary,
    ast.JoinedStr: Expressions.formatted,
    ast.NamedExpr: Expressions.named,
    ast.Lambda: Expressions.lambda_,
    ast.Slice: Expressions.slice_,
    ast.Await: Expressions.await_,
    ast.Yield: Expressions.yield_,
    ast.YieldFrom: Expressions.yield_from,
    ast.ListComp: Expressions.comprehension,
    ast.SetComp: Expressions.comprehension,
    ast.GeneratorExp: Expressions.comprehension,
    ast.DictComp: Expressions.comprehension,
    ast.Call: lambda self, node: self.call_expression(node),
    ast.Starred: lambda self, node: self.evaluate(node.value),
}
