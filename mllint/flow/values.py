"""The values the interpreter computes with: small sets of alternatives, objects named by the execution that made them.

A value that is not known is an `Opaque` with a structural key, so that two reads of `args.epochs` are the same value, and with
the things it was computed from, so that a loss knows whose gradients it carries.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mllint.model.finding import Span
    from mllint.read.python import PythonFile

#: Facts under which an alternative holds: (condition key, polarity).
Guard = frozenset[tuple[tuple, bool]]
NO_GUARD: Guard = frozenset()

#: Alternatives beyond these become unknown: joins would otherwise grow with every branch of a long script.
MOST_ALTERNATIVES = 6
#: A structural key deeper than this names nothing a rule compares; it is replaced by a fresh one.
DEEPEST_KEY = 10


class Const:
    """A constant of the program: number, text, None, bool.

    `soft` names the variable a literal was assigned to as a setting (`USE_AMP = True`): users edit those, so a condition on one
    is not decided by today's value.
    """

    __slots__ = ("soft", "value")

    def __init__(self, value: Any, soft: tuple | None = None) -> None:
        self.value = value
        self.soft = soft

    @property
    def key(self) -> tuple:
        return ("const", self.value)


class Opaque:
    """Something unknown, with a name by structure. `sources` are the objects it was computed from."""

    __slots__ = ("depth", "divided", "key", "scaled", "sources", "tags")

    def __init__(
        self,
        key: tuple,
        sources: frozenset[Instance] = frozenset(),
        tags: frozenset[str] = frozenset(),
        divided: frozenset[tuple] = frozenset(),
        scaled: Instance | None = None,
        depth: int = 1,
    ) -> None:
        self.key = key
        self.sources = sources
        self.tags = tags
        self.divided = divided
        self.scaled = scaled
        self.depth = depth


class External:
    """A name of a library, by its dotted path as the tables spell it."""

    __slots__ = ("name", "receiver")

    def __init__(self, name: str, receiver: Instance | None = None) -> None:
        self.name = name
        self.receiver = receiver

    @property
    def key(self) -> tuple:
        return ("ext", self.name)


class ModuleValue:
    """A module of the project."""

    __slots__ = ("file", "slots")

    def __init__(self, file: PythonFile, slots: Slots) -> None:
        self.file = file
        self.slots = slots

    @property
    def key(self) -> tuple:
        return ("module", self.file.source.path)


class Env:
    """The names of one execution of a function, class body or module; `parent` is the enclosing one."""

    __slots__ = ("file", "globals_named", "is_class", "owner", "parent", "slots")

    def __init__(self, file: PythonFile, parent: Env | None, slots: Slots | None = None, is_class: bool = False) -> None:
        self.file = file
        self.parent = parent
        self.slots: Slots = {} if slots is None else slots
        self.is_class = is_class
        self.globals_named: frozenset[str] = frozenset()
        self.owner: ClassValue | None = None


class Function:
    """A function of the project with the names it closes over. `owner` is the class it was defined in."""

    __slots__ = ("contexts", "decorators", "env", "key", "name", "node", "owner")

    def __init__(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, env: Env, owner: ClassValue | None = None) -> None:
        self.node = node
        self.env = env
        self.owner = owner
        self.name = getattr(node, "name", "<lambda>")
        self.decorators: tuple[str, ...] = ()
        self.contexts: tuple[Context, ...] = ()
        self.key: tuple = ("function", id(node))


class ClassValue:
    """A class of the project. `bases` are ClassValue, External or Opaque."""

    __slots__ = ("bases", "decorators", "env", "fields", "lines", "name", "node", "slots")

    def __init__(self, node: ast.ClassDef, env: Env, bases: tuple[Any, ...]) -> None:
        self.node = node
        self.name = node.name
        self.env = env
        self.slots = env.slots
        self.bases = bases
        self.decorators: tuple[str, ...] = ()
        self.lines: tuple[Any, ...] | None = None
        self.fields: list[tuple[str, ast.expr | None]] | None = None

    @property
    def key(self) -> tuple:
        return ("class", id(self.node))

    def mro(self) -> tuple[Any, ...]:
        """This class and its ancestors, nearest first (depth first, a shared ancestor last), External and Opaque ones included."""
        if self.lines is None:
            self.lines = (self,)  # a cycle of bases ends here
            found: list[Any] = [self]
            for base in self.bases:
                for ancestor in base.mro() if isinstance(base, ClassValue) else (base,):
                    if ancestor in found:
                        found.remove(ancestor)
                    found.append(ancestor)
            self.lines = tuple(found)
        return self.lines

    def externals(self) -> list[str]:
        return [b.name for b in self.mro() if isinstance(b, External)]

    def unseen_base(self) -> bool:
        return any(isinstance(b, Opaque) for b in self.mro())


class Instance:
    """An object, named by the execution that made it: a followed thing (it has a `kind`), or an object of a project class."""

    __slots__ = (
        "arguments",
        "cls",
        "facts",
        "ident",
        "kind",
        "lost",
        "made_at",
        "managed",
        "name",
        "partners",
        "ready",
        "slots",
        "sure",
        "type",
    )

    def __init__(self, ident: int, made_at: Span, kind: str = "", type_name: str = "", cls: ClassValue | None = None) -> None:
        self.ident = ident
        self.made_at = made_at
        self.kind = kind
        self.type = type_name
        self.cls = cls
        self.slots: Slots = {}
        self.arguments: dict[str, Alts] = {}
        self.facts: dict[str, Any] = {}
        self.partners: list[Instance] = []
        self.name = ""
        self.lost: Span | None = None
        self.managed: Span | None = None
        self.ready = True
        self.sure = True

    @property
    def key(self) -> tuple:
        return ("thing", self.ident)


class Bound:
    """A method taken from an object; `function` is a project Function or the name of a library method."""

    __slots__ = ("function", "owner", "receiver")

    def __init__(self, receiver: Any, function: Function | str, owner: ClassValue | None = None) -> None:
        self.receiver = receiver
        self.function = function
        self.owner = owner

    @property
    def name(self) -> str:
        return self.function if isinstance(self.function, str) else self.function.name

    @property
    def key(self) -> tuple:
        return ("attr", self.receiver.key, self.name)


class Partial:
    """functools.partial and everything like it."""

    __slots__ = ("args", "function", "keywords")

    def __init__(self, function: Alts, args: list[Alts], keywords: dict[str, Alts]) -> None:
        self.function = function
        self.args = args
        self.keywords = keywords

    @property
    def key(self) -> tuple:
        return ("partial", self.function[0][0].key)


class Super:
    """`super()` inside a method: lookup starts behind `after`."""

    __slots__ = ("after", "receiver")

    def __init__(self, receiver: Any, after: ClassValue) -> None:
        self.receiver = receiver
        self.after = after

    @property
    def key(self) -> tuple:
        return ("super", self.receiver.key)


class Sequence:
    """A list, tuple or set: slots 0, 1, ... and "#" (the length) while every element is known, else "*" for any element."""

    __slots__ = ("ident", "kind", "over", "slots")

    def __init__(
        self,
        ident: int,
        items: Iterable[Alts] | None,
        kind: str = "list",
        rest: Alts = (),
        size: Alts | None = None,
        over: frozenset[Instance] = frozenset(),
    ) -> None:
        self.ident = ident
        self.kind = kind
        self.over = over
        self.slots: Slots = {}
        if items is None:
            self.slots["*"] = rest
            if size is not None:
                self.slots["#"] = size
        else:
            listed = list(items)
            for number, alts in enumerate(listed):
                self.slots[number] = alts
            self.slots["#"] = one(Const(len(listed)))

    @property
    def key(self) -> tuple:
        return ("seq", self.ident)

    @property
    def length(self) -> int | None:
        """How many elements, or None when that is not known."""
        size = self.slots.get("#", ())
        known = size[0][0] if len(size) == 1 and "*" not in self.slots else None
        return known.value if isinstance(known, Const) and isinstance(known.value, int) else None

    def elements(self) -> list[Alts]:
        """Known elements in order, or all of them as one where their number is not known."""
        length = self.length
        if length is not None:
            return [self.slots[n] for n in range(length) if n in self.slots]
        rest: Alts = self.slots.get("*", ())
        for key, alts in self.slots.items():
            if isinstance(key, int):
                rest = join(rest, alts)
        return [rest]


class Mapping:
    """A dict. Constant keys have their own slot (as ("k", key)); "*" holds what any other key may give."""

    __slots__ = ("ident", "slots")

    def __init__(self, ident: int) -> None:
        self.ident = ident
        self.slots: Slots = {}

    @property
    def key(self) -> tuple:
        return ("map", self.ident)

    def values(self) -> list[Alts]:
        return list(self.slots.values())


class Deferred:
    """An import that nobody has used yet: the module of the project is read when the name is."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str | None) -> None:
        self.module = module
        self.name = name

    @property
    def key(self) -> tuple:
        return ("import", self.module, self.name)


