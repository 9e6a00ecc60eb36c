"""Detectors of the topic losses: does what goes into a loss fit it, and does the loss do what it is computed for."""

from __future__ import annotations

from collections.abc import Iterator

from mllint.checks import each
from mllint.flow.endings import SIGMOID, SOFTMAX
from mllint.flow.questions import called, confidence, path
from mllint.model.finding import Hit
from mllint.model.history import Event, History

# ------------------------------------------------------ what goes into a loss

CROSS_ENTROPY = ("torch.nn.CrossEntropyLoss", "torch.nn.functional.cross_entropy")
BCE_WITH_LOGITS = ("torch.nn.BCEWithLogitsLoss", "torch.nn.functional.binary_cross_entropy_with_logits")


@each(History)
def softmax_before_cross_entropy(history: History) -> Iterator[Hit]:
    yield from fed(history, CROSS_ENTROPY, SOFTMAX, "{} is the output of a softmax, and cross entropy applies softmax once more")


@each(History)
def sigmoid_before_bce_with_logits(history: History) -> Iterator[Hit]:
    yield from fed(history, BCE_WITH_LOGITS, SIGMOID, "{} is the output of a sigmoid, and this loss applies sigmoid once more")


def fed(history: History, losses: tuple[str, ...], ending: str, message: str) -> Iterator[Hit]:
    """The calls of these losses whose input was made by that operation last."""
    for call, name in loss_calls(history):
        if name not in losses or call.arguments["ending"].constant != ending:
            continue
        made = call.thing.made_at if call.thing is not None else None
        yield Hit(
            call.span,
            message.format(said(call, name)),
            path((made, "the loss is made here"), (call.span, "and called here")),
            confidence=confidence(call),
        )


def said(call: Event, name: str) -> str:
    """The input as a message names it: by the user's own name, else by that of the loss."""
    text = call.arguments["input"].text
    return f"`{text}`" if text else f"the input of {called(call.thing) if call.thing is not None else '`' + name.rpartition('.')[2] + '`'}"


def loss_calls(history: History) -> Iterator[tuple[Event, str]]:
    """The calls of losses whose input is known, with the name the library gives the loss."""
    for event in history.events(None, "forward", "loss"):
        if "ending" not in event.arguments:
            continue
        if event.action == "loss":
            yield event, str(event.arguments["function"].constant)
        elif event.thing is not None and "forward" not in event.thing.facts.get("overrides", ()):
            yield event, event.thing.type if "." in event.thing.type else next(iter(event.thing.bases), "")
