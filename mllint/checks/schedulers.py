"""Detectors of the topic schedulers: is the schedule stepped, when, how often, with what, on which optimizer."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mllint.checks import each
from mllint.flow.questions import (
    boundary,
    by_process,
    called,
    confidence,
    counts,
    driven,
    every_turn,
    factors,
    in_training,
    innermost,
    number,
    parent,
    partner,
    path,
    period,
    rivals,
    shared_loop,
    within,
)
from mllint.model.finding import Hit
from mllint.model.fix import Fix, SetArgument, SetFormat
from mllint.model.history import Event, Frame, History, Thing, Value, counted, idle, steady

# ------------------------------------------------------------------ never stepped


@each(Thing, kind="scheduler")
def scheduler_never_stepped(scheduler: Thing, history: History) -> Iterator[Hit]:
    if parent(history, scheduler) is not scheduler or scheduler.lost is not None or scheduler.managed is not None:
        return
    optimizer = driven(history, scheduler)
    trained = in_training(history, optimizer)
    made = history.made(scheduler)
    if made is None or discarded(history, scheduler):
        return
    if trained is None and optimizer is not None and optimizer.managed is not None and not advances(history, scheduler):
        yield Hit(
            scheduler.made_at,
            f"{called(scheduler)} is never stepped: the framework is given {called(optimizer)} alone",
            path((scheduler.made_at, "created here"), (optimizer.managed, "the framework takes the optimizer, and not the schedule")),
            confidence=confidence(made),
        )
    if trained is None or history.exclusive(made, trained) or not goes_on(trained):
        return
    steps = advances(history, scheduler)
    other = instead(history, scheduler, optimizer) if not steps else None
    if other is not None:
        yield Hit(
            scheduler.made_at,
            f"{called(scheduler)} is never stepped, so the learning rate follows {called(other[0])} alone",
            path((scheduler.made_at, "created here"), (other[0].made_at, "another schedule"), (other[1].span, "only this one is stepped")),
            confidence="medium",
        )
    elif not steps:
        yield Hit(
            scheduler.made_at,
            f"{called(scheduler)} is never stepped, so the learning rate stays at its first value",
            path((scheduler.made_at, "created here"), (trained.span, f"{called(optimizer)} is stepped here, the schedule is not")),
            confidence=confidence(made, trained),
            clues=(history, scheduler),
        )
    elif all(any(by_process(a) for a in s.arms()) for s in steps) and not any(by_process(a) for a in trained.arms()):
        yield Hit(
            scheduler.made_at,
            f"{called(scheduler)} is stepped on one process only, so the others keep the first learning rate",
            path((scheduler.made_at, "created here"), (trained.span, "every process trains"), (steps[0].span, "stepped on one of them")),
            confidence="medium",
        )


def goes_on(trained: Event) -> bool:
    """The step is repeated, by a loop or by whoever calls the method: a single step needs no schedule."""
    return bool(trained.turns()) or any(f.key[:1] == ("entry",) for f in trained.place)


def advances(history: History, scheduler: Thing) -> list[Event]:
    """The calls that move the schedule, under the names its library gives them."""
    return history.possible(scheduler, *scheduler.facts.get("advances", ("step",)))


def instead(history: History, scheduler: Thing, optimizer: Thing | None) -> tuple[Thing, Event] | None:
    """Another schedule of the same optimizer that is stepped, with its step."""
    made = history.made(scheduler)
    for other in history.things("scheduler"):
        born = history.made(other)
        if other is scheduler or optimizer is None or (made is not None and born is not None and history.exclusive(made, born)):
            continue  # one or the other, by an option, are never both there
        if driven(history, other) is optimizer and (moves := advances(history, other)):
            return other, moves[0]
    return None


def discarded(history: History, scheduler: Thing) -> bool:
    """A twin made at the same place is stepped: it has taken this one's place, on the same optimizer or on one that is not stepped.

    The second is what scheduler-on-replaced-optimizer says.
    """
    for twin in history.siblings(scheduler):
        own = partner(history, twin)
        if advances(history, twin) and own is not None and (own is partner(history, scheduler) or not history.events(own, "step")):
            return True
    return False


# ------------------------------------------------------------------------- order


@each(Thing, kind="scheduler")
def scheduler_before_optimizer(scheduler: Thing, history: History) -> Iterator[Hit]:
    optimizer = driven(history, scheduler)
    if optimizer is None or optimizer.managed is not None or scheduler.facts.get("before") or counts_itself(scheduler):
        return
    for step in history.possible(scheduler, "step"):
        loop = innermost(step)
        if loop is None or step.arguments:
            continue
        updates = [u for u in history.possible(optimizer, "step") if within(u, loop) and not history.exclusive(u, step)]
        if not updates or updates[0].order < step.order or not opens(step, updates[0], loop):
            continue
        yield Hit(
            step.span,
            f"{called(scheduler)} is stepped before {called(optimizer)}, so the first value of the schedule is skipped",
            path((scheduler.made_at, "created here"), (step.span, "stepped here"), (updates[0].span, "the optimizer is stepped only here")),
            confidence=confidence(step, updates[0]) or (None if optimizer.lost is None else "medium"),
            clues=(history, scheduler, step, updates),
        )
        return


def counts_itself(scheduler: Thing) -> bool:
    """A class with a `step` of its own that never comes to the library's: which value it begins with is its own affair."""
    return "step" in scheduler.facts.get("overrides", ()) and "step" not in scheduler.facts.get("deferring", ())


