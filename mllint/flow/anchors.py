"""Places in the user's code: the statement an event stands in, the blocks around it, and how a thing is called there.

The History says what happens; a fix has to say where in the text. Whatever is not certain is None, and the fix is declined.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from mllint.model.finding import Span
from mllint.model.history import OTHER, Event, Frame, History, Reach, Thing

if TYPE_CHECKING:
    from mllint.flow.project import Project
    from mllint.read.python import PythonFile

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LOOPS = (ast.For, ast.AsyncFor, ast.While)
WITHS = (ast.With, ast.AsyncWith)
#: Expressions that say themselves when, or how often, what is inside them happens.
LATER = (ast.Lambda, ast.ListComp, ast.GeneratorExp, ast.SetComp, ast.DictComp, ast.IfExp)
#: Statements of which one block out of several runs.
BRANCHES = (ast.If, ast.Try, ast.TryStar, ast.Match)


@dataclass(frozen=True, slots=True)
class Line:
    """A statement on the way to a place: number `index` of a block of `owner` (a module, a function, a loop, an arm)."""

    owner: ast.AST
    block: list[ast.stmt]
    index: int

    @property
    def statement(self) -> ast.stmt:
        return self.block[self.index]


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in a file and the statements around it, outermost first."""

    file: PythonFile
    span: Span
    lines: tuple[Line, ...]

    @property
    def statement(self) -> ast.stmt:
        return self.lines[-1].statement

    @property
    def function(self) -> ast.AST:
        """The function whose body the place is in, or the module."""
        return next((n.statement for n in reversed(self.lines[:-1]) if isinstance(n.statement, FUNCTIONS)), self.file.tree)

    @property
    def cls(self) -> ast.ClassDef | None:
        """The class whose method the place is in."""
        return next((n.statement for n in reversed(self.lines[:-1]) if isinstance(n.statement, ast.ClassDef)), None)

    def span_of(self, node: ast.AST) -> Span:
        return self.file.source.span(node)

    def text_of(self, node: ast.AST) -> str:
        """The node as it is written; on one line."""
        return " ".join(self.file.source.segment(node).split())

    def below(self, owner: ast.AST) -> tuple[Line, ...]:
        """The statements on the way from the body of `owner` to the place; empty where the place is not in it."""
        for number, line in enumerate(self.lines):
            if line.owner is owner:
                return self.lines[number:]
        return ()

    def around(self, *kinds: type[ast.stmt]) -> Iterator[ast.stmt]:
        """The statements of these kinds around the place in its function, innermost first."""
        for line in reversed(self.lines[:-1]):
            if isinstance(line.statement, (*FUNCTIONS, ast.ClassDef)):
                return
            if isinstance(line.statement, kinds):
                yield line.statement


@dataclass(frozen=True, slots=True)
class Named:
    """An expression that is the thing at some place. `optional`: it may be None there."""

    text: str
    optional: bool


