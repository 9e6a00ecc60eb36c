"""Questions several topics ask of a History: whose gradients a pass reaches, who clears them, where the loops and boundaries are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from mllint.model.finding import Label, Span
from mllint.model.history import Event, Frame, History, Thing, Value, counted, idle, mentions, steady

UNKNOWN = Value(("unknown",))

# ---------------------------------------------------------------- what is said


def called(thing: Thing | None) -> str:
    """The thing as a message names it: the user's own name, else its class."""
    if thing is None:
        return "the object"
    return f"`{thing.name or thing.type.rpartition('.')[2] or thing.kind}`"


def loss_of(history: History, backward: Event) -> str:
    """The loss as a message names it: the user's own name, else by the model it comes from."""
    loss = backward.arguments["loss"]
    return f"`{loss.text}`" if loss.text else f"the loss of {_named(history, loss.sources)}"


def gradients_of(history: History, clip: Event) -> str:
    return f"gradients of {_named(history, clip.arguments['of'].sources)}"


def _named(history: History, ids: Iterable[int]) -> str:
    """The thing with a name among these, the outermost one."""
    things = [t for i in ids if (t := history.thing(i)) is not None]
    things.sort(key=lambda t: (not t.name, -len(t.facts.get("parts", ())), t.id))
    return called(things[0]) if things else "`backward()`"


def path(*labels: tuple[Span | None, str]) -> tuple[Label, ...]:
    """Labels for the places that are known, each place once."""
    seen: dict[Span, Label] = {}
    for span, text in labels:
        if span is not None:
            seen.setdefault(span, Label(span, text))
    return tuple(seen.values())


def confidence(*events: Event | None) -> str | None:
    """None (the page's own) when every event is sure and no arm stands between them, else medium."""
    known = [e for e in events if e is not None]
    if any(not e.sure for e in known):
        return "medium"
    sets = [{(f.branch, f.polarity) for f in e.arms() if not idle(f) and not counts(f)} for e in known]
    return None if not sets or set.union(*sets) == set.intersection(*sets) else "medium"


# ------------------------------------------------------------ modules and owners


def parts(history: History, ids: Iterable[int]) -> frozenset[int]:
    """These modules and everything inside them."""
    found: set[int] = set()
    for ident in ids:
        thing = history.thing(ident)
        found.add(ident)
        if thing is not None:
            found |= thing.facts.get("parts", frozenset())
    return frozenset(found)


def owned(history: History, optimizer: Thing) -> frozenset[int]:
    """The modules whose parameters the optimizer holds, inner ones included; empty when that is not known."""
    return parts(history, taken(history, optimizer))


def taken(history: History, optimizer: Thing) -> frozenset[int]:
    """The modules and parameters the optimizer was given, themselves or through the groups of another optimizer."""
    ids: set[int] = set()
    values = [optimizer.arguments.get("params"), *(v for e in history.events(optimizer, "add_param_group") for v in e.arguments.values())]
    for value in values:
        if value is not None:
            ids |= value.sources
    things = [t for i in ids | set(optimizer.partners) if (t := history.thing(i)) is not None and t is not optimizer]
    inner = (taken(history, t) for t in things if t.kind == "optimizer" and optimizer.id not in t.partners)
    return frozenset(t.id for t in things if t.kind in ("module", "parameter")).union(*inner)


def reaches(history: History, backward: Event, optimizer: Thing) -> bool | None:
    """The backward pass writes gradients of the optimizer's parameters; None when the loss or the optimizer hides its modules."""
    loss = backward.arguments.get("loss", UNKNOWN)
    own = owned(history, optimizer)
    if not own or not loss.sources:
        return None
    if parts(history, loss.sources) & own:
        return True
    return None if "unknown" in loss.tags else False


def surely_reaches(history: History, backward: Event, optimizer: Thing) -> bool:
    """The pass reaches the optimizer; where the modules are hidden, an only optimizer is taken for the one that is meant."""
    answer = reaches(history, backward, optimizer)
    return answer is True or (answer is None and len(history.things("optimizer")) == 1)


