"""Detectors of the topic training-step: clear, backward, clip, step, in this order and each as often as the others."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from mllint.checks import each
from mllint.flow.lexical import Ancestry, CodeFile
from mllint.flow.questions import (
    CLEARING,
    backwards,
    boundary,
    called,
    cleared,
    clears,
    compared,
    confidence,
    gradients_of,
    infinite,
    innermost,
    left_over,
    loss_of,
    owned,
    parts,
    path,
    pending,
    period,
    reaches,
    repeats_passes,
    rivals,
    same_arm,
    shared_loop,
    surely_reaches,
    taken,
    touches,
    within,
)
from mllint.flow.registration import SHARED, has_containers, is_own, plain_containers
from mllint.model.finding import Hit, Span
from mllint.model.fix import AddImport, Fix, Insert, Move, Rename, Replace
from mllint.model.history import Event, Frame, History, Thing

# ------------------------------------------------------------------- clearing


@each(Thing, kind="optimizer")
def missing_zero_grad(optimizer: Thing, history: History) -> Iterator[Hit]:
    if optimizer.lost is not None or optimizer.managed is not None or optimizer.facts.get("autograd") == "distributed":
        return
    for step in history.possible(optimizer, "step"):
        backward = next((b for b in backwards(history) if used_in_loop(history, b, step, optimizer)), None)
        loop = shared_loop(backward, step) if backward is not None else None
        if backward is None or loop is None or clears_itself(history, step) or kept_clean(history, optimizer, loop):
            continue
        if made_anew(history, optimizer, loop):
            continue
        before = next((e for e in history.events(optimizer, "zero_grad")), None)
        yield Hit(
            step.span,
            f"the gradients of {called(optimizer)} are never cleared in this loop, so every step adds to all before it",
            path(
                (optimizer.made_at, "created here"),
                (loop.span, "the loop"),
                (backward.span, "gradients are added here"),
                (step.span, "and used here"),
                (before.span if before is not None else None, "cleared only outside of the loop"),
            ),
            confidence=confidence(backward, step),
            clues=(history, optimizer, backward, step, loop),
        )
        return


def used_in_loop(history: History, backward: Event, step: Event, optimizer: Thing) -> bool:
    """The pass feeds the step in one loop; hidden modules are taken for the optimizer's, since it steps there."""
    if shared_loop(backward, step) is None or not history.together(backward, step):
        return False
    return reaches(history, backward, optimizer) is not False


def clears_itself(history: History, step: Event) -> bool:
    """The engine that steps clears as well."""
    via = history.thing(step.via) if step.via is not None else None
    return via is not None and (via.kind == "engine" or bool(via.facts.get("clears")))


def made_anew(history: History, optimizer: Thing, loop: Frame) -> bool:
    """Every turn makes the model, so its gradients start empty; where the model is hidden, the optimizer speaks for it."""
    things = [t for i in taken(history, optimizer) if (t := history.thing(i)) is not None] or [optimizer]
    return all((m := history.made(t)) is not None and within(m, loop) for t in things)


def kept_clean(history: History, optimizer: Thing, loop: Frame) -> bool:
    """Something in the loop clears, or may clear, all the optimizer's gradients, or writes them afresh."""
    own, emptied = owned(history, optimizer), frozenset[int]()
    for event in history.lap(loop):
        if event.action == "grad-written" and touches(history, event, optimizer) is not False:
            return True
        if event.action in CLEARING and not first_turn_only(event, loop):
            if clears(history, event, optimizer) is not False:
                return True
            emptied |= cleared(history, event) or frozenset()
    return bool(own & emptied) and left_over(history, own, emptied) is not False


def first_turn_only(event: Event, loop: Frame) -> bool:
    """The event stands behind `if index == 0` of the loop: later turns never come to it."""
    own = innermost(event)
    starts = (f.key for f in event.arms(loop) if f.polarity and f.key[:1] == ("==",) and f.key[2] == ("const", 0))
    return own is not None and own.key == loop.key and any(key[1][:1] == ("index",) and isinstance(key[1][1], int) for key in starts)


