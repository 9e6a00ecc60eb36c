"""Calls: into the project's functions and classes; library calls go to `mllint.flow.library`."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from mllint.flow.state import COSTLY_AGAIN, COSTLY_REHEARSED, DEEPEST_CALL, FEW_ENTRIES, LONG_WALK, MOST_ENTRIES, NORMAL, Condition, State
from mllint.flow.values import (
    NONE,
    Alts,
    Bound,
    Call,
    ClassValue,
    Const,
    Context,
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
    Super,
    guarded,
    instances,
    join,
    one,
    single,
    values_of,
)
from mllint.model.history import Frame

if TYPE_CHECKING:
    from mllint.flow.interpret import Interpreter


class Calls(State):
    """Calls; mixed into the Interpreter."""

    call: Call | None

    def call_expression(self: Interpreter, node: ast.Call) -> Alts:
        if isinstance(node.func, ast.Name) and node.func.id == "super" and not self.bound_in_project("super"):
            return self.super_of(node)
        callee = self.held(self.evaluate(node.func))
        args, keywords = self.arguments(node)
        return self.call_alternatives(callee, args, keywords, node)

    def arguments(self: Interpreter, node: ast.Call) -> tuple[list[Alts], dict[str, Alts]]:
        """Positional and keyword arguments; a star of unknown length ends up under "*", an unknown mapping under "**"."""
        args: list[Alts] = []
        keywords: dict[str, Alts] = {}
        for argument in node.args:
            if not isinstance(argument, ast.Starred):
                args.append(self.held(self.evaluate(argument)))
                continue
            alts = self.evaluate(argument.value)
            value = single(alts)
            if isinstance(value, Sequence) and value.length is not None:
                args.extend(value.elements())
            else:
                rest: Alts = ()
                for candidate in values_of(alts):
                    rest = join(rest, self.iteration(candidate)[0])
                keywords["*"] = rest
        for keyword in node.keywords:
            alts = self.held(self.evaluate(keyword.value))
            if keyword.arg is not None:
                keywords[keyword.arg] = alts
                continue
            for value in values_of(alts):
                if isinstance(value, Mapping):
                    for slot, inner in value.slots.items():
                        if isinstance(slot, tuple) and isinstance(slot[1], str):
                            keywords[slot[1]] = inner
                        else:
                            keywords["**"] = join(keywords.get("**", ()), inner)
                else:
                    keywords["**"] = join(keywords.get("**", ()), one(value))
        return args, keywords

    def super_of(self: Interpreter, node: ast.Call) -> Alts:
        if len(node.args) == 2:
            receiver, owner = single(self.evaluate(node.args[1])), single(self.evaluate(node.args[0]))
            return one(Super(receiver, owner)) if isinstance(owner, ClassValue) and receiver is not None else one(self.unknown())
        env: Env | None = self.env
        while env is not None:
            if "*self" in env.slots and env.owner is not None:
                return one(Super(env.slots["*self"][0][0], env.owner))
            env = env.parent
        return one(self.unknown())

    def call_alternatives(self: Interpreter, callee: Alts, args: list[Alts], keywords: dict[str, Alts], node: ast.AST) -> Alts:
        """Call whichever it is; several that would do something are walked as arms of a branch."""
        live = [(v, g) for v, g in callee if not isinstance(v, Const)]
        if not live:
            return one(self.unknown())
        if len(live) == 1:
            value, guard = live[0]
            return guarded(self.call_value(value, args, keywords, node), guard)
        branch = self.fresh()
        out: Alts = ()
        changes = []
        for value, guard in live:
            condition = Condition(None, (tuple(guard) or ((("one of", branch, value.key), True),), ()))
            results: list[Alts] = []
            self.choices += 1
            _, changed, facts = self.arm(
                node, -self.fresh(), condition, True,
                lambda value=value, results=results: results.append(self.call_value(value, args, keywords, node)) or NORMAL,
                "choice",
            )  # fmt: skip
            self.choices -= 1
            changes.append((changed, facts))
            out = join(out, guarded(results[0], guard))
        merged: dict[Any, Any] = {}
        for changed, _facts in changes:
            for where, (slots, key, alts) in changed.items():
                merged[where] = (slots, key, alts if where not in merged else join(merged[where][2], alts))
        self.replay(merged)
        return out

    def call_value(self: Interpreter, value: Any, args: list[Alts], keywords: dict[str, Alts], node: ast.AST) -> Alts:
        """Call one value."""
        if isinstance(value, Function):
            return self.call_function(value, args, keywords, node)
        if isinstance(value, Bound):
            if isinstance(value.function, Function):
                self.note_override(value.receiver, value.function, args, keywords, node)
                return self.call_function(value.function, [one(value.receiver), *args], keywords, node, value.owner)
            return self.call_library_method(value.receiver, value.function, args, keywords, node)
        if isinstance(value, ClassValue):
            known = self.known_class(value)
            if known is not None:
                return self.library_object(known, self.knowledge.objects[known], args, keywords, node)
            return self.instantiate(value, args, keywords, node)
        if isinstance(value, Partial):
            return self.call_alternatives(value.function, [*value.args, *args], {**value.keywords, **keywords}, node)
        if isinstance(value, External):
            return self.call_external(value, args, keywords, node)
        if isinstance(value, Instance):
            return self.call_instance(value, args, keywords, node)
        if isinstance(value, Context):
            return self.decorate(value, args)
        return self.call_unknown(value, args, keywords, node)

    def known_class(self: Interpreter, cls: ClassValue) -> str | None:
        """The name in the tables of a class whose source is in the project as well: a library itself, or a copy of one."""
        name = self.knowledge.canonical(f"{self.project.import_name(cls.env.file)}.{cls.name}")
        return name if self.knowledge.objects.get(name, {}).get("kind") else None

    def note_override(
        self: Interpreter, receiver: Any, function: Function, args: list[Alts], keywords: dict[str, Alts], node: ast.AST
    ) -> None:
        """A project class that overrides a method of its kind: calling it is that event, whatever it does inside."""
        if not isinstance(receiver, Instance) or receiver.kind not in ("optimizer", "scheduler", "scaler"):
            return
        if self.knowledge.method(receiver.kind, function.name) is None:
            return
        names = [a.arg for a in (*function.node.args.posonlyargs, *function.node.args.args)][1:]
        given = self.by_name(names, args, keywords)
        self.record(
            function.name,
            receiver,
            node,
            {n: self.held_value(a, node) for n, a in given.items() if a},
            sure=self.choices == 0 and receiver.sure,
        )

    def decorate(self: Interpreter, context: Context, args: list[Alts]) -> Alts:
        """`torch.no_grad()(f)`: the function, run inside the region."""
        value = single(args[0]) if args else None
        if isinstance(value, Function):
            value.contexts = (*value.contexts, context)
            return one(value)
        return args[0] if args else one(self.unknown())

    def call_instance(self: Interpreter, value: Instance, args: list[Alts], keywords: dict[str, Alts], node: ast.AST) -> Alts:
        if value.kind in ("module", "criterion", "engine"):
            return self.forward(value, args, keywords, node)
        method = self.method_of(value, "__call__")
        if method is not None:
            return self.call_value(method, args, keywords, node)
        if self.method_row(value, "__call__") is not None:
            return self.call_library_method(value, "__call__", args, keywords, node)
        return self.call_unknown(value, args, keywords, node)

    # -------------------------------------------------------------- functions

    def call_function(
        self: Interpreter,
        function: Function,
        args: list[Alts],
        keywords: dict[str, Alts],
        node: ast.AST,
        owner: ClassValue | None = None,
    ) -> Alts:
        """Enter a function of the project: again for each call site, so that every object keeps its own path."""
        ident = id(function.node)
        times = self.entries.get(ident, 0)
        again = self.leftover and self.spent.get(ident, 0) > COSTLY_AGAIN
        if again or (self.costs.get(ident, 0) > self.costly and times > 1):
            if self.costly != COSTLY_REHEARSED and self.relevance.leads(function.node):
                if again:
                    self.limit(f"`{function.name}` was not followed again after {COSTLY_AGAIN:,} statements in other classes and functions")
                else:
                    self.often.add(function.name)
            self.lose_all([*args, *keywords.values()], node)
            inputs = [self.meet(a) for a in (*args, *keywords.values()) if a]
            return one(self.opaque(("call", function.key, self.fresh()), inputs, frozenset(("unknown",))))
        if len(self.calls) >= DEEPEST_CALL or times >= MOST_ENTRIES or self.recurs(function):
            return self.not_entered(function, times, args, keywords, node)
        self.entries[ident] = times + 1
        self.entered.add(ident)
        plain = not self.carries(args) and not self.carries(keywords.values())
        if plain and ident in self.inert:
            return self.summary(function, args, keywords, node)
        if self.idle(function, times) and (plain or (function.owner is not None and not self.carries(args[1:]))):
            inputs = [self.meet(a) for a in (*args, *keywords.values()) if a]
            return one(self.opaque(("call", function.key, self.fresh()), inputs, self.unwalked(function, inputs)))
        steps, records = self.steps, len(self.records)
        env = Env(function.env.file, function.env)
        env.owner = owner or function.owner
        self.bind_parameters(function, env, args, keywords, node)
        if self.is_generator(function) and "contextmanager" not in function.decorators:
            return one(self.generator(function, env, node))
        if self.is_generator(function):
            return one(self.generator(function, env, node))
        result = self.run(function, env, node, None)
        cost = self.steps - steps
        self.costs[ident] = self.costs.get(ident, 0) + cost
        if self.leftover:
            self.spent[ident] = self.spent.get(ident, 0) + cost
        if self.carries([result]):
            self.gives.add(ident)
        if plain and self.steps - steps > LONG_WALK:
            self.note_inert(function, result, records)
        return result

    def idle(self: Interpreter, function: Function, times: int) -> bool:
        """Walking the function (again) can tell nothing: it leads to nothing the rules follow, and gave no object so far."""
        if times < FEW_ENTRIES or id(function.node) in self.gives:
            return not self.relevance.matters(function.node)
        return not self.relevance.leads(function.node)

    def unwalked(self: Interpreter, function: Function, inputs: list[Any]) -> frozenset[str]:
        """What comes out of a function that is not walked, where a model's outputs went in: a loss may be no mean."""
        return self.project.reduction_of(function.node) if any(instances(v) for v in inputs) else frozenset()

    def carries(self: Interpreter, given: Iterable[Alts]) -> bool:
        """Something among the arguments could do what the rules follow: a followed object, an object of the project, a function."""
        for alts in given:
            for value, _ in alts:
                if isinstance(value, (Function, Bound, Partial, Generator)):
                    return True
                for held in (
                    (value,) if isinstance(value, Instance) else self.inside(value) if isinstance(value, (Sequence, Mapping)) else ()
                ):
                    if held.kind not in ("module", "criterion", "loader", "parameter"):
                        return True
        return False

    def note_inert(self: Interpreter, function: Function, result: Alts, records: int) -> None:
        """Remember a long walk that led to nothing but modules or unknown values."""
        if any(r.thing is None or r.thing.kind not in ("module", "criterion", "parameter") for r in self.records[records:]):
            return
        values = values_of(result)
        made = next((v for v in values if isinstance(v, Instance)), None)
        if all(
            isinstance(v, Opaque) or (isinstance(v, Const) and v.value is None) or (isinstance(v, Instance) and v.kind == "module")
            for v in values
        ):
            self.inert[id(function.node)] = (function.node, made)

    def summary(self: Interpreter, function: Function, args: list[Alts], keywords: dict[str, Alts], node: ast.AST) -> Alts:
        """What the function gave the last time, for another call: a new module of that class, or something unknown."""
        made = self.inert[id(function.node)][1]
        if made is None:
            inputs = [self.meet(a) for a in (*args, *keywords.values()) if a]
            return one(self.opaque(("call", function.key, self.fresh()), inputs, self.unwalked(function, inputs)))
        instance = Instance(self.fresh(), self.span(node), made.kind, made.type, made.cls)
        self.things.append(instance)
        self.made(instance, node)
        return one(instance)

    def recurs(self: Interpreter, function: Function) -> bool:
        return sum(c.function is not None and c.function.node is function.node for c in self.calls) > 1

    def not_entered(self: Interpreter, function: Function, times: int, args: list[Alts], keywords: dict[str, Alts], node: ast.AST) -> Alts:
        """A call that is not followed any further. It is worth a word only where it could have mattered."""
        given = [*args, *keywords.values()]
        held = frozenset().union(*(self.inside(v) for a in given for v, _ in a))
        if any(i.kind in ("optimizer", "scheduler", "scaler") for i in held) or self.relevance.leads(function.node):
            if len(self.calls) >= DEEPEST_CALL:
                self.limit(f"calls nested deeper than {DEEPEST_CALL} were not followed")
            elif times >= MOST_ENTRIES:
                self.often.add(function.name)
        self.lose_all(given, node)
        return one(self.opaque(("call", function.key, self.fresh()), [self.meet(a) for a in args if a], frozenset(("unknown",))))

    def is_generator(self: Interpreter, function: Function) -> bool:
        return self.project.yields(function.node, function.env.file.source.data)

    def generator(self: Interpreter, function: Function, env: Env, node: ast.AST) -> Generator:
        self.span(node)  # where it is run another file may be walked
        return Generator(self.fresh(), function, lambda on_yield: self.run(function, env, node, on_yield) and None)  # type: ignore[arg-type]

    def run(self: Interpreter, function: Function, env: Env, node: ast.AST, on_yield: Callable[[Alts], int] | None) -> Alts:
        """Walk a function's body in its own names."""
        kept = (self.env, self.file, self.call, self.loops)
        place, assumed = len(self.place), len(self.assumptions)
        self.place.append(Frame("call", self.span(node), name=function.name))
        self.env, self.file = env, env.file
        for context in reversed(function.contexts):
            self.open_regions(one(context), function.node)
        call = Call(function, env, place=len(self.place), on_yield=on_yield, caller=kept[0])
        self.call = call
        self.calls.append(call)
        if on_yield is None:
            self.loops = []
        try:
            if isinstance(function.node, ast.Lambda):
                call.returns.append(self.evaluate(function.node.body))
            elif self.block(function.node.body) == NORMAL:
                call.returns.append(one(NONE))
            self.join_exits(call.exits)
        finally:
            self.calls.pop()
            self.env, self.file, self.call, self.loops = kept
            del self.place[place:]
            self.forget(assumed)
        out: Alts = ()
        for alts in call.returns:
            out = join(out, alts)
        return out or one(self.unknown())

    def bind_parameters(
        self: Interpreter, function: Function, env: Env, args: list[Alts], keywords: dict[str, Alts], node: ast.AST
    ) -> None:
        """Give the parameters their arguments, defaults or an unknown named after function and parameter."""
        spec = function.node.args
        names = [a.arg for a in (*spec.posonlyargs, *spec.args)]
        slots = env.slots
        given = dict(keywords)
        star, rest = given.pop("*", None), given.pop("**", None)
        for name, alts in zip(names, args, strict=False):
            slots[name] = alts
        extra = args[len(names) :]
        if spec.vararg is not None:
            slots[spec.vararg.arg] = one(
                Sequence(self.fresh(), extra, "tuple") if star is None else Sequence(self.fresh(), None, "tuple", star)
            )
        for parameter in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs):
            if parameter.arg in given and parameter.arg not in slots:
                slots[parameter.arg] = given.pop(parameter.arg)
        if spec.kwarg is not None:
            mapping = Mapping(self.fresh())
            mapping.slots.update({("k", n): a for n, a in given.items()})
            if rest is not None:
                mapping.slots["*"] = rest
            elif self.unasked:
                mapping.slots["*"] = one(Opaque(("parameter", id(function.node), spec.kwarg.arg)))
            slots[spec.kwarg.arg] = one(mapping)
        self.defaults(function, slots, star, rest)
        if names and function.owner is not None and "staticmethod" not in function.decorators:
            slots["*self"] = slots.get(names[0], one(self.unknown()))

    def defaults(self: Interpreter, function: Function, slots: dict[Any, Alts], star: Alts | None, rest: Alts | None) -> None:
        spec = function.node.args
        positional = (*spec.posonlyargs, *spec.args)
        with_default = dict(zip([a.arg for a in positional[len(positional) - len(spec.defaults) :]], spec.defaults, strict=True))
        with_default.update({a.arg: d for a, d in zip(spec.kwonlyargs, spec.kw_defaults, strict=True) if d is not None})
        kept = (self.env, self.file)
        unasked, self.unasked = self.unasked, False
        for parameter in (*positional, *spec.kwonlyargs):
            name = parameter.arg
            if name in slots:
                continue
            default = with_default.get(name)
            self.env, self.file = function.env, function.env.file
            value = self.evaluate(default) if default is not None else self.annotated_value(function, parameter)
            if isinstance(default, ast.Constant):
                if default.value is None and unasked:
                    value = join(value, self.annotated_value(function, parameter))
                elif type(default.value) in (int, float) or unasked:  # a number somebody may pass
                    value = one(Const(default.value, ("default", id(function.node), name)))
            self.env, self.file = kept
            if star is not None and parameter in positional:
                value = join(value, star) if default is not None else star
            elif rest is not None:
                value = join(value, rest)
            slots[name] = value

    def annotated_value(self: Interpreter, function: Function, parameter: ast.arg) -> Alts:
        """A parameter nobody gave: an unknown with a stable name, or an object of the annotated class."""
        key = ("parameter", id(function.node), parameter.arg)
        annotation = parameter.annotation
        if annotation is not None and not isinstance(annotation, ast.Constant):
            for value in values_of(self.quiet(annotation) if isinstance(annotation, ast.Name) else self.evaluate(annotation)):
                if isinstance(value, External):
                    made = self.declared(value.name, key, parameter)
                    if made is not None:
                        return one(made)
        return one(Opaque(key))

    # ---------------------------------------------------------------- classes

    def instantiate(self: Interpreter, cls: ClassValue, args: list[Alts], keywords: dict[str, Alts], node: ast.AST) -> Alts:
        """Make an object of a project class and run its constructor."""
        maker = self.class_attribute(cls, cls, "__new__")
        row = self.class_row(cls)
        kind = row.get("kind", "") if row is not None else ""
        instance = Instance(self.fresh(), self.span(node), kind, cls.name, cls)
        instance.sure = self.choices == 0
        instance.ready = False
        self.things.append(instance)
        init = self.class_attribute(cls, instance, "__init__")
        bound = single(init) if init else None
        if isinstance(bound, Bound) and isinstance(bound.function, Function):
            self.call_value(bound, args, keywords, node)
        elif "dataclass" in cls.decorators or any("NamedTuple" in name for name in cls.externals()):
            self.fill_fields(instance, cls, args, keywords)
        elif kind:
            self.construct(instance, row or {}, args, keywords, node)
        else:
            self.hold(instance, args, keywords)
            if cls.unseen_base() or self.strange_base(cls):
                self.lose_all([*args, *keywords.values()], node)
        instance.ready = True
        if maker:
            instance.sure = False
        self.made(instance, node)
        return one(instance)

    def hold(self: Interpreter, instance: Instance, args: list[Alts], keywords: dict[str, Alts]) -> None:
        for number, alts in enumerate(args):
            instance.slots.setdefault(("given", number), alts)
        for name, alts in keywords.items():
            instance.slots.setdefault(("given", name), alts)

    def fill_fields(self: Interpreter, instance: Instance, cls: ClassValue, args: list[Alts], keywords: dict[str, Alts]) -> None:
        """A dataclass: annotated names of the class and its ancestors, in order, take the arguments."""
        fields: dict[str, tuple[ClassValue, ast.expr | None]] = {}
        for ancestor in reversed(cls.mro()):
            if isinstance(ancestor, ClassValue):
                for statement in ancestor.node.body:
                    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                        fields[statement.target.id] = (ancestor, statement.value)
        for number, (name, (_owner, default)) in enumerate(fields.items()):
            if number < len(args):
                instance.slots[name] = args[number]
            elif name in keywords:
                instance.slots[name] = keywords[name]
            elif default is None or isinstance(default, ast.Call) or "*" in keywords or "**" in keywords:
                instance.slots[name] = one(Opaque(("attr", instance.key, name), depth=2))
        post = self.method_of(instance, "__post_init__")
        if post is not None:
            self.call_value(post, [], {}, cls.node)

    # ---------------------------------------------------------------- unknown

    def call_unknown(self: Interpreter, value: Any, args: list[Alts], keywords: dict[str, Alts], node: ast.AST) -> Alts:
        """Code that cannot be seen: what it is given is lost; functions it is given may be called by it."""
        if isinstance(value, ModuleValue):
            return one(self.unknown())
        if isinstance(value, Opaque):
            known = self.call_opaque(value, args, keywords, node)
            if known is not None:
                return known
        self.lose_all([*args, *keywords.values()], node)
        inputs = [self.meet(a) for a in (*args, *keywords.values()) if a]
        return one(self.result_of(value, inputs, node))

    def result_of(self: Interpreter, value: Any, inputs: list[Any], node: ast.AST) -> Opaque:
        """What an unseen function gives: unknown, named by the call when its arguments are, carrying what went in."""
        simple = all(isinstance(v, (Const, Opaque, Instance)) for v in inputs)
        key = ("call", value.key, *(v.key for v in inputs)) if simple and len(inputs) <= 4 else ("call", value.key, self.fresh())
        tags = frozenset(("unknown",)) if any(instances(v) for v in (value, *inputs)) else frozenset()
        return self.opaque(key, [value, *inputs], tags)