def touches(history: History, event: Event, optimizer: Thing, argument: str = "of") -> bool | None:
    """The event (a clip, a read of gradients) is about the optimizer's parameters; None when that is not known."""
    sources = event.arguments.get(argument, UNKNOWN).sources
    if optimizer.id in sources:
        return True
    own = owned(history, optimizer)
    return None if not own or not sources else bool(parts(history, sources) & own)


def rivals(history: History, optimizer: Thing) -> list[Thing]:
    """Other optimizers that hold some of the same parameters, or were made at the same place."""
    own = owned(history, optimizer)
    return [t for t in history.things("optimizer") if t is not optimizer and (t.made_at == optimizer.made_at or owned(history, t) & own)]


# ---------------------------------------------------------------- the training


def backwards(history: History) -> list[Event]:
    return history.events(None, "backward")


def clears(history: History, event: Event, optimizer: Thing) -> bool | None:
    """The event empties the gradients of all the optimizer's parameters; None when it may, False when it empties some or none."""
    if event.thing is optimizer:
        return True if event.sure else None
    emptied = cleared(history, event)
    own = owned(history, optimizer)
    if emptied is None or not own or part_of_it(event.thing):
        return None if emptied is None or not own or emptied & own else False
    return left_over(history, own, emptied) if emptied & own or optimizer.id in emptied else False


def part_of_it(thing: Thing | None) -> bool:
    """An optimizer that was given a list somebody put together: which parameters of a module are in it cannot be told."""
    given = thing.arguments.get("params") if thing is not None and thing.kind == "optimizer" else None
    return given is not None and given.key[:1] in (("seq",), ("list",), ("any",), ("either",))


def cleared(history: History, event: Event) -> frozenset[int] | None:
    """The modules whose gradients the event empties; None when that is not known."""
    if event.action == "grad-cleared":
        sources = event.arguments.get("of", UNKNOWN).sources
        things = (t for i in sources if (t := history.thing(i)) is not None)
        return parts(history, sources).union(*(owned(history, t) for t in things if t.kind == "optimizer")) or None
    thing = event.thing
    if thing is None:
        return None
    if thing.kind == "optimizer":
        return owned(history, thing) | {thing.id}
    return parts(history, {thing.id, *(thing.partners if thing.kind != "module" else ())})


def left_over(history: History, own: frozenset[int], emptied: frozenset[int]) -> bool | None:
    """Nothing of `own` is left; None when only containers are, whose own parameters nobody has seen, or modules of unknown origin."""
    rest = own - emptied
    if not rest or own & emptied == own:
        return True
    if all((t := history.thing(i)) is not None and not t.type for i in rest):
        return None  # modules nobody saw being made may be parts of those that are emptied
    return None if all(len(parts(history, {i})) > 1 and parts(history, {i}) & emptied for i in rest) else False


CLEARING = ("zero_grad", "grad-cleared")


def pending(history: History, step: Event, optimizer: Thing) -> Iterator[Event]:
    """The backward passes whose gradients are there when the optimizer steps, latest first: back to where they were surely cleared."""
    gone: list[Event] = []  # clearings that some ways to the step miss, and some passes do not
    for event in history.earlier(step):
        if event.action == "backward" and reaches(history, event, optimizer) is not False:
            if not any(history.implied(clear, event, step) for clear in gone):
                yield event
        elif event.action in CLEARING and clears(history, event, optimizer):
            if history.implied(event, step):
                return
            gone.append(event)


def in_training(history: History, optimizer: Thing | None) -> Event | None:
    """A step of the optimizer or, where that cannot be seen, a backward pass: the proof that this entry trains."""
    if optimizer is None or optimizer.lost is not None or optimizer.managed is not None:
        steps = history.events(optimizer, "step") if optimizer is not None else []
        return next(iter([*steps, *backwards(history)]), None)
    return next(iter(history.possible(optimizer, "step")), None)


