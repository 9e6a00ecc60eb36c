"""Detectors of the topic mixed-precision: is the loss scaled, all the way, and autocast kept to the forward pass."""

from __future__ import annotations

from collections.abc import Iterator

from mllint.checks import each
from mllint.flow.questions import (
    backwards,
    boundary,
    called,
    confidence,
    counts,
    gradients_of,
    innermost,
    loss_of,
    number,
    owned,
    parts,
    path,
    pending,
    period,
    reaches,
    same_arm,
    shared_loop,
    surely_reaches,
    touches,
    within,
)
from mllint.model.finding import Hit
from mllint.model.history import Event, Frame, History, Thing

# -------------------------------------------------------------------- the scaler


@each(Thing, kind="scaler")
def scaler_never_used(scaler: Thing, history: History) -> Iterator[Hit]:
    made = history.made(scaler)
    if made is None or off(scaler) or not history.never(scaler, "scale") or scaler.facts.get("whole"):
        return
    if any(history.events(twin, "scale") for twin in history.siblings(scaler)):
        return
    plain = next((b for b in backwards(history) if unscaled(b) and not history.exclusive(made, b) and not from_nothing(b)), None)
    if plain is not None:
        yield Hit(
            scaler.made_at,
            f"{called(scaler)} never scales a loss, so small float16 gradients vanish",
            path((scaler.made_at, "created here"), (plain.span, "the loss goes backward here, unscaled")),
            confidence=confidence(made, plain),
            clues=(history, scaler),
        )


@each(Thing, kind="scaler")
def scaler_incomplete(scaler: Thing, history: History) -> Iterator[Hit]:
    scaled = [b for b in backwards(history) if b.arguments["loss"].scaled_by == scaler.id]
    if not scaled or off(scaler):
        return
    direct = dict(direct_steps(history, scaler))
    for step, backward in direct.items():
        first = stepped_already(history, scaler, backward, step)
        if first is not None:
            yield Hit(
                step.span,
                f"{called(step.thing)} is stepped again behind {called(scaler)}, so the same gradients count twice",
                path((scaler.made_at, "the scaler"), (first.span, "stepped by the scaler here"), (step.span, "and here once more")),
                confidence=confidence(backward, step),
            )
            continue
        yield Hit(
            step.span,
            f"{called(step.thing)} is stepped without {called(scaler)}, with gradients that are still scaled",
            path((scaler.made_at, "the scaler"), (backward.span, "the loss is scaled here"), (step.span, "stepped directly")),
            confidence=confidence(backward, step),
            clues=(history, scaler, "step", (step, backward)),
        )
    mixed = next(mixed_passes(history, scaler), None)
    if mixed is not None:
        plain, backward, step = mixed
        yield Hit(
            plain.span,
            f"{loss_of(history, plain)} goes backward unscaled, into gradients {called(scaler)} divides by its scale, so it hardly counts",
            path((scaler.made_at, "the scaler"), (backward.span, "scaled here"), (plain.span, "not scaled"), (step.span, "divided here")),
            confidence=confidence(backward, plain, step),
            clues=(history, scaler, "scale", (plain,)),
        )
    if direct or scaler.lost is not None or scaler.managed is not None:
        return
    steps = history.possible(scaler, "step")
    if not steps and not history.possible(scaler, "unscale_"):
        yield Hit(
            scaled[0].span,
            f"{called(scaler)} scales the loss and never steps an optimizer, so nothing is learned",
            path((scaler.made_at, "the scaler"), (scaled[0].span, "scaled here")),
            confidence=confidence(scaled[0]),
        )
    elif steps and not history.possible(scaler, "update"):
        yield Hit(
            steps[0].span,
            f"{called(scaler)} is never updated, so its second step on the same optimizer fails or the scale never adapts",
            path((scaler.made_at, "the scaler"), (steps[0].span, "stepped here, no update follows")),
            confidence=confidence(steps[0]),
            clues=(history, scaler, "update", tuple(steps)),
        )


