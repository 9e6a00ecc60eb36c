"""Remedies of the topic training-step: clear, backward, clip, step, each where its turn is."""

from __future__ import annotations

import ast

from mllint.checks.training_step import surely_about
from mllint.flow.anchors import (
    BRANCHES,
    FUNCTIONS,
    WITHS,
    Code,
    Line,
    Spot,
    calls_of,
    divisor,
    loop_at,
    name_at,
    names_assigned,
    names_read,
    only_guarded,
    seen_from,
    settle,
    simple,
    stepped_name,
    whole,
)
from mllint.flow.questions import CLEARING, backwards, boundary, called, clears, innermost, loss_of, reaches, shared_loop, within
from mllint.model.fix import Delete, Edit, Fix, Insert, Move, Rewrite
from mllint.model.history import Event, Frame, History, Thing
from mllint.remedies.placing import behind_scaler

# ------------------------------------------------------------------- clearing


def missing_zero_grad(code: Code, history: History, optimizer: Thing, backward: Event, step: Event, loop: Frame) -> Fix | None:
    opened = opening(code, history, optimizer, backward, step, loop)
    if opened is not None:
        spot, line, name = opened
        edit = Insert(spot.span_of(line.statement), "before", f"{name}.zero_grad()")
        return Fix(f"clear the gradients of {called(optimizer)} before the backward pass", "unsafe", (edit,))
    behind, text = code.plain(step.span), stepped_name(code, step)
    if behind is None or text is None or leaks(history, optimizer, step, loop):
        return None
    last = behind_scaler(behind.lines[-1])
    edit = Insert(behind.span_of(last.statement), "after", f"{text}.zero_grad()")
    return Fix(f"clear the gradients of {called(optimizer)} after its step", "unsafe", (edit,))


def passes_of(history: History, optimizer: Thing, step: Event, loop: Frame) -> list[Event]:
    """The backward passes of one turn that are meant for this step: those behind the last step of another optimizer."""
    lap = [e for e in history.lap(loop) if e.order < step.order and not history.exclusive(e, step)]
    steps = (e for e in lap if e.action == "step" and e.thing is not None and e.thing.kind == "optimizer")
    since = max((e.order for e in steps if e.thing is not optimizer), default=-1)
    return [e for e in lap if e.action == "backward" and e.order > since and reaches(history, e, optimizer) is not False]


def leaks(history: History, optimizer: Thing, step: Event, loop: Frame) -> bool:
    """Other passes of the turn leave gradients in the optimizer's parameters behind its step."""
    meant = {e.order for e in passes_of(history, optimizer, step, loop)}
    around = (e for e in backwards(history) if within(e, loop) and reaches(history, e, optimizer) is not False)
    return any(e.order not in meant and not history.exclusive(e, step) for e in around)


def opening(
    code: Code, history: History, optimizer: Thing, backward: Event, step: Event, loop: Frame
) -> tuple[Spot, Line, str] | None:
    """The statement with the first pass of a step that uses one turn's passes alone, and how the optimizer is named there."""
    if not within(step, loop) or boundary(step, loop) is not None or innermost(backward) != innermost(step):
        return None
    if step.inside("accumulate") is not None:
        return None  # an accelerator skips steps, and clears in front of a pass what was to be added up
    passes = passes_of(history, optimizer, step, loop)
    for level, reach in enumerate(step.reach):
        calls = calls_of(step.place[: reach.depth])
        spans = [seen_from(e, calls) for e in passes]
        known = [span for span in spans if span is not None]
        if not known or len(known) != len(passes):
            continue
        if any(span == step.span for span in known):
            return in_closure(code, passes, optimizer)
        here = code.plain(reach.at)
        text = stepped_name(code, step) if level == 0 else None
        if text is None and (name := name_at(code, step, level, optimizer)) is not None and not name.optional:
            text = name.text
        if here is None or text is None:
            return None
        spots = [spot for span in known if (spot := code.plain(span)) is not None]
        line = settle(spots, loop_at(here, loop) or here.function, (*BRANCHES, *WITHS), first=True) if len(spots) == len(known) else None
        if line is None or ahead(line, here) is None:
            return None
        return here, line, text
    return None


