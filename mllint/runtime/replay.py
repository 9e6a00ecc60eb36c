"""From the record of one process to the History the rules ask.

The static side walks a loop once and knows conditions by their text; a run repeats everything and knows only what it took. The
History made here keeps every event in the order it happened. Loops and `with` blocks come from the source around each call. A branch
is kept only where it let an event through less often than the backward passes beside it: that is an accumulation boundary. Every
other branch that was taken says nothing about this run.

Parameters are followed one by one in a run. Those that all optimizers, modules, passes and clips treat alike become one thing of
kind "module", so that the questions about whose gradients a call touches have exact answers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from mllint.model.finding import Span
from mllint.model.history import Event, Frame, History, Thing, Value
from mllint.read.tables import Knowledge
from mllint.runtime.record import Part, Row, Step
from mllint.runtime.structure import Block, Structure

#: Ids of the things made up here start behind those of the probes.
FIRST_ATOM = 1_000_000
NOWHERE = Span("", 1, 1, 1, 1)
#: `with` blocks whose meaning is in their name; autocast and the gradient modes are told by the run itself.
BLOCKS = frozenset(("accumulate", "no_sync"))
#: Events that an accumulation boundary holds back.
HELD_BACK = frozenset(("step", "zero_grad", "unscale_", "update", "clip", "grad-cleared"))
#: How often a loss is a whole part of a turn: `epoch + i / n` has such fractions, a metric has not.
WHOLE = 1e-6


def replay(part: Part, structure: Structure, knowledge: Knowledge) -> History:
    """The History of one process of a run."""
    return _Replay(part, structure, knowledge).history()


class _Replay:
    def __init__(self, part: Part, structure: Structure, knowledge: Knowledge) -> None:
        self.part = part
        self.structure = structure
        self.knowledge = knowledge
        self.rows = part.of("event")
        self.atoms = _atoms(part, self.rows)
        self.sizes: dict[tuple[str, int], int] = {(row["file"], row["line"]): row["size"] for row in part.of("loop")}
        self.over: dict[Span, set[int]] = {}
        self.defaults: dict[tuple, Any] = {}
        self._frames: dict[int, tuple[Frame, ...]] = {}
        self._names: dict[int, str] = {}

    def history(self) -> History:
        for row in self.rows:
            if row["action"] == "iter":
                for step in self.part.stacks.get(row["site"], ()):
                    loop = self.structure.header(step)
                    if loop is not None:
                        self.over.setdefault(loop, set()).add(row["thing"])
        boundaries = self._boundaries()
        things = self._things()
        by_id = {t.id: t for t in things}
        events: list[Event] = []
        for row in self.rows:
            thing = by_id.get(row.get("thing"))  # type: ignore[arg-type]
            if row.get("thing") is not None and thing is None:
                continue
            place = self._place(row, boundaries)
            arguments = self._arguments(row)
            seen = {**(row.get("observed") or {}), "n": row["n"]}
            events.append(Event(len(events), row["action"], thing, self._span(row), place, arguments, row.get("via"), True, seen))
        return History(events, things, "run", defaults=self.defaults)

    # ---------------------------------------------------------------- places

    def _own(self, site: int | None) -> Step | None:
        return self.part.own_step(site)

    def _span(self, row: Row) -> Span:
        step = self._own(row.get("site"))
        if step is None:
            return NOWHERE
        if row["action"] == "make" and (thing := self.part.things.get(row["thing"])) is not None:
            return self._made_at(thing)
        return self.structure.span(step)

    def _made_at(self, row: Row) -> Span:
        """Where the user's code makes the thing: of a class of the project, the call of the class and not of its base."""
        stack = [s for s in self.part.stacks.get(row.get("site", -1), ()) if s.own] or list(self.part.stacks.get(row.get("site", -1), ()))
        if not str(row["type"]).startswith("torch."):
            while len(stack) > 1 and stack[0].function in ("__init__", "__new__", "__call__"):
                stack.pop(0)
        return self.structure.span(stack[0]) if stack else NOWHERE

    def _place(self, row: Row, boundaries: Mapping[tuple, Frame]) -> tuple[Frame, ...]:
        frames = list(self._around(row.get("site")))
        where = self._class_of(row)
        frames = [boundaries.get((where, f.branch), f) if f.kind == "arm" else f for f in frames]
        if row["action"] != "forward" or (row.get("observed") or {}).get("grad"):  # an evaluation now and then keeps its branches
            frames = [f for f in frames if f.kind != "arm" or f.key]
        for ident in row.get("contexts") or ():
            context = self.part.contexts.get(ident)
            if context is not None:
                step = self._own(context.get("site"))
                facts = {key: context.get(key) for key in ("enabled", "device", "dtype") if key in context}
                frames.append(Frame("with", self.structure.span(step) if step is not None else NOWHERE, name=context["name"], facts=facts))
        return tuple(frames)

    def _around(self, site: int | None) -> tuple[Frame, ...]:
        """The frames of a stack, outermost first: calls, loops, named blocks, and every branch, still without a key."""
        if site is None:
            return ()
        if site not in self._frames:
            frames: list[Frame] = []
            stack = self.part.stacks.get(site, ())
            innermost = next((number for number, step in enumerate(stack) if step.own), len(stack))
            for number, step in reversed(list(enumerate(stack))):
                if number + 1 < len(stack):
                    frames.append(Frame("call", self.structure.span(stack[number + 1]), name=step.function))
                found = [frame for block in self.structure.blocks(step) if (frame := self._frame(block)) is not None]
                if number < innermost and any(f.kind == "loop" and not f.span.path.startswith("/") for f in frames):
                    # what a library repeats inside a call of the user's own loop is one call to the user
                    found = [f for f in found if f.kind != "loop"]
                frames += found
            self._frames[site] = tuple(frames)
        return self._frames[site]

    def _frame(self, block: Block) -> Frame | None:
        if block.kind == "with":
            return Frame("with", block.span, name=block.name) if block.name in BLOCKS else None
        if block.kind == "arm":
            return Frame("arm", block.header or block.span, branch=block.branch, polarity=block.polarity)
        over = frozenset(self.over.get(block.span, ()))
        return Frame(
            "loop", block.span, ("loop", block.span.path, block.span.line, block.span.column), size=self._size(block, over), over=over
        )

    def _size(self, block: Block, over: frozenset[int]) -> Value | None:
        """How often the loop turns in a run that is not cut short: the loader's own length, or the bound that was read."""
        for ident in sorted(over):
            return Value(("len", ("thing", ident)), sources=frozenset((ident,)))
        number = self.sizes.get((block.span.path, block.span.line))
        if number is None:
            return None
        key = ("bound", block.span.path, block.span.line)
        self.defaults[key] = number
        return Value(key)

    # ---------------------------------------------------------------- boundaries

    def _class_of(self, row: Row) -> tuple:
        """Events of one kind: the same action of the same thing at the same place, called the same way."""
        return (row["action"], row.get("thing"), row.get("site"))

    def _boundaries(self) -> dict[tuple, Frame]:
        """The branch of each class of events that lets it through less often than backward passes happen in the loop around it."""
        passes: Counter[Span] = Counter()
        for row in self.rows:
            if row["action"] == "backward":
                loop = _innermost(self._around(row["site"]))
                if loop is not None:
                    passes[loop.span] += 1
        counts = Counter(self._class_of(row) for row in self.rows if row["action"] in HELD_BACK or _is_schedule(row, self.part))
        found: dict[tuple, Frame] = {}
        for where, count in counts.items():
            frames = self._around(where[2])
            loop = _innermost(frames)
            if loop is None or passes[loop.span] < 2 * count:
                continue
            inside = frames[frames.index(loop) + 1 :]
            arms = [f for f in inside if f.kind == "arm"]
            own = [f for f in arms if not f.span.path.startswith("/")]
            for arm in own[:1] or arms[-1:]:
                number = round(passes[loop.span] / count)
                key = ("==", ("%", ("index", 0), ("const", number)), ("const", 0))
                found[where, arm.branch] = Frame("arm", arm.span, key, branch=arm.branch)
        return found

    # ---------------------------------------------------------------- things

    def _things(self) -> list[Thing]:
        # What an accelerator or a trainer does is seen itself, call by call; DeepSpeed's engine scales in its own ways.
        seen = [r for r in self.part.things.values() if r["kind"] not in ("accelerator", "engine") or "deepspeed" in str(r["type"])]
        things = [self._thing(row) for row in seen]
        for ident, members in self.atoms.members.items():
            things.append(Thing(ident, "module", "torch.nn.Module", self._home(members), self._atom_name(members)))
        return sorted(things, key=lambda t: t.id)

    def _home(self, members: frozenset[int]) -> Span:
        owner = self.part.things.get(self.part.params[min(members)].get("owner") or -1)
        return self._made_at(owner) if owner is not None else NOWHERE

    def _atom_name(self, members: frozenset[int]) -> str:
        owners = {self.part.params[p].get("owner") for p in members}
        if len(owners) == 1 and (owner := self.part.things.get(next(iter(owners)) or -1)) is not None:
            return self._name(owner)
        return ""

    def _name(self, row: Row) -> str:
        if row["id"] not in self._names:
            step = next(
                (s for s in self.part.stacks.get(row.get("site", -1), ()) if s.own and self.structure.span(s) == self._made_at(row)), None
            )
            self._names[row["id"]] = self.structure.bound_name(step) if step is not None else ""
        return self._names[row["id"]]

    def _thing(self, row: Row) -> Thing:
        kind, ident = row["kind"], row["id"]
        name = self.knowledge.canonical(str(row["type"]))
        bases = tuple(self.knowledge.canonical(str(b)) for b in row.get("bases", ()))
        arguments = {n: self._value(v) for n, v in (row.get("arguments") or {}).items()}
        facts: dict[str, Any] = {}
        if kind == "module":
            facts["parts"] = self.atoms.of(row.get("params") or ())
        elif kind == "optimizer":
            arguments["params"] = Value(("params", ident), sources=self.atoms.of(row.get("params") or ()))
        elif kind == "scheduler":
            facts = self._schedule_facts(row, name, bases, arguments)
        partners = tuple(p for p in row.get("partners", ()) if p in self.part.things)
        return Thing(ident, kind, name, self._made_at(row), self._name(row), bases, arguments, facts, partners)

    def _schedule_facts(self, row: Row, name: str, bases: tuple[str, ...], arguments: dict[str, Value]) -> dict[str, Any]:
        """What the tables know of the class or its nearest known base, and its sizes explained by the loops of the run."""
        known = next((n for n in (name, *bases) if n in self.knowledge.objects), "torch.optim.lr_scheduler.*")
        facts = {k: v for k, v in (self.knowledge.objects.get(known) or {}).items() if k not in ("kind", "parameters", "gives")}
        if not name.startswith("torch."):
            facts["overrides"] = frozenset(("step",))
            facts["deferring"] = frozenset(("step",))  # as far as a run can tell
        total = _total_steps(row)
        if total is not None:
            arguments["num_training_steps"] = Value(("const", total))
            facts["horizon"] = [*facts.get("horizon", ()), "num_training_steps"]
        for entry in facts.get("horizon", ()):
            for argument in [entry] if isinstance(entry, str) else entry:
                value = arguments.get(argument)
                if value is not None and isinstance(value.constant, int) and not isinstance(value.constant, bool):
                    arguments[argument] = Value(self._explained(value.constant, whole=isinstance(entry, str)), value.text)
        return facts

    def _explained(self, size: int, whole: bool) -> tuple:
        """A size by the loops it counts: a bound of one, a loader's length times it, either divided by the accumulation steps.

        Of a size that is not given `whole`, a length alone is a part too. A number that two explanations fit, because a bound or a
        length is 1, stays a number.
        """
        bounds = {n: ("bound", *where) for where, n in self.sizes.items() if n > 1}
        for where in self.sizes.items():
            self.defaults.setdefault(("bound", *where[0]), where[1])
        cut = {row.get("length") for row in self.part.of("pass") if row.get("truncated")}
        found: list[tuple] = [bounds[size]] if size in bounds else []
        if size in bounds and size in cut:
            return ("const", size)
        windows = {round(1 / r) for r in self._ratios()} | {1}
        for row in self.part.of("pass"):
            for length in {row.get("real_length"), row.get("length")}:
                if not isinstance(length, int) or length < 2:
                    continue
                turns: tuple = ("len", ("thing", row["loader"]))
                if size == length and not whole:
                    found.append(turns)
                for epochs, bound in bounds.items():
                    for window in sorted(windows):
                        if size in (epochs * math.ceil(length / window), epochs * (length // window), epochs * length // window):
                            found.append(("*", bound, turns if window == 1 else ("//", turns, ("const", window))))
        return found[0] if len({explanation[0] for explanation in found}) == 1 else ("const", size)

    def _ratios(self) -> list[float]:
        """Optimizer steps for each backward pass, where there are fewer."""
        passes = sum(row["action"] == "backward" for row in self.rows)
        steps = Counter(row["thing"] for row in self.rows if row["action"] == "step" and self._kind(row) == "optimizer")
        return [count / passes for count in steps.values() if passes and count * 2 <= passes]

    def _kind(self, row: Row) -> str:
        thing = self.part.things.get(row.get("thing") or -1)
        return str(thing["kind"]) if thing is not None else ""

    # ---------------------------------------------------------------- values

    def _arguments(self, row: Row) -> dict[str, Value]:
        given = row.get("arguments") or {}
        if row["action"] == "backward":
            return {"loss": self._loss(row, given.get("loss") or {})}
        if row["action"] == "step" and self._kind(row) == "scheduler":
            return self._steps_argument(row, given)
        if row["action"] == "step" and self._kind(row) == "optimizer":
            return {}  # what a closure did stands before the step, as it happened
        return {name: self._value(value) for name, value in given.items()}

    def _loss(self, row: Row, loss: Mapping[str, Any]) -> Value:
        step = self._own(row.get("site"))
        divided: frozenset[tuple] = frozenset()
        if loss.get("divided") and loss.get("divisor") != 1:
            divided = frozenset((("const", loss.get("divisor")),))
        tags = frozenset(("sum",)) if loss.get("sum") else frozenset()
        tags |= frozenset(("unknown",)) if loss.get("reached") is None else frozenset()
        text = self.structure.receiver(step) if step is not None else ""
        return Value(("loss", row.get("site")), text, self.atoms.of(loss.get("reached") or ()), tags, divided, loss.get("scaled_by"))

    def _steps_argument(self, row: Row, given: Mapping[str, Any]) -> dict[str, Value]:
        """The argument of a schedule's step, with the tag "metric" where it can be no epoch."""
        thing = self.part.things.get(row["thing"]) or {}
        known = self.knowledge.objects.get(self.knowledge.canonical(str(thing.get("type")))) or {}
        name = str(known.get("argument", "epoch"))
        values = {}
        for key, value in given.items():
            if value is None:
                continue
            tags = frozenset(("metric",)) if self._is_metric(value) else frozenset()
            found = self._value(value)
            values[name if key in ("0", "epoch", "metrics") else key] = Value(found.key, found.text, found.sources, tags)
        return values

    def _is_metric(self, value: Any) -> bool:
        """A tensor; or a number that is neither whole nor a whole number of batches: `epoch + i / n` is the latter."""
        if isinstance(value, Mapping):
            return "tensor" in value
        if not isinstance(value, float) or not math.isfinite(value):
            return isinstance(value, float)
        turns = {1} | {n for row in self.part.of("pass") for n in (row.get("real_length"), row.get("length"), row.get("batches")) if n}
        return all(abs(value * n - round(value * n)) > WHOLE * max(n, 1) for n in turns)

    def _value(self, value: Any) -> Value:
        """A value as the probes wrote it."""
        if isinstance(value, Mapping):
            if "thing" in value:
                return Value(("thing", value["thing"]), sources=frozenset((value["thing"],)))
            if "params" in value:
                return Value(("params",), sources=self.atoms.of(value["params"] or ()))
            if "tensor" in value:
                return Value(("tensor",))
            return Value(("opaque", str(value.get("type") or value.get("call") or "")))
        if isinstance(value, list):
            parts = [self._value(v) for v in value]
            return Value(("list", *(p.key for p in parts)), sources=frozenset().union(*(p.sources for p in parts)))
        return Value(("const", value))


# ---------------------------------------------------------------- parameters


class _Atoms:
    """Sets of parameters that everything in the run treats alike, each under an id of its own."""

    def __init__(self, sets: Iterable[frozenset[int]], known: Iterable[int]) -> None:
        belongs: dict[int, list[int]] = {p: [] for p in known}
        for number, members in enumerate(sorted(set(sets), key=sorted)):
            for p in members:
                belongs.setdefault(p, []).append(number)
        groups: dict[tuple[int, ...], set[int]] = {}
        for p, numbers in belongs.items():
            if numbers:
                groups.setdefault(tuple(numbers), set()).add(p)
        ordered = sorted(groups.values(), key=min)
        self.members = {FIRST_ATOM + n: frozenset(group) for n, group in enumerate(ordered)}
        self._atom = {p: ident for ident, group in self.members.items() for p in group}

    def of(self, params: Iterable[int]) -> frozenset[int]:
        return frozenset(self._atom[p] for p in params if p in self._atom)


def _atoms(part: Part, rows: Iterable[Row]) -> _Atoms:
    sets = [frozenset(row["params"]) for row in part.things.values() if row.get("params")]
    for row in rows:
        for value in (row.get("arguments") or {}).values():
            if isinstance(value, Mapping):
                sets += [frozenset(value[key]) for key in ("params", "reached") if value.get(key)]
        params = (row.get("arguments") or {}).get("params")
        if isinstance(params, list) and all(isinstance(p, int) for p in params):
            sets.append(frozenset(params))
    return _Atoms(sets, part.params)


def _innermost(frames: Iterable[Frame]) -> Frame | None:
    return next((f for f in reversed(list(frames)) if f.kind == "loop"), None)


def _is_schedule(row: Row, part: Part) -> bool:
    thing = part.things.get(row.get("thing") or -1)
    return thing is not None and thing["kind"] == "scheduler" and row["action"] == "step"


def _total_steps(row: Row) -> int | None:
    """The total a schedule function was bound to (`get_cosine_schedule_with_warmup` keeps it in its partial)."""
    made = (row.get("arguments") or {}).get("lr_lambda")
    made = made[0] if isinstance(made, list) and made else made
    keywords = made.get("keywords") if isinstance(made, Mapping) else None
    total = keywords.get("num_training_steps") if isinstance(keywords, Mapping) else None
    return total if isinstance(total, int) and not isinstance(total, bool) else None