@each(Thing, kind="optimizer")
def zero_grad_before_step(optimizer: Thing, history: History) -> Iterator[Hit]:
    for step in history.possible(optimizer, "step"):
        found = emptied_before(history, step, optimizer)
        if found is None:
            continue
        clear, backward = found
        yield Hit(
            clear.span,
            f"gradients are cleared between the backward pass and the step, so {called(optimizer)} steps with nothing",
            path((backward.span, "computed here"), (clear.span, "cleared here"), (step.span, "and stepped only here")),
            confidence=confidence(backward, clear, step),
            clues=(history, optimizer, clear, backward, step),
        )
        return


def emptied_before(history: History, step: Event, optimizer: Thing) -> tuple[Event, Event] | None:
    """The clearing that stands between the last backward pass and the step, with that pass."""
    if any(n in step.arguments for n in ("closure", "0")):
        return None
    clear: Event | None = None
    for event in history.earlier(step):
        if event.action in ("grad-written", "autograd-grad"):
            return None
        if event.action == "backward" and reaches(history, event, optimizer) is not False:
            if clear is None or not surely_reaches(history, event, optimizer) or shared_loop(event, step) != innermost(step):
                return None
            return (clear, event) if history.together(event, step) and history.together(event, clear) else None
        if clear is None and event.action in CLEARING and clears(history, event, optimizer) and history.together(event, step):
            clear = event
        elif event.action == "step" and event.thing is optimizer and clear is not None:
            return None
    return None


# ------------------------------------------------------------------- stepping


@each(Thing, kind="optimizer")
def backward_without_step(optimizer: Thing, history: History) -> Iterator[Hit]:
    made = history.made(optimizer)
    if made is None or not history.never(optimizer, "step") or any(history.events(t, "step") or t.lost for t in rivals(history, optimizer)):
        return
    if history.events(None, "grad-read", "grad-written", "autograd-grad"):
        return
    for backward in backwards(history):
        loop = innermost(backward)
        via = history.thing(backward.via) if backward.via is not None else None
        if loop is None or history.exclusive(made, backward) or (backward.via is not None and (via is None or via.kind != "accelerator")):
            continue
        if backward.arguments["loss"].scaled_by is not None:
            continue  # scaler-incomplete's
        meant = any(within(e, loop) for e in history.events(optimizer, "zero_grad"))
        if reaches(history, backward, optimizer) or (meant and surely_reaches(history, backward, optimizer)):
            yield Hit(
                backward.span,
                f"gradients are computed and {called(optimizer)} is never stepped, so its parameters stay as they are",
                path((optimizer.made_at, "created here"), (loop.span, "the loop"), (backward.span, "gradients are computed here")),
                confidence=confidence(made, backward),
            )
            return


# ------------------------------------------------------------------- clipping


@each(History)
def clip_after_step(history: History) -> Iterator[Hit]:
    for clip in history.events(None, "clip"):
        if innermost(clip) is None or infinite(clip.arguments.get("threshold")):
            continue
        before, after = nearest(history, clip, history.earlier(clip)), nearest(history, clip, history.later(clip))
        if before is None or before.action == "backward" or (after is not None and after.action == "step"):
            continue
        if before.action == "step":
            when, text = f"after {called(before.thing)} has stepped with them", "stepped here"
        else:
            when, text = "before the backward pass, when they are empty", "cleared here"
        backward = next((b for b in backwards(history) if shared_loop(b, clip) is not None), None)
        if backward is not None:
            yield Hit(
                clip.span,
                f"{gradients_of(history, clip)} are clipped {when}, so the clip changes nothing",
                path((before.span, text), (clip.span, "clipped here"), (backward.span, "gradients are computed here")),
                confidence=confidence(before, clip),
                clues=(history, clip, backward),
            )


