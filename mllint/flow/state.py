"""What an interpretation holds while it runs: the heap with its journal, the place, the assumptions, the events so far.

Every write to a variable, attribute or container slot goes through `write`, which notes the old value. An arm of a branch runs
on the one heap; afterwards its changes are collected and undone, so that the other arm starts from the same state and only what
changed has to be joined.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mllint.flow.values import (
    MOST_ALTERNATIVES,
    NO_GUARD,
    Alts,
    Call,
    Env,
    Guard,
    Instance,
    Loop,
    Opaque,
    Slots,
    guarded,
    instances,
    join,
)
from mllint.model.finding import Span
from mllint.model.history import Frame, Reach, Value

if TYPE_CHECKING:
    from mllint.flow.project import Project
    from mllint.flow.relevance import Relevance
    from mllint.read.python import PythonFile
    from mllint.read.tables import Knowledge

MISSING: Any = object()

#: Actions at which a fix may begin, so that it is noted what could be named there.
ANCHORS = frozenset(("step", "backward", "clip", "grad-read"))

#: How a block ended.
NORMAL, RETURN, BREAK, CONTINUE, RAISE = range(5)

#: Statements one entry may walk. A long training script with its helpers takes under 20,000; what takes ten times as many is a
#: framework calling itself in circles.
MOST_STEPS = 150_000
#: Calls inside calls. Trainers are rarely deeper than ten; the number also keeps clear of Python's own recursion limit.
DEEPEST_CALL = 24
#: Times one function is entered from one entry: enough for every call site of a helper in a script.
MOST_ENTRIES = 24
#: The same for a function that leads to nothing the rules follow: settings and sizes are known after a few calls.
FEW_ENTRIES = 4

#: Alternatives of a slot that holds optimizers, schedulers or scalers: as many as a registry of schedules usually names.
MOST_THINGS = 16
NARROW = frozenset(("optimizer", "scheduler", "scaler"))

#: Statements one function may cost from one entry before it is not entered again: three times a long training loop.
COSTLY = 6_000
#: The same where a class nobody uses is the entry: its methods are called one after the other and reach each other again and again.
COSTLY_UNASKED = 2_000
#: The same in a rehearsal, where only the attributes that methods set matter.
COSTLY_REHEARSED = 500
#: The same from all entries together that no program is: what a hundred test classes set up is known after some of them.
COSTLY_AGAIN = MOST_STEPS
#: A function that walked so many statements and did nothing the rules follow is not walked again for plain arguments.
LONG_WALK = 120

Changes = dict[tuple[int, Any], tuple[Slots, Any, Alts]]


@dataclass(slots=True)
class Record:
    """An event as it is noted; `mllint.flow.record` makes the History's from it."""

    action: str
    thing: Instance | None
    span: Span
    place: tuple[Frame, ...]
    arguments: dict[str, Value]
    via: int | None
    sure: bool
    reach: tuple[Reach, ...] = ()


@dataclass(slots=True)
class Condition:
    """What is known of a test: its verdict if decided; else the facts and narrowings that hold in each arm."""

    verdict: bool | None = None
    facts: tuple[tuple[tuple[tuple, bool], ...], tuple[tuple[tuple, bool], ...]] = ((), ())
    narrow: tuple[list[tuple[Slots, Any, Alts]], list[tuple[Slots, Any, Alts]]] = field(default_factory=lambda: ([], []))
    text: str = ""

    def negated(self) -> Condition:
        verdict = None if self.verdict is None else not self.verdict
        return Condition(verdict, (self.facts[1], self.facts[0]), (self.narrow[1], self.narrow[0]), self.text)


