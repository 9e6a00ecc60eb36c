"""Detectors of the topic evaluation: is the model put into evaluation mode, without gradients, and back."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mllint.checks import each
from mllint.flow.questions import backwards, called, confidence, innermost, owned, parts, path, shared_loop, within
from mllint.model.finding import Hit
from mllint.model.history import Event, Frame, History, Thing

#: How people call passes that only measure: functions, and what is looped over.
MEASURING = re.compile(
    r"(?:^|_|\\b)(?:val|valid|validat\\w*|test\\w*|eval\\w*|dev|infer\\w*|predict\\w*)(?:_|\\b|$)|[a-z](?:Val|Valid|Test|Eval)\\w*"
)
#: Functions that run a model in training mode on purpose: statistics of batch norm, dropout as a sample.
ON_PURPOSE = re.compile(r"(?:^|_)(?:bn|batch_?norm|calibrat\w*|precise|mc|uncertain\w*|warm_?up|statistics|stats)(?:_|$)", re.IGNORECASE)
QUIET = ("no_grad", "inference_mode")


@each(History)
def eval_without_eval_mode(history: History) -> Iterator[Hit]:
    told: set[int] = set()
    for call, loop in evaluations(history):
        model = call.thing
        if model is None or model.id in told or model.facts.get("modal") is False or not (quiet(call) or measuring(call)):
            continue
        if ever(history, model, "eval") or purposely(history, model, call):
            continue
        trained = next(b for b in backwards(history) if trains(history, b, model))
        told.add(model.id)
        yield Hit(
            call.span,
            f"{called(model)} is evaluated in training mode: nothing calls `eval()` on it",
            path((loop.span, "a pass without training"), (call.span, "called here"), (trained.span, "trained here")),
            confidence=confidence(call) if model.facts.get("modal") else "medium",
        )


@each(History)
def eval_without_no_grad(history: History) -> Iterator[Hit]:
    told: set[tuple] = set()
    if history.events(None, "autograd-grad", "grad-mode"):
        return
    for call, loop in evaluations(history):
        model = call.thing
        if model is None or loop.key in told or quiet(call) or perhaps_quiet(call) or kept_for_backward(history, call, loop):
            continue
        if mode_before(history, model, call, None) != "eval" and not measuring(call):
            continue
        told.add(loop.key)
        yield Hit(
            call.span,
            f"{called(model)} builds graphs in a pass that computes no gradients, which costs memory and time",
            path((loop.span, "a pass without training"), (call.span, "called with gradients on")),
            confidence=confidence(call),
        )


@each(History)
def train_mode_not_restored(history: History) -> Iterator[Hit]:
    told: set[int] = set()
    for backward in backwards(history):
        for call in history.events(None, "forward"):
            model = call.thing
            if model is None or model.id in told or shared_loop(call, backward) is None or call.order > backward.order or quiet(call):
                continue
            if not trains(history, backward, model) or history.exclusive(call, backward) or model.facts.get("modal") is False:
                continue
            around = innermost(call)
            if around is None or not within(backward, around):
                continue
            switch = last_switch(history, model, call, backward)
            if switch is None or switch.action != "eval" or not switch.sure or not measured_after(history, model, switch):
                continue
            told.add(model.id)
            yield Hit(
                switch.span,
                f"{called(model)} is left in evaluation mode, and the training that follows goes on in it",
                path((switch.span, "put into evaluation mode here"), (call.span, "trained here, with no `train()` between")),
                confidence=confidence(switch, call),
            )


# ---------------------------------------------------------------- passes


def evaluations(history: History) -> Iterator[tuple[Event, Frame]]:
    """Calls of trained models in a loop over data in which nothing goes backward, with that loop."""
    passes = backwards(history)
    for call in history.events(None, "forward"):
        model, loop = call.thing, innermost(call)
        if model is None or model.kind != "module" or loop is None or model.lost is not None or model.managed is not None or not call.sure:
            continue
        trained = any(trains(history, b, model) for b in passes) and optimised(history, model)
        if trained and over_data(loop) and not any(within(b, loop) for b in passes):
            yield call, loop


def optimised(history: History, model: Thing) -> bool:
    """Some optimizer holds parameters of the model; where none is known to hold anything, it may."""
    held = [owned(history, t) for t in history.things("optimizer")]
    return not any(held) or any(not h or h & parts(history, {model.id}) for h in held)


def over_data(loop: Frame) -> bool:
    """The loop goes over a loader or another collection, and does not count."""
    return bool(loop.over) or (loop.size is not None and loop.size.key[:1] == ("len",))


def trains(history: History, backward: Event, model: Thing) -> bool:
    return bool(parts(history, {model.id}) & parts(history, backward.arguments["loss"].sources))


def quiet(call: Event) -> bool:
    """Gradients are switched off around the call."""
    modes = [f for f in call.place if f.kind == "with" and f.name in (*QUIET, "set_grad_enabled", "enable_grad")]
    return bool(modes) and (modes[-1].name in QUIET or modes[-1].facts.get("enabled") is False)


def perhaps_quiet(call: Event) -> bool:
    """The call stands in a region that is not known, or whose gradients are."""
    return any(f.kind == "with" and f.name in ("", "set_grad_enabled") for f in call.place)


def measuring(call: Event) -> bool:
    """A function around the call, or what is looped over, is named as one that measures."""
    return any(MEASURING.search(f.name if f.kind == "call" else f.text) for f in call.place if f.kind in ("call", "loop"))


def kept_for_backward(history: History, call: Event, loop: Frame) -> bool:
    """A backward pass follows the loop before another call of a model: it may use what the loop collected."""
    for event in history.later(call):
        if event.action == "backward":
            return True
        if event.action == "forward" and not within(event, loop) and event.thing is not None and event.thing.kind == "module":
            return False
    return False


# ---------------------------------------------------------------- modes


def sets_mode(history: History, event: Event, model: Thing) -> str | None:
    """The mode an event puts the model, or something it is part of, into: "train", "eval" or "unknown"."""
    thing = event.thing
    if thing is None or event.action not in ("train", "eval") or model.id not in parts(history, {thing.id}):
        return None
    given = next(iter(event.arguments.values()), None)
    if event.action == "eval" or given is None:
        return event.action
    return "unknown" if not given.is_constant else "train" if given.constant else "eval"


def ever(history: History, model: Thing, mode: str) -> bool:
    """Something puts the model, its owner or a part of it into this mode, or into one that is not known."""
    inside = parts(history, {model.id})
    for event in history.events(None, "train", "eval"):
        if event.thing is None:
            continue
        told = sets_mode(history, event, model) or (event.action if event.thing.id in inside else None)
        if told in (mode, "unknown"):
            return True
    return False


def mode_before(history: History, model: Thing, call: Event, backward: Event | None) -> str | None:
    switch = last_switch(history, model, call, backward)
    return None if switch is None else sets_mode(history, switch, model)


def last_switch(history: History, model: Thing, call: Event, backward: Event | None) -> Event | None:
    """The latest event before the call that sets the mode of the model, in a run that also comes to the backward pass."""
    for event in history.earlier(call):
        if sets_mode(history, event, model) and not (backward is not None and history.exclusive(event, backward)):
            return event
    return None


def purposely(history: History, model: Thing, call: Event) -> bool:
    """The function around the call puts the model into training mode itself, or says by its name that it wants it there."""
    around = [f for f in call.place if f.kind == "call"]
    if any(ON_PURPOSE.search(f.name) for f in around):
        return True
    return any([f for f in e.place if f.kind == "call"] == around for e in history.events(None, "train") if sets_mode(history, e, model))


def measured_after(history: History, model: Thing, switch: Event) -> bool:
    """The model is called in a pass of evaluation while it is in the mode the switch put it into."""
    return any(call.thing is model and last_switch(history, model, call, None) is switch for call, _ in evaluations(history))