def nearest(history: History, clip: Event, events: Iterator[Event]) -> Event | None:
    """The next thing that happens to the clipped gradients: computed, cleared or used."""
    entered = {f.span for f in clip.place if f.kind == "call"}
    for event in events:
        if event.span in entered and event.action == "step":
            continue  # the clip is a part of this very step, of an optimizer that overrides it
        if event.action == "backward":
            sources = event.arguments["loss"].sources
            of = clip.arguments["of"].sources
            if not sources or not of or clipped(history, clip) & parts(history, sources):
                return event
        elif event.action == "step" and event.thing is not None and event.thing.kind == "optimizer":
            if surely_about(history, clip, event.thing) and history.together(event, clip):
                return event
        elif event.action in CLEARING and history.implied(event, clip):
            emptied = cleared(history, event)
            if emptied is not None and clipped(history, clip) and clipped(history, clip) <= emptied:
                return event
            if event.thing is not None and event.thing.kind == "optimizer" and surely_about(history, clip, event.thing):
                return event
    return None


def clipped(history: History, clip: Event) -> frozenset[int]:
    """The modules whose gradients are clipped; empty when that is not known."""
    found: frozenset[int] = frozenset()
    for ident in clip.arguments["of"].sources:
        thing = history.thing(ident)
        if thing is not None:
            found |= owned(history, thing) if thing.kind == "optimizer" else parts(history, {ident})
    return found


def surely_about(history: History, clip: Event, optimizer: Thing) -> bool:
    answer = touches(history, clip, optimizer)
    return answer is True or (answer is None and len(history.things("optimizer")) == 1)


# --------------------------------------------------------------- accumulation


@each(Thing, kind="optimizer")
def accumulation_not_scaled(optimizer: Thing, history: History) -> Iterator[Hit]:
    told: list[Event] = []
    for step in history.possible(optimizer, "step"):
        for backward in pending(history, step, optimizer):
            loop = innermost(backward)
            if loop is None or not plain_mean(history, backward, step) or not surely_reaches(history, backward, optimizer):
                continue
            where, sureness = several_passes(history, optimizer, backward, step, loop)
            if where is None or period(where) == ("const", 1) or not all(history.exclusive(backward, e) for e in told):
                continue
            told.append(backward)
            yield Hit(
                backward.span,
                f"{loss_of(history, backward)} is added up over several backward passes and never divided by their number",
                path((where.span, "repeated here"), (backward.span, "one pass of several"), (step.span, "one step for all of them")),
                confidence=sureness or confidence(backward, step),
                clues=(history, backward, where),
            )


#: What is known of a loss that is no mean, or may be none: it came out of code that was not seen.
NO_MEAN = frozenset(("sum", "weighted", "unknown"))


def plain_mean(history: History, backward: Event, step: Event) -> bool:
    """The loss is neither divided nor a sum, and nobody divides the gradients or the passes by themselves."""
    loss = backward.arguments["loss"]
    if loss.divided_by or loss.tags & NO_MEAN or backward.via is not None or backward.inside("accumulate") is not None:
        return False
    if history.events(None, "register_comm_hook") or from_unseen(history, loss.key):
        return False  # a hook may divide what the processes exchange; a model nobody has seen may give a sum
    return not any(e.action == "grad-written" and shared_loop(e, backward) is not None for e in history.events(None, "grad-written"))


def from_unseen(history: History, key: tuple) -> bool:
    """The loss is what a model hands out whose making nobody saw, by its place: `loss, parts = model(batch)`."""
    if key[:1] in (("scaled",), ("part",), ("index",), ("*",)) and isinstance(key[1], tuple):
        return from_unseen(history, key[1])
    if key[:1] == ("either",):
        return any(from_unseen(history, k) for k in key[1:] if isinstance(k, tuple))
    if key[:1] != ("call",) or not isinstance(key[1], tuple):
        return False
    thing = history.thing(key[1][1]) if key[1][:1] == ("thing",) else None
    return key[1][:1] == ("index",) or (thing is not None and thing.kind == "module" and not thing.type)


