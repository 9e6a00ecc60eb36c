"""Remedies of the topic schedulers: step it where its kind belongs, with what it takes, as often as it is counted."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from mllint.checks.schedulers import batches, counted_in_epochs, horizon, sized_for_the_other, worth
from mllint.flow.anchors import (
    Code,
    Line,
    Spot,
    calls_of,
    divisor,
    imported,
    loop_at,
    names_assigned,
    names_read,
    only_guarded,
    seen_from,
    whole,
)
from mllint.flow.questions import called, driven, factors, parent
from mllint.model.fix import AddImport, Delete, DropArgument, Edit, Fix, Move, Replace, Wrap
from mllint.model.history import Event, Frame, History, Thing
from mllint.remedies.metric import words
from mllint.remedies.placing import Placement, behind_epochs, behind_scaler, behind_updates, epochs_and_batches

#: Words in the name of a size that say what it counts.
BATCHES = frozenset(("step", "steps", "iter", "iters", "iteration", "iterations", "update", "updates", "batches"))
EPOCHS = frozenset(("epoch", "epochs", "ep", "eps"))
#: Loops over these hold whole trainings.
REPEATS = frozenset(("fold", "seed", "trial", "run", "rep", "repeat", "repetition", "task", "experiment"))
#: A larger number is no count of epochs.
MOST_EPOCHS = 1000


def scheduler_never_stepped(code: Code, history: History, scheduler: Thing) -> Fix | None:
    optimizer, made = driven(history, scheduler), history.made(scheduler)
    if optimizer is None or not steppable(scheduler) or made is None:
        return None
    for other in history.things("scheduler"):
        rival = other is not scheduler and parent(history, other) is other and driven(history, other) is optimizer
        if rival and (born := history.made(other)) is not None and not history.exclusive(born, made):
            return None  # which of the two is meant is not for us to say
    updates = [u for u in history.possible(optimizer, "step") if not history.exclusive(made, u)]
    rhythms = {rhythm(code, history, scheduler, u) for u in updates if u.turns()}
    if len(rhythms) != 1:
        return None
    if (unit := rhythms.pop()) == "batch":
        placed, when = behind_updates(code, history, scheduler, updates), "the optimizer's step"
    elif unit == "epoch":
        placed, when = behind_epochs(code, history, scheduler, [u for u in updates if u.turns()]), "each epoch"
    else:
        return None
    if not placed:
        return None
    return Fix(f"step {called(scheduler)} after {when}", "unsafe", tuple(p.insert for p in placed))


def steppable(scheduler: Thing) -> bool:
    """Its step is torch's: called without arguments, or with a metric."""
    facts = scheduler.facts
    if facts.get("advances") or facts.get("before") or overridden(scheduler):
        return False
    return facts.get("argument") in ("epoch", "none", "metric")


def overridden(scheduler: Thing) -> bool:
    return "step" in scheduler.facts.get("overrides", ())


# ----------------------------------------------------------------------- rhythm


def rhythm(code: Code, history: History, scheduler: Thing, update: Event) -> str | None:
    """How often the schedule is meant to be stepped, "batch" or "epoch"; None where its size does not tell and its kind neither."""
    loops = epochs_and_batches(history, scheduler, update)
    told = {unit for t in (scheduler, *children(history, scheduler)) for unit in told_by_size(history, t, loops)}
    told |= told_by_function(code, scheduler)
    if not told:
        kind = scheduler.facts.get("cadence")
        told = {"batch"} if kind == "batch" else {"epoch"} if kind == "epoch" or by_convention(history, scheduler, loops) else set()
    if told == {"batch"}:
        return "batch"
    if told != {"epoch"} or not loops:
        return None
    return "epoch" if goes_over_epochs(code, history, scheduler, update, loops) else None


def children(history: History, scheduler: Thing) -> list[Thing]:
    return [t for t in history.things("scheduler") if t is not scheduler and parent(history, t) is scheduler]


def told_by_size(history: History, scheduler: Thing, loops: list[Frame]) -> Iterator[str]:
    """What the numbers that say how long the schedule is are counted in."""
    for key in horizon(scheduler):
        top = factors(key)[0]
        if any(f[:1] == ("len",) or (len(loops) > 1 and batches(history, f, loops[1:])) for f in top):
            yield "batch"
        elif len(loops) > 1 and counted_in_epochs(history, key, loops[-1], loops[:1]):
            yield "epoch"
        else:
            names = {w for f in top for w in said(f)}
            if names & BATCHES:
                yield "batch"
            elif names & EPOCHS:
                yield "epoch"


