"""Detectors of the topic losses: does what goes into a loss fit it, and does the loss do what it is computed for."""

from __future__ import annotations

from collections.abc import Iterator

from mllint.checks import each
from mllint.flow.endings import LOG_SOFTMAX, SCORES, SIGMOID, SOFTMAX
from mllint.flow.questions import backwards, called, confidence, loss_of, path, shared_loop
from mllint.model.finding import Hit, Span
from mllint.model.history import Event, History

# ------------------------------------------------------ what goes into a loss

CROSS_ENTROPY = ("torch.nn.CrossEntropyLoss", "torch.nn.functional.cross_entropy")
NLL = ("torch.nn.NLLLoss", "torch.nn.NLLLoss2d", "torch.nn.functional.nll_loss")
BCE = ("torch.nn.BCELoss", "torch.nn.functional.binary_cross_entropy")
BCE_WITH_LOGITS = ("torch.nn.BCEWithLogitsLoss", "torch.nn.functional.binary_cross_entropy_with_logits")


@each(History)
def softmax_before_cross_entropy(history: History) -> Iterator[Hit]:
    yield from fed(history, CROSS_ENTROPY, SOFTMAX, "{} is the output of a softmax, and cross entropy applies softmax once more")


@each(History)
def sigmoid_before_bce_with_logits(history: History) -> Iterator[Hit]:
    yield from fed(history, BCE_WITH_LOGITS, SIGMOID, "{} is the output of a sigmoid, and this loss applies sigmoid once more")


@each(History)
def redundant_log_softmax(history: History) -> Iterator[Hit]:
    yield from fed(
        history, CROSS_ENTROPY, LOG_SOFTMAX, "{} went through log_softmax, which cross entropy does itself: the work is done twice"
    )


@each(History)
def probability_log(history: History) -> Iterator[Hit]:
    for ending, what in ((SOFTMAX, "a softmax"), (SIGMOID, "a sigmoid"), (SCORES, "a layer that gives scores")):
        yield from fed(history, NLL, ending, f"{{}} is the output of {what}, and this loss takes logarithms of probabilities")
    for ending, what in ((LOG_SOFTMAX, "log_softmax"), (SCORES, "a layer that gives scores")):
        yield from fed(history, BCE, ending, f"{{}} is the output of {what}, and this loss takes probabilities")


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


# ------------------------------------------------------ what becomes of a loss

#: Parts of a key through which a sum, a difference or a scaled loss carries its terms.
TERMS = frozenset(("+", "-", "*", "/", "neg", "scaled", "either"))
#: Methods that give the same loss again.
SAME_LOSS = frozenset(("mean", "sum", "squeeze", "view", "reshape", "float", "to", "cuda", "clone"))


@each(History)
def loss_graph_retained(history: History) -> Iterator[Hit]:
    told: set[Span] = set()
    passes = backwards(history)
    for kept in history.events(None, "kept"):
        if kept.span in told or quiet(kept):
            continue
        key, into = kept.arguments["value"].key, kept.arguments["into"]
        if into.key and any(holds(b.arguments["loss"].key, into.key) for b in passes):
            continue  # the sum itself goes backward
        for backward in passes:
            loop = shared_loop(kept, backward)
            if loop is None or not isinstance(number := loop.key[1], int) or number < kept.arguments["since"].constant:
                continue  # the place is made anew in every turn
            loss = backward.arguments["loss"].key
            if not (term(loss, key) or term(key, loss)) or history.exclusive(kept, backward):
                continue
            told.add(kept.span)
            name = f"`{into.text}`" if into.text else loss_of(history, backward)
            yield Hit(
                kept.span,
                f"{name} keeps the graph of every step alive, because the loss is added to it as a tensor and not as a number",
                path((loop.span, "in every turn"), (backward.span, "the loss goes backward here"), (kept.span, "and is kept here")),
                confidence=confidence(kept) if kept.sure else "medium",
            )
            break


def quiet(event: Event) -> bool:
    """Gradients are switched off around the event."""
    return event.inside("no_grad") is not None or event.inside("inference_mode") is not None


def term(key: tuple, part: tuple) -> bool:
    """The value is the part, or a sum or multiple of it and others."""
    if key == part:
        return True
    if key[:1] == ("call",) and isinstance(key[1], tuple) and key[1][:1] == ("attr",) and key[1][2] in SAME_LOSS:
        return term(key[1][1], part)
    return bool(key) and key[0] in TERMS and any(isinstance(k, tuple) and term(k, part) for k in key[1:])


def holds(key: tuple, part: tuple) -> bool:
    """The part occurs anywhere in the key."""
    return key == part or any(isinstance(k, tuple) and holds(k, part) for k in key)