def direct_steps(history: History, scaler: Thing) -> Iterator[tuple[Event, Event]]:
    """Steps past the scaler with the scaled pass whose gradients they use; the first of each optimizer."""
    for optimizer in history.things("optimizer"):
        for step in history.possible(optimizer, "step"):
            if step.via is not None or any(touches(history, u, optimizer, "optimizer") for u in history.events(scaler, "unscale_")):
                continue
            backward = next((b for b in pending(history, step, optimizer) if b.arguments["loss"].scaled_by == scaler.id), None)
            if backward is None or not surely_reaches(history, backward, optimizer) or not history.together(backward, step):
                continue
            if not rewritten(history, backward, step):
                yield step, backward
                break


def stepped_already(history: History, scaler: Thing, backward: Event, step: Event) -> Event | None:
    """The step of the scaler between the pass and the direct step: it has divided the gradients back and used them."""
    steps = (s for s in history.events(step.thing, "step") if s.via == scaler.id and backward.order < s.order < step.order)
    return next((s for s in steps if history.implied(s, backward, step)), None)


def mixed_passes(history: History, scaler: Thing) -> Iterator[tuple[Event, Event, Event]]:
    """An unscaled pass that adds to gradients of a scaled one before the scaler steps with both."""
    if history.events(scaler, "get_scale"):
        return  # it may be scaled by hand
    for optimizer in history.things("optimizer"):
        for step in (s for s in history.possible(optimizer, "step") if s.via == scaler.id):
            passes = [b for b in pending(history, step, optimizer) if reaches(history, b, optimizer) and history.together(b, step)]
            scaled = next((b for b in passes if b.arguments["loss"].scaled_by == scaler.id), None)
            for plain in passes:
                if scaled is None or not unscaled(plain) or alone(history, plain):
                    continue
                divided = any(u.order < plain.order for u in history.events(scaler, "unscale_"))
                if history.together(plain, scaled) and not divided and not rewritten(history, plain, step):
                    yield plain, scaled, step


def alone(history: History, plain: Event) -> bool:
    """The same loss goes backward scaled elsewhere: two ways to do one thing, not two passes."""
    scaled = (b for b in backwards(history) if b.arguments["loss"].scaled_by is not None)
    return any(b.arguments["loss"].key[1:2] == (plain.arguments["loss"].key,) for b in scaled)


def rewritten(history: History, backward: Event, step: Event) -> bool:
    """Gradients are written by hand between the two: they may be divided back there."""
    for event in history.earlier(step):
        if event is backward:
            return False
        if event.action == "grad-written":
            return True
    return False


def off(scaler: Thing) -> bool:
    """Switched off for good: a constant says so."""
    enabled = scaler.arguments.get("enabled")
    return enabled is not None and enabled.is_constant and not enabled.constant


#: Beginnings of keys that are made of constants alone, when nothing else stands inside.
MADE_UP = ("const", "call", "ext", "+", "-", "*", "/", "**", "neg")


def from_nothing(backward: Event) -> bool:
    """The loss is a constant tensor: somebody tries the parts of a program out and trains nothing."""

    def made_up(key: object) -> bool:
        return not isinstance(key, tuple) or (bool(key) and key[0] in MADE_UP and all(made_up(part) for part in key[1:]))

    return not backward.arguments["loss"].sources and made_up(backward.arguments["loss"].key)


def unscaled(backward: Event) -> bool:
    return backward.via is None and backward.arguments["loss"].scaled_by is None


# ------------------------------------------------------------------ unscaling


