"""What a run adds to a finding: sentences with numbers, by the rule the finding belongs to."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator

from mllint.checks import function_name
from mllint.model.finding import Hit
from mllint.model.history import Event, Thing
from mllint.runtime.watched import Watched


def evidence(rule: str, watched: Watched, hit: Hit) -> tuple[str, ...]:
    """What was seen of this hit; the rule's own function tells it, else the calls at its places are counted."""
    own: Callable[[Watched, Hit], Iterator[str]] | None = getattr(sys.modules[__name__], function_name(rule), None)
    said = tuple(own(watched, hit)) if own is not None else ()
    return said or tuple(counted(watched, hit))


def counted(watched: Watched, hit: Hit) -> Iterator[str]:
    """How often what happens at the hit's places happened."""
    told: set[tuple[str, int]] = set()
    for span in (hit.span, *(label.span for label in hit.labels)):
        where = (span.path, span.line)
        events = [e for e in watched.at(span) if e.action != "make"]
        if events and where not in told:
            told.add(where)
            calls = Counter(e.action for e in events)
            yield f"{span.path}:{span.line}: " + ", ".join(f"{action} {times(number)}" for action, number in calls.items())


# ---------------------------------------------------------------- words


def times(number: int) -> str:
    return "once" if number == 1 else "twice" if number == 2 else f"{number} times"


def figure(number: float) -> str:
    """A number in four digits."""
    return f"{number:.4g}"


def course(numbers: list[float], most: int = 6) -> str:
    """A row of numbers: one where all are equal, else the first few."""
    if not numbers:
        return "unknown"
    if all(n == numbers[0] for n in numbers):
        return f"{figure(numbers[0])} at every step" if len(numbers) > 1 else figure(numbers[0])
    shown = ", ".join(figure(n) for n in numbers[:most])
    return shown + (" ..." if len(numbers) > most else "")


def schedule_at(watched: Watched, hit: Hit) -> Thing | None:
    """The schedule a hit speaks of: made, or stepped, at one of its places."""
    places = {(s.path, s.line) for s in (hit.span, *(label.span for label in hit.labels))}
    schedules = watched.history.things("scheduler")
    made = (t for t in schedules if (t.made_at.path, t.made_at.line) in places)
    stepped = (e.thing for e in watched.at(hit.span, "step") if e.thing is not None and e.thing.kind == "scheduler")
    return next(made, None) or next(stepped, None)


def driven_by(watched: Watched, schedule: Thing | None) -> Thing | None:
    partners = watched.history.partners(schedule, "optimizer") if schedule is not None else []
    return partners[0] if partners else None


def steps_of(watched: Watched, thing: Thing | None) -> list[Event]:
    return watched.history.events(thing, "step") if thing is not None else []


def optimizer_steps(watched: Watched) -> int:
    return len([e for e in watched.history.events(None, "step") if e.thing is not None and e.thing.kind == "optimizer"])


# ---------------------------------------------------------------- schedulers


def scheduler_never_stepped(watched: Watched, hit: Hit) -> Iterator[str]:
    schedule = schedule_at(watched, hit)
    optimizer = driven_by(watched, schedule)
    number = len(steps_of(watched, optimizer)) or optimizer_steps(watched)
    yield f"{number} optimizer steps, {len(steps_of(watched, schedule))} steps of the schedule"
    yield f"learning rate {course(watched.rates(optimizer))}"


def scheduler_before_optimizer(watched: Watched, hit: Hit) -> Iterator[str]:
    schedule = schedule_at(watched, hit)
    optimizer = driven_by(watched, schedule)
    rates = watched.rates(optimizer)
    yield "the schedule was stepped before the first optimizer step"
    if rates:
        yield f"the first step was taken at {figure(rates[0])}"