def said(key: Any) -> frozenset[str]:
    """The words of the name a value is known by: the attribute, parameter or item it comes from."""
    match key:
        case ("attr", _, str(name)) | ("parameter", _, str(name)) | ("default", _, str(name)) | ("varies", str(name), _):
            return words(name)
        case ("index", _, ("const", str(name))):
            return words(name)
    return frozenset()


def told_by_function(code: Code, scheduler: Thing) -> set[str]:
    """`lambda epoch: ...`: the parameter of the function that gives the rate says what is counted."""
    if "lr_lambda" not in scheduler.arguments:
        return set()
    call, spot = code.call(scheduler.made_at), code.spot(scheduler.made_at)
    if call is None or spot is None:
        return {"batch", "epoch"}
    given = next((k.value for k in call.keywords if k.arg == "lr_lambda"), call.args[1] if len(call.args) > 1 else None)
    function: ast.AST | None = given
    if isinstance(given, ast.Name):
        defined = (n for n in ast.walk(spot.file.tree) if isinstance(n, ast.FunctionDef) and n.name == given.id)
        function = next(defined, None)
    if isinstance(function, (ast.Lambda, ast.FunctionDef)) and function.args.args:
        name = words(function.args.args[0].arg)
        return {"batch"} if name & BATCHES else {"epoch"} if name & EPOCHS else {"batch", "epoch"}
    return {"batch", "epoch"}  # nobody says, and both are usual


def by_convention(history: History, scheduler: Thing, loops: list[Frame]) -> bool:
    """Nothing speaks against an epoch, after which torch's own examples step these: the numbers are none of batches."""
    bound = worth(history, loops[0].size.key) if loops and loops[0].size is not None else None
    for key in horizon(scheduler):
        last = key[-1] if key[:1] in (("list",), ("tuple",)) and len(key) > 1 else key
        size = worth(history, last) if isinstance(last, tuple) else None
        if size is not None and size > (MOST_EPOCHS if bound is None else bound):
            return False
    return True


def goes_over_epochs(code: Code, history: History, scheduler: Thing, update: Event, loops: list[Frame]) -> bool:
    """The outermost loop is one over epochs, and not over folds or, where it is the only one, over batches."""
    if any(counted_in_epochs(history, key, loops[-1], loops[:1]) for key in horizon(scheduler)):
        return True
    loop = next((n for r in update.reach if (s := code.spot(r.at)) is not None and (n := loop_at(s, loops[0])) is not None), None)
    if loop is None:
        return False
    head = loop.target if isinstance(loop, (ast.For, ast.AsyncFor)) else loop.test if isinstance(loop, ast.While) else loop
    names = frozenset(w for n in ast.walk(head) for w in words(getattr(n, "id", "") or getattr(n, "attr", "")))
    if names & EPOCHS:
        return True
    if names & REPEATS or len(loops) > 2 or isinstance(loop, ast.While):
        return False
    if len(loops) == 2:
        return True
    ranges = {n.id for n in ast.walk(loop.iter) if isinstance(n, ast.Name)} if isinstance(loop, (ast.For, ast.AsyncFor)) else set()
    return bool(ranges & {"range", "trange"}) and "len" not in ranges


# ------------------------------------------------------------------------ order


def scheduler_before_optimizer(code: Code, history: History, scheduler: Thing, step: Event, updates: list[Event]) -> Fix | None:
    here, calls = code.alone(step.span), calls_of(step.place)
    if here is None:
        return None
    spots = [code.spot(span) for u in updates if (span := seen_from(u, calls)) is not None]
    known = [s for s in spots if s is not None]
    if not known or len(known) != len(updates):
        return None
    for line in reversed(here.lines):
        ends = [n.index for s in known for n in s.lines if n.block is line.block]
        if len(ends) == len(known) and min(ends) > line.index:
            last = behind_readers(behind_scaler(Line(line.owner, line.block, max(ends))))
            edit = Move(here.span_of(line.statement), here.span_of(last.statement), "after")
            return Fix(f"step {written(code, here, step) or called(scheduler)} after the optimizer", "unsafe", (edit,))
        if not only_guarded(line):
            return None
    return None


#: Names under which the current rate is read.
READERS = frozenset(("param_groups", "get_last_lr", "get_lr"))


