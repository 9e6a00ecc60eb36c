"""What a run shows of losses: what goes into them, what becomes of them, and which graphs stay."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator
from typing import Any

from mllint.flow.questions import called, path
from mllint.model.finding import Hit
from mllint.model.history import Event
from mllint.runtime.observed.questions import failed, forgotten, own
from mllint.runtime.watched import Watched

#: A value seen in one batch may be chance.
ENOUGH_BATCHES = 2
#: Graphs older than this many steps are kept by somebody, and so many of them are no constant few.
OLD, MANY = 2, 3


def softmax_before_cross_entropy(watched: Watched) -> Iterator[Hit]:
    def doubled(seen: dict[str, Any]) -> bool:
        maker = str(seen.get("maker"))
        return bool(seen.get("sums_to_one") and seen.get("nonnegative")) and "Softmax" in maker and "Log" not in maker

    for event in _repeated(watched, doubled, "cross_entropy"):
        yield Hit(event.span, "the input of `cross_entropy` is the output of a softmax, which the loss applies once more")


def sigmoid_before_bce_with_logits(watched: Watched) -> Iterator[Hit]:
    for event in _repeated(watched, lambda seen: "Sigmoid" in str(seen.get("maker")), "binary_cross_entropy_with_logits"):
        yield Hit(
            event.span, "the input of `binary_cross_entropy_with_logits` is the output of a sigmoid, which the loss applies once more"
        )


def probability_log(watched: Watched) -> Iterator[Hit]:
    for event in _repeated(watched, lambda seen: bool(seen.get("out_of_range")), "nll_loss"):
        yield Hit(event.span, "the input of `nll_loss` holds positive numbers, which no log-probability is")
    span = failed(watched, "between 0 and 1")
    if span is not None:
        yield Hit(span, "`binary_cross_entropy` is given numbers outside of 0 to 1, which no probability is")


def _repeated(watched: Watched, test: Callable[[dict[str, Any]], bool], function: str) -> Iterator[Event]:
    """The first loss of each place at which every one of several batches passes the test; the values of later ones are not read."""
    by_place: dict[Any, list[Event]] = {}
    for event in watched.history.events(None, "loss"):
        seen = event.observations  # a loss without a graph, of a validation pass, does not say where its input came from
        if event.arguments["function"].constant == function and "nonnegative" in seen and seen.get("requires_grad") and own(event):
            by_place.setdefault(event.span, []).append(event)
    for events in by_place.values():
        if len(events) >= ENOUGH_BATCHES and all(test(dict(e.observations)) for e in events):
            yield events[0]


def loss_term_unused(watched: Watched) -> Iterator[Hit]:
    """A loss computed beside those that go backward, under a name nothing reads."""
    used = {row["arguments"].get("loss_n") for row in watched.part.of("event") if row["action"] == "loss-used"}
    rows = {row["n"]: row for row in watched.part.of("event") if row["action"] == "loss"}
    busy = {row["site"] for n, row in rows.items() if n in used}
    trained = {f.key for e in watched.history.events(None, "backward") for f in e.loops()}
    seen: dict[Any, list[int]] = {}
    for event in watched.history.events(None, "loss"):
        row = rows[event.observations["n"]]
        if row["site"] in busy or not event.observations.get("requires_grad") or not own(event):
            continue
        loops = event.loops()
        step = watched.part.own_step(row["site"])
        if step is None or not loops or loops[-1].key not in trained or _read(watched, step):
            continue
        seen.setdefault(event.span, []).append(event.order)
        if len(seen[event.span]) == ENOUGH_BATCHES:
            name = watched.structure.bound_name(step)
            yield Hit(event.span, f"`{name}` is computed in every step and is no part of the loss that goes backward")


def _read(watched: Watched, step: Any) -> bool:
    """Something reads the name the loss is given, or it has none."""
    name = watched.structure.bound_name(step)
    function = watched.structure.function(step)
    if not name.isidentifier() or function is None:
        return True
    return any(isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load) for n in ast.walk(function))


def loss_graph_retained(watched: Watched) -> Iterator[Hit]:
    by_site: dict[int, list[tuple[int, list[int]]]] = {}
    for row in watched.part.of("retained"):
        by_site.setdefault(row["site"], []).append((row["n"], list(row["alive"])))
    for site, rows in by_site.items():
        ages = [_old(alive) for _, alive in rows]
        # What is kept for one epoch is let go of at its end: the growth before counts.
        last = len(ages) - 1
        grown = [n for n in range(OLD, len(ages)) if ages[n] >= MANY + (n < last) and ages[n] > ages[n - OLD]]
        span = watched.span(site)
        if grown and span is not None:
            kept = max(len(rows[n][1]) for n in grown)
            yield Hit(
                span, f"the graphs of {kept} steps are kept, one more with each step, because something holds on to a tensor computed here"
            )
            return


def _old(alive: list[int]) -> int:
    """How many graphs are of steps that are over long since."""
    return sum(step <= max(alive) - OLD for step in alive) if alive else 0


def gradient_cut(watched: Watched) -> Iterator[Hit]:
    """The way from the parameters to the loss is cut: backward says so, or no parameter of a module that ran gets a gradient."""
    span = failed(watched, "does not require grad")
    if span is not None:
        yield Hit(span, "the loss has no way back to a parameter, so `backward()` fails")
        return
    scaled = failed(watched, "No inf checks were recorded for this optimizer")
    nowhere = [e for e in watched.history.events(None, "backward") if not e.arguments["loss"].sources]
    if scaled is not None and nowhere and "unknown" not in nowhere[-1].arguments["loss"].tags:
        yield Hit(nowhere[-1].span, "`backward()` reaches no parameter, so the scaler's step finds no gradient and fails")
        return
    history = watched.history
    backwards = history.events(None, "backward")
    reached = frozenset[int]().union(*(e.arguments["loss"].sources for e in backwards))
    if not backwards or forgotten(watched) or any("unknown" in e.arguments["loss"].tags for e in backwards):
        return
    for optimizer in history.things("optimizer"):
        steps = history.events(optimizer, "step")
        held = optimizer.arguments["params"].sources
        empty = [row for row in watched.steps if row.get("optimizer") == optimizer.id and row.get("none") and not row.get("grad_norm")]
        if len(steps) >= ENOUGH_BATCHES and held and not held & reached and len(empty) == len(steps):
            yield Hit(
                steps[0].span,
                f"no backward pass reaches a parameter of {called(optimizer)}, so its steps change nothing",
                path((optimizer.made_at, "created here"), (backwards[0].span, "goes backward here"), (steps[0].span, "stepped here")),
            )


def loss_not_finite(watched: Watched) -> Iterator[Hit]:
    """A loss that is NaN or infinite goes backward; under a scaler the first two may, while it finds its scale."""
    scaled = 0
    for row in watched.part.of("event"):
        if row["action"] != "backward":
            continue
        loss = (row.get("arguments") or {}).get("loss") or {}
        value = loss.get("value")
        scaled += loss.get("scaled_by") is not None
        if isinstance(value, str) or (isinstance(value, float) and not math.isfinite(value)):
            span = watched.span(row["site"])
            if span is not None and (loss.get("scaled_by") is None or scaled > OLD or str(value).lower() == "nan"):
                yield Hit(span, f"the loss is {str(value).lower()} at `backward()`, so the gradients are worth nothing")
                return