def partner(history: History, thing: Thing, kind: str = "optimizer") -> Thing | None:
    """The one thing of that kind this one was made with, or None when there are none or several."""
    found = [t for i in thing.partners if (t := history.thing(i)) is not None and t.kind == kind]
    return found[0] if len(found) == 1 else None


def driven(history: History, scheduler: Thing) -> Thing | None:
    """The optimizer the schedule moves; where it is one of several (SGD or Adam, by an option), the first of those."""
    given = scheduler.arguments.get("optimizer", UNKNOWN)
    if given.key[:1] not in (("either",), ("any",)):
        return partner(history, scheduler)
    found = [t for i in scheduler.partners if (t := history.thing(i)) is not None and t.kind == "optimizer" and i in given.sources]
    return next((t for t in found if history.events(t, "step")), found[0] if found else None)


def parent(history: History, scheduler: Thing) -> Thing:
    """The schedule that steps this one (a SequentialLR), or itself."""
    for other in history.things("scheduler"):
        children = other.arguments.get(str(other.facts.get("children", "")))
        if other is not scheduler and children is not None and scheduler.id in children.sources:
            return parent(history, other)
    return scheduler


# ---------------------------------------------------------------------- loops


def innermost(event: Event) -> Frame | None:
    """The loop whose turns repeat the event."""
    loops = event.turns()
    return loops[-1] if loops else None


def within(event: Event, loop: Frame) -> bool:
    return any(f.key == loop.key for f in event.turns())


def shared_loop(a: Event, b: Event) -> Frame | None:
    """The innermost loop that repeats both."""
    keys = {f.key for f in b.turns()}
    return next((f for f in reversed(a.turns()) if f.key in keys), None)


def counts(arm: Frame) -> bool:
    """The condition counts turns: a remainder, or a counter compared with a number."""
    if arm.name == "choice":
        return False
    if mentions(arm.key, "%"):
        return True
    return any(counted(key) for key in _comparisons(arm.key))


def _comparisons(key: Any) -> Iterator[tuple[Any, ...]]:
    if isinstance(key, tuple):
        if key[:1] and key[0] in ("==", "<", "<="):
            yield key
        else:
            for part in key:
                yield from _comparisons(part)


def compared(key: Any) -> frozenset[tuple]:
    """Everything the condition compares."""
    return frozenset(side for comparison in _comparisons(key) for side in comparison[1:] if isinstance(side, tuple))


def boundary(step: Event, loop: Frame) -> Frame | None:
    """The arm inside the loop that lets the step happen only every few turns."""
    return next((f for f in step.arms(loop) if counts(f)), None)


def period(arm: Frame) -> tuple | None:
    """The key of the number of turns between two boundaries: n in `i % n == 0` or `seen == n`."""
    remainder = next(_operations(arm.key, "%"), None)
    if remainder is not None:
        return remainder[2]
    for key in _comparisons(arm.key):
        for side, other in ((key[1], key[2]), (key[2], key[1])):
            if counted(side) and not counted(other):
                return other
    return None


def _operations(key: Any, sign: str) -> Iterator[tuple]:
    if isinstance(key, tuple):
        if key[:1] == (sign,):
            yield key
        for part in key:
            yield from _operations(part, sign)


def same_arm(event: Event, arm: Frame) -> bool:
    """The event stands in this arm, or in another of the same condition and side."""
    return any(f.polarity == arm.polarity and (f.branch == arm.branch or f.key == arm.key) for f in event.arms())


def every_turn(event: Event, loop: Frame) -> bool:
    """The event happens in each turn of the loop, as far as options let it happen at all."""
    return all(steady(f) or idle(f) for f in event.arms(loop))


def repeats_passes(loop: Frame) -> bool:
    """The inner loop goes over pieces of one batch, or a fixed number of turns; not over a list of different things."""
    return loop.name != "each" and loop.size is not None and loop.name != "comprehension"