def behind_readers(line: Line) -> Line:
    """The last of the statements straight behind that show or keep the rate: they go on to speak of the one that was used."""
    for index in range(len(line.block) - 1, line.index, -1):
        nodes = [n for s in line.block[line.index + 1 : index + 1] for n in ast.walk(s)]
        if any(isinstance(n, (ast.Break, ast.Continue, ast.Return, ast.Yield, ast.YieldFrom)) for n in nodes):
            continue
        if any(isinstance(n, ast.Attribute) and n.attr in ("state_dict", "save") for n in nodes):
            continue  # a checkpoint holds the schedule as the next epoch needs it
        if any(isinstance(n, ast.Attribute) and n.attr in READERS for n in ast.walk(line.block[index])):
            return Line(line.owner, line.block, index)
    return line


def written(code: Code, here: Spot, step: Event) -> str | None:
    """The schedule as the call that steps it writes it."""
    call = code.call(step.span)
    return f"`{here.text_of(call.func.value)}`" if call is not None and isinstance(call.func, ast.Attribute) else None


# ---------------------------------------------------------------------- cadence


def scheduler_wrong_cadence(code: Code, history: History, scheduler: Thing, driver: Thing, step: Event, unit: str) -> Fix | None:
    optimizer = driven(history, driver) or driven(history, scheduler)
    here = code.alone(step.span)
    if optimizer is None or here is None or not steppable(driver) or len({s.span for s in history.possible(driver, "step")}) != 1:
        return None
    updates = [u for u in history.possible(optimizer, "step") if u.turns() and not history.exclusive(u, step)]
    if unit == "batches":
        if updates and not all_epochs(history, scheduler, epochs_and_batches(history, driver, updates[0])):
            return None
        placed, when = behind_updates(code, history, driver, updates), "the optimizer's step"
    else:
        placed, when = behind_epochs(code, history, driver, updates), "each epoch"
    if not placed:
        return None
    return Fix(f"step {called(driver)} after {when}", "unsafe", tuple(brought(here, placed)))


def all_epochs(history: History, scheduler: Thing, loops: list[Frame]) -> bool:
    """What the schedule takes for its end lies behind all epochs, not behind one."""
    ends = [scheduler.arguments[n] for n in scheduler.facts.get("horizon", ()) if isinstance(n, str) and n in scheduler.arguments]
    for value in ends:
        rest = [f for f in factors(value.key)[0] if not batches(history, f, loops[1:])]
        if len(rest) < len(factors(value.key)[0]) and not rest:
            return False
    return True


def brought(here: Spot, placed: list[Placement]) -> Iterator[Edit]:
    """The edits that bring the statement there: as it stands, with the test around it, or written anew where names differ."""
    line, first = whole(here), placed[0]
    guarded = line is not here.lines[-1]
    if len(placed) == 1 and first.spot.function is here.function and (guarded or first.text == here.text_of(here.statement)):
        yield Move(here.span_of(line.statement), first.anchor, "after")
        return
    yield Delete(here.span_of(line.statement))
    yield from (p.insert for p in placed)


# ----------------------------------------------------------------- accumulation


def horizon_ignores_accumulation(
    code: Code, history: History, scheduler: Thing, step: Event, loop: Frame, arm: Frame, on_boundary: bool
) -> Fix | None:
    if not on_boundary:
        return into_boundary(code, history, scheduler, step, arm)
    call, made, boundary = code.call(scheduler.made_at), code.spot(scheduler.made_at), code.spot(arm.span)
    if call is None or made is None or boundary is None or made.function is not boundary.function or scheduler.bases:
        return None
    every = divisor(boundary.statement.test) if isinstance(boundary.statement, ast.If) else None
    if every is None or not settled(made, every) or (strict(scheduler) and not rounded_down(boundary, loop)):
        return None
    edits = []
    for name in (n for n in names_of_sizes(scheduler) if n in scheduler.arguments):
        key = scheduler.arguments[name].key
        if not sized_for_the_other(history, key, loop, arm, True):
            continue
        value = argument(call, scheduler, name)
        if value is None:
            return None
        text = made.text_of(value)
        product = isinstance(value, ast.BinOp) and isinstance(value.op, (ast.Mult, ast.FloorDiv))
        if not product and isinstance(value, (ast.BinOp, ast.IfExp, ast.BoolOp, ast.Compare, ast.UnaryOp, ast.Lambda)):
            text = f"({text})"
        edits.append(Replace(made.span_of(value), f"{text} // {made.text_of(every)}"))
    return Fix(f"count the optimizer's steps for {called(scheduler)}", "unsafe", tuple(edits)) if edits else None