def several_passes(history: History, optimizer: Thing, backward: Event, step: Event, loop: Frame) -> tuple[Frame | None, str | None]:
    """The boundary, or the inner loop, that makes several backward passes of one step."""
    if within(step, loop):
        arm = boundary(step, loop)
        if arm is None or same_arm(backward, arm) or asks_how_many(backward, loop, period(arm)):
            return None, None
        emptying = [e for e in history.lap(loop) if e.action in CLEARING and clears(history, e, optimizer) is not False]
        return (arm, None) if all(same_arm(e, arm) for e in emptying) else (None, None)
    around = shared_loop(backward, step)
    if around is None or not repeats_passes(loop) or step.order < backward.order or backward.turns()[-2].key != around.key:
        return None, None
    modules = {t.id for t in history.things("module")}
    if loop.over & modules or any(e.action in CLEARING and clears(history, e, optimizer) is not False for e in history.lap(loop)):
        return None, None
    inner = [e.thing for e in history.lap(loop) if e.action == "step" and e.thing is not None and e.thing.kind == "optimizer"]
    if any(reaches(history, backward, t) is not False for t in inner):
        return None, None  # the inner loop trains something of its own
    if any(within(e, around) and not within(e, loop) for e in outputs_kept(history, backward)):
        return None, None  # each pass is about the whole batch, with outputs of the other parts kept from before
    return loop, None


def outputs_kept(history: History, backward: Event) -> Iterator[Event]:
    """Calls of the loss's own modules without gradients, each time on the way to the pass."""
    own = parts(history, backward.arguments["loss"].sources)
    calls = (e for e in history.events(None, "forward") if e.order < backward.order and e.thing is not None)
    for call in (e for e in calls if e.inside("no_grad") or e.inside("inference_mode")):
        always = all(same_arm(backward, f) for f in call.arms() if f.name != "choice")
        if always and call.thing is not None and parts(history, {call.thing.id}) & own:
            yield call


def asks_how_many(backward: Event, loop: Frame, number: tuple | None) -> bool:
    """The pass stands in an arm that compares the number of passes: `if n > 1: loss = loss / n`, seen where there is only one."""
    return any(("const", 1) in (sides := compared(arm.key)) or number in sides for arm in backward.arms(loop))


# ---------------------------------------------------------------- parameters


@each(History)
def optimizer_before_parameters(history: History) -> Iterator[Hit]:
    for change in history.events(None, "replaced"):
        for optimizer in history.things("optimizer"):
            made = history.made(optimizer)
            if made is None or made.order > change.order or change.thing is None or change.thing.id not in owned(history, optimizer):
                continue
            if optimizer.lost is not None:
                continue
            if history.exclusive(made, change) or holds_already(history, optimizer, change) or taken_later(history, optimizer, change):
                continue
            used = next((s for s in history.possible(optimizer, "step") if s.order > change.order or comes_round(made, s, change)), None)
            if used is None and optimizer.managed is None:
                continue
            name = change.arguments["name"].constant if "name" in change.arguments else None
            whole = f"{called(change.thing)[:-1]}.{name}`" if name else f"a part of {called(change.thing)}"
            yield Hit(
                change.span,
                f"{whole} is replaced after {called(optimizer)} took the parameters, so the new ones are never trained",
                path(
                    (optimizer.made_at, "the optimizer takes the parameters"),
                    (change.span, "replaced here"),
                    (used.span if used is not None else None, "stepped here"),
                ),
                confidence=confidence(made, change),
            )
            break


def comes_round(made: Event, event: Event, change: Event) -> bool:
    """The event follows the change in the next turn of a loop, in which the optimizer is still the same."""
    loop = shared_loop(event, change)
    return loop is not None and not within(made, loop)


def holds_already(history: History, optimizer: Thing, change: Event) -> bool:
    """The new part was there when the optimizer was made, and is one of the things the optimizer was given."""
    made, module = history.made(optimizer), change.thing
    for ident in change.arguments["value"].sources if "value" in change.arguments else ():
        born = history.made(new) if (new := history.thing(ident)) is not None else None
        if born is not None and made is not None and born.order > made.order:
            continue
        others = [i for i in taken(history, optimizer) if module is not None and module.id not in parts(history, {i})]
        if ident in taken(history, optimizer) or ident in parts(history, others):
            return True
    return False