@each(History)
def clip_before_unscale(history: History) -> Iterator[Hit]:
    for clip in history.events(None, "clip", "grad-read"):
        if clip.via is not None or "unscales" in clip.arguments["of"].tags or (clip.action == "grad-read" and not measures(clip)):
            continue
        block = clip.inside("scale_loss")
        if block is not None:
            yield from within_block(history, clip, block)
            continue
        backward = still_scaled(history, clip)
        if backward is None:
            continue
        scaler = history.thing(backward.arguments["loss"].scaled_by or -1)
        if scaler is None or out_of_sight(history, scaler) or off(scaler):
            continue
        if rescaled(history, clip, scaler, backward) or not stepped_after(history, scaler, clip):
            continue
        what, number = ("clipped", "threshold") if clip.action == "clip" else ("measured", "norm")
        yield Hit(
            clip.span,
            f"{gradients_of(history, clip)} are {what} while {called(scaler)} still scales them, so the {number} is off by the scale",
            path((scaler.made_at, "the scaler"), (backward.span, "the loss is scaled here"), (clip.span, f"{what} before unscale_")),
            confidence=confidence(backward, clip),
            clues=(history, clip, backward, scaler),
        )


def out_of_sight(history: History, scaler: Thing) -> bool:
    """Unseen code may unscale: the scaler was handed to some. One that came from outside, and is used here alone, is in sight."""
    return scaler.lost is not None and (history.made(scaler) is not None or bool(scaler.facts.get("handed")))


def within_block(history: History, clip: Event, block: Frame) -> Iterator[Hit]:
    """apex unscales where the block of `scale_loss` ends."""
    backward = next((b for b in backwards(history) if b.order < clip.order and b.inside("scale_loss") == block), None)
    if backward is not None:
        yield Hit(
            clip.span,
            f"{gradients_of(history, clip)} are clipped inside `scale_loss`, which unscales them only when it ends",
            path((block.span, "the loss is scaled here"), (backward.span, "goes backward here"), (clip.span, "clipped while still scaled")),
            confidence=confidence(backward, clip),
        )


def measures(read: Event) -> bool:
    """The gradients are read for a norm."""
    return "norm" in read.arguments["of"].tags


def still_scaled(history: History, clip: Event) -> Event | None:
    """The scaled pass whose gradients the clip sees, when nothing on this way unscales them first."""
    unscales: list[Event] = []
    for event in history.earlier(clip):
        if event.action == "unscale_" and unscales_them(history, event, clip):
            unscales.append(event)
        elif event.action == "step" and event.thing is not None and event.thing.kind == "optimizer" and touches(history, clip, event.thing):
            if history.implied(event, clip):
                return None
        elif event.action == "backward" and about(history, event, clip):
            if event.arguments["loss"].scaled_by is None and event.via is None and not history.implied(event, clip):
                continue  # the clip also happens without this pass
            if event.arguments["loss"].scaled_by is None or not history.together(event, clip):
                return None
            return None if any(history.implied(u, event, clip) for u in unscales) else event
    return None


def unscales_them(history: History, unscale: Event, clip: Event) -> bool:
    """The optimizer that is unscaled holds the clipped parameters, as far as is known."""
    optimizers = [t for i in optimizers_of(unscale) if (t := history.thing(i)) is not None and t.kind == "optimizer"]
    return not optimizers or any(touches(history, clip, o) is not False for o in optimizers)


def about(history: History, backward: Event, clip: Event) -> bool:
    """The pass reaches the clipped parameters; where either hides its modules, an only optimizer decides."""
    loss, of = backward.arguments["loss"].sources, clip.arguments["of"].sources
    held = frozenset(i for i in of if (t := history.thing(i)) is not None and t.kind == "module")
    held |= frozenset(m for i in of if (t := history.thing(i)) is not None and t.kind == "optimizer" for m in owned(history, t))
    if loss and held:
        return bool(parts(history, loss) & parts(history, held))
    return len(history.things("optimizer")) == 1


def rescaled(history: History, clip: Event, scaler: Thing, backward: Event) -> bool:
    """The threshold or the gradients are brought to the scaler's own scale."""
    if any("scale" in v.tags or scaler.id in v.sources for v in clip.arguments.values()):
        return True
    between = [e for e in history.events(scaler, "get_scale") if backward.order < e.order < clip.order or shared_call(e, clip)]
    return bool(between) or rewritten(history, backward, clip)


