"""Loops, regions and iteration: how often a body turns, over what, and where generators put it."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mllint.flow.state import NORMAL, RAISE, RETURN, State
from mllint.flow.values import (
    NO_GUARD,
    NONE,
    Alts,
    Const,
    Context,
    Generator,
    Instance,
    Loop,
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

#: A list of at most so many known elements is looped over element by element (phases, optimizers); a longer one is walked once.
LONGEST_UNROLL = 4


class Loops(State):
    """Loops and `with`; mixed into the Interpreter."""

    # loops

    def for_(self: Interpreter, node: ast.For | ast.AsyncFor) -> int:
        alts = self.held(self.evaluate(node.iter))
        generator = next((v for v in values_of(alts) if isinstance(v, Generator)), None)
        self.loosen(node)
        if generator is not None:
            return self.for_generator(node, generator)
        rounds, size, over = self.rounds(alts, node)
        name = "each" if len(rounds) > 1 else "for"
        frame = Frame(
            "loop",
            self.span(node.iter),
            ("loop", self.fresh()),
            name,
            size=size,
            over=over,
            text=self.project.text_of(self.file, node.iter),
        )
        return self.turns(node, frame, [lambda item=item: self.bind(node.target, item, node) for item in rounds])

    def turns(self: Interpreter, node: ast.For | ast.AsyncFor | ast.While, frame: Frame, starts: list[Callable[[], None]]) -> int:
        """Walk the body once for each start, inside the loop's frame; join what left early; then the else block."""
        place, assumed = len(self.place), len(self.assumptions)
        self.loops.append(Loop())
        status = NORMAL
        for start in starts:
            self.place.append(frame)
            start()
            status = self.block(node.body)
            del self.place[place:]
            self.forget(assumed)
            exits, self.loops[-1].exits = self.loops[-1].exits, []
            self.join_exits(exits)
            if status in (RETURN, RAISE):
                break
        self.loops.pop()
        if status == RETURN:  # a loop may also turn zero times
            return NORMAL if isinstance(node, (ast.For, ast.AsyncFor)) or not self.endless(node) else status
        return self.block(node.orelse) if node.orelse else NORMAL

    def for_generator(self: Interpreter, node: ast.For | ast.AsyncFor, generator: Generator) -> int:
        """Walk the body where the generator yields: its own loops are then the loops around the body."""
        consumer = (self.env, self.file, self.call)
        own = Frame("loop", self.span(node.iter), ("loop", self.fresh()), "for", text=self.project.text_of(self.file, node.iter))
        place, depth = len(self.place), len(self.loops)

        def at_yield(alts: Alts) -> int:
            kept = (self.env, self.file, self.call)
            self.env, self.file, self.call = consumer
            before, assumed = len(self.place), len(self.assumptions)
            if len(self.loops) == depth:
                self.place.append(own)
            self.loops.append(Loop())
            self.bind(node.target, alts, node)
            status = self.block(node.body)
            self.join_exits(self.loops.pop().exits)
            del self.place[before:]
            self.forget(assumed)
            self.env, self.file, self.call = kept
            return RETURN if status == RETURN else NORMAL

        generator.run(at_yield)
        del self.place[place:]
        return self.block(node.orelse)

    def while_(self: Interpreter, node: ast.While) -> int:
        self.loosen(node)
        frame = Frame("loop", self.span(node.test), ("loop", self.fresh()), "while", size=self.bound_of(node.test))
        self.place.append(frame)
        condition = self.condition(node.test)
        self.place.pop()
        if condition.verdict is False:
            return self.block(node.orelse)
        return self.turns(node, frame, [lambda: None])

    def endless(self: Interpreter, node: ast.While) -> bool:
        return isinstance(node.test, ast.Constant) and bool(node.test.value)

    def bound_of(self: Interpreter, test: ast.expr) -> Value | None:
        """`while step < total`: the loop turns about `total` times."""
        if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], (ast.Lt, ast.LtE, ast.NotEq)):
            return self.value(self.evaluate(test.comparators[0]), test.comparators[0])
        return None

    def loosen(self: Interpreter, node: ast.stmt) -> None:
        """What a loop body assigns may differ from the value before it: constants become unknown, and lengths of what it adds to."""
        for name in self.project.added_to_in(node):
            slots = self.slots_of(name)
            self.growing |= {v.ident for v, _ in slots.get(name, ()) if isinstance(v, Sequence)} if slots is not None else set()
        for name in self.project.assigned_in(node):
            slots = self.slots_of(name)
            if slots is None or name not in slots:
                continue
            old = slots[name]
            if any(isinstance(v, Const) for v, _ in old):
                fresh = one(Opaque(("varies", name, self.fresh())))
                keeps = tuple((v, g) for v, g in old if not isinstance(v, Const) or v.value is None)
                self.write(slots, name, join(keeps, fresh))

    # with

    def with_(self: Interpreter, node: ast.With | ast.AsyncWith) -> int:
        place = len(self.place)
        status = self.with_items(node, 0)
        if status == NORMAL:
            del self.place[place:]
        return status

    def with_items(self: Interpreter, node: ast.With | ast.AsyncWith, number: int) -> int:
        if number == len(node.items):
            return self.block(node.body)
        item = node.items[number]
        alts = self.held(self.evaluate(item.context_expr))
        generator = next((v for v in values_of(alts) if isinstance(v, Generator)), None)
        if generator is not None and len(alts) == 1:
            return self.with_generator(node, number, generator)
        place = len(self.place)
        entered = self.enter_contexts(alts, item.context_expr)
        if item.optional_vars is not None:
            self.bind(item.optional_vars, entered, node)
        status = self.with_items(node, number + 1)
        del self.place[place:]
        self.leave_contexts(alts, item.context_expr)
        return status

    def with_generator(self: Interpreter, node: ast.With | ast.AsyncWith, number: int, generator: Generator) -> int:
        """`with helper():` for a contextmanager of the project: the body runs at its yield."""
        consumer = (self.env, self.file, self.call)
        item = node.items[number]
        ended = NORMAL
        ran = False

        def at_yield(alts: Alts) -> int:
            nonlocal ended, ran
            if ran:
                return NORMAL
            ran = True
            kept = (self.env, self.file, self.call)
            self.env, self.file, self.call = consumer
            if item.optional_vars is not None:
                self.bind(item.optional_vars, alts, node)
            ended = self.with_items(node, number + 1)
            self.env, self.file, self.call = kept
            return NORMAL

        generator.run(at_yield)
        return ended if ran else self.with_items(node, number + 1)

    def context_frames(self: Interpreter, alts: Alts, node: ast.AST) -> list[Frame]:
        """The regions these alternatives open; one that may not be opened is opened with `enabled` unknown."""
        frames = []
        certain = len(alts) == 1
        for value, _ in alts:
            if isinstance(value, Context) and value.name != "null":
                facts = value.facts if certain else {**value.facts, "enabled": None}
                frames.append(Frame("with", self.span(node), name=value.name, facts=facts, over=frozenset(s.ident for s in value.sources)))
            elif isinstance(value, Opaque):
                frames.append(Frame("with", self.span(node)))
            elif isinstance(value, Instance) and value.cls is not None and self.class_attribute_exists(value.cls, "__enter__"):
                held = tuple((v, g) for slot in value.slots.values() for v, g in slot if isinstance(v, Context))
                frames.extend(self.context_frames((*held, *held), node)[: len(held)])  # it enters them, or may
        return frames

    def open_regions(self: Interpreter, alts: Alts, node: ast.AST) -> None:
        """Enter the regions; opening autocast is an event of its own, since a model may do it in its forward."""
        frames = self.context_frames(alts, node)
        self.place.extend(frames)
        if any(f.name == "autocast" for f in frames):
            self.record("enter", None, node)

    def enter_contexts(self: Interpreter, alts: Alts, node: ast.AST) -> Alts:
        self.open_regions(alts, node)
        entered: Alts = ()
        for value, guard in alts:
            result = one(value)
            if isinstance(value, Context) and value.gives is not None:
                result = value.gives
            if isinstance(value, Instance) and value.cls is not None:
                method = self.method_of(value, "__enter__")
                if method is not None:
                    result = self.call_value(method, [], {}, node)
            entered = join(entered, guarded(result, guard))
        return entered

    def leave_contexts(self: Interpreter, alts: Alts, node: ast.AST) -> None:
        for value, _ in alts:
            if isinstance(value, Instance) and value.cls is not None:
                method = self.method_of(value, "__exit__")
                if method is not None:
                    self.call_value(method, [one(NONE)] * 3, {}, node)

    # ------------------------------------------------------------ iterating

    def rounds(self: Interpreter, alts: Alts, node: ast.For | ast.AsyncFor) -> tuple[list[Alts], Value | None, frozenset[int]]:
        """What the loop target is in each walk of the body, how often the loop turns, and the things looped over."""
        value = single(alts)
        if isinstance(value, Sequence) and value.length is not None and 0 < value.length <= LONGEST_UNROLL and self.worth_unrolling(value):
            return value.elements(), self.value(one(Const(value.length)), node.iter), frozenset()
        items: Alts = ()
        size: Alts = ()
        over: set[Instance] = set()
        for candidate, guard in alts:
            item, length, sources = self.iteration(candidate)
            items = join(items, guarded(item, guard))
            size = join(size, length)
            over |= sources
        shown = self.value(size, node.iter) if size and single(size) is not None else None
        return [items or one(self.unknown())], shown, frozenset(i.ident for i in over)

    def worth_unrolling(self: Interpreter, value: Sequence) -> bool:
        """Numbers say nothing new in a second walk; objects, functions, phases and tuples of those do."""
        for element in value.elements():
            for item in values_of(element):
                if isinstance(item, Const) and isinstance(item.value, (str, bool)):
                    continue
                if isinstance(item, (Const, Opaque)):
                    return False
                if isinstance(item, Sequence) and all(isinstance(v, Opaque) for e in item.elements() for v in values_of(e)):
                    return False  # batches
        return True

    def iteration(self: Interpreter, value: Any) -> tuple[Alts, Alts, frozenset[Instance]]:
        """(an element, the number of elements, the things iterated over) of one value."""
        if isinstance(value, Sequence):
            element: Alts = ()
            for item in value.elements():
                element = join(element, item)
            followed = frozenset(i for v, _ in element for i in self.inside(v) if i.kind in ("optimizer", "scheduler", "scaler"))
            return element, value.slots.get("#", ()), value.over | followed
        if isinstance(value, Instance) and value.kind == "module" and value.arguments:
            listed = [a for v in value.arguments.values() for a in v]
            inner = listed[0][0] if len(listed) == 1 else None
            if isinstance(inner, Sequence):
                return self.iteration(inner)
        if isinstance(value, Mapping):
            keys = tuple((Const(k[1]), NO_GUARD) for k in value.slots if isinstance(k, tuple))
            return keys[:LONGEST_UNROLL] or one(self.unknown()), (), frozenset()
        if isinstance(value, Instance) and value.cls is not None:
            method = self.method_of(value, "__iter__")
            if method is None and not value.kind:
                method = self.method_of(value, "__getitem__")
        sources = instances(value)
        length = one(Opaque(("len", value.key), frozenset(), frozenset(), depth=2))
        return one(Opaque(("item", value.key), self.carried(value), frozenset(("batch",)), depth=2)), length, sources
