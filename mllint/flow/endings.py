"""What a value was made by last: a softmax, a sigmoid, a layer that gives scores; through the end of a model's `forward` as well.

The interpreter does not walk a `forward` that does nothing the rules follow, so its end is read from the text: names, branches and
returns, with the layers the object is known to hold.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mllint.flow.values import Alts, Bound, ClassValue, Env, External, Function, Instance, single, values_of
from mllint.flow.values import Mapping as Dictionary
from mllint.model.history import Value

if TYPE_CHECKING:
    from mllint.flow.interpret import Interpreter

SOFTMAX, LOG_SOFTMAX, SIGMOID, SCORES = "softmax", "log_softmax", "sigmoid", "scores"
#: What a value ends in where that is not understood.
UNKNOWN = frozenset(("?",))
#: Functions and methods of tensors.
OPERATIONS = {"softmax": SOFTMAX, "log_softmax": LOG_SOFTMAX, "sigmoid": SIGMOID, "sigmoid_": SIGMOID, "expit": SIGMOID}
HOMES = ("torch", "torch.nn.functional", "torch.special", "torch.Tensor")
LAYERS = {
    "torch.nn.Softmax": SOFTMAX, "torch.nn.Softmax2d": SOFTMAX, "torch.nn.LogSoftmax": LOG_SOFTMAX, "torch.nn.Sigmoid": SIGMOID,
    "torch.nn.Linear": SCORES, "torch.nn.Bilinear": SCORES, "torch.nn.Conv1d": SCORES, "torch.nn.Conv2d": SCORES, "torch.nn.Conv3d": SCORES,
}  # fmt: skip
#: Layers, functions and methods that change the shape or the place of a value and leave the numbers alone.
SHAPE_LAYERS = frozenset(("torch.nn.Identity", "torch.nn.Flatten", "torch.nn.Unflatten"))
SHAPE = frozenset((
    "squeeze", "unsqueeze", "view", "reshape", "flatten", "float", "double", "to", "cuda", "cpu", "contiguous", "permute", "transpose",
    "type", "type_as", "clone", "view_as", "reshape_as", "swapaxes", "movedim", "unflatten", "requires_grad_",
))  # fmt: skip
#: A model in a model in a model: deeper ones are not looked into.
DEEPEST = 8

#: What an expression ends in: the possible operations; of a tuple those of each element, of a dict those of each key.
Ending = Any


def of_key(interpreter: Interpreter, key: Any) -> frozenset[str]:
    """What the value of this structural key ends in: one operation for each way it may have come about."""
    return flat(_of_key(interpreter, key, {i.ident: i for i in interpreter.things}))


def _of_key(interpreter: Interpreter, key: Any, things: Mapping[int, Instance]) -> Ending:
    if not isinstance(key, tuple) or len(key) < 2:
        return UNKNOWN
    head, inner = key[0], key[1]
    if head == "either":
        return either(flat(_of_key(interpreter, part, things)) for part in key[1:])
    if head == "deep" and len(key) > 2:
        return _of_key(interpreter, key[2], things)
    if head == "part" and len(key) > 2:
        return taken(_of_key(interpreter, inner, things), key[2])
    if head == "index" and len(key) > 2:
        return taken(_of_key(interpreter, inner, things), key[2][1] if isinstance(key[2], tuple) and key[2][:1] == ("const",) else None)
    if head == "attr" and len(key) > 2 and key[2] == "data":
        return _of_key(interpreter, inner, things)
    if head != "call":
        return UNKNOWN
    if isinstance(inner, str):
        module, _, name = inner.rpartition(".")
        if module in HOMES and name in SHAPE and len(key) > 2:
            return _of_key(interpreter, key[2], things)
        return operation(inner)
    if inner[:1] == ("attr",):
        if inner[2] in SHAPE:
            return _of_key(interpreter, inner[1], things)
        return frozenset((OPERATIONS[inner[2]],)) if inner[2] in OPERATIONS else UNKNOWN
    if inner[:1] == ("thing",) and (instance := things.get(inner[1])) is not None:
        return Reading(interpreter).module(instance)
    return UNKNOWN


def operation(name: str) -> frozenset[str]:
    """What a function of a library gives."""
    module, _, last = name.rpartition(".")
    return frozenset((OPERATIONS[last],)) if module in HOMES and last in OPERATIONS else UNKNOWN


def taken(ending: Ending, which: Any) -> Ending:
    """An element of what ends so; a slice of a tensor ends as the tensor does."""
    if isinstance(ending, tuple):
        return ending[which] if isinstance(which, int) and -len(ending) <= which < len(ending) else UNKNOWN
    if isinstance(ending, dict):
        return ending.get(which, UNKNOWN)
    return ending


def flat(ending: Ending) -> frozenset[str]:
    """The ending of one tensor; several at once are no tensor."""
    return ending if isinstance(ending, frozenset) else UNKNOWN


def either(endings: Iterable[Ending]) -> Ending:
    """Whichever of these it is."""
    found = list(endings)
    if not found:
        return UNKNOWN
    first = found[0]
    if isinstance(first, tuple) and all(isinstance(e, tuple) and len(e) == len(first) for e in found):
        return tuple(either(column) for column in zip(*found, strict=True))
    if isinstance(first, dict) and all(isinstance(e, dict) and e.keys() == first.keys() for e in found):
        return {key: either(e[key] for e in found) for key in first}
    return frozenset().union(*(flat(e) for e in found))


class Reading:
    """One look into the text of models; `depth` keeps modules that hold each other from going on for ever."""

    def __init__(self, interpreter: Interpreter) -> None:
        self.interpreter = interpreter
        self.depth = 0

    def module(self, instance: Instance) -> Ending:
        """What a call of the module gives."""
        if instance.cls is None:
            return self.layer(instance.type, instance.arguments)
        return self.method(instance, instance.cls, "forward")

    def layer(self, name: str, arguments: Mapping[str, Alts]) -> Ending:
        """What a library's layer gives, made with these arguments."""
        if name in LAYERS:
            return frozenset((LAYERS[name],))
        if name != "torch.nn.Sequential" or self.depth > DEEPEST:
            return UNKNOWN
        items: list[Alts] = [arguments[str(n)] for n in range(len(arguments)) if str(n) in arguments]
        if not items or len(items) != len(arguments):
            return UNKNOWN
        held = single(items[0]) if len(items) == 1 else None
        if isinstance(held, Dictionary):
            items = held.values()
        self.depth += 1
        try:
            for alts in reversed(items):
                part = single(alts)
                if not isinstance(part, Instance):
                    return UNKNOWN
                if part.type not in SHAPE_LAYERS:
                    return self.module(part)
        finally:
            self.depth -= 1
        return UNKNOWN

    def method(self, instance: Instance, cls: ClassValue, name: str, after: ClassValue | None = None) -> Ending:
        """What a method of the object returns, looked up along its ancestors."""
        lineage = cls.mro()
        for ancestor in lineage[lineage.index(after) + 1 if after in lineage else 0 :]:
            if isinstance(ancestor, External):
                return self.layer(ancestor.name, instance.arguments) if name == "forward" else UNKNOWN
            if not isinstance(ancestor, ClassValue):
                return UNKNOWN
            if name in ancestor.slots:
                function = single(ancestor.slots[name])
                return self.function(function, instance, ancestor) if isinstance(function, Function) else UNKNOWN
        return UNKNOWN

    def function(self, function: Function, instance: Instance, owner: ClassValue) -> Ending:
        """What the function returns."""
        if self.depth > DEEPEST or isinstance(function.node, ast.Lambda):
            return UNKNOWN
        self.depth += 1
        try:
            body = Body(self, instance, owner)
            body.block(function.node.body)
            return either(body.returned)
        finally:
            self.depth -= 1

    def lookup(self, env: Env, name: str) -> Any:
        """What a name of the module means, where that is one thing."""
        at: Env | None = env
        while at is not None:
            if name in at.slots:
                value = single(at.slots[name])
                return single(self.interpreter.resolve(value)) if value is not None else None
            at = at.parent
        return None