def shared_call(a: Event, b: Event) -> bool:
    """Both stand in the same call of a function of the project."""
    return bool(calls_around(a)) and calls_around(a) == calls_around(b)


def stepped_after(history: History, scaler: Thing, clip: Event) -> bool:
    """The scaler steps with these gradients afterwards."""
    for event in history.later(clip):
        if event.action == "step" and event.thing is scaler:
            return True
        if event.action in ("zero_grad", "backward") and event.place == clip.place:
            return False
    return False


@each(Thing, kind="scaler")
def unscale_outside_boundary(scaler: Thing, history: History) -> Iterator[Hit]:
    unscales = history.possible(scaler, "unscale_")
    for unscale in unscales:
        loop = innermost(unscale)
        if off(scaler) or scaler.lost is not None or loop is None:
            continue
        step, arm = missed_boundary(history, scaler, unscale, loop)
        if step is not None:
            where = "the accumulation boundary" if arm is not None else "the loop over micro-batches"
            yield Hit(
                unscale.span,
                f"{called(scaler)} unscales on every micro-batch and is updated only behind {where}, so the second unscale_ fails",
                path((scaler.made_at, "the scaler"), (unscale.span, "unscaled here"), (step.span, "stepped here")),
                confidence=confidence(unscale, step),
                clues=(history, scaler, unscale, step, None),
            )
            return
        again = next((u for u in unscales if u.order > unscale.order and repeated(history, scaler, unscale, u)), None)
        if again is not None:
            yield Hit(
                again.span,
                f"{called(scaler)} unscales the same optimizer twice before update(), which raises a RuntimeError",
                path((scaler.made_at, "the scaler"), (unscale.span, "unscaled here first"), (again.span, "and here again")),
                confidence=confidence(unscale, again),
                clues=(history, scaler, unscale, None, again),
            )
            return


def missed_boundary(history: History, scaler: Thing, unscale: Event, loop: Frame) -> tuple[Event | None, Frame | None]:
    """The step of the same optimizer that happens less often than the unscaling, and the arm that says so."""
    steps = [s for s in history.possible(scaler, "step") if optimizers_of(s) & optimizers_of(unscale) or not optimizers_of(unscale)]
    updates = history.possible(scaler, "update")
    for step in steps:
        if history.exclusive(step, unscale):
            continue
        if not within(step, loop):
            around = shared_loop(step, unscale)
            if around is not None and not any(within(u, loop) for u in updates):
                return step, None
            continue
        arm = boundary(step, loop)
        if arm is None or number(period(arm) or ()) == 1 or same_arm(unscale, arm) or any(counts(f) for f in unscale.arms(loop)):
            continue
        if not any(within(u, loop) and not any(f.key == arm.key for f in u.arms(loop)) for u in updates):
            return step, arm
    return None, None


def optimizers_of(event: Event) -> frozenset[int]:
    return event.arguments["optimizer"].sources if "optimizer" in event.arguments else frozenset()


def repeated(history: History, scaler: Thing, first: Event, second: Event) -> bool:
    """Both unscale one optimizer, in one pass, with no update between."""
    if not optimizers_of(first) or innermost(first) != innermost(second) or not (first.sure and second.sure):
        return False
    if first.arguments["optimizer"].key != second.arguments["optimizer"].key:
        return False  # two optimizers that came out of one object
    makings = [m for i in optimizers_of(first) if (t := history.thing(i)) is not None and (m := history.made(t)) is not None]
    if len(optimizers_of(first)) > 1 or any(not within(first, loop) for m in makings for loop in m.loops()):
        return False  # one of several, made in a loop or held in one list
    if history.exclusive(first, second) or not (history.implied(first, second) or history.implied(second, first)):
        return False
    return not any(first.order < u.order < second.order for u in history.events(scaler, "update"))


# -------------------------------------------------------------------- autocast