def ahead(line: Line, spot: Spot) -> int | None:
    """The statement stands in a block around the place, in front of it."""
    return next((n.index for n in spot.lines if n.block is line.block and n.index > line.index), None)


def in_closure(code: Code, passes: list[Event], optimizer: Thing) -> tuple[Spot, Line, str] | None:
    """The pass of a function that the step calls, where the function knows the optimizer."""
    spot = code.plain(passes[0].span) if len(passes) == 1 else None
    name = name_at(code, passes[0], 0, optimizer) if spot is not None else None
    if spot is None or name is None or name.optional or not isinstance(spot.function, FUNCTIONS):
        return None
    return spot, spot.lines[-1], name.text


def zero_grad_before_step(code: Code, history: History, optimizer: Thing, clear: Event, backward: Event, step: Event) -> Fix | None:
    here, loop = code.alone(clear.span), innermost(step)
    if here is None or loop is None:
        return None
    cleared = called(optimizer)
    again = (e for e in history.lap(loop) if e.action in CLEARING and e.span != clear.span and history.implied(e, step))
    if any(clears(history, e, optimizer) and not backward.order < e.order < step.order for e in again):
        return Fix(f"clear the gradients of {cleared} only once", "unsafe", (Delete(here.span_of(whole(here).statement)),))
    if calls_of(clear.place) != calls_of(step.place):
        return None
    moved = here.span_of(here.statement)
    opened = opening(code, history, optimizer, backward, step, loop)
    if opened is not None and opened[0].function is here.function:
        anchor = opened[0].span_of(opened[1].statement)
        return Fix(f"clear the gradients of {cleared} before the backward pass", "unsafe", (Move(moved, anchor, "before"),))
    behind = code.plain(step.span)
    if behind is None or behind.function is not here.function or leaks(history, optimizer, step, loop):
        return None
    anchor = behind.span_of(behind_scaler(behind.lines[-1]).statement)
    return Fix(f"clear the gradients of {cleared} after its step", "unsafe", (Move(moved, anchor, "after"),))


# ------------------------------------------------------------------- clipping


def clip_after_step(code: Code, history: History, clip: Event, backward: Event) -> Fix | None:
    here = code.plain(clip.span)
    step = next((e for e in history.later(backward) if e.action == "step" and uses(history, clip, e)), None)
    target = code.plain(step.span) if step is not None else None
    if here is None or step is None or target is None or step.order < backward.order or calls_of(clip.place) != calls_of(step.place):
        return None
    beside = [e for e in history.events(step.thing, "step") if calls_of(e.place) == calls_of(step.place)]
    steps = [s for e in beside if (s := code.plain(e.span)) is not None]
    loop = innermost(step)
    owner = (loop_at(target, loop) if loop is not None else None) or target.function
    line = settle([s for s in steps if s.below(owner)], owner, (*BRANCHES, *WITHS), first=True)
    moved = around_clip(here, target)
    if line is None or not movable(here, moved, target, line):
        return None
    anchor = target.span_of(line.statement)
    edits: list[Edit] = []
    scaler = history.thing(step.via) if step.via is not None else None
    if scaler is not None and backward.arguments["loss"].scaled_by == scaler.id and not unscaled_between(history, scaler, backward, step):
        call, optimizer = code.call(step.span), stepped_name(code, step)
        if history.events(scaler, "unscale_") or call is None or optimizer is None or not isinstance(call.func, ast.Attribute):
            return None
        if not simple(call.func.value):
            return None
        edits.append(Insert(anchor, "before", f"{target.text_of(call.func.value)}.unscale_({optimizer})"))
    edits.append(Move(here.span_of(moved.statement), anchor, "before"))
    return Fix("clip between the backward pass and the step", "unsafe", tuple(edits))


def unscaled_between(history: History, scaler: Thing, backward: Event, step: Event) -> bool:
    return any(backward.order < u.order < step.order for u in history.events(scaler, "unscale_"))


def uses(history: History, clip: Event, step: Event) -> bool:
    return step.thing is not None and step.thing.kind == "optimizer" and surely_about(history, clip, step.thing)


def around_clip(here: Spot, target: Spot) -> Line:
    """The clip with the tests and the loop over parameters that are there for it alone."""
    line = here.lines[-1]
    for outer in reversed(here.lines[:-1]):
        loop = isinstance(line.owner, ast.For) and len(line.block) == 1 and not line.owner.orelse
        if not (only_guarded(line) or loop) or any(n.statement is outer.statement for n in target.lines):
            break
        line = outer
    return line


