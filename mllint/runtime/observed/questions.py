"""Questions several of these detectors ask of a watched process."""

from __future__ import annotations

from collections.abc import Iterator

from mllint.model.finding import Span
from mllint.model.history import Event, Frame
from mllint.runtime.watched import Watched


def loader_loop(event: Event) -> Frame | None:
    """The innermost loop around the event that goes over a loader."""
    return next((f for f in reversed(event.loops()) if f.over), None)


def trained_loops(watched: Watched) -> frozenset[tuple]:
    """The loops in which, or in whose turns, gradients are computed."""
    return frozenset(f.key for e in watched.history.events(None, "backward") for f in e.loops())


def trained_modules(watched: Watched) -> frozenset[int]:
    """The root modules some backward pass reached."""
    history = watched.history
    reached = frozenset[int]().union(*(e.arguments["loss"].sources for e in history.events(None, "backward")))
    return frozenset(t.id for t in history.things("module") if t.facts.get("parts", frozenset()) & reached)


def evaluations(watched: Watched) -> Iterator[tuple[Frame, list[Event]]]:
    """Loops over a loader without a backward pass, with the forward passes of trained modules in each.

    Without a loader any loop of several calls with gradients switched off, or with the model switched to evaluation, is one.
    """
    busy, trained = trained_loops(watched), trained_modules(watched)
    found: dict[tuple, tuple[Frame, list[Event]]] = {}
    for event in watched.history.events(None, "forward"):
        loop = loader_loop(event)
        if loop is None and event.loops() and not (event.observations.get("grad") and event.observations.get("training")):
            loop = None if event.observations.get("grad") and fed(watched, event) else event.loops()[-1]
        if loop is not None and loop.key not in busy and event.thing is not None and event.thing.id in trained:
            found.setdefault(loop.key, (loop, []))[1].append(event)
    yield from found.values()


def failed(watched: Watched, message: str) -> Span | None:
    """The line of the project on which the run ended with an error that says this."""
    step = watched.part.failed_at()
    errors = watched.part.of("error")
    if step is None or not any(message in str(row.get("message")) for row in errors):
        return None
    return Span(step.file, step.line, 1, step.line, 1)


def fed(watched: Watched, call: Event) -> bool:
    """A backward pass uses this call of a module before the module is called again."""
    thing = call.thing
    assert thing is not None
    again = next((e.order for e in watched.history.events(thing, "forward") if e.order > call.order), None)
    inside = thing.facts.get("parts", frozenset())
    passes = (e for e in watched.history.events(None, "backward") if e.order > call.order and (again is None or e.order < again))
    return any(e.arguments["loss"].sources & inside for e in passes)


def own(event: Event) -> bool:
    """The place is in a file of the project."""
    return bool(event.span.path) and not event.span.path.startswith(("/", "<"))


def forgotten(watched: Watched) -> bool:
    """A loss with a way back to parameters is computed among the backward passes, at a place none of them ever used."""
    losses = [e.arguments["loss"] for e in watched.history.events(None, "backward")]
    if losses and not any(loss.sources or "unknown" in loss.tags for loss in losses):
        return False  # what goes backward reaches nothing, so that no loss can be told from those that go backward
    rows = watched.part.of("event")
    used = {row["arguments"].get("loss_n") for row in rows if row["action"] == "loss-used"}
    busy = {row["site"] for row in rows if row["n"] in used}
    trained = trained_loops(watched)
    for row in rows:
        if row["action"] == "loss" and row["site"] not in busy and (row.get("observed") or {}).get("requires_grad"):
            loops = [f for f in watched.place(row["site"]) if f.kind == "loop"]
            if loops and loops[-1].key in trained:
                return True
    return False