class Generator:
    """A call of a generator function, not run yet: it runs where it is looped over or entered."""

    __slots__ = ("function", "ident", "run")

    def __init__(self, ident: int, function: Function, run: Callable[[Callable[[Alts], int]], None]) -> None:
        self.ident = ident
        self.function = function
        self.run = run

    @property
    def key(self) -> tuple:
        return ("gen", self.ident)


class Context:
    """Something to enter with `with`, or to decorate with: an autocast region, no_grad, accumulate."""

    __slots__ = ("facts", "gives", "name", "sources")

    def __init__(self, name: str, facts: dict[str, Any], sources: frozenset[Instance] = frozenset(), gives: Alts | None = None) -> None:
        self.name = name
        self.facts = facts
        self.sources = sources
        self.gives = gives  # what `as` names, where that is not the region itself

    @property
    def key(self) -> tuple:
        return ("context", self.name)


Abstract = Any
Alts = tuple[tuple[Abstract, Guard], ...]
Slots = dict[Any, Alts]

NONE = Const(None)


def one(value: Abstract) -> Alts:
    """The value, alone and unconditionally."""
    return ((value, NO_GUARD),)


def values_of(alts: Alts) -> list[Abstract]:
    return [v for v, _ in alts]


def single(alts: Alts) -> Abstract | None:
    """The value where there is just one."""
    return alts[0][0] if len(alts) == 1 else None