def opens(step: Event, update: Event, loop: Frame) -> bool:
    """The step happens in the first turn in which the optimizer is stepped: no condition of its own lets that turn pass."""
    theirs = {(f.branch, f.polarity) for f in update.arms(loop)} | {(f.key, f.polarity) for f in update.arms(loop) if f.key}
    return all(
        steady(f) or idle(f) or (f.branch, f.polarity) in theirs or (f.key, f.polarity) in theirs or early(f) for f in step.arms(loop)
    )


def early(arm: Frame) -> bool:
    """The arm is taken in the first turns: a counter is below a bound."""
    return arm.polarity and arm.key[:1] in (("<",), ("<=",)) and counted(arm.key[1]) and not counted(arm.key[2])


# ----------------------------------------------------------------------- cadence


@each(Thing, kind="scheduler")
def scheduler_wrong_cadence(scheduler: Thing, history: History) -> Iterator[Hit]:
    driver = parent(history, scheduler)
    optimizer = driven(history, driver) or driven(history, scheduler)
    if optimizer is None or (driver is not scheduler and told_elsewhere(history, scheduler, driver, optimizer)):
        return
    for step in history.possible(driver, "step"):
        loop = innermost(step)
        updates = [u for u in history.possible(optimizer, "step") if loop is not None and within(u, loop)]
        if loop is None or not updates or step.arguments or made_anew(history, scheduler, loop):
            continue
        why = mismatch(history, scheduler, step, updates[0], loop)
        if why is not None:
            unit, sureness = why
            rhythm = "an epoch" if unit == "batches" else "a batch"
            yield Hit(
                step.span,
                f"{called(scheduler)} is counted in {unit} and stepped once {rhythm}, so the learning rate follows another curve",
                path((scheduler.made_at, f"counted in {unit} here"), (loop.span, "in each turn of this loop"), (step.span, "stepped here")),
                confidence=sureness or confidence(step, updates[0]),
                clues=(history, scheduler, driver, step, unit),
            )
            return
    yield from stepped_after_all(history, scheduler, driver, optimizer)


