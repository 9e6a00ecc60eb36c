"""What Python's own functions and containers do with the values given to them."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mllint.flow.state import State
from mllint.flow.values import (
    Alts,
    ClassValue,
    Const,
    Context,
    External,
    Function,
    Generator,
    Instance,
    Mapping,
    ModuleValue,
    Opaque,
    Partial,
    Sequence,
    guarded,
    join,
    one,
    single,
    values_of,
)

if TYPE_CHECKING:
    from mllint.flow.interpret import Interpreter

NOTHING: Alts = ()
#: Functions through which a size stays the size it was.
ROUNDING = frozenset(("int", "float", "round", "ceil", "floor", "abs"))
#: Wrappers that iterate over what they are given and nothing else.
PASSING = frozenset((
    "tqdm.tqdm", "tqdm.auto.tqdm", "tqdm.std.tqdm", "tqdm.notebook.tqdm", "tqdm.tqdm_notebook", "tqdm.asyncio.tqdm", "tqdm.trange",
    "tqdm.auto.trange", "rich.progress.track", "fastprogress.progress_bar", "fastprogress.master_bar", "alive_progress.alive_it",
    "progressbar.progressbar", "tqdm.contrib.tenumerate", "itertools.chain", "itertools.islice", "itertools.cycle", "copy.copy",
    "more_itertools.peekable", "prefetch_generator.BackgroundGenerator",
))  # fmt: skip
PLACES = re.compile(r"%(?:\(\w+\))?[-+ #0]*\d*(?:\.(\d+))?([a-zA-Z%])")
FIELDS = re.compile(r"\{([^{}:!]*)(?:![rsa])?(?::([^{}]*))?\}")


class Python(State):
    """Builtins and containers; mixed into the Interpreter."""

    python_functions = frozenset((
        "functools.partial", "functools.wraps", "contextlib.nullcontext", "contextlib.suppress", "copy.deepcopy", "functools.partialmethod",
        "math.ceil", "math.floor", "numpy.ceil", "numpy.floor", "itertools.count", "collections.OrderedDict", "collections.defaultdict",
        "types.SimpleNamespace", "collections.deque", "importlib.import_module", "contextlib.ExitStack",
        *PASSING,
    ))  # fmt: skip

    def call_python(self: Interpreter, name: str, args: list[Alts], keywords: dict[str, Alts], node: ast.AST) -> Alts | None:
        """Call a builtin or a standard function whose result is followed; None when it is just harmless."""
        short = name.rpartition(".")[2]
        if name in PASSING:
            return self.passing(short, args, keywords)
        if short in ROUNDING:
            return self.rounded(short, args, node)
        method = getattr(self, "python_" + short.lower(), None)
        return method(args, keywords, node) if method is not None else None

    def passing(self: Interpreter, short: str, args: list[Alts], keywords: dict[str, Alts]) -> Alts:
        """tqdm and the like: what comes out is what went in; trange counts; chain and enumerate keep the number of turns."""
        first = args[0] if args else keywords.get("iterable", ())
        if short == "trange":
            return self.python_range(args, {}, None)
        if short == "tenumerate":
            return self.python_enumerate(args, {}, None)
        if short == "chain":
            rest: Alts = ()
            held: frozenset[Instance] = frozenset()
            for alts in args:
                for value in values_of(alts):
                    element, _, sources = self.iteration(value)
                    rest, held = join(rest, element), held | sources
            return one(Sequence(self.fresh(), None, "list", rest, None, held))
        if not first:
            return one(self.unknown())
        if short == "islice":
            element, _, held = self.iteration(self.meet(first))
            return one(Sequence(self.fresh(), None, "list", element, args[1] if len(args) == 2 else None, held))
        return first

    def rounded(self: Interpreter, short: str, args: list[Alts], node: ast.AST) -> Alts:
        value = self.meet(args[0]) if args else Const(0)
        if short == "round" and len(args) == 2:
            digits = single(args[1])
            if isinstance(digits, Const):
                self.note_format(args[0], one(Const(f"round:{digits.value}")), node)
        if isinstance(value, Const) and isinstance(value.value, (int, float, str)):
            try:
                known: dict[str, Callable[[Any], Any]] = {"int": int, "float": float, "abs": abs}
                if short in known:
                    return one(Const(known[short](value.value), value.soft))
            except (ValueError, OverflowError, TypeError):
                return one(self.unknown())
            return one(value)
        if short in ("int", "float") and isinstance(value, Opaque) and any(i.kind == "module" for i in value.sources):
            return one(self.cut(value))  # a number, and no tensor any more
        return args[0] if args and isinstance(value, Opaque) and len(args[0]) == 1 else one(value)

    def python_len(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        value = self.meet(args[0]) if args else self.unknown()
        if isinstance(value, Sequence):
            if value.ident in self.growing and self.loops:
                return one(Opaque(("varies", "len", value.ident)))
            size = value.slots.get("#")
            return size if size else one(Opaque(("len", value.key), depth=2))
        if isinstance(value, Instance) and value.cls is not None:
            method = self.method_of(value, "__len__")
            if method is not None:
                return self.call_value(method, [], {}, node)
        if isinstance(value, Const) and isinstance(value.value, str):
            return one(Const(len(value.value)))
        key = self.thing_of(value).key
        return one(Opaque(("len", key), depth=1 + getattr(value, "depth", 1)))

    def python_range(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        bounds = [self.meet(a) for a in args]
        if not bounds:
            return one(self.unknown())
        stop = bounds[0] if len(bounds) == 1 else bounds[1]
        size: Any = stop
        if len(bounds) >= 2 and isinstance(bounds[0], Const) and bounds[0].value:
            size = self.meet(self.arithmetic(ast.Sub(), args[1], args[0], node))
        if len(bounds) == 3:
            size = self.meet(self.arithmetic(ast.FloorDiv(), one(size), args[2], node))
        return one(Sequence(self.fresh(), None, "range", one(Opaque(("index", self.fresh()))), one(size)))

    def python_enumerate(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        value = self.meet(args[0]) if args else self.unknown()
        if args and len(args[0]) == 1 and isinstance(args[0][0][0], Generator):
            return one(
                self.wrapped(args[0][0][0], lambda alts: one(Sequence(self.fresh(), [one(Opaque(("index", self.fresh()))), alts], "tuple")))
            )
        if isinstance(value, Sequence) and value.length is not None:
            pairs = [one(Sequence(self.fresh(), [one(Const(n)), e], "tuple")) for n, e in enumerate(value.elements())]
            return one(Sequence(self.fresh(), pairs))
        element, size, over = self.iteration(value)
        pair = one(Sequence(self.fresh(), [one(Opaque(("index", self.fresh()))), element], "tuple"))
        return one(Sequence(self.fresh(), None, "list", pair, size or None, over))

    def wrapped(self: Interpreter, generator: Generator, change: Any) -> Generator:
        return Generator(self.fresh(), generator.function, lambda on_yield: generator.run(lambda alts: on_yield(change(alts))))

    def python_zip(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        parts = [self.meet(a) for a in args]
        if parts and all(isinstance(p, Sequence) and p.length is not None for p in parts):
            rows = zip(*(p.elements() for p in parts), strict=False)
            return one(Sequence(self.fresh(), [one(Sequence(self.fresh(), list(row), "tuple")) for row in rows]))
        elements: list[Alts] = []
        over, size = frozenset[Instance](), NOTHING
        for part in parts:
            element, length, held = self.iteration(part)
            elements.append(element)
            over |= held
            size = size or length
        return one(Sequence(self.fresh(), None, "list", one(Sequence(self.fresh(), elements, "tuple")), size or None, over))

    def python_list(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        if not args:
            return one(Sequence(self.fresh(), []))
        value = single(args[0])
        if isinstance(value, Generator):
            collected: list[Alts] = []
            value.run(lambda alts: collected.append(alts) or 0)  # type: ignore[func-returns-value]
            rest: Alts = ()
            for alts in collected:
                rest = join(rest, alts)
            return one(Sequence(self.fresh(), None, "list", rest))
        if isinstance(value, Sequence):
            copy = Sequence(self.fresh(), [], value.kind, over=value.over)
            copy.slots.clear()
            copy.slots.update(value.slots)
            return one(copy)
        if isinstance(value, Opaque) and "params" in value.tags:
            return args[0]
        element, size, over = self.iteration(self.meet(args[0]))
        return one(Sequence(self.fresh(), None, "list", element, size or None, over))

    python_tuple = python_set = python_sorted = python_reversed = python_frozenset = python_list

    def python_deque(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        made = self.python_list(args[:1], {}, node)
        if len(args) > 1 or keywords:
            for value in values_of(made):
                if isinstance(value, Sequence):
                    value.kind = "bounded"  # the oldest elements go
        return made

    def python_iter(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        value = self.meet(args[0]) if args else self.unknown()
        if isinstance(value, Instance) and value.cls is not None:
            method = self.method_of(value, "__iter__")
            if method is not None:
                return self.call_value(method, [], {}, node)
        return args[0] if args else one(value)

    def python_next(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        value = single(args[0]) if args else None
        if isinstance(value, Generator):
            collected: list[Alts] = []
            value.run(lambda alts: collected.append(alts) or 0)  # type: ignore[func-returns-value]
            return collected[0] if collected else one(self.unknown())
        return self.iteration(self.meet(args[0]))[0] if args else one(self.unknown())

    def python_filter(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        return args[1] if len(args) == 2 else one(self.unknown())

    def python_map(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        if len(args) < 2:
            return one(self.unknown())
        parts = [self.iteration(self.meet(a)) for a in args[1:]]
        result = self.call_alternatives(args[0], [p[0] for p in parts], {}, node)
        return one(Sequence(self.fresh(), None, "list", result, parts[0][1] or None, parts[0][2]))

    def python_sum(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        value = self.meet(args[0]) if args else self.unknown()
        element: Any = value
        if isinstance(value, (Sequence, Generator)):
            element = self.meet(self.iteration(value)[0] if isinstance(value, Sequence) else ())
            if isinstance(value, Sequence) and value.length is not None:
                element = self.meet(tuple(a for e in value.elements() for a in e))
        return one(self.opaque(("sum", self.fresh()), [element]))

    def python_max(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        """`max(1, n)` is n for our purposes."""
        values = [self.meet(a) for a in args]
        unknown = [a for a, v in zip(args, values, strict=True) if not isinstance(v, Const)]
        if len(values) == 2 and len(unknown) == 1:
            return unknown[0]
        return one(self.opaque(("max", *(v.key for v in values)), values))

    python_min = python_max

    def python_getattr(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        name = single(args[1]) if len(args) > 1 else None
        out: Alts = ()
        for value, guard in args[0] if args else ():
            if isinstance(name, Const) and isinstance(name.value, str) and name.soft is None:
                found = self.attribute_of(value, name.value)
                if len(args) == 3 and isinstance(value, (Opaque, Instance)) and self.has_attribute(value, name) is not True:
                    found = join(found, args[2])
            elif isinstance(value, External):
                found = one(External(value.name + ".*"))  # torch.optim.<something>
            elif isinstance(value, ModuleValue):
                found = ()
                for alts in list(value.slots.values()):
                    if any(isinstance(v, (ClassValue, Function)) for v, _ in alts):
                        found = join(found, alts)
                found = found if 0 < len(found) <= 6 else one(self.unknown())
            else:
                found = one(self.opaque(("getattr", value.key, self.fresh()), [value]))
            out = join(out, guarded(found, guard))
        return out or one(self.unknown())

    def python_setattr(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        if len(args) == 3:
            name = single(args[1])
            text = name.value if isinstance(name, Const) and isinstance(name.value, str) else f"?{self.fresh()}"
            self.set_attribute(args[0], text, args[2], node)
            if text.startswith("?"):
                self.lose_all([args[2]], node)
        return one(Const(None))

    def python_vars(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        mapping = Mapping(self.fresh())
        for value in values_of(args[0]) if args else ():
            if isinstance(value, Instance):
                mapping.slots.update({("k", n): a for n, a in value.slots.items() if isinstance(n, str)})
            else:
                mapping.slots["*"] = one(self.opaque(("vars", value.key), [value]))
        return one(mapping)

    def python_dict(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        mapping = Mapping(self.fresh())
        for value in values_of(args[0]) if args else ():
            if isinstance(value, Mapping):
                mapping.slots.update(value.slots)
            elif isinstance(value, Sequence) and value.length is not None:
                for element in value.elements():
                    pair = single(element)
                    if isinstance(pair, Sequence) and pair.length == 2:
                        name = single(pair.slots[0])
                        mapping.slots[("k", name.value) if isinstance(name, Const) else "*"] = pair.slots[1]
            else:
                mapping.slots["*"] = self.iteration(value)[0]
        for name, alts in keywords.items():
            mapping.slots[("k", name) if name != "**" else "*"] = alts
        return one(mapping)

    python_ordereddict = python_dict

    def python_defaultdict(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        return one(Mapping(self.fresh()))

    def python_simplenamespace(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        instance = Instance(self.fresh(), self.span(node), "", "types.SimpleNamespace")
        instance.slots.update(keywords)
        return one(instance)

    def python_partial(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        return one(Partial(args[0], args[1:], keywords)) if args else one(self.unknown())

    python_partialmethod = python_partial

    def python_wraps(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        return one(Context("null", {}))

    def python_nullcontext(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        return one(Context("null", {}))

    python_suppress = python_nullcontext

    def python_deepcopy(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        """A copy is another object: changing it changes nothing of the first."""
        out: Alts = ()
        for value, guard in args[0] if args else ():
            if isinstance(value, Instance):
                copy = Instance(self.fresh(), self.span(node), value.kind, value.type, value.cls)
                copy.slots.update(value.slots)
                copy.arguments.update(value.arguments)
                copy.facts.update(value.facts)
                copy.lost = self.span(node)
                self.things.append(copy)
                if copy.kind:
                    self.record("make", copy, node)
                out = join(out, ((copy, guard),))
            else:
                out = join(out, ((value, guard),))
        return out or one(self.unknown())

    def python_type(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        value = single(args[0]) if len(args) == 1 else None
        if isinstance(value, Instance) and value.cls is not None:
            return one(value.cls)
        if isinstance(value, Instance) and value.type:
            return one(External(value.type))
        return one(self.unknown())

    def python_import_module(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        name = single(args[0]) if args else None
        if isinstance(name, Const) and isinstance(name.value, str) and not name.value.startswith("."):
            return tuple((v, g) for d, g in self.module_value(name.value, None) for v, _ in self.resolve(d))
        return one(self.unknown())

    def python_staticmethod(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        """`clip = staticmethod(library.function)` in a class: what is wrapped, never given the object."""
        return tuple((Partial(one(v), [], {}) if isinstance(v, Function) else v, g) for v, g in args[0]) if args else one(self.unknown())

    def python_format(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        if len(args) == 2:
            self.note_format(args[0], args[1], node)
        return one(self.unknown())

    def python_id(self: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: Any) -> Alts:
        return one(self.unknown())

    python_print = python_repr = python_hash = python_isinstance = python_id

    # ------------------------------------------------------------- containers

    def container_method(self: Interpreter, receiver: Any, name: str, args: list[Alts], keywords: dict[str, Alts], node: ast.AST) -> Alts:
        """A method of a list, dict, text or number."""
        if isinstance(receiver, Sequence):
            return self.sequence_method(receiver, name, args, node)
        if isinstance(receiver, Mapping):
            return self.mapping_method(receiver, name, args, keywords, node)
        if isinstance(receiver, Const) and isinstance(receiver.value, str):
            return self.text_method(receiver, name, args, keywords, node)
        if isinstance(receiver, Generator):
            if name == "__next__":
                return self.python_next([one(receiver)], {}, node)
            return one(self.unknown())
        self.lose_all([*args, *keywords.values()], node)
        return one(self.unknown())

    def sequence_method(self: Interpreter, receiver: Sequence, name: str, args: list[Alts], node: ast.AST) -> Alts:
        if name in ("append", "add", "appendleft") and args:
            self.append(receiver, args[0])
            if receiver.kind != "bounded" and self.in_loop():
                self.note_kept(receiver.ident, args[0], node, self.receiver_node(node))
        elif name in ("extend", "update") and args:
            self.extend(receiver, args[0])
        elif name == "insert" and len(args) == 2:
            self.blur(receiver, args[1])
        elif name in ("pop", "popleft"):
            return self.item(receiver, args[0] if args else one(Const(-1)), node) or one(self.unknown())
        elif name in ("clear", "remove", "reverse", "sort"):
            if name == "clear":
                self.blur(receiver, ())
        elif name == "copy":
            return self.python_list([one(receiver)], {}, node)
        return one(Const(None)) if name not in ("index", "count") else one(self.unknown())

    def mapping_method(self: Interpreter, receiver: Mapping, name: str, args: list[Alts], keywords: dict[str, Alts], node: ast.AST) -> Alts:
        if name in ("get", "pop", "setdefault") and args:
            return self.mapping_get(receiver, name, args)
        if name == "items":
            pairs = [
                one(Sequence(self.fresh(), [one(Const(k[1]) if isinstance(k, tuple) else self.unknown()), alts], "tuple"))
                for k, alts in receiver.slots.items()
            ]
            return one(Sequence(self.fresh(), pairs))
        if name == "values":
            return one(Sequence(self.fresh(), receiver.values()))
        if name == "keys":
            return one(Sequence(self.fresh(), [one(Const(k[1])) for k in receiver.slots if isinstance(k, tuple)]))
        if name == "update":
            for value in values_of(args[0]) if args else ():
                if isinstance(value, Mapping):
                    for slot, alts in value.slots.items():
                        self.write(receiver.slots, slot, alts)
                else:
                    self.write(receiver.slots, "*", join(receiver.slots.get("*", ()), one(self.unknown())))
            for key, alts in keywords.items():
                self.write(receiver.slots, ("k", key) if key != "**" else "*", alts)
            return one(Const(None))
        if name == "copy":
            return self.python_dict([one(receiver)], {}, node)
        return one(self.unknown())

    def mapping_get(self: Interpreter, receiver: Mapping, name: str, args: list[Alts]) -> Alts:
        key = single(args[0])
        default = args[1] if len(args) > 1 else one(Const(None))
        if isinstance(key, Const):
            slot = ("k", key.value)
            if slot in receiver.slots:
                return receiver.slots[slot]
            if name == "setdefault":
                self.write(receiver.slots, slot, default)
            return join(default, receiver.slots.get("*", ()))
        found = default if name != "pop" or len(args) > 1 else ()
        for alts in receiver.values():
            found = join(found, alts)
        if key is not None and found:  # which one it is depends on the key: the same key gives the same one
            found = (
                tuple((v, g | {(("index", receiver.key, key.key, n), True)}) for n, (v, g) in enumerate(found)) if len(found) > 1 else found
            )
        return found or one(self.unknown())

    def text_method(self: Interpreter, receiver: Const, name: str, args: list[Alts], keywords: dict[str, Alts], node: ast.AST) -> Alts:
        if name == "format":
            number = 0
            text = receiver.value.replace("{{", "").replace("}}", "")
            for index, (field, spec) in enumerate(FIELDS.findall(text)):
                if field == "":
                    alts = args[number] if number < len(args) else ()
                    number += 1
                else:
                    alts = args[int(field)] if field.isdigit() and int(field) < len(args) else keywords.get(field, ())
                if spec:
                    self.note_format(alts, one(Const(spec)), node, index)
            return one(self.unknown())
        if name in ("lower", "upper", "strip") and not args:
            return one(Const(getattr(receiver.value, name)(), receiver.soft))
        if name in ("startswith", "endswith") and receiver.soft is None:
            part = single(args[0]) if args else None
            if isinstance(part, Const) and isinstance(part.value, str):
                return one(Const(getattr(receiver.value, name)(part.value)))
        return one(self.unknown())

    def percent_format(self: Interpreter, text: str, right: Alts, node: ast.AST) -> None:
        """`"lr %.4f" % lr`."""
        value = single(right)
        given = value.elements() if isinstance(value, Sequence) and value.length is not None else [right]
        places = [p for p in PLACES.findall(text) if p[1] != "%"]
        for index, ((digits, letter), alts) in enumerate(zip(places, given, strict=False)):
            if digits:
                self.note_format(alts, one(Const(f".{digits}{letter}")), node, index)