def same(a: Abstract, b: Abstract) -> bool:
    """The same value: one object, or equal by structure."""
    if a is b:
        return True
    kind = type(a)
    if kind is not type(b) or kind is Instance:
        return False
    if kind is Const:
        return type(a.value) is type(b.value) and bool(a.value == b.value)
    if kind is Opaque:
        return bool(a.key == b.key and a.sources == b.sources and a.tags == b.tags and a.divided == b.divided and a.scaled is b.scaled)
    if kind is External:
        return bool(a.name == b.name)
    if kind is Bound:
        return same(a.receiver, b.receiver) and bool(a.function == b.function)
    if kind is Function:
        return a.node is b.node and a.env is b.env
    if kind is Context:
        return bool(a.name == b.name and a.facts == b.facts)
    return False


def join(a: Alts, b: Alts) -> Alts:
    """Either of the two: alternatives merged, a value on both sides keeps only the facts both agree on."""
    if a is b or not b:
        return a
    if not a:
        return b
    if len(a) == 1 and len(b) == 1:
        (value, guard), (other, other_guard) = a[0], b[0]
        if value is other or same(value, other):
            return a if guard == other_guard else ((value, guard & other_guard),)
        return (a[0], b[0])
    out = list(a)
    for value, guard in b:
        for number, (other, other_guard) in enumerate(out):
            if same(value, other):
                out[number] = (other, other_guard & guard)
                break
        else:
            out.append((value, guard))
    return tuple(out)


def guarded(alts: Alts, facts: Guard) -> Alts:
    """The same alternatives, holding only under these facts too."""
    if not facts:
        return alts
    if len(alts) == 1:  # nearly always, and asked tens of thousands of times
        value, guard = alts[0]
        return ((value, guard | facts if guard else facts),)
    return tuple([(v, g | facts) for v, g in alts])


def instances(value: Abstract) -> frozenset[Instance]:
    """What a value carries gradients or identity of: itself for an object, its sources for something unknown."""
    if isinstance(value, Instance):
        return frozenset((value,))
    if isinstance(value, (Opaque, Context)):
        return value.sources
    return frozenset()


@dataclass(slots=True)
class Loop:
    """A loop being walked, for `break` and `continue`."""

    exits: list[dict] = field(default_factory=list)


@dataclass(slots=True)
class Call:
    """A function being run: what it returned so far, the state changes of paths that returned early, the names of who called it."""

    function: Function | None
    env: Env
    returns: list[Alts] = field(default_factory=list)
    exits: list[dict] = field(default_factory=list)
    place: int = 0
    on_yield: Callable[[Alts], int] | None = None
    caller: Env | None = None


def parts(instance: Instance, seen: set[int] | None = None) -> set[int]:
    """The modules inside a module, itself included."""
    seen = set() if seen is None else seen
    if instance.ident in seen:
        return seen
    seen.add(instance.ident)
    for partner in instance.partners:
        if partner.kind in ("module", "criterion", "parameter"):
            parts(partner, seen)
    for alts in instance.slots.values():
        for value, _ in alts:
            if isinstance(value, Instance) and value.kind in ("module", "parameter"):
                parts(value, seen)
    return seen
