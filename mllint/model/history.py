"""The waist of the hourglass: what happened to which object, where, inside which loops and branches.

Two producers write a History: the abstract interpreter (`mllint.flow`), which never runs the code, and the probes that watch it
run. The lifecycle rules ask it questions and know nothing of either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mllint.model.finding import Span


@dataclass(frozen=True, slots=True)
class Value:
    """What is known of an argument. Equal `key`s are the same value; every key is hashable.

    `key` is structural: ("const", 3), ("attr", <key>, "epochs"), ("len", <key>), ("*", <key>, <key>), ("thing", id) ...
    `sources` are the ids of the things the value was computed from (a loss: the modules its gradient reaches).
    `tags` name facts the engine followed: "lr" (a learning rate read back), "metric", "detached", "sum" (a sum-reduced loss).
    `divided_by` are keys of what the value was divided by on its way, `scaled_by` the id of the scaler it went through.
    """

    key: tuple
    text: str = ""
    sources: frozenset[int] = frozenset()
    tags: frozenset[str] = frozenset()
    divided_by: frozenset[tuple] = frozenset()
    scaled_by: int | None = None

    @property
    def constant(self) -> Any:
        """The constant this value is, or None (also for the constant None: ask `is_constant`)."""
        return self.key[1] if self.key[:1] == ("const",) else None

    @property
    def is_constant(self) -> bool:
        return self.key[:1] == ("const",)


@dataclass(frozen=True, slots=True)
class Thing:
    """An object that is followed: kind is "optimizer", "scheduler", "scaler", "module", "loader", "accelerator".

    `type` is the dotted name of the class as the library spells it, or the project class; `bases` its known ancestors.
    `facts` come from the library table row (for example a scheduler's `cadence`). `made_by` is the argument list of the
    constructor, by parameter name where the table knows it, else by keyword or position ("0", "1").
    `lost` is the span where sight of it was lost, `managed` the span where a framework took it over (and then steps it itself).
    """

    id: int
    kind: str
    type: str
    made_at: Span
    name: str = ""
    bases: tuple[str, ...] = ()
    arguments: Mapping[str, Value] = field(default_factory=dict, hash=False, compare=False)
    facts: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)
    partners: tuple[int, ...] = ()
    lost: Span | None = None
    managed: Span | None = None
    sure: bool = True


@dataclass(frozen=True, slots=True)
class Frame:
    """One thing around an event: a loop, an arm of a branch, a `with`, a call into another function.

    kind "loop": `key` names the loop, `size` how often it turns (a Value, or None), `over` the ids of things looped over.
    kind "arm": `key` names the condition by value and `polarity` which side; `branch` names the statement, so that two arms of one
      branch are known to exclude each other even where the condition could not be understood. An `except` handler is an arm too
      (name "except"), and so is the choice of one object among several that a call may be of (name "choice").
    kind "with": `name` is what is entered ("autocast", "no_grad", "accumulate", ...), `facts` what is known (dtype, enabled).
    kind "call": `name` is the function entered, `span` the call.
    """

    kind: str
    span: Span
    key: tuple = ()
    name: str = ""
    branch: int = 0
    polarity: bool = True
    size: Value | None = None
    over: frozenset[int] = frozenset()
    facts: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)
    text: str = ""


#: Stands in a Reach for a value that is neither a followed thing nor None.
OTHER = -1


@dataclass(frozen=True, slots=True)
class Reach:
    """What one function around an event can name: the function the event stands in, or one that called it.

    `at` is the event itself or the call that led to it, and the first `depth` frames of the event's place are around that. `names`
    lead from an expression to what it may be there, each with the conditions under which: the id of an optimizer, scheduler or
    scaler, None for the constant, or OTHER.
    """

    at: Span
    depth: int
    names: Mapping[str, tuple[tuple[int | None, frozenset], ...]]


@dataclass(frozen=True, slots=True)
class Event:
    """`action` of `thing`, here, in this order.

    Actions are method names of followed things ("step", "zero_grad", "unscale_", "update", "scale", "get_last_lr", "forward") and a
    few that belong to no single thing, whose `thing` is None: "backward" (arguments["loss"]), "clip" (arguments["of"]),
    "grad-read", "grad-written", "format". `made` is the creation of the thing. `via` is the id of a thing that did it
    (the scaler in `scaler.step(optimizer)` steps the optimizer too). `sure` is False where the receiver was one of several.
    `observations` hold what only a run can see (norms, learning rates, modes). `reach` says, innermost function first, what could
    be named there (for steps, passes and clips; empty for others).
    """

    order: int
    action: str
    thing: Thing | None
    span: Span
    place: tuple[Frame, ...] = ()
    arguments: Mapping[str, Value] = field(default_factory=dict, hash=False, compare=False)
    via: int | None = None
    sure: bool = True
    observations: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)
    reach: tuple[Reach, ...] = field(default=(), hash=False, compare=False, repr=False)

    def loops(self) -> list[Frame]:
        """The loops around this event, outermost first."""
        return [f for f in self.place if f.kind == "loop"]

    def turns(self) -> list[Frame]:
        """The loops that repeat the event: not those over a short list, walked element by element, or over a list holding its thing."""
        ids = {i for v in self.arguments.values() for i in v.sources} if self.action in ("unscale_", "step") else set()
        if self.thing is not None:
            ids.add(self.thing.id)
        return [f for f in self.place if f.kind == "loop" and f.name != "each" and not f.over & ids]

    def arms(self, within: Frame | None = None) -> list[Frame]:
        """The branch arms around this event, outermost first; those inside the loop `within` alone where one is given."""
        frames = self.place
        if within is not None:
            frames = frames[_index(frames, within) + 1 :]
        return [f for f in frames if f.kind == "arm"]

    def inside(self, name: str) -> Frame | None:
        """The innermost `with` of that name around this event, or None."""
        return next((f for f in reversed(self.place) if f.kind == "with" and f.name == name), None)


def _index(frames: tuple[Frame, ...], loop: Frame) -> int:
    for number, frame in enumerate(frames):
        if frame.kind == "loop" and frame.key == loop.key:
            return number
    return -1


def mentions(key: Any, *heads: str) -> bool:
    """A part of the structural key begins with one of these words: an operator, "item" (an element of a loop), "call" ..."""
    if not isinstance(key, tuple):
        return False
    return (bool(key) and isinstance(key[0], str) and key[0] in heads) or any(mentions(part, *heads) for part in key)


#: Beginnings of keys whose value another turn of the loop may find changed.
CHANGING = ("%", "varies", "item", "unknown", "deep", "branch", "one of")


def varying(key: Any) -> bool:
    """Another turn of the loop may find another value: an element, a counter, a remainder, something unknown."""
    if not isinstance(key, tuple) or not key:
        return False
    if key[0] in CHANGING or (key[0] in ("index", "any") and isinstance(key[-1], int)):
        return True
    return any(varying(part) for part in key)


def steady(arm: Frame) -> bool:
    """The condition of the arm has one answer for the whole run: it is made of options, constants and objects."""
    return arm.name == "choice" or (bool(arm.key) and not varying(arm.key))


def idle(arm: Frame) -> bool:
    """The arm only asks whether there is a gradient, so it says nothing about the path."""
    return arm.key[:1] == ("is",) and arm.key[1][:1] == ("attr",) and arm.key[1][2] == "grad"


def counted(key: Any) -> bool:
    """The key counts turns: a remainder, or a counter of the loop."""
    return mentions(key, "%", "varies", "item") or (isinstance(key, tuple) and any(_counter(k) for k in _parts(key)))


def _counter(key: tuple) -> bool:
    return len(key) == 2 and key[0] == "index" and isinstance(key[1], int)


def _parts(key: tuple) -> Iterator[tuple]:
    yield key
    for part in key:
        if isinstance(part, tuple):
            yield from _parts(part)


def _choice(arm: Frame) -> tuple:
    """What the arm decides, the same for two places that choose one object out of several."""
    return ("one of", *arm.key[2:]) if arm.key[:1] == ("one of",) else arm.key


def _apart(x: Frame, y: Frame) -> bool:
    """The two arms are never both taken in one pass."""
    if x.polarity != y.polarity:
        return x.branch == y.branch or bool(x.key and x.key == y.key)
    if not (x.polarity and len(x.key) == len(y.key) == 3 and x.key[:2] == y.key[:2]):
        return False
    if x.key[0] == "==":
        return bool(x.key[2][:1] == ("const",) == y.key[2][:1] and x.key[2] != y.key[2])
    return bool(x.key[0] == "one of" and x.key[2] != y.key[2])


#: Conditions of several parts, and the side on which the facts they list do not all hold: `a and b` when false, `a or b` when true.
NOT_ALL = {"all": False, "any": True}


def _denied(own: list[Frame], others: list[Frame]) -> bool:
    """One of the arms says that some facts do not all hold, and the others hold every one of them."""
    for arm in own:
        if arm.key and NOT_ALL.get(arm.key[0]) is arm.polarity and len(arm.key) > 2:
            held = {(f.key, f.polarity) for f in others}
            if all(fact in held for part in arm.key[1:] for fact in part):
                return True
    return False


class History:
    """An ordered list of events and the questions lifecycle rules ask of it. One entry point gives one History."""

    def __init__(
        self,
        events: list[Event],
        things: list[Thing],
        entry: str = "",
        limits_hit: tuple[str, ...] = (),
        defaults: Mapping[tuple, Any] | None = None,
    ) -> None:
        self.defaults: Mapping[tuple, Any] = defaults or {}  # what an option is when nobody gives it, by the key of its value
        self.events_in_order = events
        self.all_things = things
        self.entry = entry
        self.limits_hit = limits_hit
        self._by_id = {t.id: t for t in things}
        self._of: dict[int, list[Event]] = {}
        self._doing: dict[str, list[Event]] = {}
        self._laps: dict[tuple, list[Event]] = {}
        for event in events:
            if event.thing is not None:
                self._of.setdefault(event.thing.id, []).append(event)
            self._doing.setdefault(event.action, []).append(event)
            for loop in event.turns():
                self._laps.setdefault(loop.key, []).append(event)

    def thing(self, ident: int) -> Thing | None:
        return self._by_id.get(ident)

    def things(self, kind: str | None = None) -> list[Thing]:
        """Everything made, of that kind."""
        return [t for t in self.all_things if kind is None or t.kind == kind]

    def events(self, thing: Thing | None = None, *actions: str) -> list[Event]:
        """The events of one thing (or of all, with None), of these actions (or all), in order."""
        if thing is None and actions:
            return sorted((e for a in actions for e in self._doing.get(a, ())), key=lambda e: e.order)
        pool = self.events_in_order if thing is None else self._of.get(thing.id, [])
        return [e for e in pool if not actions or e.action in actions]

    def partners(self, thing: Thing, kind: str | None = None) -> list[Thing]:
        """Things this one was made with or works on: a scheduler's optimizer, an optimizer's modules and schedulers."""
        ids = set(thing.partners) | {t.id for t in self.all_things if thing.id in t.partners}
        return [t for t in self.all_things if t.id in ids and (kind is None or t.kind == kind)]

    def before(self, a: Event, b: Event) -> bool:
        """`a` happens before `b` in one pass over the program, and both can happen in the same run."""
        return a.order < b.order and not self.exclusive(a, b)

    def same_loop(self, a: Event, b: Event) -> bool:
        """Both stand in the same innermost loop."""
        x, y = a.loops(), b.loops()
        return bool(x) and bool(y) and x[-1].key == y[-1].key

    def common_loops(self, a: Event, b: Event) -> list[Frame]:
        """The loops around both, outermost first."""
        keys = {f.key for f in b.loops()}
        return [f for f in a.loops() if f.key in keys]

    def repeats(self, a: Event) -> bool:
        """The event stands in a loop."""
        return bool(a.loops())

    def exclusive(self, a: Event, b: Event) -> bool:
        """The events stand in arms that cannot both be taken in one pass."""
        own, others = a.arms(), b.arms()
        if not own or not others:
            return False
        return any(_apart(x, y) for x in own for y in others) or _denied(own, others) or _denied(others, own)

    def always(self, a: Event, within: Frame | None = None) -> bool:
        """No branch arm stands around the event (inside that loop, where one is given)."""
        return not a.arms(within)

    def implied(self, a: Event, *others: Event) -> bool:
        """Whenever all the others happen, `a` happens in the same pass: every arm around `a` is around one of them too."""
        frames = [f for b in others for f in b.arms()]
        held = {(f.branch, f.polarity) for f in frames} | {(_choice(f), f.polarity) for f in frames if f.key}
        return all((f.branch, f.polarity) in held or (f.key and (_choice(f), f.polarity) in held) or idle(f) for f in a.arms())

    def together(self, a: Event, b: Event) -> bool:
        """Both can happen in one pass as far as can be known: the arms of one are those of the other, or all are understood."""
        if self.exclusive(a, b):
            return False
        understood = all(f.key and not mentions(f.key, "branch", "one of") for f in (*a.arms(), *b.arms()))
        return understood or self.implied(a, b) or self.implied(b, a)

    def made(self, thing: Thing) -> Event | None:
        """The making of the thing; None where it came from code that was not seen."""
        return next((e for e in self._of.get(thing.id, ()) if e.action == "make"), None)

    def possible(self, thing: Thing, *actions: str) -> list[Event]:
        """The events of the thing that can happen in a run in which it is made."""
        made = self.made(thing)
        return [e for e in self.events(thing, *actions) if made is None or not self.exclusive(made, e)]

    def lap(self, loop: Frame) -> list[Event]:
        """Everything that happens in one turn of the loop, in order."""
        return self._laps.get(loop.key, [])

    def earlier(self, event: Event) -> Iterator[Event]:
        """What happened before the event, latest first: up to the top of its loop, then the previous turn of that loop, then outwards.

        Events of arms that the event's own arms exclude are left out.
        """
        return self._around(event, -1)

    def later(self, event: Event) -> Iterator[Event]:
        """What happens after the event, next first: to the end of its loop, then the next turn of that loop, then outwards."""
        return self._around(event, 1)

    def _around(self, event: Event, direction: int) -> Iterator[Event]:
        seen = {event.order}
        arms = event.arms()
        for loop in (*reversed(event.turns()), None):
            turn = self.events_in_order if loop is None else self.lap(loop)
            ahead = [e for e in turn if (e.order - event.order) * direction > 0]
            for again, part in ((False, ahead), (True, turn if loop is not None else [])):
                for other in part if direction > 0 else reversed(part):
                    if other.order in seen:
                        continue
                    # in another turn of the loop a condition that counts turns may well come out the other way
                    held = [x for x in arms if not (again and counted(x.key))]
                    if not (held and any(_apart(x, y) for y in other.arms() for x in held)):
                        seen.add(other.order)
                        yield other

    def loops_over(self, thing: Thing) -> list[Frame]:
        """Every loop that iterates over the thing."""
        seen: dict[tuple, Frame] = {}
        for event in self.events_in_order:
            for frame in event.loops():
                if thing.id in frame.over:
                    seen.setdefault(frame.key, frame)
        return list(seen.values())

    def never(self, thing: Thing, *actions: str) -> bool:
        """None of these happens to the thing, as far as can be known: False when it was lost or a framework took it over."""
        return thing.lost is None and thing.managed is None and not self.events(thing, *actions)

    def siblings(self, thing: Thing) -> Iterator[Thing]:
        """Other things made at the same place (a factory called again)."""
        return (t for t in self.all_things if t is not thing and t.made_at == thing.made_at)