def region(event: Event, way: Event | None = None) -> Frame | None:
    """The autocast region around the event that decides, unless it is switched off: always, or on the way of another event."""
    frame = event.inside("autocast")
    if frame is None or frame.facts.get("enabled") is False:
        return None
    key = frame.facts.get("enabled_key")
    arms = (*event.arms(), *(way.arms() if way is not None else ()))
    return None if key is not None and any(f.key == key and not f.polarity for f in arms) else frame


@each(History)
def backward_in_autocast(history: History) -> Iterator[Hit]:
    regions: dict[Frame, list[Event]] = {}
    for event in history.events(None, "backward", "step"):
        frame = region(event)
        if frame is not None and (event.action == "backward" or (event.thing is not None and event.thing.kind == "optimizer")):
            regions.setdefault(frame, []).append(event)
    for frame, events in regions.items():
        first = events[0]
        what = f"{loss_of(history, first)} goes backward" if first.action == "backward" else f"{called(first.thing)} is stepped"
        yield Hit(
            first.span,
            f"{what} inside autocast, which is meant for the forward pass alone",
            path((frame.span, "autocast begins here"), *((e.span, "still inside") for e in events)),
            confidence=None if first.sure and frame.facts.get("enabled") else "medium",
            clues=(history, frame, events),
        )


#: Losses are scaled by numbers in the hundreds or more; weights and temperatures stay below.
SMALLEST_SCALE = 128


@each(History)
def fp16_without_scaler(history: History) -> Iterator[Hit]:
    scalers = [t for t in history.things("scaler") if not off(t)]
    said: set[Frame] = set()
    for backward in backwards(history):
        if not unscaled(backward) or any(t.kind in ("accelerator", "engine") for t in history.all_things):
            continue
        forward = next((f for f in forwards(history, backward) if in_half(f, backward)), None)
        frame = region(forward, backward) if forward is not None else None
        step = used_by(history, backward)
        if frame is None or frame in said or step is None or rewritten(history, backward, step) or multiplied(backward):
            continue
        if any(not frame.facts.get("enabled") or (m := history.made(t)) is None or not history.exclusive(m, backward) for t in scalers):
            continue  # there is a scaler; where it is not used, scaler-never-used says so
        said.add(frame)
        yield Hit(
            backward.span,
            f"{loss_of(history, backward)}, computed under float16 autocast, goes backward unscaled, so small gradients become zero",
            path((frame.span, "float16 autocast"), (backward.span, "no scaler scales this loss"), (step.span, "its gradients are used")),
            confidence=confidence(forward, backward) or certainty(frame),
        )


def certainty(frame: Frame) -> str | None:
    """Medium where the region may be off, or is of this dtype on one kind of device only."""
    return None if frame.facts.get("enabled") and "dtype_where" not in frame.facts else "medium"


def forwards(history: History, backward: Event) -> Iterator[Event]:
    """The calls of modules the loss was computed from, nearest first."""
    sources = parts(history, backward.arguments["loss"].sources)
    calls = [e for e in history.events(None, "forward") if e.order < backward.order and not history.exclusive(e, backward)]
    found = [e for e in calls if e.thing is not None and parts(history, {e.thing.id}) & sources]
    loop = innermost(backward)
    yield from reversed([e for e in found if loop is None or within(e, loop)] or found)


def in_half(forward: Event, backward: Event) -> bool:
    frame = region(forward, backward)
    return frame is not None and frame.facts.get("dtype") == "float16" and not without_gradients(forward)


def without_gradients(event: Event) -> bool:
    return event.inside("no_grad") is not None or event.inside("inference_mode") is not None


def used_by(history: History, backward: Event) -> Event | None:
    """The optimizer step that uses the gradients of the pass."""
    for optimizer in history.things("optimizer"):
        if surely_reaches(history, backward, optimizer):
            step = next((s for s in history.possible(optimizer, "step") if s.via is None and history.together(s, backward)), None)
            if step is not None:
                return step
    return None


def multiplied(backward: Event) -> bool:
    """The loss is multiplied by a number of the size of a scale; weights and temperatures are no scales."""
    return any(big(factor) for factor in backward.arguments["loss"].key[1:]) if backward.arguments["loss"].key[:1] == ("*",) else False