# ---------------------------------------------------------------------- sizes

#: What leaves a size a size: rounding and bounding.
ROUNDING = frozenset(("int", "float", "round", "abs", "ceil", "floor", "trunc", "max", "min", "neg"))


def factors(key: tuple) -> tuple[Counter[tuple], Counter[tuple]]:
    """What a size is the product of, and what it is divided by; constants of 1, rounding and offsets left out."""
    top: Counter[tuple] = Counter()
    bottom: Counter[tuple] = Counter()
    head = key[0] if key else None
    if head == "*":
        for part in key[1:]:
            above, below = factors(part)
            top += above
            bottom += below
    elif head in ("/", "//"):
        above, below = factors(_without(key[1], key[2]))
        over, under = factors(key[2])
        top, bottom = above + under, below + over
    elif head in ("+", "-"):
        return factors(_summand(key))
    elif head == "call" and len(key) > 2 and isinstance(key[1], str) and key[1].rpartition(".")[2] in ROUNDING:
        return factors(_bounded(key[2:]))
    elif head in ROUNDING:
        return factors(_bounded(key[1:]))
    elif head == "const":
        if key[1] != 1:
            top[key] += 1
    else:
        top[key] += 1
    common = Counter({k: n for k, n in (top & bottom).items() if k[:1] != ("const",)})  # equal numbers may mean different things
    return top - common, bottom - common


def _summand(key: tuple) -> tuple:
    """The part of a sum or difference that gives the size; the rest is an offset (a start epoch, a warm-up, `- 1`)."""
    a, b = key[1], key[2]
    if key[0] == "-":
        return a
    return b if a[:1] == ("const",) else a


def _without(key: tuple, divisor: tuple) -> tuple:
    """`(a + n - 1) // n` is a rounded `a / n`: the summand that is the divisor itself is left out."""
    if key[:1] == ("-",) and key[2][:1] == ("const",):
        return _without(key[1], divisor)
    if key[:1] == ("+",):
        for here, there in ((key[1], key[2]), (key[2], key[1])):
            if here == divisor or (here[:1] == ("-",) and here[1] == divisor):
                return there
    return key


def _bounded(args: tuple) -> tuple:
    """The argument that is no constant: `max(1, n)`."""
    keys = [a for a in args if isinstance(a, tuple)]
    return next((k for k in keys if k[:1] != ("const",)), keys[0] if keys else ("unknown",))


def number(key: tuple) -> float | None:
    """The number a key stands for, where it is one."""
    if key[:1] == ("const",) and isinstance(key[1], (int, float)) and not isinstance(key[1], bool):
        return float(key[1])
    if key[:1] == ("*",) and (values := [number(k) for k in key[1:]]) and None not in values:
        return math.prod(v for v in values if v is not None)
    return None


def infinite(value: Value | None) -> bool:
    """The value is positive infinity, in any of its spellings."""

    def holds(key: Any) -> bool:
        if isinstance(key, tuple):
            return any(holds(part) for part in key)
        return key == math.inf or (isinstance(key, str) and (key.lower() in ("inf", "infinity") or key.rpartition(".")[2] == "inf"))

    return value is not None and holds(value.key)


# ------------------------------------------------------------------ processes

#: How libraries ask which of several processes this one is.
PROCESS = frozenset(
    ("rank", "get_rank", "get_node_rank", "local_rank", "global_rank", "RANK", "LOCAL_RANK", "is_main_process", "is_local_main_process",
     "is_world_process_zero", "is_local_process_zero", "is_global_zero", "process_index", "local_process_index")
)  # fmt: skip


def by_process(arm: Frame) -> bool:
    """The arm is taken on one process of several."""
    return any(word.rpartition(".")[2] in PROCESS for word in _words(arm.key))


def _words(key: Any) -> Iterator[str]:
    if isinstance(key, str):
        yield key
    elif isinstance(key, tuple):
        for part in key:
            yield from _words(part)
