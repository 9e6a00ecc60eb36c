"""What library code does with the objects it is given, by the rows of the tables."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mllint.flow.state import NARROW, NORMAL, Condition, State
from mllint.flow.values import (
    NO_GUARD,
    Alts,
    Bound,
    ClassValue,
    Const,
    Context,
    External,
    Function,
    Generator,
    Instance,
    Mapping,
    Opaque,
    Partial,
    Sequence,
    Super,
    guarded,
    instances,
    join,
    one,
    parts,
    single,
    values_of,
)
from mllint.model.history import Frame, Value

if TYPE_CHECKING:
    from mllint.flow.interpret import Interpreter


def gradient(key: tuple) -> bool:
    """The key names a gradient: `p.grad`, `p.grad.data`, `p.grad.detach()`."""
    while key and key[0] in ("attr", "call"):
        if key[0] == "attr":
            if key[2] == "grad":
                return True
            if key[2] not in ("data", "detach", "float"):
                return False
        key = key[1] if isinstance(key[1], tuple) else ()
    return False


#: Functions that are losses, whose reduction is their own.
LOSSES = re.compile(r"(?:_loss|cross_entropy|_with_logits|kl_div)$")
#: Kinds whose disappearance into unseen code makes "never" unprovable.
FOLLOWED = frozenset(("optimizer", "scheduler", "scaler", "module", "loader", "accelerator", "engine"))
#: Attributes of followed objects that are data, not methods.
DATA = frozenset(("param_groups", "state", "defaults", "last_epoch", "base_lrs", "_last_lr", "T_max", "dataset", "sampler", "batch_size", "device",
                  "is_main_process", "is_local_main_process", "sync_gradients", "gradient_accumulation_steps", "num_processes", "process_index"))  # fmt: skip
#: Methods of every torch module that are no sub-module.
MODULE_METHODS = frozenset((
    "parameters", "named_parameters", "modules", "named_modules", "children", "named_children", "buffers", "named_buffers", "state_dict",
    "load_state_dict", "register_buffer", "register_forward_hook", "register_full_backward_hook", "get_submodule", "get_parameter",
    "forward", "extra_repr", "to_empty", "append", "extend", "insert",
))  # fmt: skip
#: What reaches the parameters of a module.
PARAMETERS = frozenset(("parameters", "named_parameters", "modules", "named_modules", "children", "named_children", "state_dict"))
#: Beginnings of keys of values that came from code nobody has seen.
UNSEEN = frozenset(("parameter", "attr", "index", "item", "part", "name", "missing", "call"))
#: Methods that take a tensor out of the graph.
CUTS = frozenset(("item", "detach", "tolist", "numpy"))


class Library(State):
    """Library knowledge; mixed into the Interpreter."""

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
            _, changes, facts = self.arm(node, -self.fresh(), condition, True, lambda value=value: do(value) or NORMAL, "choice")  # type: ignore[misc, func-returns-value]
            self.merge(changes, {}, facts)

    def lose(self: Interpreter, value: Any, node: ast.AST, seen: set[int] | None = None) -> None:
        """The value goes to code that cannot be seen: it and all that is reached from it may be used there."""
        seen = set() if seen is None else seen
        if isinstance(value, (Const, External, ClassValue, Context)) or id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, Instance):
            if value.lost is not None:
                return  # what it is given later is lost when it is given
            value.lost = self.span(node)
            if value.cls is not None and value.kind in ("", "scheduler", "optimizer", "module"):
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
            value.run(lambda alts: 0)

    def called_back(self: Interpreter, value: Function | Bound, node: ast.AST, seen: set[int]) -> None:
        """A function handed to unseen code: it may be called, with what it knows and arguments that are not known."""
        function = value.function if isinstance(value, Bound) else value
        if not isinstance(function, Function) or self.entries.get(id(function.node), 0) > 1:
            return
        before, made = len(self.records), self.counter
        result = self.call_value(value, [], {}, node)
        self.lose_all([result], node, seen)
        for record in self.records[before:]:  # when and how often is up to the caller; what the function makes for itself it uses itself
            if record.thing is not None and record.thing.kind in ("scheduler", "optimizer", "scaler") and record.thing.ident <= made:
                record.thing.lost = record.thing.lost or self.span(node)

    # -------------------------------------------------------------- externals

    def call_external(self: Interpreter, value: External, args: list[Alts], keywords: dict[str, Alts], node: ast.AST) -> Alts:
        name = value.name
        if name.startswith("builtins.") or name in self.python_functions:
            result = self.call_python(name, args, keywords, node)
            if result is not None:
                return result
        row = self.knowledge.contexts.get(name)
        if row is not None:
            return one(self.context(row, args, keywords))
        exact = self.knowledge.objects.get(name)
        row = self.knowledge.functions.get(name)
        if row is not None and exact is None:
            return self.library_function(name, row, args, keywords, node)
        row = exact or self.knowledge.row("objects", name)
        general = self.knowledge.row("functions", name)
        if exact is None and row is not None and general is not None and self.longer("functions", "objects", name):
            return self.library_function(name, general, args, keywords, node)
        if row is not None and row.get("kind") and (exact is not None or name.rpartition(".")[2][:1].isupper() or row.get("factory")):
            return self.library_object(name, row, args, keywords, node)
        return self.library_function(name, general or {}, args, keywords, node)

    def longer(self: Interpreter, section: str, other: str, name: str) -> bool:
        """The row of the first section is the more particular one."""
        end = len(name)
        while (end := name.rfind(".", 0, end)) > 0:
            for place, answer in ((section, True), (other, False)):
                if name[:end] + ".*" in getattr(self.knowledge, place):
                    return answer
        return False

    def context(self: Interpreter, row: dict[str, Any], args: list[Alts], keywords: dict[str, Alts]) -> Context:
        """A region to enter: autocast with its dtype, no_grad."""
        given = self.by_name(row.get("parameters", ()), args, keywords)
        facts: dict[str, Any] = {}
        if row["name"] == "autocast":
            dtype = single(given.get("dtype", ()))
            enabled = self.switch(given.get("enabled"))
            facts = {"dtype": self.dtype_of(dtype), "enabled": enabled, "device": row.get("device") or self.text_of_constant(given.get("device_type"))}
            if "enabled" in given:
                facts["enabled_key"] = self.joint_key(given["enabled"])
            if dtype is None and facts["device"] in ("cuda", "mps") and "dtype" not in given:
                facts["dtype"] = "float16"
            elif "dtype" not in given and facts["device"] is None and given.get("device_type"):
                facts["dtype"], facts["dtype_where"] = "float16", "cuda"  # what it is on the device people train on
        elif row["name"] == "set_grad_enabled":
            facts = {"enabled": self.switch(given.get("mode"))}
        sources = frozenset().union(*(instances(v) for a in args for v, _ in a))
        gives = given.get(str(row["gives"])) if "gives" in row else None
        return Context(row["name"], facts, sources, gives)

    def as_context(self: Interpreter, value: Any) -> Any:
        """A region named without a call, as a decorator may be (`@torch.no_grad`)."""
        row = self.knowledge.contexts.get(value.name) if isinstance(value, External) else None
        return self.context(row, [], {}) if row is not None else value

    def switch(self: Interpreter, alts: Alts | None) -> bool | None:
        if alts is None:
            return True
        value = single(self.held(alts))
        if isinstance(value, Const) and value.soft is None:
            return bool(value.value)
        if isinstance(value, Const):
            return bool(value.value) or None
        return self.assumed.get(value.key) if value is not None else None

    def dtype_of(self: Interpreter, value: Any) -> str | None:
        if isinstance(value, External):
            name = value.name.rpartition(".")[2]
            return {"half": "float16", "float16": "float16", "bfloat16": "bfloat16"}.get(name)
        return None

    def text_of_constant(self: Interpreter, alts: Alts | None) -> str | None:
        value = single(alts) if alts else None
        return value.value if isinstance(value, Const) and isinstance(value.value, str) else None

    def by_name(self: Interpreter, parameters: Any, args: list[Alts], keywords: dict[str, Alts]) -> dict[str, Alts]:
        """Arguments under their parameter names; positions beyond the known ones under their number."""
        given: dict[str, Alts] = {}
        for number, alts in enumerate(args):
            given[parameters[number] if number < len(parameters) else str(number)] = alts
        given.update(keywords)
        return given

    def library_object(self: Interpreter, name: str, row: dict[str, Any], args: list[Alts], keywords: dict[str, Alts], node: ast.AST) -> Alts:
        """A constructor or factory of a library: a thing is made."""
        instance = Instance(self.fresh(), self.span(node), row["kind"], name)
        instance.sure = self.choices == 0
        self.things.append(instance)
        self.construct(instance, row, args, keywords, node)
        self.made(instance, node)
        if "gives" in row:
            given = [one(instance) if g == "self" else instance.arguments.get(g, one(self.unknown())) for g in row["gives"]]
            return one(Sequence(self.fresh(), given, "tuple"))
        return one(instance)

    def construct(self: Interpreter, instance: Instance, row: dict[str, Any], args: list[Alts], keywords: dict[str, Alts], node: ast.AST) -> None:
        """What a thing is made from: arguments by name, partners, facts of its row."""
        given = self.by_name(row.get("parameters", ()), args, keywords)
        instance.arguments.update(given)
        instance.facts.update({k: v for k, v in row.items() if k not in ("kind", "parameters", "gives")})
        for parameter, alts in given.items():
            for value, _ in alts:
                if isinstance(value, Opaque) and parameter == "optimizer" and instance.kind == "scheduler":
                    self.promote(value, "optimizer", node)
                thing = self.thing_of(value)
                held = self.inside(thing) if not isinstance(thing, Opaque) or instance.kind not in ("module", "criterion") else frozenset()
                if instance.kind in ("module", "criterion", "parameter"):
                    held = frozenset(h for h in held if h.kind in ("module", "criterion"))
                for other in held:
                    if other is not instance and other not in instance.partners:
                        instance.partners.append(other)
        for parameter in row.get("manages", ()):
            for value in values_of(given.get(parameter, ())):
                self.manage(value, node)
        if instance.kind == "optimizer" and isinstance(single(given.get("params", ())), Generator):
            self.lose_all([given["params"]], node)
        for parameter in row.get("runs", ()):
            self.run_by_framework(given.get(parameter, ()), node)
        if instance.kind in ("", "object", "accelerator"):
            return
        if instance.kind == "scheduler" and row.get("hands_over"):
            self.lose_all([a for n, a in given.items() if n != "optimizer"], node)

    def run_by_framework(self: Interpreter, alts: Alts, node: ast.AST) -> None:
        """A function handed to an engine, which calls it for every batch."""
        span, place = self.span(node), len(self.place)
        self.place.append(Frame("loop", span, ("loop", "epochs", span), "framework"))
        self.place.append(Frame("loop", span, ("loop", "batches", span), "framework"))
        run = tuple(a for a in alts if isinstance(a[0], (Function, Bound, Partial)))
        if run:
            self.call_alternatives(run, [], {}, node)
        del self.place[place:]

    def made(self: Interpreter, instance: Instance, node: ast.AST) -> None:
        if instance.kind:
            self.record("make", instance, node, sure=instance.sure)

    def manage(self: Interpreter, value: Any, node: ast.AST) -> None:
        """A framework takes the object over and steps it itself."""
        for thing in self.inside(value):
            if thing.managed is None:
                thing.managed = self.span(node)

    # ------------------------------------------------------- library functions

    def library_function(self: Interpreter, name: str, row: dict[str, Any], args: list[Alts], keywords: dict[str, Alts], node: ast.AST) -> Alts:
        effect = row.get("effect")
        if effect is not None:
            self.effect(effect, row, None, args, keywords, node)
        if "manages" in row:
            given = self.by_name(row.get("parameters", ()), args, keywords)
            for parameter in row["manages"]:
                for value in values_of(given.get(parameter, ())):
                    self.manage(value, node)
        if "calls" in row:
            return self.call_through(row, args, keywords, node)
        if "gives" in row:
            given = self.by_name(row.get("parameters", ()), args, keywords)
            handed = [given[n] for n in row["gives"] if n in given]
            return handed[0] if len(handed) == 1 else one(Sequence(self.fresh(), handed, "tuple"))
        returns = row.get("returns")
        if isinstance(returns, int) and returns < len(args):
            return args[returns]
        if isinstance(returns, str):
            given = self.by_name(row.get("parameters", ()), args, keywords)
            if returns in given:
                return given[returns]
        known = bool(row) or name in self.knowledge.functions
        if not known and self.knowledge.row("harmless", name) is None:
            self.lose_all([*args, *keywords.values()], node)
        else:
            self.follow_callbacks([*args, *keywords.values()], node)
        inputs = [self.meet(a) for a in (*args, *keywords.values()) if a]
        simple = all(isinstance(v, (Const, Opaque, Instance, External, Bound)) for v in inputs) and len(inputs) <= 4
        key = ("call", name, *(v.key for v in inputs)) if simple else ("call", name, self.fresh())
        tags = self.reduction(keywords)
        if not name.startswith(("torch.", "math.", "numpy.")) and any(instances(v) for v in inputs):
            tags |= {"unknown"}
        self.note_log(args, node)
        held: list[Any] = list(inputs)
        for value in inputs:
            if isinstance(value, (Sequence, Mapping)):
                held.append(Opaque((), frozenset().union(self.inside(value))))
                held.extend(v for e in value.slots.values() for v, _ in e if isinstance(v, Opaque))
        result = self.opaque(key, held, tags)
        if name in ("torch.sum",):
            result.tags |= {"sum"}
        elif name == "torch.mean" or name.startswith("torch.nn.functional.") and LOSSES.search(name):
            self.reduce(result, tags)
        return one(result)

    def reduce(self: Interpreter, result: Opaque, own: frozenset[str]) -> None:
        """A loss says by its own reduction what it is; sums and divisions inside its inputs are no reduction of it."""
        result.tags = result.tags - {"sum"} | own
        result.divided = frozenset()

    def reduction(self: Interpreter, keywords: dict[str, Alts]) -> frozenset[str]:
        reduction = single(keywords.get("reduction", ()))
        if isinstance(reduction, Const):
            return frozenset(("sum",)) if reduction.value == "sum" else frozenset()
        return frozenset(("sum",)) if reduction is not None else frozenset()

    def follow_callbacks(self: Interpreter, many: list[Alts], node: ast.AST) -> None:
        """A harmless function may still call what it is given."""
        for alts in many:
            called = tuple(a for a in alts if isinstance(a[0], Function) or (isinstance(a[0], Bound) and isinstance(a[0].function, Function)))
            self.apart(called, node, lambda value: self.called_back(value, node, set()))

    def call_through(self: Interpreter, row: dict[str, Any], args: list[Alts], keywords: dict[str, Alts], node: ast.AST) -> Alts:
        """A launcher: it calls the function it is given, with these arguments."""
        index = row["calls"]
        if index >= len(args):
            return one(self.unknown())
        inner: list[Alts] = [one(Opaque(("rank", self.fresh())))] if row.get("rank") else []
        given = keywords.get(row.get("arguments", "args")) or (args[index + 1] if len(args) > index + 1 else None)
        passed = single(given) if given else None
        if isinstance(passed, Sequence) and passed.length is not None:
            inner.extend(passed.elements())
        return self.call_alternatives(args[index], inner, {}, node)

    def effect(
        self: Interpreter, effect: str, row: dict[str, Any], receiver: Instance | None, args: list[Alts], keywords: dict[str, Alts], node: ast.AST
    ) -> None:
        """Write the event a row names."""
        given = self.by_name(row.get("parameters", ()), args, keywords)
        if effect == "backward":
            name = row.get("loss", (row.get("parameters") or ["0"])[0])
            loss = given.get(str(name), args[0] if args else ())
            value = self.held_value(loss, node)
            self.record("backward", None, node, {"loss": value}, via=receiver)
        elif effect == "step":
            for value in values_of(given.get("optimizer", ())):
                target = self.promote(value, "optimizer", node) if isinstance(value, Opaque) else value
                if isinstance(target, Instance) and target.kind == "optimizer":
                    self.record("step", target, node, sure=self.choices == 0 and len(given["optimizer"]) == 1)
        elif effect in ("clip", "grad-read"):
            names = row.get("parameters", ["0"])
            if row.get("of") == "self" and receiver is not None:
                names, given = ["", *names], {"": one(receiver), **given}
            of = self.held_value(given.get(names[0], ()), node, frozenset(("unscales",)) if row.get("unscales") else frozenset())
            arguments = {"of": of}
            if len(names) > 1 and given.get(names[1]):
                arguments["threshold"] = self.value(given[names[1]], node)
            self.record(effect, None, node, arguments, via=receiver)
        elif effect == "autograd-grad":
            self.record("autograd-grad", None, node, {n: self.held_value(a, node) for n, a in given.items()})

    def held_value(self: Interpreter, alts: Alts, node: ast.AST, tags: frozenset[str] = frozenset()) -> Value:
        """The value with everything inside it as sources."""
        value = self.value(alts, None)
        inner = frozenset(i.ident for v, _ in alts for i in self.inside(self.thing_of(v)))
        return Value(value.key, value.text, value.sources | inner, value.tags | tags, value.divided_by, value.scaled_by)

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
                if isinstance(value, Instance) and value.kind in ("module", "criterion") and value not in instance.partners and instance.kind == "module":
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
            if isinstance(new, Instance) and new.kind in ("module", "parameter") and not new.facts.get("empty") and not self.already_inside(instance, new):
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

    # ---------------------------------------------------------------- methods

    def call_library_method(self: Interpreter, receiver: Any, name: str, args: list[Alts], keywords: dict[str, Alts], node: ast.AST) -> Alts:
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
        self: Interpreter, receiver: Instance, name: str, row: dict[str, Any] | None, args: list[Alts], keywords: dict[str, Alts], node: ast.AST
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
            return one(Context(row["context"], {"via": receiver.ident}, self.inside(self.meet(args[0])) if args else frozenset((receiver,))))
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
                value = Sequence(self.fresh(), [self.scaled(scaler, e) for e in value.elements()] if value.length is not None else None, value.kind, self.scaled(scaler, value.elements()[0]) if value.elements() else ())
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
        self.record("forward", receiver, node, sure=self.choices == 0)
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
        result = self.opaque(key, held, tags)
        self.reduce(result, tags)
        return one(result)

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
                return one(self.unknown())  # the call of the override is the event
            return self.call_library_method(instance, name, args, keywords, node)
        self.lose_all([*args, *keywords.values()], node)
        return one(self.unknown())

    # ----------------------------------------------------------------- opaque

    def call_opaque(self: Interpreter, value: Opaque, args: list[Alts], keywords: dict[str, Alts], node: ast.AST) -> Alts | None:
        """A call of something unknown that is understood all the same: a method of a tensor, of a promoted object."""
        thing = self.promoted.get(value.key)
        if thing is not None and thing.kind == "module":
            return self.forward(thing, args, keywords, node)
        if value.key[0] != "attr":
            return None
        base_key, name = value.key[1], value.key[2]
        owner = self.promoted.get(base_key)
        if owner is not None:
            return self.call_library_method(owner, name, args, keywords, node)
        base = Opaque(base_key, value.sources, value.tags, value.divided, value.scaled, max(1, value.depth - 1))
        if name == "backward":
            passed = args[0] if args and not base.sources else ()
            if any(isinstance(v, Opaque) and v.sources for v in values_of(passed)):  # `engine.backward(loss)`: nobody saw what engine it is
                engine = self.promote(base, "engine", node)
                self.record("backward", None, node, {"loss": self.held_value(passed, node)}, via=engine)
                return one(Const(None))
            self.record("backward", None, node, {"loss": self.value(one(base))}, via=None)
            return one(Const(None))
        if name in ("parameters", "named_parameters", "zero_grad", "requires_grad_", "state_dict") and base_key[0] in ("call", "parameter", "attr", "index", "item", "part", "name", "missing"):
            if "params" in value.tags:
                return None
            if value.sources and base_key[0] in ("attr", "index", "item", "part", "call"):
                return self.part_method(base, name, node)
            return self.call_library_method(self.promote(base, "module", node.func.value if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else node), name, args, keywords, node)
        if name in ("zero_", "detach_") and base_key[0] == "attr" and base_key[2] == "grad":
            self.record("grad-cleared", None, node, {"of": self.value(one(base))})
            return one(base)
        if name == "scale" and base_key[0] in UNSEEN and not base.sources and len(args) == 1 and any(instances(v) for v in values_of(args[0])):
            return self.call_library_method(self.promote(base, "scaler", self.receiver_node(node)), name, args, keywords, node)
        if name in CUTS:
            tags = value.tags & frozenset(("lr", "metric")) | {"detached"} | ({"metric"} if value.sources else frozenset())
            return one(Opaque(("call", value.key), frozenset(), tags, depth=value.depth + 1))
        if name == "add_argument":
            self.note_option(args, keywords)
        if name == "enter_context" and args:
            before = len(self.place)
            self.open_regions(args[0], node)
            self.stacked.setdefault(base_key, []).extend(self.place[before:])
            return args[0]
        if name == "close" and base_key in self.stacked:
            while self.place and any(self.place[-1] is frame for frame in self.stacked[base_key]):
                self.place.pop()
            return one(Const(None))
        if gradient(base_key):
            self.note_gradient(base, name, node)
        inputs = [self.meet(a) for a in (*args, *keywords.values()) if a]
        if name == "get" and inputs and isinstance(inputs[0], Const) and isinstance(inputs[0].value, str) and not value.sources:
            return one(Opaque(("index", base_key, inputs[0].key), depth=value.depth))  # `config.get("epochs", 9)` is `config["epochs"]`
        followed = [v for v in inputs if isinstance(v, Instance) and v.kind in FOLLOWED or isinstance(v, (Function, Bound, Partial))]
        if followed or any(isinstance(v, Instance) and v.cls is not None for v in inputs) or any(isinstance(v, (Sequence, Mapping)) for v in inputs):
            if "unknown" in value.tags or not value.sources:
                self.lose_all([*args, *keywords.values()], node)
        for alts in (*args, *keywords.values()):
            for given, _ in alts:
                if value.sources and "unknown" not in value.tags and isinstance(given, (Function, Bound)):
                    self.called_back(given, node, set())
        self.note_log(args, node)
        simple = all(isinstance(v, (Const, Opaque, Instance)) for v in inputs) and len(inputs) <= 3
        key = ("call", value.key, *(v.key for v in inputs)) if simple else ("call", value.key, self.fresh())
        result = self.opaque(key, [base, *inputs], frozenset(("sum",)) if name == "sum" else frozenset())
        if name in ("mean",):
            result.tags -= {"sum"}
        if name in ("div", "div_", "true_divide") and inputs:
            result.divided |= {inputs[0].key}
        if name in ("mul", "mul_") and inputs and (inverse := self.inverse(inputs[0])) is not None:
            result.divided |= {inverse}
        changed = node.func.value if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else None
        if isinstance(changed, ast.Name) and (name in ("div_", "mul_") or (name in ("add_", "sub_") and not value.sources)):
            self.write_name(changed.id, one(result))  # in place: the name holds the result from here on
        return one(result)

    @staticmethod
    def receiver_node(node: ast.AST) -> ast.AST:
        """What stands before the dot of a call."""
        return node.func.value if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else node

    def module_list(self: Interpreter, receiver: Instance, name: str, args: list[Alts], node: ast.AST) -> Alts:
        """`layers.append(nn.Linear(...))` on a ModuleList or Sequential."""
        for alts in args:
            for value, _ in alts:
                for part in self.inside(self.thing_of(value)):
                    if part.kind in ("module", "parameter"):
                        self.note_replaced(receiver, name, one(part), node)
                        receiver.partners.append(part)
        return one(receiver)

    def part_method(self: Interpreter, base: Opaque, name: str, node: ast.AST) -> Alts:
        """A method of an unknown part of a known module (`model.fc.parameters()`)."""
        part = self.promoted.get(base.key)
        if part is None:
            part = self.promoted[base.key] = Instance(self.fresh(), self.span(node), "module", "")
            part.name = ast.unparse(node.func.value) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
            part.lost = next((s.lost for s in base.sources if s.lost is not None), None)
            self.things.append(part)
            for owner in base.sources:
                if owner.kind == "module":
                    owner.partners.append(part)
        return self.call_library_method(part, name, [], {}, node)

    def note_gradient(self: Interpreter, base: Opaque, name: str, node: ast.AST) -> None:
        """A method of `p.grad`: in place it changes the gradient, else it reads it."""
        of = Value(base.key, sources=frozenset(i.ident for i in base.sources), tags=frozenset(("norm",)) if name == "norm" else frozenset())
        if name.endswith("_") and not name.endswith("__"):
            self.record("grad-written", None, node, {"of": of})
        else:
            self.record("grad-read", None, node, {"of": of})

    def note_option(self: Interpreter, args: list[Alts], keywords: dict[str, Alts]) -> None:
        """`parser.add_argument("--epochs", default=90)`: what the option is when nobody gives it."""
        default = single(keywords.get("default", ()))
        names = [v.value for a in args for v, _ in a if isinstance(v, Const) and isinstance(v.value, str)]
        dest = single(keywords.get("dest", ()))
        if isinstance(dest, Const):
            names = [dest.value]
        if isinstance(default, Const) and names:
            long = next((n for n in names if n.startswith("--")), names[0])
            self.option_defaults[long.lstrip("-").replace("-", "_")] = default.value

    # ---------------------------------------------------------------- formats

    def note_log(self: Interpreter, args: list[Alts], node: ast.AST) -> None:
        """`logger.info("lr %.4f", lr)`."""
        text = single(args[0]) if len(args) > 1 else None
        if isinstance(text, Const) and isinstance(text.value, str) and "%" in text.value:
            self.percent_format(text.value, one(Sequence(self.fresh(), args[1:], "tuple")), node)

    def note_format(self: Interpreter, alts: Alts, spec: Alts, node: ast.AST) -> None:
        """A number is written with this many digits: only learning rates matter, and they are sorted out at the end."""
        text = single(spec) if spec else None
        if not isinstance(text, Const) or not isinstance(text.value, str) or not text.value.rstrip("0123456789").endswith(("f", ".", ":")):
            return
        if text.value.endswith("f") or text.value.startswith("round:"):
            for value, _ in alts:
                if isinstance(value, Opaque):
                    self.record("format", None, node, {"value": self.value(one(value), node), "spec": Value(text.key)})