def scheduler_wrong_cadence(watched: Watched, hit: Hit) -> Iterator[str]:
    schedule = schedule_at(watched, hit)
    optimizer = driven_by(watched, schedule)
    passes = len([row for row in watched.passes if row.get("grad") != "eval"])
    moves, updates = times(len(steps_of(watched, schedule))), len(steps_of(watched, optimizer))
    yield f"the schedule was stepped {moves} in {updates} optimizer steps and {passes} training passes"
    yield f"learning rate {course(watched.rates(optimizer))}"


horizon_ignores_accumulation = scheduler_wrong_cadence


def scheduler_on_replaced_optimizer(watched: Watched, hit: Hit) -> Iterator[str]:
    schedule = schedule_at(watched, hit)
    stepped = Counter(e.thing.id for e in watched.history.events(None, "step") if e.thing is not None and e.thing.kind == "optimizer")
    for ident in stepped:
        thing = watched.history.thing(ident)
        if thing is not None and thing is not driven_by(watched, schedule):
            yield f"the optimizer that is stepped ran at {course(watched.rates(thing))}"
    yield f"the schedule was stepped {times(len(steps_of(watched, schedule)))}"


def loss_passed_as_epoch(watched: Watched, hit: Hit) -> Iterator[str]:
    yield f"learning rate {course(watched.rates(driven_by(watched, schedule_at(watched, hit))))}"


# ---------------------------------------------------------------- mixed precision


def scaler_never_used(watched: Watched, hit: Hit) -> Iterator[str]:
    history = watched.history
    plain = [e for e in history.events(None, "backward") if e.arguments["loss"].scaled_by is None]
    yield f"{len(history.events(None, 'scale'))} losses scaled, {len(plain)} backward passes of unscaled ones"


def clip_before_unscale(watched: Watched, hit: Hit) -> Iterator[str]:
    for event in watched.at(hit.span, "clip")[:1]:
        norm = event.observations.get("norm")
        if isinstance(norm, (int, float)):
            yield f"the clip saw a norm of {figure(norm)}, gradients still multiplied by the scale"
    yield from counted(watched, hit)


def backward_in_autocast(watched: Watched, hit: Hit) -> Iterator[str]:
    inside = [e for e in watched.history.events(None, "backward") if e.inside("autocast") is not None]
    yield f"autocast was active in {len(inside)} of {len(watched.history.events(None, 'backward'))} backward passes"


# ---------------------------------------------------------------- the training step


def missing_zero_grad(watched: Watched, hit: Hit) -> Iterator[str]:
    stale = [row for row in watched.steps if row.get("stale")]
    if stale:
        which = watched.names(stale[0]["stale"])
        yield f"{len(stale)} of {len(watched.steps)} steps used gradients that the step before had used already: {which}"
    norms = [float(row["grad_norm"]) for row in watched.steps if isinstance(row.get("grad_norm"), (int, float))]
    if len(norms) > 1:
        yield f"gradient norm {course(norms)}"


def zero_grad_before_step(watched: Watched, hit: Hit) -> Iterator[str]:
    empty = [row for row in watched.steps if row.get("none") or not row.get("grad_norm")]
    yield f"{len(empty)} of {len(watched.steps)} steps found no gradient"


def accumulation_not_scaled(watched: Watched, hit: Hit) -> Iterator[str]:
    passes = len(watched.at(hit.span, "backward"))
    steps = optimizer_steps(watched)
    if steps:
        yield f"{passes} backward passes for {steps} steps, no loss divided"


def clip_after_step(watched: Watched, hit: Hit) -> Iterator[str]:
    for event in watched.at(hit.span, "clip")[:1]:
        grads = event.observations.get("grads")
        if grads is not None:
            yield f"the clip saw {grads} gradients, none of them to be used by a step"
    yield from counted(watched, hit)


def optimizer_before_parameters(watched: Watched, hit: Hit) -> Iterator[str]:
    left = list(watched.part.end.get("not_optimised") or ())
    if left:
        yield f"trainable and in no optimizer: {watched.names(left)}"
