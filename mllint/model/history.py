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
      branch are known to exclude each other even where the condition could not be understood. An `except` handler is an arm too.
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


@dataclass(frozen=True, slots=True)
class Event:
    """`action` of `thing`, here, in this order.

    Actions are method names of followed things ("step", "zero_grad", "unscale_", "update", "scale", "get_last_lr", "forward") and a
    few that belong to no single thing, whose `thing` is None: "backward" (arguments["loss"]), "clip" (arguments["of"]),
    "grad-read", "grad-written", "format". `made` is the creation of the thing. `via` is the id of a thing that did it
    (the scaler in `scaler.step(optimizer)` steps the optimizer too). `sure` is False where the receiver was one of several.
    `observations` hold what only a run can see (norms, learning rates, modes).
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

    def loops(self) -> list[Frame]:
        """The loops around this event, outermost first."""
        return [f for f in self.place if f.kind == "loop"]

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


class History:
    """An ordered list of events and the questions lifecycle rules ask of it. One entry point gives one History."""

    def __init__(self, events: list[Event], things: list[Thing], entry: str = "", limits_hit: tuple[str, ...] = ()) -> None:
        self.events_in_order = events
        self.all_things = things
        self.entry = entry
        self.limits_hit = limits_hit
        self._by_id = {t.id: t for t in things}
        self._of: dict[int, list[Event]] = {}
        for event in events:
            if event.thing is not None:
                self._of.setdefault(event.thing.id, []).append(event)

    def thing(self, ident: int) -> Thing | None:
        return self._by_id.get(ident)

    def things(self, kind: str | None = None) -> list[Thing]:
        """Everything made, of that kind."""
        return [t for t in self.all_things if kind is None or t.kind == kind]

    def events(self, thing: Thing | None = None, *actions: str) -> list[Event]:
        """The events of one thing (or of all, with None), of these actions (or all), in order."""
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
        for x in a.place:
            if x.kind != "arm":
                continue
            for y in b.place:
                if y.kind == "arm" and x.polarity != y.polarity and (x.branch == y.branch or (x.key and x.key == y.key)):
                    return True
        return False

    def always(self, a: Event, within: Frame | None = None) -> bool:
        """No branch arm stands around the event (inside that loop, where one is given)."""
        return not a.arms(within)

    def implied(self, a: Event, b: Event) -> bool:
        """Whenever `b` happens, `a` happens in the same pass: every arm around `a` is around `b` too."""
        held = {(f.branch, f.polarity) for f in b.place if f.kind == "arm"} | {(f.key, f.polarity) for f in b.place if f.kind == "arm" and f.key}
        return all((f.branch, f.polarity) in held or (f.key and (f.key, f.polarity) in held) for f in a.place if f.kind == "arm")

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