def stepped_after_all(history: History, scheduler: Thing, driver: Thing, optimizer: Thing) -> Iterator[Hit]:
    """A schedule counted in epochs whose only step stands behind the loop over them."""
    steps = history.possible(driver, "step")
    updates = [u for u in history.possible(optimizer, "step") if u.turns()]
    if len(steps) != 1 or not updates or steps[0].arguments or any(shared_loop(steps[0], u) or u.order > steps[0].order for u in updates):
        return
    around = updates[0].turns()
    loop = next((f for key in horizon(scheduler) for f in around if counted_in_epochs(history, key, around[-1], [f])), None)
    if loop is not None:
        yield Hit(
            steps[0].span,
            f"{called(scheduler)} is counted in epochs and stepped once behind all of them, so the learning rate never follows it",
            path((scheduler.made_at, "counted in epochs here"), (loop.span, "the epochs"), (steps[0].span, "stepped once, after them")),
            confidence=confidence(steps[0], updates[0]),
            clues=(history, scheduler, driver, steps[0], "epochs"),
        )


def told_elsewhere(history: History, child: Thing, driver: Thing, optimizer: Thing) -> bool:
    """An earlier child of the same parent has the same mismatch: one finding for the parent's one step."""
    older = [t for t in history.things("scheduler") if t.id < child.id and t is not driver and parent(history, t) is driver]
    return any(True for t in older for _ in scheduler_wrong_cadence(t, history))


def mismatch(history: History, scheduler: Thing, step: Event, update: Event, loop: Frame) -> tuple[str, str | None] | None:
    """The unit the schedule is counted in, where it is not the loop's; with a confidence where that rests on numbers."""
    turning = update.turns()
    own = next(n for n, f in enumerate(turning) if f.key == loop.key)
    inner, outer = turning[own + 1 :], [f for f in turning[:own] if not made_anew(history, scheduler, f)]
    for key in horizon(scheduler):
        if inner and any(batches(history, f, inner) for f in factors(key)[0]):
            return "batches", None
        if not inner and outer and every_turn_of(step, update, loop):
            if counted_in_epochs(history, key, loop, outer):
                return "epochs", None
            if small_beside(history, key, outer[-1]) and not scheduler.facts.get("warmup"):
                return "epochs", "medium"
    return None


def made_anew(history: History, scheduler: Thing, loop: Frame) -> bool:
    """A loop over trials or folds: each turn has a schedule of its own, so its turns are no epochs of one."""
    made = history.made(scheduler)
    return made is not None and any(f.key == loop.key for f in made.turns())


def every_turn_of(step: Event, update: Event, loop: Frame) -> bool:
    """The schedule moves whenever the optimizer does: no condition of its own picks one batch of the epoch."""
    theirs = {(f.key, f.polarity) for f in update.arms(loop)}
    return all((f.key, f.polarity) in theirs or (not counts(f) and f.key[:1] != ("branch",)) for f in step.arms(loop))


def horizon(scheduler: Thing) -> list[tuple]:
    """The keys of the numbers that say how long the schedule is, the whole before its parts."""
    keys = []
    for entry in (*scheduler.facts.get("horizon", ()), *scheduler.facts.get("period", ())):
        names = [entry] if isinstance(entry, str) else list(entry)
        values = [scheduler.arguments.get(n) for n in names]
        found = [v.key for v in values if v is not None and v.key != ("const", None)]
        if len(found) == len(names):
            keys.append(found[0] if len(found) == 1 else ("*", *found))
    return keys


def batches(history: History, factor: tuple, loops: list[Frame]) -> bool:
    """The factor is the number of batches these loops turn through, or the length of a loader or of its data."""
    if factor[:1] == ("const",):
        return False
    if any(loop.size is not None and factor in factors(loop.size.key)[0] for loop in loops):
        return True
    if factor[:1] != ("len",):
        return False
    loaders = history.things("loader")
    data = {t.arguments["dataset"].key for t in loaders if "dataset" in t.arguments}
    return factor[1] in data or any(factor[1] == ("thing", t.id) for t in loaders)