class Code:
    """The trees of a project, asked for places."""

    def __init__(self, project: Project, histories: Sequence[History] = ()) -> None:
        self._project = project
        self._histories = histories
        self._reaches: dict[Span, list[Reach]] | None = None

    def reaches(self, at: Span) -> list[Reach]:
        """What could be named there, whichever program and call led there."""
        if self._reaches is None:
            self._reaches = {}
            for history in self._histories:
                for event in history.events_in_order:
                    for reach in event.reach:
                        self._reaches.setdefault(reach.at, []).append(reach)
        return self._reaches.get(at, [])

    def file(self, path: str) -> PythonFile | None:
        return self._project.python_file(path)

    def spot(self, span: Span) -> Spot | None:
        """The place with the statements around it."""
        file = self.file(span.path)
        if file is None:
            return None
        lines = tuple(_descend(file, file.tree, span))
        return Spot(file, span, lines) if lines else None

    def expression(self, span: Span) -> ast.expr | None:
        """The expression that stands exactly there, the outermost one; a call rather than what is called."""
        spot = self.spot(span)
        if spot is None:
            return None
        return next((n for n in ast.walk(spot.statement) if isinstance(n, ast.expr) and spot.span_of(n) == span), None)

    def call(self, span: Span) -> ast.Call | None:
        node = self.expression(span)
        return node if isinstance(node, ast.Call) else None

    def alone(self, span: Span) -> Spot | None:
        """The place, where its statement is that call (or its awaited or assigned result) and nothing else."""
        spot, node = self.spot(span), self.expression(span)
        if spot is None or node is None:
            return None
        return spot if isinstance(spot.statement, (ast.Expr, ast.Assign, ast.AnnAssign)) and spot.statement.value is node else None

    def plain(self, span: Span) -> Spot | None:
        """The place, where a statement without blocks holds it, and no lambda or comprehension decides when it happens."""
        spot, node = self.spot(span), self.expression(span)
        if spot is None or node is None or not isinstance(spot.statement, (ast.Expr, ast.Assign, ast.AnnAssign, ast.AugAssign)):
            return None
        around = [n for n in ast.walk(spot.statement) if isinstance(n, LATER)]
        return None if any(inner is node for outer in around for inner in ast.walk(outer)) else spot


def _descend(file: PythonFile, owner: ast.AST, span: Span) -> Iterator[Line]:
    """The statements around the span, outermost first."""
    inside: ast.AST | None = owner
    while inside is not None:
        owner, inside = inside, None
        for holder in (owner, *getattr(owner, "handlers", ()), *getattr(owner, "cases", ())):
            for name in ("body", "orelse", "finalbody"):
                block = getattr(holder, name, None)
                if not isinstance(block, list):
                    continue
                found = next((n for n, s in enumerate(block) if isinstance(s, ast.stmt) and _covers(file.source.span(s), span)), None)
                if found is not None:
                    yield Line(owner if holder is owner else holder, block, found)
                    inside = block[found]
                    break
            if inside is not None:
                break


def _covers(outer: Span, inner: Span) -> bool:
    if outer.cell != inner.cell:
        return False
    if (outer.line, outer.column) > (inner.line, inner.column):
        return False
    return (inner.end_line, inner.end_column) <= (outer.end_line, outer.end_column)


# ------------------------------------------------------------------ activations


def calls_of(frames: Sequence[Frame]) -> tuple[Span, ...]:
    """The calls that led to a place."""
    return tuple(f.span for f in frames if f.kind == "call")


def seen_from(event: Event, calls: tuple[Span, ...]) -> Span | None:
    """Where the event happens as seen from the function these calls led to: itself, or the call there that leads to it."""
    own = calls_of(event.place)
    if own[: len(calls)] != calls:
        return None
    return event.span if len(own) == len(calls) else own[len(calls)]


def loop_at(spot: Spot, frame: Frame) -> ast.stmt | None:
    """The loop around the place that the frame speaks of."""
    for line in reversed(spot.lines):
        loop = line.statement
        head = loop.iter if isinstance(loop, (ast.For, ast.AsyncFor)) else loop.test if isinstance(loop, ast.While) else None
        if head is not None and spot.span_of(head) == frame.span:
            return loop
    return None


def settle(spots: Sequence[Spot], owner: ast.AST, into: tuple[type, ...], first: bool = False) -> Line | None:
    """The last, or first, of the statements in the body of `owner` that lead to these places.

    Statements of the kinds `into` are entered where all places are in one of their blocks.
    """
    ways = [spot.below(owner) for spot in spots]
    depth = 0
    while all(len(way) > depth for way in ways):
        heads = [way[depth] for way in ways]
        if any(head.block is not heads[0].block for head in heads):
            return None
        last = (min if first else max)(heads, key=lambda head: head.index)
        if isinstance(last.statement, (*FUNCTIONS, ast.ClassDef)):
            return None
        inner = [way[depth + 1].block if len(way) > depth + 1 else None for way in ways]
        together = all(head.index == last.index for head in heads) and inner[0] is not None and all(b is inner[0] for b in inner)
        if not (isinstance(last.statement, into) and together):
            return last
        depth += 1
    return None


