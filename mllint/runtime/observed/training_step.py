"""What a run shows of the optimisation step: gradients used twice, steps without any, parameters that stay."""

from __future__ import annotations

from collections.abc import Iterator

from mllint.flow.questions import called, path
from mllint.model.finding import Hit
from mllint.runtime.observed.questions import forgotten, own
from mllint.runtime.watched import Watched

#: One such step may have a reason of its own.
TWICE = 2
#: A parameter that did not move in so many steps, with a gradient and a rate above zero, does not move.
STEPS_TO_MOVE = 3


def missing_zero_grad(watched: Watched) -> Iterator[Hit]:
    """Two steps in a row found gradient tensors that the step before had used and nothing had cleared."""
    for optimizer in watched.history.things("optimizer"):
        rows = [row for row in watched.steps if row.get("optimizer") == optimizer.id]
        steps = watched.history.events(optimizer, "step")
        stale = [bool(row.get("stale")) for row in rows]
        again = any(all(stale[n : n + TWICE]) for n in range(len(stale) - TWICE + 1))
        if again and steps and own(steps[0]):
            yield Hit(
                steps[0].span,
                f"the gradients of {called(optimizer)} are never cleared in this loop, so every step adds to all before it",
                path((optimizer.made_at, "created here"), (steps[0].span, "used here again")),
            )


def step_without_backward(watched: Watched) -> Iterator[Hit]:
    for optimizer in watched.history.things("optimizer"):
        steps = watched.history.events(optimizer, "step")
        rows = [row for row in watched.steps if row.get("optimizer") == optimizer.id]
        held = watched.part.things[optimizer.id].get("params") or ()
        empty = all(len(row.get("none") or ()) == len(held) and not row.get("skipped") for row in rows)
        passes = watched.history.events(None, "backward", "autograd-grad")
        if (passes and not forgotten(watched)) or len(rows) < TWICE or not held or not empty:
            continue
        if not any(n in e.arguments for e in steps for n in ("closure", "0")) and own(steps[0]):
            yield Hit(
                steps[0].span,
                f"{called(optimizer)} is stepped and no gradient was ever computed for it, so its parameters stay as they are",
                path((optimizer.made_at, "created here"), (steps[0].span, "stepped here")),
            )


def optimizer_before_parameters(watched: Watched) -> Iterator[Hit]:
    """A part put into a model after an optimizer took the parameters, that is trainable and in no optimizer at the end."""
    left = set(watched.part.end.get("not_optimised") or ())
    for row in watched.part.of("event"):
        arguments = row.get("arguments") or {}
        new = [p for p in arguments.get("params") or () if p in left] if row["action"] == "replaced" else []
        span = watched.span(row.get("site"))
        if new and span is not None:
            yield Hit(
                span,
                f"{watched.names(new)} came after the optimizer took the parameters, and no optimizer holds them",
                path((span, "replaced here")),
            )


def parameter_not_optimised(watched: Watched) -> Iterator[Hit]:
    """Trainable parameters that get gradients and are in no optimizer."""
    changes = [row for row in watched.part.of("event") if row["action"] == "replaced"]
    replaced = {p for row in changes for p in (row.get("arguments") or {}).get("params") or ()}
    left = [p for p in watched.part.end.get("not_optimised") or () if p not in replaced]  # optimizer-before-parameters says those
    steps = [e for e in watched.history.events(None, "step") if e.thing is not None and e.thing.kind == "optimizer"]
    if left and len(steps) >= TWICE:
        optimizer = steps[0].thing
        assert optimizer is not None
        yield Hit(
            optimizer.made_at,
            f"{watched.names(left)} got gradients in {len(steps)} steps and are in no optimizer",
            path((optimizer.made_at, "an optimizer of other parameters"), (steps[0].span, "stepped here")),
        )


def parameter_never_changes(watched: Watched) -> Iterator[Hit]:
    """Parameters with a gradient, a rate above zero, and the same values after every step."""
    for optimizer in watched.history.things("optimizer"):
        rows = [r for r in watched.steps if r.get("optimizer") == optimizer.id and not r.get("skipped") and all(r.get("lr") or [0])]
        if len(rows) < STEPS_TO_MOVE:
            continue
        stuck = set(rows[0].get("unchanged") or ()).intersection(*(row.get("unchanged") or () for row in rows))
        steps = watched.history.events(optimizer, "step")
        if stuck and steps and own(steps[0]):
            yield Hit(
                steps[0].span,
                f"{watched.names(sorted(stuck))} did not change in {len(rows)} steps of {called(optimizer)}, though there were gradients",
                path((optimizer.made_at, "created here"), (steps[0].span, "stepped here")),
            )


def parameter_without_gradient(watched: Watched) -> Iterator[Hit]:
    """Trainable parameters held by an optimizer that never got a gradient."""
    never = set(watched.part.end.get("never_gradient") or ())
    for optimizer in watched.history.things("optimizer"):
        held = set(watched.part.things[optimizer.id].get("params") or ())
        left, steps = sorted(held & never), watched.history.events(optimizer, "step")
        if left and len(left) < len(held) and len(steps) >= TWICE:
            yield Hit(
                optimizer.made_at,
                f"{watched.names(left)} of {called(optimizer)} never got a gradient in {len(steps)} steps",
                path((optimizer.made_at, "created here"), (steps[0].span, "stepped here")),
            )
