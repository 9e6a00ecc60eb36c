"""Remedies of the topic mixed-precision: scale, unscale, step and update, each where its turn is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace

from mllint.checks.mixed_precision import from_nothing, optimizers_of, still_scaled, unscaled
from mllint.flow.anchors import (
    BRANCHES,
    WITHS,
    Code,
    Line,
    Named,
    Spot,
    calls_of,
    loop_at,
    name_at,
    names_assigned,
    names_read,
    seen_from,
    settle,
    simple,
    stepped_name,
    whole,
)
from mllint.flow.questions import backwards, called, innermost, reaches, shared_loop, touches, within
from mllint.model.finding import Span
from mllint.model.fix import Dedent, Delete, Edit, Fix, Insert, Move, Rewrite, Wrap
from mllint.model.history import Event, Frame, History, Thing
from mllint.remedies.autocast import autocast, forward_of
from mllint.remedies.placing import name_of

# -------------------------------------------------------------------- the scaler


def scaler_never_used(code: Code, history: History, scaler: Thing) -> Fix | None:
    """Every training loop that knows the scaler goes through it."""
    made = history.made(scaler)
    if made is None or any(t.kind in ("accelerator", "engine") for t in history.all_things):
        return None
    edits: dict[Edit, None] = {}
    steps: dict[Event, Named] = {}
    for backward in (b for b in backwards(history) if unscaled(b) and not history.exclusive(made, b) and not from_nothing(b)):
        name = name_of(code, backward, 0, scaler)
        if name is None:
            continue
        mine = steps_of(history, backward)
        found = scaled_pass(code, history, scaler, backward, mine, name)
        if found is None:
            return None
        edits |= dict.fromkeys(found)
        steps |= dict.fromkeys(mine, name)
    stepped = scaled_steps(code, steps)
    if not edits or stepped is None:
        return None
    return Fix(f"scale the loss with {called(scaler)}", "unsafe", (*edits, *stepped))


def steps_of(history: History, backward: Event) -> list[Event]:
    """The steps that use the gradients of the pass."""
    steps = [e for e in history.events(None, "step") if e.thing is not None and e.thing.kind == "optimizer" and e.via is None]
    return [
        e
        for e in steps
        if shared_loop(e, backward) is not None
        and e.thing is not None
        and reaches(history, backward, e.thing) is not False
        and not history.exclusive(e, backward)
    ]


def scaled_pass(
    code: Code, history: History, scaler: Thing, backward: Event, steps: list[Event], name: Named
) -> list[Edit] | None:
    """Autocast around the forward pass, the loss scaled, the gradients unscaled before they are clipped."""
    here, call, loop = code.alone(backward.span), code.call(backward.span), innermost(backward)
    forward = forward_of(code, history, backward, here) if here is not None else None
    if here is None or call is None or forward is None or loop is None or not steps or not isinstance(call.func, ast.Attribute):
        return None
    if call.func.attr != "backward" or any(e.action in ("grad-read", "grad-written", "autograd-grad") for e in history.lap(loop)):
        return None
    edits: list[Edit] = []
    if not forward.covered:
        header = autocast(code, scaler, name, here)
        if header is None:
            return None
        edits += [replace(e, span=forward.span) if isinstance(e, Wrap) else e for e in header]
    receiver, arguments = here.text_of(call.func.value), ", ".join(here.text_of(a) for a in (*call.args, *call.keywords))
    scaling = [f"{name.text}.scale({receiver}).backward({arguments})"]
    line, calls = here.lines[-1], calls_of(backward.place)
    for clip in (e for e in history.lap(loop) if e.action == "clip" and e.order > backward.order):
        step = next((s for s in steps if s.order > clip.order and touches_own(history, clip, s)), None)
        if step is None:
            continue
        span, optimizer = seen_from(clip, calls), stepped_name(code, step)
        before = code.plain(span) if span is not None else None
        if before is None or optimizer is None or len(scaling) > 1 or any(isinstance(e, Insert) for e in edits):
            return None
        if name.optional and before.lines[-1].block is line.block and before.lines[-1].index == line.index + 1:
            scaling.append(f"{name.text}.unscale_({optimizer})")
        else:
            edits.append(Insert(before.span_of(before.statement), "before", guarded(name, f"{name.text}.unscale_({optimizer})")))
    if name.optional:
        edits.append(Wrap(here.span_of(here.statement), guarded(name, *scaling) + "\nelse:"))
    else:
        edits.append(Rewrite(backward.span, f"{name.text}.scale($receiver).backward($arguments)"))
    return edits if all(calls_of(s.place) == calls for s in steps) else None


def touches_own(history: History, clip: Event, step: Event) -> bool:
    """The clip may be about gradients that the step uses."""
    return step.thing is not None and touches(history, clip, step.thing) is not False


def there(name: Named) -> str:
    return f"if {name.text} is not None:\n"


def guarded(name: Named, *lines: str) -> str:
    """The lines, only where there is a scaler."""
    return there(name) + "\n".join(f"    {line}" for line in lines) if name.optional else "\n".join(lines)


def scaled_steps(code: Code, steps: dict[Event, Named]) -> list[Edit] | None:
    """The steps made by the scaler, and one update behind the last of each loop."""
    last: dict[tuple[int, tuple], tuple[int, Event, Spot]] = {}
    blocks: dict[tuple[int, tuple], int] = {}
    for step in steps:
        spot, loop = code.alone(step.span), innermost(step)
        if spot is None or loop is None or step.arguments or stepped_name(code, step) is None or not isinstance(spot.statement, ast.Expr):
            return None
        line, key = spot.lines[-1], (id(spot.function), loop.key)
        if blocks.setdefault(key, id(line.block)) != id(line.block):
            return None
        if key not in last or last[key][0] < line.index:
            last[key] = (line.index, step, spot)
    edits: dict[Edit, None] = {}
    final = {step for _, step, _ in last.values()}
    for step, name in steps.items():
        spot, optimizer = code.alone(step.span), stepped_name(code, step)
        assert spot is not None
        place = spot.span_of(spot.statement)
        if name.optional:
            lines = [f"{name.text}.step({optimizer})", *([f"{name.text}.update()"] if step in final else [])]
            edits[Wrap(place, guarded(name, *lines) + "\nelse:")] = None
        else:
            edits[Rewrite(step.span, f"{name.text}.step($receiver)")] = None
            if step in final:
                edits[Insert(place, "after", f"{name.text}.update()")] = None
    return list(edits)


def scaler_incomplete(code: Code, history: History, scaler: Thing, missing: str, events: tuple[Event, ...]) -> Fix | None:
    if missing == "scale":
        (plain,) = events
        name, here = name_of(code, plain, 0, scaler), code.alone(plain.span)
        call = code.call(plain.span)
        if name is None or name.optional or here is None or call is None or not isinstance(call.func, ast.Attribute):
            return None
        edit = Rewrite(plain.span, f"{name.text}.scale($receiver).backward($arguments)")
        return Fix(f"scale this loss with {called(scaler)}, too", "unsafe", (edit,)) if call.func.attr == "backward" else None
    if missing == "update":
        return updated(code, scaler, list(events))
    return through_scaler(code, history, scaler, *events)


def updated(code: Code, scaler: Thing, steps: list[Event]) -> Fix | None:
    """An update behind the last step of the scaler in each turn."""
    last = steps[-1]
    call, here = code.call(last.span), code.plain(last.span)
    if call is None or here is None or not isinstance(call.func, ast.Attribute) or not simple(call.func.value):
        return None
    if any(calls_of(s.place) != calls_of(last.place) for s in steps):
        return None
    spots = [spot for s in steps if (spot := code.plain(s.span)) is not None]
    loop = innermost(last)
    line = settle(spots, (loop_at(here, loop) if loop is not None else None) or here.function, (*BRANCHES, *WITHS))
    if line is None or len(spots) != len(steps):
        return None
    edit = Insert(here.span_of(line.statement), "after", f"{here.text_of(call.func.value)}.update()")
    return Fix(f"update {called(scaler)} after its step", "safe", (edit,))


def through_scaler(code: Code, history: History, scaler: Thing, step: Event, backward: Event) -> Fix | None:
    """Let the scaler make a step that is made past it, and update after all steps."""
    name, here, loop = name_of(code, step, 0, scaler), code.alone(step.span), shared_loop(step, backward)
    optimizer = stepped_name(code, step)
    if name is None or here is None or loop is None or optimizer is None or step.arguments or not isinstance(here.statement, ast.Expr):
        return None
    place = here.span_of(here.statement)
    updates = [u for u in history.possible(scaler, "update") if within(u, loop)]
    lines = [f"{name.text}.step({optimizer})"]
    edits: list[Edit] = []
    if not updates:
        lines.append(f"{name.text}.update()")
    elif all(u.order < step.order for u in updates):
        moved = code.alone(updates[-1].span)
        if len(updates) != 1 or moved is None or moved.lines[-1].block is not here.lines[-1].block or name.optional:
            return None
        edits.append(Move(moved.span_of(moved.statement), place, "after"))
    if name.optional:
        edits.append(Wrap(place, guarded(name, *lines) + "\nelse:"))
    else:
        edits.append(Rewrite(step.span, f"{name.text}.step($receiver)"))
        edits += [Insert(place, "after", line) for line in lines[1:]]
    for clip in (e for e in history.lap(loop) if e.action == "clip" and backward.order < e.order < step.order):
        if not touches_own(history, clip, step):
            continue
        span = seen_from(clip, calls_of(step.place))
        before = code.plain(span) if span is not None else None
        if before is None or any(isinstance(e, Insert) and e.where == "before" for e in edits):
            return None
        edits.append(Insert(before.span_of(before.statement), "before", guarded(name, f"{name.text}.unscale_({optimizer})")))
    return Fix(f"step {called(step.thing)} through {called(scaler)}", "unsafe", tuple(edits))


# ------------------------------------------------------------------ unscaling


@dataclass(frozen=True, slots=True)
class Unscaling:
    """Where gradients have to be unscaled, and with which lines."""

    spot: Spot
    line: Line
    text: str


def clip_before_unscale(code: Code, history: History, clip: Event, backward: Event, scaler: Thing) -> Fix | None:
    first = next(e for e in history.events(None, "clip", "grad-read") if e is clip or between(history, backward, e, clip))
    step = next((e for e in history.later(first) if e.action == "step" and e.thing is scaler), None)
    if step is None or not history.implied(step, first) or step.order < first.order:
        return None
    optimizers = [t for i in sorted(optimizers_of(step)) if (t := history.thing(i)) is not None and touches(history, first, t) is not False]
    if len(optimizers) != 1:
        return None
    same = [u for u in history.events(scaler, "unscale_") if optimizers_of(u) & optimizers_of(step) or not optimizers_of(u)]
    late = [u for u in same if innermost(u) == innermost(step) and not history.exclusive(u, first)]
    if late:
        return sooner(code, first, late) if all(first.order < u.order < step.order for u in late) else None
    found = unscaling(code, history, first, step, scaler, optimizers[0])
    if found is None:
        return None
    edit = Insert(found.spot.span_of(found.line.statement), "before", found.text)
    return Fix(f"unscale the gradients of {called(optimizers[0])} first", "unsafe", (edit,))


def sooner(code: Code, clip: Event, unscales: list[Event]) -> Fix | None:
    """Move the unscaling that comes too late in front of the clip."""
    here, clipped = code.alone(unscales[0].span), code.plain(clip.span)
    if len(unscales) != 1 or here is None or clipped is None or here.lines[-1].block is not clipped.lines[-1].block:
        return None
    edit = Move(here.span_of(here.statement), clipped.span_of(clipped.statement), "before")
    return Fix("unscale the gradients first", "unsafe", (edit,))


def between(history: History, backward: Event, event: Event, clip: Event) -> bool:
    """An earlier clip or read sees the same scaled gradients."""
    return backward.order < event.order < clip.order and still_scaled(history, event) is backward and history.implied(event, clip)


def unscaling(code: Code, history: History, clip: Event, step: Event, scaler: Thing, optimizer: Thing) -> Unscaling | None:
    """In front of the clip, or of the call that leads to it, in the nearest function that knows the scaler and the optimizer."""
    around = {f.key for f in step.place if f.kind == "loop"}
    for level, reach in enumerate(clip.reach):
        if not around <= {f.key for f in clip.place[: reach.depth] if f.kind == "loop"}:
            return None
        name, other = name_of(code, clip, level, scaler), name_at(code, clip, level, optimizer)
        here = code.spot(reach.at)
        if name is None or other is None or other.optional or here is None:
            continue
        line = here.lines[-1]
        for frame in (f for f in clip.place[: reach.depth] if f.kind == "loop" and f.key not in around):
            inner = loop_at(here, frame)
            if inner is not None:  # a loop over parameters
                line = next(n for n in here.lines if n.statement is inner)
                break
        return Unscaling(here, line, guarded(name, f"{name.text}.unscale_({other.text})"))
    return None


def unscale_outside_boundary(
    code: Code, history: History, scaler: Thing, unscale: Event, step: Event | None, again: Event | None
) -> Fix | None:
    if again is not None:
        here = code.alone(again.span)
        if here is None or not history.implied(unscale, again) or not isinstance(here.statement, ast.Expr):
            return None
        return Fix("unscale only once", "unsafe", (Delete(here.span_of(here.statement)),))
    here, target = code.alone(unscale.span), code.alone(step.span) if step is not None else None
    if here is None or target is None or step is None or calls_of(unscale.place) != calls_of(step.place):
        return None
    line = whole(here)
    clips = [e for e in history.events(None, "clip") if unscale.order < e.order < step.order]
    spots = [spot for e in clips if (spot := code.spot(e.span)) is not None]
    clipping = {n.index for spot in spots for n in spot.lines if n.block is line.block}
    last = line.index
    while last + 1 in clipping:
        last += 1
    moved = line.block[line.index : last + 1]
    later = [s for s in spots if all(n.statement not in moved for n in s.lines)]
    if any(names_assigned(s) for s in moved) or any(s.lines[-1].block is not target.lines[-1].block for s in later):
        return None
    if later:  # what is clipped behind the boundary is unscaled there
        target = min(later, key=lambda s: s.lines[-1].index)
    ahead = next((n.index for n in target.lines if n.block is line.block), len(line.block))
    passing = {name for s in line.block[last + 1 : ahead] for name in names_assigned(s)}
    if any(passing & names_read(s) for s in moved) or ahead <= last:
        return None
    edit = Move(extent(here, moved), target.span_of(target.statement), "before")
    return Fix("unscale only where the optimizer is stepped", "unsafe", (edit,))


def extent(spot: Spot, statements: list[ast.stmt]) -> Span:
    """From the first statement to the last."""
    start, end = spot.span_of(statements[0]), spot.span_of(statements[-1])
    return Span(start.path, start.line, start.column, end.end_line, end.end_column, start.cell)


# -------------------------------------------------------------------- autocast


def backward_in_autocast(code: Code, history: History, frame: Frame, events: list[Event]) -> Fix | None:
    """Take the backward pass, and what follows up to the next forward pass, out of the region."""
    first = events[0]
    calls = calls_of(first.place)
    spot = code.spot(first.span)
    block = next((n for n in spot.around(ast.With) if opens(spot, n, frame)), None) if spot is not None else None
    if spot is None or not isinstance(block, ast.With):
        return None
    line = spot.below(block)[0]
    inside = list(direct(code, history, frame, calls, block))
    ahead = [index for index, event in inside if index >= line.index and (event.action == "forward" or computed(event, index, line))]
    if line.index == 0 or line.index in ahead:
        return None
    end = min(ahead, default=len(line.block)) - 1
    if any(index > end for index, event in inside if event in events and not ahead):
        return None
    edit = Dedent(extent(spot, line.block[line.index : end + 1]), reopen=bool(ahead))
    return Fix("go backward outside of autocast", "unsafe", (edit,))


def computed(event: Event, index: int, line: Line) -> bool:
    """A later pass whose loss is computed behind the first one, by whatever code."""
    if event.action != "backward" or index == line.index:
        return False
    tail = line.block[line.index : index + 1]
    calls = [n for s in tail for n in ast.walk(s) if isinstance(n, (ast.Assign, ast.AugAssign)) and isinstance(n.value, ast.Call)]
    given = {name for n in calls for name in names_assigned(n)}
    passes = (n for n in ast.walk(line.block[index]) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute))
    return any(n.func.attr == "backward" and given & names_read(n) for n in passes if isinstance(n.func, ast.Attribute))


def opens(spot: Spot, node: ast.stmt, frame: Frame) -> bool:
    return isinstance(node, ast.With) and len(node.items) == 1 and spot.span_of(node.items[0].context_expr) == frame.span


def direct(code: Code, history: History, frame: Frame, calls: tuple[Span, ...], block: ast.With) -> Iterator[tuple[int, Event]]:
    """What happens in the region, with the number of the statement of its block that leads to it."""
    for event in history.events(None, "forward", "backward", "step"):
        span = seen_from(event, calls) if frame in event.place else None
        spot = code.spot(span) if span is not None else None
        way = spot.below(block) if spot is not None else ()
        if way:
            yield way[0].index, event