def only_guarded(line: Line) -> bool:
    """The statement is all there is in an `if`, which can go where it goes."""
    return isinstance(line.owner, ast.If) and line.block is line.owner.body and len(line.block) == 1 and not line.owner.orelse


def whole(spot: Spot) -> Line:
    """The statement, with the tests around it that are there for it alone."""
    line = spot.lines[-1]
    for outer in reversed(spot.lines[:-1]):
        if not only_guarded(line):
            break
        line = outer
    return line


# ------------------------------------------------------------------------ names


def simple(node: ast.AST | None) -> bool:
    """A name, an attribute or an item of one, or a number: evaluating it again changes nothing."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        if isinstance(node, ast.Subscript) and not isinstance(node.slice, (ast.Constant, ast.Name)):
            return False
        node = node.value
    return isinstance(node, ast.Name) or (isinstance(node, ast.Constant) and isinstance(node.value, (int, float)))


def imported(spot: Spot, module: str, name: str) -> str | None:
    """How the file already names something of a library."""
    for node in spot.file.tree.body:
        if isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            for alias in node.names:
                known = alias.asname or alias.name
                if f"{node.module}.{alias.name}" == f"{module}.{name}":
                    return known
                if f"{node.module}.{alias.name}" == module:
                    return f"{known}.{name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname and (alias.name == module or module.startswith(alias.name + ".")):
                    return f"{alias.asname}{module[len(alias.name) :]}.{name}"
                if not alias.asname and alias.name == module:
                    return f"{module}.{name}"
    return None


def divisor(test: ast.expr) -> ast.expr | None:
    """The n of `i % n == 0`, where the test has one such and n is a name, an attribute or a number."""
    found = [n.right for n in ast.walk(test) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Mod)]
    return found[0] if len({ast.unparse(n) for n in found}) == 1 and simple(found[0]) else None


def stepped_name(code: Code, step: Event) -> str | None:
    """How a step names its optimizer: `optimizer.step()`, `scaler.step(optimizer)`."""
    call, spot = code.call(step.span), code.spot(step.span)
    if call is None or spot is None or not isinstance(call.func, ast.Attribute) or call.func.attr != "step":
        return None
    node = call.func.value
    if step.via is not None or (step.thing is not None and step.thing.kind == "scaler"):
        given = next((k.value for k in call.keywords if k.arg == "optimizer"), None)
        node = given if given is not None else call.args[0] if call.args else node
    return spot.text_of(node) if simple(node) else None


def name_at(code: Code, event: Event, level: int, thing: Thing, also: frozenset[int] = frozenset()) -> Named | None:
    """How the function at that level (0: where the event is) can name the thing; None where it cannot, or not for certain.

    `also` are ids of other things that the expression may stand for as well.
    """
    if level >= len(event.reach):
        return None
    reach = event.reach[level]
    spot = code.spot(reach.at)
    if spot is None:
        return None
    held = {(f.key, f.polarity) for f in event.place[: reach.depth] if f.kind == "arm"}
    found: list[tuple[bool, Named]] = []
    for text, alternatives in reach.names.items():
        left = [(ident, guard) for ident, guard in alternatives if not any((key, not side) in held for key, side in guard)]
        ids = {ident for ident, _ in left}
        if thing.id not in ids or OTHER in ids or ids - {thing.id, None} - also:
            continue
        guards = [{(k, p) for k, p in guard if (k, p) not in held} for _, guard in left]
        if not _exhaustive(guards) and not dereferenced(spot, text):
            continue
        foreign = _foreign(spot, text)
        optional = False if dereferenced(spot, text) else _bound(spot, text)
        if optional is not None and not (foreign and not _speaks_of_globals(spot, text, reach)):
            found.append((foreign, Named(text, (None in ids or optional) and not dereferenced(spot, text))))
    return min(found, key=lambda n: (n[0], n[1].text.count(".") + n[1].text.count("["), len(n[1].text), n[1].text), default=(0, None))[1]


def dereferenced(spot: Spot, text: str) -> bool:
    """A statement of the same block uses what the expression is (`scaler.scale(loss)`): it is there, and not None."""
    for statement in spot.lines[-1].block:
        if isinstance(statement, (ast.Expr, ast.Assign, ast.AugAssign, ast.Return)):
            used = (n.value for n in ast.walk(statement) if isinstance(n, ast.Attribute))
            if any(isinstance(node, (ast.Name, ast.Attribute, ast.Subscript)) and ast.unparse(node) == text for node in used):
                return True
    return False


def _exhaustive(guards: list[set[tuple[tuple, bool]]]) -> bool:
    """Whatever the conditions come out as, one of the alternatives holds."""
    if any(not guard for guard in guards):
        return True
    keys = sorted({key for guard in guards for key, _ in guard}, key=repr)
    if len(keys) > 6:
        return False
    for sides in product((True, False), repeat=len(keys)):
        taken = dict(zip(keys, sides, strict=True))
        if not any(all(taken[k] == p for k, p in guard) for guard in guards):
            return False
    return True


def _bound(spot: Spot, text: str) -> bool | None:
    """Whether an expression that exists at the place may be None by a parameter's default; None where it may not exist."""
    root = text.partition(".")[0].partition("[")[0]
    function = spot.function
    if text != root:
        attribute = text[len(root) + 1 :] if text[len(root)] == "." else ""
        if attribute.startswith("_") and root != _self(function):
            return None
        if root == _self(function) and attribute.isidentifier() and spot.cls is not None:
            return _attribute_bound(spot.cls, attribute)
    if isinstance(function, FUNCTIONS):
        if root in parameters(function):
            return root == text and root in defaulted(function)
        if root in names_assigned_in(function.body):
            return False if _definite_before(spot, function, root) else None
        outers = [n.statement for n in spot.lines[:-1] if isinstance(n.statement, FUNCTIONS)][:-1]
        for outer in reversed(outers):
            if root in parameters(outer):
                return root == text and root in defaulted(outer)
            if root in names_assigned_in(outer.body):
                return False if any(_definite(s, root) for s in outer.body) else None
        return False if any(_definite(s, root) for s in spot.file.tree.body) else None
    return False if _definite_before(spot, spot.file.tree, root) else None