class State:
    """The running state of one entry and the operations on it."""

    def __init__(self, project: Project, knowledge: Knowledge, relevance: Relevance) -> None:
        self.project = project
        self.knowledge = knowledge
        self.relevance = relevance
        self.journal: list[tuple[Slots, Any, Any]] = []
        self.place: list[Frame] = []
        self.assumed: dict[tuple, bool] = {}
        self.denied: set[tuple[tuple, bool]] = set()  # the opposite of what is assumed: sets compare without hashing deep keys again
        self.assumptions: list[tuple] = []
        self.records: list[Record] = []
        self.things: list[Instance] = []
        self.promoted: dict[tuple, Instance] = {}
        self.calls: list[Call] = []
        self.loops: list[Loop] = []
        self.entries: dict[int, int] = {}
        self.costs: dict[int, int] = {}
        self.spent: dict[int, int] = {}  # the same in all entries so far
        self.leftover = False  # no program is walked, but a class or function that none uses
        self.gives: set[int] = set()
        self.costly = COSTLY
        self.entered: set[int] = set()
        self.limits: set[str] = set()
        self.often: set[str] = set()
        self.opaque_slots: Slots = {}
        self.option_defaults: dict[str, Any] = {}
        self.option_values: dict[tuple, Any] = {}
        self.stacked: dict[tuple, list[Frame]] = {}
        self.choices = 0
        self.steps = 0
        self.counter = 0
        self.file: PythonFile = None  # type: ignore[assignment]
        self.env: Env = None  # type: ignore[assignment]
        self.call: Call | None = None
        self.spans: dict[int, tuple[ast.AST, Span]] = {}
        self.inert: dict[int, tuple[ast.AST, Instance | None]] = {}

    def begin(self, file: PythonFile) -> None:
        """Start another entry: what the last one noted is gone, objects and modules stay numbered on."""
        self.place, self.records, self.things, self.promoted, self.calls, self.loops = [], [], [], {}, [], []
        self.growing: set[int] = set()  # lists that a loop adds to: their length is another in each turn
        self.unasked = False  # the call that comes is ours: nobody in the program makes it, so that defaults are no facts
        self.assumed, self.denied, self.assumptions = {}, set(), []
        self.entries, self.entered, self.limits, self.opaque_slots = {}, set(), set(), {}
        self.option_defaults, self.option_values, self.costs, self.stacked = {}, {}, {}, {}
        self.costly = COSTLY
        self.leftover = False
        self.often, self.gives = set(), set()
        self.stopped: Span | None = None
        self.steps = self.choices = 0
        self.file = file
        self.env = Env(file, None)
        self.call = None
        self.nowhere: ast.AST = file.tree.body[0] if file.tree.body else ast.Pass(lineno=1, col_offset=0, end_lineno=1, end_col_offset=0)

    def fresh(self) -> int:
        self.counter += 1
        return self.counter

    # ------------------------------------------------------------------ heap

    if TYPE_CHECKING:  # `mllint.flow.losing` has it

        def lose(self, value: Any, node: ast.AST, seen: set[int] | None = None) -> None: ...

    def write(self, slots: Slots, key: Any, alts: Alts) -> None:
        """Set a slot, noting the old value for the arms of branches."""
        if len(alts) > MOST_ALTERNATIVES:
            alts = self.collapse(alts)
        self.journal.append((slots, key, slots.get(key, MISSING)))
        slots[key] = alts

    def collapse(self, alts: Alts) -> Alts:
        """Too many alternatives: one unknown that still knows its sources; what else happens to followed objects is not seen.

        A registry of schedules is no reason for that: objects that rules follow may be more.
        """
        things = [v for v, _ in alts if isinstance(v, Instance)]
        acting = (t.kind in NARROW or (not t.kind and t.cls is not None and self.project.active(t.cls)) for t in things)
        if len(alts) <= MOST_THINGS and any(acting):
            return alts
        for thing in things:
            if thing.kind in NARROW or not thing.kind:
                self.lose(thing, self.nowhere)
        sources = frozenset().union(*(instances(v) for v, _ in alts))
        return ((Opaque(("any", self.fresh()), sources, frozenset(("unknown",))), NO_GUARD),)

    def take_changes(self, mark: int) -> Changes:
        """The slots written since `mark` with their final values; the state is as it was at `mark` afterwards."""
        changes: Changes = {}
        journal = self.journal
        for slots, key, _ in journal[mark:]:
            where = (id(slots), key)
            if where not in changes and key in slots:
                changes[where] = (slots, key, slots[key])
        for slots, key, old in reversed(journal[mark:]):
            if old is MISSING:
                slots.pop(key, None)
            else:
                slots[key] = old
        del journal[mark:]
        return changes

    def merge(self, a: Changes, b: Changes, facts_a: Guard = NO_GUARD, facts_b: Guard = NO_GUARD) -> None:
        """Continue with the state after either arm."""
        for where, (slots, key, value) in a.items():
            other = b[where][2] if where in b else slots.get(key, ())
            if value is other:
                self.write(slots, key, value)
            else:
                self.write(slots, key, self.either(value, other, facts_a, facts_b))
        for where, (slots, key, value) in b.items():
            if where not in a:
                self.write(slots, key, self.either(slots.get(key, ()), value, facts_a, facts_b))

    @staticmethod
    def either(a: Alts, b: Alts, facts_a: Guard, facts_b: Guard) -> Alts:
        return join(guarded(a, facts_a), guarded(b, facts_b))

    def replay(self, changes: Changes) -> None:
        for slots, key, value in changes.values():
            self.write(slots, key, value)

    def join_exits(self, exits: list[Changes]) -> None:
        """Join the states of paths that left early (return, break, continue) into the current one."""
        for changes in exits:
            for slots, key, value in changes.values():
                now = slots.get(key)
                if now is not value:
                    self.write(slots, key, value if now is None else join(now, value))

    # ----------------------------------------------------------- assumptions

    def assume(self, facts: tuple[tuple[tuple, bool], ...] | Guard) -> None:
        for key, polarity in facts:
            if key not in self.assumed:
                self.assumed[key] = polarity
                self.denied.add((key, not polarity))
                self.assumptions.append(key)

    def forget(self, mark: int) -> None:
        for key in self.assumptions[mark:]:
            self.denied.discard((key, not self.assumed.pop(key)))
        del self.assumptions[mark:]

    def held(self, alts: Alts) -> Alts:
        """The alternatives that the current assumptions leave."""
        if len(alts) < 2 or not self.denied:
            return alts
        denied = self.denied
        for _, guard in alts:
            if guard and not guard.isdisjoint(denied):
                return tuple([a for a in alts if a[1].isdisjoint(denied)]) or alts
        return alts

    # ------------------------------------------------------------------ arms

    def arm(
        self, node: ast.AST, branch: int, condition: Condition, side: bool, body: Callable[[], int], name: str = ""
    ) -> tuple[int, Changes, Guard]:
        """Run one arm of a branch; its changes are collected and undone. Returns how it ended, what it changed and its facts."""
        mark, place, assumed = len(self.journal), len(self.place), len(self.assumptions)
        facts = self.enter_side(node, branch, condition, side, name)
        status = body()
        changes = self.take_changes(mark)
        del self.place[place:]
        self.forget(assumed)
        return status, changes, facts

    def enter_side(self, node: ast.AST, branch: int, condition: Condition, side: bool, name: str = "", frames: bool = True) -> Guard:
        """Hold the facts and narrowings of one side of a condition from here on."""
        facts = condition.facts[0 if side else 1]
        extra: tuple[tuple[tuple, bool], ...] = ()
        if narrow := condition.narrow[0 if side else 1]:
            learned: set[tuple[tuple, bool]] = set()
            for slots, key, alts in narrow:
                self.write(slots, key, alts)
                if alts:
                    learned |= frozenset.intersection(*(g for _, g in alts))
            extra = tuple(f for f in learned if f not in facts and f[0] not in self.assumed)
        if frames:
            span = self.span(node)
            shown = facts or ((("branch", branch), side),)
            self.place.append(Frame("arm", span, shown[0][0], name, branch, shown[0][1], text=condition.text))
            for key, polarity in (*shown[1:], *extra):
                self.place.append(Frame("arm", span, key, name, -self.fresh(), polarity))
        self.assume((*facts, *extra))
        return frozenset((*facts, *extra))

    # ---------------------------------------------------------------- events

    if TYPE_CHECKING:  # `mllint.flow.reach` has it

        def names_around(self, node: ast.AST) -> tuple[Reach, ...]: ...

    def span(self, node: ast.AST, file: PythonFile | None = None) -> Span:
        """Where the node stands: in the file being walked, if no other is named."""
        known = self.spans.get(id(node))
        if known is None:
            known = self.spans[id(node)] = (node, (file or self.file).source.span(node))
        return known[1]

    def record(
        self,
        action: str,
        thing: Instance | None,
        node: ast.AST,
        arguments: dict[str, Value] | None = None,
        via: Instance | None = None,
        sure: bool = True,
    ) -> None:
        seen = self.names_around(node) if action in ANCHORS and self.costly != COSTLY_REHEARSED else ()
        self.records.append(
            Record(action, thing, self.span(node), tuple(self.place), arguments or {}, None if via is None else via.ident, sure, seen)
        )

    def limit(self, text: str) -> None:
        self.limits.add(text)