def movable(here: Spot, moved: Line, target: Spot, line: Line) -> bool:
    """Nothing on the way gives the statement its values, and nothing else waits for what it computes."""
    if here.function is not target.function:
        return False
    if moved.block is line.block:
        first, last = sorted((moved.index, line.index))
        between = {name for s in moved.block[first:last] if s is not moved.statement for name in names_assigned(s)}
        return not between & names_read(moved.statement)
    return not names_assigned(moved.statement)


# --------------------------------------------------------------- accumulation


def accumulation_not_scaled(code: Code, history: History, backward: Event, where: Frame) -> Fix | None:
    here, call, around = code.plain(backward.span), code.call(backward.span), code.spot(where.span)
    if here is None or call is None or around is None or not isinstance(call.func, ast.Attribute) or call.func.attr != "backward":
        return None
    if where.kind == "arm":
        node = divisor(around.statement.test) if isinstance(around.statement, ast.If) else None
        number = None if node is None else around.text_of(node)
    else:
        number = turns_of(around, where)
    if number is None or not known_in(here, around, number):
        return None
    if beside(history, backward):
        return None
    receiver = call.func.value
    if isinstance(receiver, ast.Call) and isinstance(receiver.func, ast.Attribute) and receiver.func.attr == "scale":
        edit = Rewrite(here.span_of(receiver), f"$function($0 / {number})")
    else:
        edit = Rewrite(backward.span, f"($receiver / {number}).backward($arguments)")
    return Fix(f"divide {loss_of(history, backward)} by `{number}`", "unsafe", (edit,))


def beside(history: History, backward: Event) -> bool:
    """Another loop of the same turn adds up passes of the same model undivided: what compares the two sums must find them alike."""
    loss, around = backward.arguments["loss"], {f.key for f in backward.turns()}
    for other in backwards(history):
        theirs = other.arguments["loss"]
        apart = shared_loop(other, backward) is not None and other.turns()[-1].key not in around
        if apart and theirs.sources & loss.sources and not theirs.divided_by:
            return True
    return False


def turns_of(spot: Spot, frame: Frame) -> str | None:
    """How often the loop turns, as an expression of its own words: the bound of a range, the length of what was cut in pieces."""
    loop = loop_at(spot, frame)
    if not isinstance(loop, (ast.For, ast.AsyncFor)):
        return None
    match loop.iter:
        case ast.Call(func=ast.Name(id="range"), args=[bound]) if simple(bound):
            return spot.text_of(bound)
        case ast.Call(func=ast.Name(id="range"), args=[ast.Call(func=ast.Name(id="len"), args=[ast.Name(id=name)])]):
            return f"len({name})"
        case ast.Call(func=ast.Name(id="enumerate" | "zip"), args=[ast.Name(id=name), *_]) | ast.Name(id=name):
            return f"len({name})" if in_pieces(spot, name) else None
    return None


def in_pieces(spot: Spot, name: str) -> bool:
    """The function gives the name a tuple or list, once: pieces of a tensor, a list that is written out."""
    stores = [n for n in ast.walk(spot.function) if isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Store)]
    given = [n for n in ast.walk(spot.function) if isinstance(n, ast.Assign) and stores and stores[0] in n.targets]
    if len(given) != 1 or len(stores) != 1:
        return False
    match given[0].value:
        case ast.List() | ast.Tuple() | ast.ListComp() | ast.Call(func=ast.Name(id="list" | "tuple")):
            return True
        case ast.Call(func=ast.Attribute(attr="split" | "chunk" | "tensor_split" | "unbind")):
            return True
    return False


def known_in(here: Spot, around: Spot, text: str) -> bool:
    """What is written at one place means the same at the other: one function, or attributes of one self."""
    if here.function is around.function:
        return True
    one, other = here.function, around.function
    if not (isinstance(one, FUNCTIONS) and isinstance(other, FUNCTIONS) and here.cls is not None and here.cls is around.cls):
        return False
    return bool(one.args.args and other.args.args) and one.args.args[0].arg == other.args.args[0].arg == text.partition(".")[0] != text
