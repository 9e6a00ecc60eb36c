"""Where the step of a schedule belongs: behind the optimizer's step, or behind the training of an epoch."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from mllint.flow.anchors import BRANCHES, WITHS, Code, Line, Named, Spot, calls_of, dereferenced, loop_at, name_at, seen_from, settle
from mllint.flow.questions import parent
from mllint.model.finding import Span
from mllint.model.fix import Insert
from mllint.model.history import Event, Frame, History, Thing, idle
from mllint.remedies.metric import Metric, metric_in


@dataclass(frozen=True, slots=True)
class Placement:
    """Lines to put behind a statement."""

    spot: Spot
    line: Line
    text: str

    @property
    def anchor(self) -> Span:
        return self.spot.span_of(self.line.statement)

    @property
    def insert(self) -> Insert:
        return Insert(self.anchor, "after", self.text)


def stepping(name: Named, argument: str = "") -> str:
    """The lines that step a schedule, only where there is one."""
    call = f"{name.text}.step({argument})"
    return f"if {name.text} is not None:\n    {call}" if name.optional else call


def epochs_and_batches(history: History, scheduler: Thing, update: Event) -> list[Frame]:
    """The loops that repeat the optimizer's step and not the making of the schedule."""
    made = history.made(scheduler)
    anew = {f.key for f in made.turns()} if made is not None else set()
    return [f for f in update.turns() if f.key not in anew]


def interchangeable(history: History, scheduler: Thing) -> frozenset[int]:
    """Other schedules that the same call can step: they take no metric, and are no part of another."""
    return frozenset(
        t.id
        for t in history.things("scheduler")
        if parent(history, t) is t and t.facts.get("argument") == scheduler.facts.get("argument") and not t.facts.get("overrides")
    )


def name_of(code: Code, event: Event, level: int, thing: Thing, also: frozenset[int] = frozenset()) -> Named | None:
    """How the function at that level names the thing; optional also where another call of that function brings none."""
    name = name_at(code, event, level, thing, also)
    spot = code.spot(event.reach[level].at) if name is not None else None
    if name is None or name.optional or spot is None or dereferenced(spot, name.text):
        return name
    for reach in code.reaches(spot.span):
        if name.text not in reach.names or any(ident is None for ident, _ in reach.names[name.text]):
            return Named(name.text, True)
    return name


def behind_updates(code: Code, history: History, scheduler: Thing, updates: Sequence[Event]) -> list[Placement] | None:
    """Behind every step of the optimizer, each in the function that makes it or the nearest caller that knows the schedule."""
    found: list[Placement] = []
    for update in updates:
        placement = behind_update(code, history, scheduler, update, updates)
        if placement is None:
            return None
        if all(p.anchor != placement.anchor for p in found):
            found.append(placement)
    return found or None


def behind_update(code: Code, history: History, scheduler: Thing, update: Event, updates: Sequence[Event]) -> Placement | None:
    turns = update.turns()
    for level, reach in enumerate(update.reach):
        if turns and not any(f.key == turns[-1].key for f in update.place[: reach.depth] if f.kind == "loop"):
            return None  # the callers go round the loop only as a whole
        if level and (not turns or any(f.kind == "arm" and not idle(f) for f in update.place[reach.depth :])):
            return None
        name = name_of(code, update, level, scheduler, interchangeable(history, scheduler))
        here = code.plain(reach.at)
        if name is None or here is None:
            continue
        calls = calls_of(update.place[: reach.depth])
        owner = (loop_at(here, turns[-1]) if turns else None) or here.function
        spots = [spot for u in updates if (span := seen_from(u, calls)) is not None and (spot := code.spot(span)) is not None]
        line = settle([s for s in spots if s.below(owner)], owner, (*BRANCHES, *WITHS))
        return None if line is None else Placement(here, behind_scaler(line), stepping(name))
    return None


def behind_scaler(line: Line) -> Line:
    """The line of `scaler.update()`, where it follows the step of a scaler."""
    if line.index + 1 < len(line.block):
        match line.block[line.index + 1]:
            case ast.Expr(ast.Call(func=ast.Attribute(attr="update"), args=[], keywords=[])):
                return Line(line.owner, line.block, line.index + 1)
    return line


def behind_epochs(code: Code, history: History, scheduler: Thing, updates: Sequence[Event]) -> list[Placement] | None:
    """Behind the training in every loop over epochs that steps the optimizer."""
    found: list[Placement] = []
    for update in updates:
        placement = behind_epoch(code, history, scheduler, update, updates)
        if placement is None:
            return None
        if all(p.anchor != placement.anchor for p in found):
            found.append(placement)
    return found or None


def behind_epoch(code: Code, history: History, scheduler: Thing, update: Event, updates: Sequence[Event]) -> Placement | None:
    loops = epochs_and_batches(history, scheduler, update)
    if not loops:
        return None
    keys = {f.key for f in loops[1:]}
    for level in reversed(range(len(update.reach))):
        reach = update.reach[level]
        outside = update.place[: update.reach[level + 1].depth] if level + 1 < len(update.reach) else ()
        if any(f.kind == "loop" and f.key in keys for f in outside):
            return None  # every batch enters this function
        if not any(f.kind == "loop" and f.key == loops[0].key for f in update.place[: reach.depth]):
            continue
        name = name_of(code, update, level, scheduler, interchangeable(history, scheduler))
        here = code.spot(reach.at)
        if name is None or here is None:
            continue
        within = any(f.key == loops[0].key for f in outside if f.kind == "loop")
        owner = here.function if within else loop_at(here, loops[0])
        if owner is None:
            return None
        calls = calls_of(update.place[: reach.depth])
        spots = [spot for u in updates if (span := seen_from(u, calls)) is not None and (spot := code.spot(span)) is not None]
        line = settle([s for s in spots if s.below(owner)], owner, BRANCHES)
        if line is None:
            return None
        if scheduler.facts.get("argument") != "metric":
            return Placement(here, behind_scaler(line), stepping(name))
        metric: Metric | None = metric_in(here, owner, line, scheduler)
        return None if metric is None else Placement(here, metric.line, stepping(name, metric.text))
    return None