def into_boundary(code: Code, history: History, scheduler: Thing, step: Event, arm: Frame) -> Fix | None:
    """Step the schedule where the optimizer is."""
    driver = parent(history, scheduler)
    optimizer = driven(history, driver) or driven(history, scheduler)
    here = code.alone(step.span)
    if optimizer is None or here is None or not steppable(driver):
        return None
    updates = [u for u in history.possible(optimizer, "step") if any(f.key == arm.key for f in u.arms())]
    placed = behind_updates(code, history, driver, updates)
    if not placed or any(p.spot.function is not here.function for p in placed):
        return None
    return Fix(f"step {called(driver)} with the optimizer", "unsafe", tuple(brought(here, placed)))


def strict(scheduler: Thing) -> bool:
    """Its size may be given in parts, and stepping it past its end raises: a rounded-down quotient may end too early."""
    return any(not isinstance(entry, str) for entry in scheduler.facts.get("horizon", ()))


def rounded_down(boundary: Spot, frame: Frame) -> bool:
    """`(i + 1) % n == 0` in a loop that counts from 0: as many steps as the quotient says."""
    loop = loop_at(boundary, frame)
    match getattr(boundary.statement, "test", None):
        case ast.Compare(
            left=ast.BinOp(left=ast.BinOp(left=ast.Name(id=name), op=ast.Add(), right=ast.Constant(value=1)), op=ast.Mod()),
            ops=[ast.Eq()],
            comparators=[ast.Constant(value=0)],
        ):
            match loop:
                case ast.For(target=ast.Tuple(elts=[ast.Name(id=counter), *_]), iter=ast.Call(func=ast.Name(id="enumerate"), args=[_])):
                    return counter == name
    return False


def names_of_sizes(scheduler: Thing) -> list[str]:
    entries = (*scheduler.facts.get("horizon", ()), *scheduler.facts.get("period", ()), *scheduler.arguments)
    return list(dict.fromkeys(e for e in entries if isinstance(e, str)))


def argument(call: ast.Call, thing: Thing, name: str) -> ast.expr | None:
    """What the call gives for the parameter, by keyword or by position."""
    if any(isinstance(a, ast.Starred) for a in call.args) or any(k.arg is None for k in call.keywords):
        return None
    given = next((k.value for k in call.keywords if k.arg == name), None)
    if given is not None:
        return given
    position = list(thing.arguments).index(name)
    return call.args[position] if position < len(call.args) else None


def settled(spot: Spot, node: ast.expr) -> bool:
    """The names of the expression have their value before the place, and no later statement of the function changes it."""
    names = names_read(node)
    body = getattr(spot.function, "body", [])
    first = spot.below(spot.function)[0].index
    return not any(names & names_assigned(s) for s in body[first:])


# -------------------------------------------------------------------- arguments


def loss_passed_as_epoch(code: Code, history: History, scheduler: Thing, step: Event) -> Fix | None:
    call, here = code.call(step.span), code.alone(step.span)
    if call is None or here is None or len(call.args) + len(call.keywords) != 1 or any(isinstance(a, ast.Starred) for a in call.args):
        return None
    which: int | str | None = 0 if call.args else call.keywords[0].arg
    if which is None or not isinstance(call.func, ast.Attribute) or told_apart(here, call.func.value):
        return None
    drop = DropArgument(step.span, which)
    others = {t.id: t for e in history.events(None, "step") if e.span == step.span and (t := e.thing) is not None and t is not scheduler}
    plateaus = [t for t in others.values() if t.facts.get("argument") == "metric"]
    if not plateaus:
        return Fix(f"step {called(scheduler)} without the metric", "unsafe", (drop,))
    types = {t.type for t in plateaus}
    module, _, name = types.pop().rpartition(".")
    if types or not module or not isinstance(here.statement, ast.Expr):
        return None
    name_in_file = imported(here, module, name)
    edits: list[Edit] = [] if name_in_file else [AddImport(step.span.path, module, name, cell=step.span.cell)]
    header = f"if isinstance({here.text_of(call.func.value)}, {name_in_file or name}):\n    {here.text_of(here.statement)}\nelse:"
    return Fix("give the metric to the plateau scheduler alone", "unsafe", (*edits, Wrap(here.span_of(here.statement), header), drop))


def told_apart(here: Spot, scheduler: ast.expr) -> bool:
    """Something around the call looks at what kind of schedule it is: a test of more than its being there, or an error it may raise."""
    if any(here.around(ast.Try)):
        return True
    about = names_read(scheduler)
    for statement in here.around(ast.If):
        test = statement.test if isinstance(statement, ast.If) else None
        none = isinstance(test, ast.Compare) and isinstance(test.ops[0], (ast.Is, ast.IsNot))
        there = none or isinstance(test, (ast.Name, ast.Attribute))
        if test is not None and not there and about & names_read(test) - {"self"}:
            return True
    return False