def counted_in_epochs(history: History, key: tuple, loop: Frame, outer: list[Frame]) -> bool:
    """The size is the bound of a loop around the batches, and nothing in it counts batches."""
    top, _ = factors(key)
    for epochs in outer:
        if epochs.size is None:
            continue
        bound = {f for f in factors(epochs.size.key)[0] if f[:1] != ("const",)}
        rest = [f for f in top if f not in bound]
        if bound and bound <= set(top) and all(f[:1] == ("const",) and (number(f) or 2) <= 1 for f in rest):
            return True
    return False


#: Nobody trains for more epochs: a larger number counts batches, and a larger bound stands for none.
MOST_EPOCHS = 20_000


def small_beside(history: History, key: tuple, epochs: Frame) -> bool:
    """A literal of at most the number of epochs: `step_size=30` in a run of 90."""
    last = key[-1] if key[:1] in (("list",), ("tuple",)) and len(key) > 1 else key
    size, bound = worth(history, last), None if epochs.size is None else worth(history, epochs.size.key)
    return size is not None and bound is not None and 1 < size <= min(bound, MOST_EPOCHS)


def worth(history: History, key: tuple) -> float | None:
    """The number a key stands for: a constant, or an option with what it is when nobody gives it."""
    top, bottom = factors(key)
    found = 1.0
    for factor in top:
        value = number(factor) if factor[:1] == ("const",) else history.defaults.get(factor)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return None
        found *= value ** top[factor]
    return None if bottom else found


# ------------------------------------------------------------------ accumulation


@each(Thing, kind="scheduler")
def horizon_ignores_accumulation(scheduler: Thing, history: History) -> Iterator[Hit]:
    driver = parent(history, scheduler)
    optimizer = driven(history, driver) or driven(history, scheduler)
    if optimizer is None:
        return
    for step in history.possible(driver, "step"):
        loop = innermost(step)
        updates = [u for u in history.possible(optimizer, "step") if loop is not None and innermost(u) == loop]
        arm = boundary(updates[0], loop) if loop is not None and updates else None
        if loop is None or arm is None or step.inside("accumulate") or not passes_outside(history, loop, arm):
            continue
        on_boundary = any(f.key == arm.key and f.polarity == arm.polarity for f in step.arms(loop))
        if not on_boundary and not every_turn(step, loop):
            continue
        wrong = next((k for k in horizon(scheduler) if sized_for_the_other(history, k, loop, arm, on_boundary)), None)
        if wrong is not None:
            counted, stepped = ("batches", "only when the optimizer is") if on_boundary else ("optimizer steps", "after every micro-batch")
            end = "is never finished" if on_boundary else "is over too early"
            yield Hit(
                scheduler.made_at,
                f"{called(scheduler)} is sized in {counted} and stepped {stepped}, so the schedule {end}",
                path((scheduler.made_at, f"counts {counted}"), (arm.span, "the accumulation boundary"), (step.span, "stepped here")),
                confidence=confidence(step, updates[0]),
                clues=(history, scheduler, step, loop, arm, on_boundary),
            )
            return


def passes_outside(history: History, loop: Frame, arm: Frame) -> bool:
    """Backward passes of the loop run in every turn, not only on the boundary."""
    return any(within(b, loop) and not any(f.key == arm.key for f in b.arms(loop)) for b in history.events(None, "backward"))


def sized_for_the_other(history: History, key: tuple, loop: Frame, arm: Frame, on_boundary: bool) -> bool:
    """A total in batches of a schedule stepped on boundaries, or a total in boundaries of one stepped with every batch."""
    top, bottom = factors(key)
    every = period(arm)
    if every is None or number(every) == 1 or not any(batches(history, f, [loop]) for f in top):
        return False  # of one batch each, the boundaries are as many as the batches
    loaders = history.things("loader")
    sizes = set() if loop.size is None else set(factors(loop.size.key)[1])
    sizes |= {t.arguments["batch_size"].key for t in loaders if "batch_size" in t.arguments} | {("len", ("thing", t.id)) for t in loaders}
    divisors = {d for d in bottom if d == every or d not in sizes}
    return not divisors if on_boundary else divisors == {every}


