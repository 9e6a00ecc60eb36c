"""From what an interpretation noted to the History the rules ask."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mllint.flow.modes import modal
from mllint.flow.state import Record
from mllint.flow.values import Instance, parts
from mllint.model.history import Event, History, Thing, Value

if TYPE_CHECKING:
    from mllint.flow.interpret import Interpreter

#: Kinds that become Things even when nothing is done with them.
ALWAYS = frozenset(("optimizer", "scheduler", "scaler", "sampler", "accelerator", "engine"))


def history_of(interpreter: Interpreter, entry: str) -> History:
    """The History of the entry just interpreted."""
    records = [r for r in interpreter.records if r.action != "format" or is_learning_rate(interpreter, r)]
    wanted = referenced(interpreter, records)
    called = {r.thing.ident for r in records if r.action == "forward" and r.thing is not None}
    things = {i.ident: thing(interpreter, i, i.ident in called) for i in wanted}
    events = [
        Event(
            n, r.action, None if r.thing is None else things.get(r.thing.ident), r.span, r.place, r.arguments, r.via, r.sure, reach=r.reach
        )
        for n, r in enumerate(records)
        if r.thing is None or r.thing.ident in things
    ]
    return History(
        events, sorted(things.values(), key=lambda t: t.id), entry, tuple(sorted(interpreter.limits)), dict(interpreter.option_values)
    )


def is_learning_rate(interpreter: Interpreter, record: Record) -> bool:
    """The formatted value was read back from an optimizer or schedule, or is the value an optimizer was given as its rate."""
    value = record.arguments["value"]
    if "lr" in value.tags:
        return True
    for instance in interpreter.things:
        if instance.kind == "optimizer" and "lr" in instance.arguments:
            rate = interpreter.value(instance.arguments["lr"])
            if not rate.is_constant and rate.key == value.key:
                record.arguments["value"] = dataclasses.replace(value, tags=value.tags | {"lr"})
                return True
    return False


def referenced(interpreter: Interpreter, records: list[Record]) -> list[Instance]:
    """The objects of this entry that rules may ask about: the followed kinds, and modules that take part in something."""
    by_id = {i.ident: i for i in interpreter.things}
    needed: set[int] = set()
    places = {id(record.place): record.place for record in records}
    for frame in {id(f): f for place in places.values() for f in place}.values():
        needed |= frame.over
    for record in records:
        if record.thing is not None:
            by_id.setdefault(record.thing.ident, record.thing)
            if record.action != "make" or record.thing.kind in ALWAYS:
                needed.add(record.thing.ident)
        for value in record.arguments.values():
            needed |= value.sources
            if value.scaled_by is not None:
                needed.add(value.scaled_by)
    for instance in interpreter.things:
        if instance.kind in ALWAYS:
            needed.add(instance.ident)
            needed |= {p.ident for p in instance.partners}
            for partner in instance.partners:
                by_id.setdefault(partner.ident, partner)
    return [by_id[i] for i in sorted(needed) if i in by_id]


def thing(interpreter: Interpreter, instance: Instance, called: bool) -> Thing:
    """The frozen form of an object; of a module that is `called`, also whether its mode means anything."""
    arguments: dict[str, Value] = {
        name: interpreter.held_value(alts, interpreter.nowhere) for name, alts in instance.arguments.items() if alts
    }
    facts = dict(instance.facts)
    if instance.kind == "module":
        facts["parts"] = frozenset(parts(instance))
        if called:
            facts["modal"] = modal(interpreter, instance)
    bases = tuple(instance.cls.externals()) if instance.cls is not None else ()
    overrides = (
        frozenset(
            name for a in instance.cls.mro() if hasattr(a, "slots") and hasattr(a, "node") for name in a.slots if isinstance(name, str)
        )
        if instance.cls is not None
        else frozenset()
    )
    if overrides:
        facts["overrides"] = overrides
    return Thing(
        instance.ident, instance.kind, instance.type, instance.made_at, instance.name, bases, arguments, facts,
        tuple(p.ident for p in instance.partners), instance.lost or interpreter.stopped, instance.managed, instance.sure,
    )  # fmt: skip