def big(factor: tuple) -> bool:
    if factor[:1] == ("*",):
        return any(big(f) for f in factor[1:])
    return factor[:1] == ("const",) and isinstance(factor[1], (int, float)) and factor[1] >= SMALLEST_SCALE


@each(History)
def scaler_without_autocast(history: History) -> Iterator[Hit]:
    said: set[int] = set()
    if any(t.kind in ("accelerator", "engine") for t in history.all_things):
        return
    for backward in backwards(history):
        loss = backward.arguments["loss"]
        scaler = history.thing(loss.scaled_by) if loss.scaled_by is not None else None
        if scaler is None or scaler.id in said or off(scaler) or not loss.sources or halved(history, loss.sources):
            continue
        calls = list(forwards(history, backward))
        if not calls or any(maybe_cast(c) for c in calls) or casts_between(history, calls[0], backward):
            continue
        said.add(scaler.id)
        yield Hit(
            backward.span,
            f"{called(scaler)} scales a loss that was computed without autocast, in float32, so the scaling is for nothing",
            path((scaler.made_at, "the scaler"), (calls[0].span, "called without autocast"), (backward.span, "scaled here")),
            confidence=confidence(calls[0], backward),
        )


def halved(history: History, modules: frozenset[int]) -> bool:
    """The weights are, or may be, of half precision: converted, or loaded with a dtype."""
    for ident in parts(history, modules):
        thing = history.thing(ident)
        if thing is None:
            continue
        if thing.facts.get("half") or any("dtype" in name or name == "**" for name in thing.arguments):
            return True
        if any(e.action in ("half", "bfloat16", "type") or (e.action == "to" and casts(e)) for e in history.events(thing)):
            return True
    return False


def casts(event: Event) -> bool:
    """`model.to(dtype)`: an argument that is no device."""
    dtypes = (v for v in event.arguments.values() if v.key[:1] == ("ext",) and v.key[1].startswith("torch."))
    return any("half" in v.tags or "dtype" in n for n, v in event.arguments.items()) or any(True for _ in dtypes)


def maybe_cast(call: Event) -> bool:
    """The call runs, or may run, under autocast: in a region, or in a context that is not known."""
    return any(f.kind == "with" and (f.name in ("autocast", "") and f.facts.get("enabled") is not False) for f in call.place)


def casts_between(history: History, call: Event, backward: Event) -> bool:
    """A region was entered on the way to this loss: in the module's own forward, in a function called for the loss.

    A region beside the call that was seen in the same turn holds something else.
    """
    loop = innermost(backward)
    beside = loop is None or within(call, loop)
    for event in history.earlier(backward):
        if event.order > backward.order or event.action == "backward" or (loop is not None and not within(event, loop)):
            return False
        if region(event) is not None and not without_gradients(event) and not (beside and calls_around(event) == calls_around(backward)):
            return True
    return False


def calls_around(event: Event) -> list[Frame]:
    return [f for f in event.place if f.kind == "call"]


# ------------------------------------------------------------------ checkpoints


@each(Thing, kind="scaler")
def scaler_state_not_saved(scaler: Thing, history: History) -> Iterator[Hit]:
    if off(scaler) or not history.events(scaler, "scale") or not history.never(scaler, "state_dict"):
        return
    for optimizer in history.things("optimizer"):
        if not any(step.via == scaler.id for step in history.events(optimizer, "step")):
            continue  # another loop's optimizer
        saved, resumed = history.possible(optimizer, "state_dict"), history.possible(optimizer, "load_state_dict")
        if saved and resumed:
            yield Hit(
                saved[0].span,
                f"the checkpoint holds {called(optimizer)} and not {called(scaler)}, so a resumed run starts again with the first scale",
                path((scaler.made_at, "the scaler"), (saved[0].span, "saved here"), (resumed[0].span, "resumed here")),
                confidence=confidence(saved[0]),
            )
            return