# -------------------------------------------------------------------- arguments


@each(Thing, kind="scheduler")
def plateau_without_metric(scheduler: Thing, history: History) -> Iterator[Hit]:
    if scheduler.facts.get("argument") != "metric" or "step" in scheduler.facts.get("overrides", ()):
        return
    steps = history.possible(scheduler, "step")
    for step in steps:
        if step.arguments or guarded(history, scheduler, step, steps):
            continue
        yield Hit(
            step.span,
            f"{called(scheduler)} waits for a metric and is stepped without one, which raises a TypeError",
            path((scheduler.made_at, "a plateau scheduler is created here"), (step.span, "stepped without a metric")),
            confidence=confidence(history.made(scheduler), step),
        )
        return


def guarded(history: History, scheduler: Thing, step: Event, steps: list[Event]) -> bool:
    """A condition we do not understand may keep this kind of scheduler away from this call."""
    made = history.made(scheduler)
    taken = {(f.key, f.polarity) for f in made.arms()} if made is not None else set()
    own = [f for f in step.arms() if (f.key, f.polarity) not in taken and f.key[:1] != ("one of",)]
    if any(f.name == "except" for f in own):
        return True
    if step.sure and (made is None or made.sure):
        return False
    if any(history.exclusive(step, s) and s.arguments for s in steps):
        return True
    return any(not counts(f) and f.key[-1:] != (("const", None),) for f in own)


@each(Thing, kind="scheduler")
def loss_passed_as_epoch(scheduler: Thing, history: History) -> Iterator[Hit]:
    if scheduler.facts.get("argument") not in ("epoch", "none") or "step" in scheduler.facts.get("overrides", ()):
        return
    steps = history.possible(scheduler, "step")
    for step in steps:
        value = next((step.arguments[n] for n in ("epoch", "none", "0") if n in step.arguments), None)
        if value is None or not measured(history, value) or guarded(history, scheduler, step, steps):
            continue
        given = f"`{value.text}`" if value.text else "a loss"
        yield Hit(
            step.span,
            f"{called(scheduler)} takes {given} for the number of the epoch, so the learning rate jumps with it",
            path((scheduler.made_at, "its step takes an epoch"), (step.span, "given a loss or metric here")),
            confidence=confidence(history.made(scheduler), step),
            clues=(history, scheduler, step),
        )
        return


def measured(history: History, value: Value) -> bool:
    """The value is what a model was measured by: computed from its outputs, not just handed back by unseen code it was given to."""
    modules = {t.id for t in history.things("module")}
    return bool(value.tags & {"metric", "loss"}) or (bool(value.sources & modules) and "unknown" not in value.tags)


# ---------------------------------------------------------------- the optimizer


@each(Thing, kind="scheduler")
def scheduler_on_replaced_optimizer(scheduler: Thing, history: History) -> Iterator[Hit]:
    optimizer = partner(history, scheduler)
    made = history.made(scheduler)
    if optimizer is None or made is None or optimizer.lost is not None or optimizer.managed is not None:
        return
    scheduled = {i for t in history.things("scheduler") for i in t.partners}
    for step in history.possible(parent(history, scheduler), "step"):
        for other in rivals(history, optimizer):
            born, update = history.made(other), living(history, other, step)
            if born is not None and update is None and other.id not in scheduled:
                update = next_turn(history, optimizer, made, other, born, step)
                if update is not None:
                    yield outlived(scheduler, optimizer, other, update, step, confidence(step, update, made, born))
                    return
            if born is None or update is None or (other.id in scheduled and other.made_at != optimizer.made_at):
                continue
            if (born.order > made.order or other.made_at == optimizer.made_at) and not alive(history, optimizer, step, update):
                yield Hit(
                    scheduler.made_at,
                    f"{called(scheduler)} drives an optimizer that has been replaced, so its steps change nothing",
                    path(
                        (optimizer.made_at, "the optimizer it was built on"),
                        (scheduler.made_at, "built here"),
                        (other.made_at, f"{called(other)} is made here"),
                        (update.span, "and this one is stepped"),
                        (step.span, "while the schedule moves the old one"),
                    ),
                    confidence=confidence(step, update, made, born),
                )
                return