def _foreign(spot: Spot, text: str) -> bool:
    """A function would speak of a global variable of its module."""
    root = text.partition(".")[0].partition("[")[0]
    functions = [f for f in (spot.function, *(n.statement for n in spot.lines[:-1])) if isinstance(f, FUNCTIONS)]
    return bool(functions) and not any(root in parameters(f) or root in names_assigned_in(f.body) for f in functions)


def _speaks_of_globals(spot: Spot, text: str, reach: Reach) -> bool:
    """The name is a plain one, and the function reads another such object of its module by name already."""
    others = {name for name in reach.names if name.isidentifier() and name != text and _foreign(spot, name)}
    return text.isidentifier() and bool(others & names_read(spot.function))


def _self(function: ast.AST) -> str | None:
    return function.args.args[0].arg if isinstance(function, FUNCTIONS) and function.args.args else None


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> frozenset[str]:
    spec = function.args
    more = [a for a in (spec.vararg, spec.kwarg) if a is not None]
    return frozenset(a.arg for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs, *more))


def defaulted(function: ast.FunctionDef | ast.AsyncFunctionDef) -> frozenset[str]:
    """The parameters that are None when nobody gives them."""
    spec = function.args
    positional = (*spec.posonlyargs, *spec.args)
    last = positional[len(positional) - len(spec.defaults) :]
    pairs = (*zip(last, spec.defaults, strict=True), *zip(spec.kwonlyargs, spec.kw_defaults, strict=True))
    return frozenset(a.arg for a, d in pairs if isinstance(d, ast.Constant) and d.value is None)