def taken_later(history: History, optimizer: Thing, change: Event) -> bool:
    """The optimizer is told of the new parameters, or another one is made that holds the module."""
    if any(e.order > change.order or shared_loop(e, change) is not None for e in history.events(optimizer, "add_param_group")):
        return True
    module = change.thing.id if change.thing is not None else -1
    makings = [(t, m) for t in history.things("optimizer") if t is not optimizer and (m := history.made(t)) is not None]
    later = [t for t, m in makings if m.order > change.order or shared_loop(m, change) is not None]
    new = change.arguments["value"].sources if "value" in change.arguments else frozenset()
    return any(owned(history, t) & ({module} | new) or not owned(history, t) for t in later)


# -------------------------------------------------------- classes of modules


@each(CodeFile)
def missing_super_init(code: CodeFile) -> Iterator[Hit]:
    for cls in code.all(ast.ClassDef):
        init = next((n for n in cls.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        if init is None or not makes_before_it_begins(init) or code.kind_of(cls) != "module":
            continue
        ancestry = code.ancestry(cls)
        if not ancestry.known or cls.keywords or cls.decorator_list or own_setattr(cls, ancestry):
            continue
        first = next((n for n in in_order(init.body) if begins(n) or keeps_module(code, n)), None)
        if first is None or begins(first):
            continue
        late = next((n for n in in_order(init.body) if begins(n)), None)
        what = code.text(first.targets[0] if isinstance(first, ast.Assign) else first.value.func)  # type: ignore[attr-defined]
        when = "before" if late is not None else "without"
        labels = path((code.span(first), "assigned here"), (code.span(late) if late is not None else None, "initialised only here"))
        message = f"`{what}` is assigned {when} `super().__init__()`, which raises an AttributeError"
        yield Hit(code.span(first), message, labels, fix=initialised_first(code, init, late, ancestry))


def makes_before_it_begins(init: ast.FunctionDef) -> bool:
    """By its text alone, something may be kept before the base class is initialised: asked first, since most classes answer no."""
    for statement in in_order(init.body):
        if begins(statement):
            return False
        if isinstance(statement, (ast.Assign, ast.Expr)) and isinstance(statement.value, ast.Call):
            return True
    return False


def own_setattr(cls: ast.ClassDef, ancestry: Ancestry) -> bool:
    """The class, or one it comes from, decides itself how attributes are set or objects are made."""
    bodies = (cls, *(d.node for d in ancestry.own))
    return any(isinstance(n, ast.FunctionDef) and n.name in ("__new__", "__setattr__") for c in bodies for n in c.body)


def in_order(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a block and of the blocks in it, as they stand; functions and classes inside are left out."""
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        yield statement
        for name in ("body", "orelse", "finalbody"):
            yield from in_order(getattr(statement, name, []))
        for handler in getattr(statement, "handlers", []):
            yield from in_order(handler.body)


def begins(statement: ast.stmt) -> bool:
    """The statement initialises the base class, or hands the object to code that may."""
    if not isinstance(statement, (ast.Expr, ast.Assign)) or not isinstance(statement.value, ast.Call):
        return False
    call = statement.value
    if isinstance(call.func, ast.Attribute) and call.func.attr == "__init__":
        return True
    return any(isinstance(a, ast.Name) and a.id == "self" for a in call.args)


def keeps_module(code: CodeFile, statement: ast.stmt) -> bool:
    """`self.layer = nn.Linear(...)`, `self.scale = nn.Parameter(...)`, `self.register_buffer(...)`."""
    if isinstance(statement, ast.Assign):
        return any(is_own(t) for t in statement.targets) and code.made_kind(statement.value)[0] in ("module", "parameter", "criterion")
    call = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(call, ast.Call) and is_own(call.func) and call.func.attr in ("register_buffer", "register_parameter", "add_module")  # type: ignore[attr-defined]


def initialised_first(code: CodeFile, init: ast.FunctionDef, late: ast.stmt | None, ancestry: Ancestry) -> Fix | None:
    """The call put first; one that stands too late is moved, where its arguments are known from the start."""
    body = [n for n in init.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    if late is None:
        plain = not ancestry.own and set(ancestry.libraries) == {"torch.nn.Module"}
        return (
            Fix("call `super().__init__()` first", "safe", (Insert(code.span(body[0]), "before", "super().__init__()"),)) if plain else None
        )
    given = {a.arg for a in (*init.args.posonlyargs, *init.args.args, *init.args.kwonlyargs)} | {"super", "self"}
    names = {n.id for n in ast.walk(late) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    bases = {
        code.text(base).partition(".")[0] for cls in code.around(init) if isinstance(cls, ast.ClassDef) for base in (*cls.bases, cls)[:-1]
    }
    bases |= {cls.name for cls in code.around(init) if isinstance(cls, ast.ClassDef)}
    changed = {n.id for n in ast.walk(init) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    if late not in init.body or not names <= given | bases or names & changed:
        return None
    return Fix("call `super().__init__()` first", "safe", (Move(code.span(late), code.span(body[0]), "before"),))


@each(CodeFile)
def unregistered_submodules(code: CodeFile) -> Iterator[Hit]:
    for cls in code.all(ast.ClassDef):
        if not has_containers(cls) or code.kind_of(cls) != "module":
            continue
        for attribute, (kept, element) in plain_containers(code, cls).items():
            kind = "dict" if isinstance(kept.value, (ast.Dict, ast.DictComp)) else "list"
            where = (code.span(element), "a module is put into it here") if element is not kept.value else (None, "")
            yield Hit(
                code.span(kept),
                f"`self.{attribute}` is a plain {kind}, so its modules are not registered: no optimizer, device or checkpoint knows them",
                path((code.span(kept), f"a plain {kind}"), where),
                fix=registered(code, cls, attribute, kept, element),
            )


def registered(code: CodeFile, cls: ast.ClassDef, attribute: str, kept: ast.Assign, element: ast.AST) -> Fix | None:
    """The container torch knows, in the spelling of the file; nothing where the class asks of it what only a list can do."""
    asked = {n.attr for n in ast.walk(cls) if isinstance(n, ast.Attribute) and is_own(n.value) and n.value.attr == attribute}  # type: ignore[attr-defined]
    if isinstance(kept.value, (ast.Dict, ast.DictComp)):
        keys = kept.value.keys if isinstance(kept.value, ast.Dict) else [None]
        if not keys or not all(isinstance(k, ast.Constant) and isinstance(k.value, str) and "." not in k.value for k in keys):
            return None
        name, allowed = "ModuleDict", frozenset(("keys", "values", "items", "pop"))
    else:
        name, allowed = "ModuleList", SHARED
    call = element if isinstance(element, ast.Call) else None
    if call is None or code.made_kind(call)[0] != "module" or not asked <= allowed:
        return None
    prefix = next((f"{code.text(n.value)}." for n in code.all(ast.Attribute) if code.dotted(n.value) == "torch.nn"), "")
    imports = () if prefix else (AddImport(code.path, "torch.nn", name, cell=code.span(kept).cell),)
    whole = kept.value
    empty = isinstance(whole, ast.List) and not whole.elts
    text = f"{prefix}{name}()" if empty else f"{prefix}{name}({code.text(whole)})"
    return Fix(f"keep them in a `{prefix}{name}`", "safe", (Replace(code.span(whole), text), *imports))


#: How alike a name must be to `requires_grad` to be taken for it.
ALIKE = 0.85


@each(CodeFile)
def requires_grad_typo(code: CodeFile) -> Iterator[Hit]:
    for node in code.all(ast.Attribute):
        if not isinstance(node.ctx, ast.Store) or not misspelt(node.attr) or is_own(node) or code.project.defines_field(node.attr):
            continue
        span = code.span(node)
        name = Span(span.path, span.end_line, span.end_column - len(node.attr), span.end_line, span.end_column, span.cell)
        yield Hit(
            span,
            f"`{node.attr}` is no attribute torch knows, so `{code.text(node.value)}` keeps its `requires_grad`",
            fix=Fix("write `requires_grad`", "safe", (Rename(name, "requires_grad"),)),
        )


def misspelt(name: str) -> bool:
    from difflib import SequenceMatcher

    known = name in ("requires_grad", "requires_grad_")
    return not known and name.count("_") <= 1 and "grad" in name and SequenceMatcher(None, name.lower(), "requires_grad").ratio() >= ALIKE