def living(history: History, optimizer: Thing, step: Event) -> Event | None:
    """The optimizer's step in the loops of the schedule's step."""
    steps = history.possible(optimizer, "step")
    return next((u for u in steps if shared_loop(u, step) is not None and not history.exclusive(u, step)), None)


def next_turn(history: History, optimizer: Thing, made: Event, other: Thing, born: Event, step: Event) -> Event | None:
    """The optimizer's step, where another one takes its name at the end of a turn: in the next turn that one is stepped."""
    if other.name != optimizer.name or history.events(other, "step"):
        return None
    for update in history.possible(optimizer, "step"):
        loop = shared_loop(update, born)
        if loop is not None and born.order > update.order and within(step, loop) and not within(made, loop):
            return update
    return None


def outlived(scheduler: Thing, optimizer: Thing, other: Thing, update: Event, step: Event, sureness: str | None) -> Hit:
    return Hit(
        scheduler.made_at,
        f"{called(scheduler)} drives an optimizer that is replaced at the end of a turn, so its steps then change nothing",
        path(
            (optimizer.made_at, "the optimizer it was built on"),
            (scheduler.made_at, "built here"),
            (other.made_at, "its place is taken here"),
            (update.span, "the new one is stepped in the next turn"),
            (step.span, "while the schedule moves the old one"),
        ),
        confidence=sureness,
    )


def alive(history: History, optimizer: Thing, step: Event, update: Event) -> bool:
    """The optimizer is stepped beside the schedule, by a call of its own or by the same call in another pass."""
    both = {optimizer.id} | ({update.thing.id} if update.thing is not None else set())
    return any(
        shared_loop(u, step) is not None and (u.sure or u.span != update.span or any(both <= f.over for f in u.place))
        for u in history.possible(optimizer, "step")
    )


# ----------------------------------------------------------------------- display

#: Usual rates lie between 1e-6 and 1e-1; fewer decimals than these turn some of them into zero.
ENOUGH_DECIMALS = 6


@each(History)
def lr_display_precision(history: History) -> Iterator[Hit]:
    for event in history.events(None, "format"):
        value, spec = event.arguments.get("value"), event.arguments.get("spec")
        if value is None or spec is None or "lr" not in value.tags or value.key[:1] in (("*",), ("/",)):
            continue
        digits = decimals(str(spec.constant))
        if digits is not None and digits < ENOUGH_DECIMALS:
            shown = f"`{value.text}`" if value.text else "the learning rate"
            said = f"{shown} is shown with {digits} decimals (`{spec.constant}`), so a small one reads as zero"
            yield Hit(event.span, said, fix=_more_digits(event, str(spec.constant), shown))


def _more_digits(event: Event, spec: str, shown: str) -> Fix:
    """Scientific notation shows the rate whatever its size. A rounded one stays a number, which may be used: eight decimals."""
    if spec.startswith("round:"):
        return Fix(f"round {shown} to 8 decimals", "unsafe", (SetArgument(event.span, "ndigits", "8", position=1),))
    index = event.arguments["index"].constant if "index" in event.arguments else 0
    return Fix(f"show {shown} as `.3e`", "safe", (SetFormat(event.span, spec, ".3e", index),))


def decimals(spec: str) -> int | None:
    """How many decimals a format keeps: `.4f`, `%.4f`, `8.2%`, `round:4`; None for the scientific and general ones."""
    if spec.startswith("round:"):
        return int(spec[6:]) if spec[6:].isdigit() else None
    found = re.search(r"\.(\d+)([fF%])$", spec)
    return None if found is None else int(found[1]) + (2 if found[2] == "%" else 0)
