"""What a run shows of evaluation: the mode of the model, and whether graphs are built."""

from __future__ import annotations

from collections.abc import Iterator

from mllint.flow.questions import called, path
from mllint.model.finding import Hit
from mllint.model.history import Event
from mllint.runtime.observed.questions import evaluations, own
from mllint.runtime.watched import Watched


def eval_without_eval_mode(watched: Watched) -> Iterator[Hit]:
    for loop, forwards in evaluations(watched):
        for module in {e.thing.id: e.thing for e in forwards if e.thing is not None}.values():
            calls = [e for e in forwards if e.thing is module]
            busy = [e for e in calls if e.observations.get("sensitive_training")]
            if len(busy) == len(calls) and own(calls[0]) and not feeds_backward(watched, calls):
                number = busy[0].observations["sensitive_training"]
                layers = "layer" if number == 1 else "layers"
                yield Hit(
                    calls[0].span,
                    f"{called(module)} is evaluated in training mode, with {number} dropout or normalisation {layers} at work",
                    path((loop.span, "a pass without training"), (calls[0].span, "called here in training mode")),
                )


def eval_without_no_grad(watched: Watched) -> Iterator[Hit]:
    for loop, forwards in evaluations(watched):
        calls = [e for e in forwards if e.observations.get("grad") and e.observations.get("requires_grad_output")]
        if calls and len(calls) == len(forwards) and own(calls[0]) and not feeds_backward(watched, calls):
            yield Hit(
                calls[0].span,
                f"{called(calls[0].thing)} builds graphs in a pass that computes no gradients, which costs memory and time",
                path((loop.span, "a pass without training"), (calls[0].span, "called here with gradients on")),
            )


def feeds_backward(watched: Watched, calls: list[Event]) -> bool:
    """A backward pass follows the loop before anything else is begun: the loop may collect the loss for it."""
    for event in watched.history.events_in_order[calls[-1].order + 1 :]:
        if event.action == "backward":
            return True
        if event.action in ("iter", "forward", "step", "zero_grad"):
            return False
    return False


def train_mode_not_restored(watched: Watched) -> Iterator[Hit]:
    """A model that was in training mode goes on training in evaluation mode, after it was evaluated in it."""
    passes = watched.history.events(None, "backward")
    for module in watched.history.things("module"):
        calls = watched.history.events(module, "forward")
        inside = module.facts.get("parts", frozenset())
        switched: Event | None = None
        evaluated = False
        trains = any(e.arguments["mode"].constant for e in watched.history.events(module, "train") if "mode" in e.arguments)
        for number, call in enumerate(calls):
            end = calls[number + 1].order if number + 1 < len(calls) else len(watched.history.events_in_order)
            fed = any(call.order < b.order < end and b.arguments["loss"].sources & inside for b in passes)
            if call.observations.get("sensitive_training"):
                trains, evaluated = trains or fed, False
            elif not fed and not call.observations.get("training"):
                evaluated = True
            elif fed and trains and evaluated and left_in_evaluation(call):
                switched = next((e for e in reversed(watched.history.events(module, "eval")) if e.order < call.order), None)
                yield Hit(
                    call.span,
                    f"{called(module)} is trained in evaluation mode: nothing put it back after `eval()`",
                    path(
                        (switched.span if switched is not None else None, "put into evaluation mode here"),
                        (call.span, "trained here, still in it"),
                    ),
                )
                break


def left_in_evaluation(call: Event) -> bool:
    """The model was called in evaluation mode, and something in it depends on the mode."""
    return bool(call.observations.get("sensitive_eval")) and not call.observations.get("training") and own(call)
