"""What library code does with the objects it is given, by the rows of the tables."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

from mllint.flow.endings import loss_input
from mllint.flow.state import State
from mllint.flow.values import (
    Alts,
    Bound,
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
    instances,
    one,
    single,
    values_of,
)
from mllint.model.history import Frame, Value

if TYPE_CHECKING:
    from mllint.flow.interpret import Interpreter


#: Functions that are losses, whose reduction is their own.
LOSSES = re.compile(r"(?:_loss|cross_entropy|_with_logits|kl_div)$")

#: Those that rules ask about by what goes into them.
LOSS_FUNCTIONS = frozenset(
    f"torch.nn.functional.{name}" for name in ("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits")
)


class Library(State):
    """Library knowledge; mixed into the Interpreter."""

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
            facts = {
                "dtype": self.dtype_of(dtype),
                "enabled": enabled,
                "device": row.get("device") or self.text_of_constant(given.get("device_type")),
            }
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

    def library_object(
        self: Interpreter, name: str, row: dict[str, Any], args: list[Alts], keywords: dict[str, Alts], node: ast.AST
    ) -> Alts:
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

    def construct(
        self: Interpreter, instance: Instance, row: dict[str, Any], args: list[Alts], keywords: dict[str, Alts], node: ast.AST
    ) -> None:
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

    def library_function(
        self: Interpreter, name: str, row: dict[str, Any], args: list[Alts], keywords: dict[str, Alts], node: ast.AST
    ) -> Alts:
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
        if name in LOSS_FUNCTIONS:
            self.record("loss", None, node, {"function": Value(("const", name)), **loss_input(self, args, keywords, node)})
        held: list[Any] = list(inputs)
        for value in inputs:
            if isinstance(value, (Sequence, Mapping)):
                held.append(Opaque((), frozenset().union(self.inside(value))))
                held.extend(v for e in value.slots.values() for v, _ in e if isinstance(v, Opaque))
        result = self.opaque(key, held, tags)
        if name in ("torch.sum",):
            result.tags |= {"sum"}
        elif name == "torch.mean" or (name.startswith("torch.nn.functional.") and LOSSES.search(name)):
            self.reduce(result, tags)
        return one(result)

    def reduce(self: Interpreter, result: Opaque, own: frozenset[str]) -> None:
        """A loss says by its own reduction what it is; sums and divisions inside its inputs are no reduction of it."""
        result.tags = result.tags - {"sum", "weighted"} | own
        result.divided = frozenset()

    def reduction(self: Interpreter, keywords: dict[str, Alts]) -> frozenset[str]:
        reduction = single(keywords.get("reduction", ()))
        if isinstance(reduction, Const):
            return frozenset(("sum",)) if reduction.value == "sum" else frozenset()
        return frozenset(("sum",)) if reduction is not None else frozenset()

    def follow_callbacks(self: Interpreter, many: list[Alts], node: ast.AST) -> None:
        """A harmless function may still call what it is given."""
        for alts in many:
            called = tuple(
                a for a in alts if isinstance(a[0], Function) or (isinstance(a[0], Bound) and isinstance(a[0].function, Function))
            )
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
        self: Interpreter,
        effect: str,
        row: dict[str, Any],
        receiver: Instance | None,
        args: list[Alts],
        keywords: dict[str, Alts],
        node: ast.AST,
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