def _attribute_bound(cls: ast.ClassDef, name: str) -> bool | None:
    """The same for an attribute of self: some method sets it in any case. Attributes that only an ancestor sets are taken as set."""
    optional, anywhere, definite = False, False, False
    for method in (s for s in cls.body if isinstance(s, FUNCTIONS)):
        own = _self(method)
        for node in ast.walk(method):
            if not isinstance(node, (ast.Assign, ast.AnnAssign)):
                continue
            if f"{own}.{name}" in _assigned(node):
                anywhere = True
                optional |= isinstance(node.value, ast.Name) and node.value.id in defaulted(method)
        definite |= any(_definite(s, f"{own}.{name}") for s in method.body)
    return None if anywhere and not definite else optional


def _definite_before(spot: Spot, owner: ast.AST, name: str) -> bool:
    """The name has a value at the place, whichever way led there."""
    for line in spot.below(owner):
        if any(_definite(s, name) for s in line.block[: line.index]):
            return True
        inside = line is not spot.lines[-1]
        if inside and isinstance(line.statement, (ast.For, ast.AsyncFor)) and name in _names(line.statement.target):
            return True
        if inside and isinstance(line.statement, WITHS) and any(name in _names(i.optional_vars) for i in line.statement.items):
            return True
    return False


def _definite(statement: ast.stmt, name: str) -> bool:
    """Behind the statement the name has a value."""
    if isinstance(statement, ast.If):
        if _is_main(statement.test):
            return any(_definite(s, name) for s in statement.body)
        arms = (statement.body, statement.orelse)
        return all(any(_definite(s, name) for s in arm) or _leaves(arm) for arm in arms)
    if isinstance(statement, WITHS):
        return any(name in _names(i.optional_vars) for i in statement.items) or any(_definite(s, name) for s in statement.body)
    if isinstance(statement, (ast.Try, ast.TryStar)):
        if any(_definite(s, name) for s in statement.finalbody):
            return True
        ways = ([*statement.body, *statement.orelse], *(h.body for h in statement.handlers))
        return all(any(_definite(s, name) for s in way) or _leaves(way) for way in ways)
    if isinstance(statement, (*LOOPS, ast.Match)):
        return False
    return name in _assigned(statement)


def _is_main(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare) and any(isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(test))


def _leaves(block: Sequence[ast.stmt]) -> bool:
    return bool(block) and isinstance(block[-1], (ast.Return, ast.Raise, ast.Continue, ast.Break))


def _assigned(statement: ast.stmt) -> Iterator[str]:
    """The names, and attributes of names, a statement gives a value to, inner blocks included, inner functions not."""
    stack: list[ast.AST] = [statement]
    while stack:
        node = stack.pop()
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            yield node.name
            continue
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.alias):
            yield node.asname or node.name.partition(".")[0]
        elif isinstance(node, ast.AnnAssign) and node.value is None:
            continue
        stack.extend(ast.iter_child_nodes(node))


def _names(target: ast.AST | None) -> frozenset[str]:
    if target is None:
        return frozenset()
    return frozenset(n.id for n in ast.walk(target) if isinstance(n, ast.Name))


def names_read(node: ast.AST) -> frozenset[str]:
    """The names an expression or statement reads."""
    return frozenset(n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load))


def names_assigned_in(block: Sequence[ast.stmt]) -> frozenset[str]:
    return frozenset(name for s in block for name in _assigned(s))


def names_assigned(statement: ast.stmt) -> frozenset[str]:
    return frozenset(_assigned(statement))
