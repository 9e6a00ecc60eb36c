"""Expressions: what a piece of code evaluates to, and what a condition tells."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from mllint.flow.state import State
from mllint.flow.values import (
    DEEPEST_KEY,
    Alts,
    Bound,
    Const,
    Env,
    Function,
    Generator,
    Instance,
    Mapping,
    Opaque,
    Sequence,
    guarded,
    instances,
    join,
    one,
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
            if value.sources:
                sources = sources | value.sources if sources else value.sources
            if value.tags:
                tags |= value.tags & LASTING
            if value.divided:
                divided |= value.divided
            scaled = scaled or value.scaled
        elif isinstance(value, Instance):
            sources |= {value}
    return sources, tags, divided, scaled


def gist(key: tuple) -> tuple:
    """What a value was made by last, of a key that is too deep to be kept."""
    inner = key[1] if len(key) > 1 else ()
    if key[:1] == ("deep",):
        return key
    if key[:1] == ("part",) and isinstance(inner, tuple):
        return ("part", gist(inner), *key[2:])
    if key[:1] != ("call",):
        return ()
    if isinstance(inner, tuple) and inner[:1] == ("attr",):
        return ("call", ("attr", gist(inner[1]), inner[2]))
    return ("call", inner) if isinstance(inner, str) or inner[:1] == ("thing",) else ()


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
            return method(self, node)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.evaluate(child)
        return one(self.unknown())

    def unknown(self: Interpreter, sources: frozenset[Instance] = frozenset()) -> Opaque:
        return Opaque(("unknown", self.fresh()), sources)

    def opaque(self: Interpreter, key: tuple, inputs: list[Any], tags: frozenset[str] = frozenset()) -> Opaque:
        """An unknown value computed from these, named by structure while the structure is small."""
        sources, kept, divided, scaled = combined(inputs)
        depth = 1
        for value in inputs:
            below = value.depth if type(value) is Opaque else 1
            if below >= depth:
                depth = below + 1
        if depth > DEEPEST_KEY:
            key, depth = ("deep", self.fresh(), gist(key)), 1
        return Opaque(key, sources, kept | tags, divided, scaled, depth)

    def carried(self: Interpreter, value: Any) -> frozenset[Instance]:
        """What an element or attribute of the value still carries: gradients of a tensor, but not the identity of a loader."""
        return value.sources if isinstance(value, Opaque) else frozenset()

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
            return one(
                Sequence(
                    self.fresh(), a.elements() * b.value if a.length * b.value <= 16 else None, a.kind, a.elements()[0] if a.length else ()
                )
            )
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
            return factor.key[2]
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
        if (
            isinstance(a, (int, float))
            and isinstance(b, (int, float))
            and not (sign == "**" and abs(b) > 64)
            and not (sign == "<<" and b > 64)
        ):
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
            _, changed, held = self.arm(node, branch, condition, side, lambda part=part: results.append(self.evaluate(part)) or 0)  # type: ignore[func-returns-value]
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


_EXPRESSIONS: dict[type, Any] = {
    ast.Name: lambda self, node: self.name(node),
    ast.Attribute: lambda self, node: self.attribute(node),
    ast.Subscript: lambda self, node: self.subscript(node),
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