class Body:
    """The statements of one function, read in order: what each name ends in, and what is returned."""

    def __init__(self, reading: Reading, instance: Instance, owner: ClassValue) -> None:
        self.reading = reading
        self.instance = instance
        self.owner = owner
        self.names: dict[str, Ending] = {}
        self.returned: list[Ending] = []

    def block(self, statements: list[ast.stmt]) -> bool:
        """Read the statements; True where none of them leaves the function on every way."""
        return all(self.statement(s) for s in statements)

    def statement(self, node: ast.stmt) -> bool:
        if isinstance(node, ast.Return):
            self.returned.append(self.expression(node.value))
            return False
        if isinstance(node, ast.Raise):
            return False
        if isinstance(node, ast.Assign):
            ending = self.expression(node.value)
            for target in node.targets:
                self.bind(target, ending)
        elif isinstance(node, (ast.AnnAssign, ast.AugAssign)):
            self.bind(node.target, self.expression(node.value) if isinstance(node, ast.AnnAssign) else UNKNOWN)
        elif isinstance(node, (ast.If, ast.For, ast.While, ast.Try)):
            return self.branches(node)
        elif isinstance(node, ast.With):
            return self.block(node.body)
        return True

    def branches(self, node: ast.If | ast.For | ast.While | ast.Try) -> bool:
        """Each way through the statement, from the same start; names that differ afterwards are either."""
        ways: list[list[ast.stmt]] = [node.body, node.orelse]
        if isinstance(node, ast.Try):
            ways = [[*node.body, *node.orelse], *(h.body for h in node.handlers)]
        if isinstance(node, ast.For):
            self.bind(node.target, UNKNOWN)
        start, ends = self.names, []
        for way in ways:
            self.names = dict(start)
            if self.block(way):
                ends.append(self.names)
        names = {name for end in ends for name in end}
        self.names = {name: either(end.get(name, UNKNOWN) for end in ends) for name in names}
        return bool(ends) and (not isinstance(node, ast.Try) or self.block(node.finalbody))

    def bind(self, target: ast.expr, ending: Ending) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = ending
        elif isinstance(target, (ast.Tuple, ast.List)):
            for number, element in enumerate(target.elts):
                self.bind(element, taken(ending, number) if isinstance(ending, tuple) else UNKNOWN)

    def expression(self, node: ast.expr | None) -> Ending:
        if isinstance(node, ast.Name):
            return self.names.get(node.id, UNKNOWN)
        if isinstance(node, ast.Tuple):
            return tuple(self.expression(e) for e in node.elts)
        if isinstance(node, ast.Dict):
            return {k.value if isinstance(k, ast.Constant) else k: self.expression(v) for k, v in zip(node.keys, node.values, strict=True)}
        if isinstance(node, ast.IfExp):
            return either((self.expression(node.body), self.expression(node.orelse)))
        if isinstance(node, ast.Subscript):
            return taken(self.expression(node.value), node.slice.value if isinstance(node.slice, ast.Constant) else None)
        return self.call(node) if isinstance(node, ast.Call) else UNKNOWN

    def call(self, node: ast.Call) -> Ending:
        function = node.func
        if isinstance(function, ast.Name):
            value = None if function.id in self.names else self.reading.lookup(self.owner.env, function.id)
            return operation(value.name) if isinstance(value, External) else UNKNOWN
        if not isinstance(function, ast.Attribute):
            return UNKNOWN
        base, name = function.value, function.attr
        if isinstance(base, ast.Name) and base.id == "self":
            return self.own(name)
        if isinstance(base, ast.Call) and isinstance(base.func, ast.Name) and base.func.id == "super":
            return self.reading.method(self.instance, self.instance.cls or self.owner, name, self.owner)
        if name in SHAPE:
            of = node.args[0] if node.args and self.dotted(base) in HOMES else base
            return self.expression(of)
        if name in OPERATIONS:
            return frozenset((OPERATIONS[name],))
        return UNKNOWN

    def own(self, name: str) -> Ending:
        """`self.head(x)`: a layer the object holds, or a method of its own."""
        held = self.instance.slots.get(name)
        if held is None:
            return self.reading.method(self.instance, self.instance.cls or self.owner, name)
        return either(self.held(value) for value in values_of(held))

    def held(self, value: Any) -> Ending:
        if isinstance(value, Instance) and value.kind == "module":
            return UNKNOWN if value.type in SHAPE_LAYERS else self.reading.module(value)
        if isinstance(value, External):
            return operation(value.name)
        if isinstance(value, Bound) and isinstance(value.function, Function) and value.owner is not None:
            return self.reading.function(value.function, self.instance, value.owner)
        return UNKNOWN

    def dotted(self, node: ast.expr) -> str:
        """The dotted name of a library's module."""
        if isinstance(node, ast.Attribute):
            inner = self.dotted(node.value)
            return self.reading.interpreter.knowledge.canonical(f"{inner}.{node.attr}") if inner else ""
        value = self.reading.lookup(self.owner.env, node.id) if isinstance(node, ast.Name) else None
        return value.name if isinstance(value, External) else ""


def loss_input(interpreter: Interpreter, args: list[Alts], keywords: dict[str, Alts], node: ast.AST) -> dict[str, Value]:
    """What the History keeps of a call of a loss: its input, and what that was made by last, where it was one thing."""
    given = keywords.get("input") or (args[0] if args else ())
    if not given:
        return {}
    written = [k.value for k in node.keywords if k.arg == "input"] or node.args if isinstance(node, ast.Call) else []
    value = interpreter.value(given, written[0] if written else None)
    found = of_key(interpreter, value.key)
    told = next(iter(found)) if len(found) == 1 else "?"
    return {"input": value, "ending": Value(("const", told))}
