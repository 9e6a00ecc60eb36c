"""Where programs start: main blocks and scripts, then classes nobody uses, then functions nobody calls.

Each entry is interpreted by itself and gives one History. What an earlier entry has already walked is no entry of its own.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mllint.flow import processes
from mllint.flow.gate import ACTING
from mllint.flow.interpret import Interpreter
from mllint.flow.project import Project, acts
from mllint.flow.record import history_of
from mllint.flow.relevance import Definition, Relevance
from mllint.flow.state import COSTLY_REHEARSED, COSTLY_UNASKED, MOST_ENTRIES
from mllint.flow.values import (
    Alts,
    Bound,
    ClassValue,
    Const,
    Env,
    Function,
    Instance,
    Opaque,
    one,
    single,
    values_of,
)
from mllint.model.finding import Problem
from mllint.model.history import Frame, History
from mllint.read.python import PythonFile

#: A class or function that may be an entry: its file, and its number there.
Place = tuple[str, int]

#: Python frames a walk may nest: a call of the program costs about twenty of ours, and DEEPEST_CALL of those are followed.
DEEPEST_STACK = 12_000


#: Lines of code in the lighter half of what is left over from which on a second process walks that half: a tenth of a second of work.
MANY_LINES = 600


def histories(project: Project, interesting: set[str], starting: Sequence[str], entered: set[str]) -> Iterator[History]:
    """Interpret every entry in the files of interest: the programs that reach one, then what no program has used."""
    walk = Walk(project, known_trees(project, interesting, starting, entered))
    deep = sys.getrecursionlimit()
    sys.setrecursionlimit(max(deep, DEEPEST_STACK))
    try:
        for path in (*starting, *sorted(set(interesting) - set(starting))):
            file = project.python_file(path)
            if path in starting:
                project.advance(1, path)
            if file is not None and (path in starting or walk.does_something(file)):
                yield from walk.script(file)
        yield from leftovers(walk, sorted(interesting))
    finally:
        sys.setrecursionlimit(deep)


def leftovers(walk: Walk, paths: list[str]) -> Iterator[History]:
    """Walk what no program has used, file by file. Much of it is walked in two halves, by two processes where that is possible: what
    an entry of the other half has used is then walked for nothing, and left out here."""
    parts = halves({path: walk.weight(path) for path in paths})
    walked: dict[Place, Walked] = {}
    if len(parts) > 1:
        before, inert = set(walk.seen), dict(walk.interpreter.inert)
        other: dict[Place, Walked] | None = None
        if processes.available():
            import pickle

            # The heavier half is walked here, so that nobody waits for the other.
            walked, other = processes.beside(
                lambda: walk.part(parts[0]), lambda: walk.elsewhere(paths, parts[1]), pickle.dumps, pickle.loads
            )
        else:
            walked = walk.part(parts[0])
        if other is None:
            walk.seen, walk.interpreter.inert, walk.interpreter.spent = set(before), inert, {}
            other = walk.part(parts[1])
        walk.seen = before
        walked |= other
    for path in paths:
        walk.project.advance(0 if path in parts[0] and walked else 1, path)
        for number, node in walk.candidates(path):
            if walk.used(node):
                continue
            known = walked.get((path, number)) or walk.walk(path, node)
            walk.seen |= known.entered
            walk.project.problems.extend(p for p in known.problems if p not in walk.project.problems)
            yield from known.histories
        walk.project.release(path)


def halves(weights: dict[str, int]) -> list[list[str]]:
    """The files in two parts of about the same weight, the heavier one first; in one where a second one is not worth a process."""
    parts: list[list[str]] = [[], []]
    sums = [0, 0]
    for path in sorted(weights, key=lambda path: -weights[path]):
        lighter = 0 if sums[0] <= sums[1] else 1
        parts[lighter].append(path)
        sums[lighter] += weights[path]
    if min(sums) < MANY_LINES:
        return [[*weights]]
    return [sorted(part) for part in (parts if sums[0] >= sums[1] else parts[::-1])]


#: Up to so many files that can be entered all of them are asked which names lead to something; beyond, only those of interest and the
#: programs.
MOST_ASKED = 400


def known_trees(project: Project, interesting: set[str], starting: Sequence[str], entered: set[str]) -> list[ast.Module]:
    """The trees that tell which names lead to something the rules follow."""
    paths = entered if len(entered) <= MOST_ASKED else {*interesting, *starting}
    files = [project.python_file(path) for path in sorted(paths)]
    return [file.tree for file in files if file is not None]


def acting(file: PythonFile) -> list[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """The classes and functions of a module that do something the rules follow, callers first. Most are told from their bytes."""
    lines = file.source.data.splitlines(keepends=True)
    found: list[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef] = []
    rest: list[ast.FunctionDef | ast.AsyncFunctionDef] = []
    texts: dict[str, bytes] = {}
    for node in file.tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            texts[node.name] = text = b"".join(lines[node.lineno - 1 : node.end_lineno])
            if ACTING.search(text) and acts(node):
                found.append(node)
            elif not isinstance(node, ast.ClassDef):
                rest.append(node)
    return by_calls(found, rest, texts) if found and file.tree.body else found


def by_calls(
    found: list[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef],
    rest: list[ast.FunctionDef | ast.AsyncFunctionDef],
    texts: dict[str, bytes],
) -> list[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions that only call those that act join them, and what another of them calls is left for later."""
    acting = "|".join(re.escape(n.name) for n in found).encode()
    calling = re.compile(rb"\b(?:" + acting + rb")\s*\(")
    found = found + [n for n in rest if calling.search(texts[n.name])]
    names = re.compile(rb"\b(" + "|".join(re.escape(n.name) for n in found).encode() + rb")\s*\(")
    called = {name for n in found for name in names.findall(texts[n.name]) if name != n.name.encode()}
    return sorted(found, key=lambda n: n.name.encode() in called)


@dataclass(slots=True)
class Walked:
    """What following one class or function gave. It is told to another process as it is."""

    histories: list[History] = field(default_factory=list)
    entered: set[int] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)


class Walk:
    """The interpreter and what the entries so far have walked."""

    def __init__(self, project: Project, trees: list[ast.Module]) -> None:
        self.project = project
        self.interpreter = Interpreter(project, project.knowledge, Relevance(trees, project.knowledge))
        self.seen: set[int] = set()
        self.possible: dict[str, list[tuple[int, Definition]]] = {}

    def entry(self, file: PythonFile, name: str, body: Any) -> History | None:
        """Interpret one entry; the state is put back afterwards."""
        interpreter = self.interpreter
        interpreter.begin(file)
        mark = len(interpreter.journal)
        try:
            body()
        except RecursionError:
            interpreter.limit("the code nests deeper than can be followed")
        except Exception as error:  # one entry that breaks the interpreter must not take the others with it
            self.broke(file, name, error)
        if interpreter.often:
            shown = ", ".join(f"`{n}`" for n in sorted(interpreter.often)[:3]) + (", ..." if len(interpreter.often) > 3 else "")
            interpreter.limit(f"{shown} followed {MOST_ENTRIES} times, or through {interpreter.costly:,} statements, and no further")
        history = history_of(interpreter, name)
        interpreter.take_changes(mark)
        self.seen |= interpreter.entered
        for text in sorted(interpreter.limits):
            problem = Problem("limit", f"{name}: {text}; what lies beyond was not looked at", file.source.path)
            if problem not in self.project.problems:
                self.project.problems.append(problem)
        return history if history.events_in_order else None

    def broke(self, file: PythonFile, name: str, error: Exception) -> None:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f" ({trace.tb_frame.f_code.co_name}, line {trace.tb_lineno})" if trace is not None else ""
        message = f"following {name} failed: {type(error).__name__}: {error}{where}; please report it"
        self.project.problems.append(Problem("internal", message, file.source.path))

    def does_something(self, file: PythonFile) -> bool:
        """The module's own statements lead to something the rules follow: it is a program, whatever its last line looks like."""
        plain = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
        return any(self.interpreter.relevance.decides(node) for node in file.tree.body if not isinstance(node, plain))

    def script(self, file: PythonFile) -> Iterator[History]:
        """The file run as a program."""
        interpreter = self.interpreter

        def body() -> None:
            env = Env(file, None)
            env.slots["__name__"] = one(Const("__main__"))
            env.slots["__file__"] = one(Opaque(("file", file.source.path)))
            interpreter.env = env
            interpreter.block(file.tree.body)

        history = self.entry(file, file.source.path, body)
        if history is not None:
            yield history

    # ------------------------------------------------------------ what is left over

    def candidates(self, path: str) -> list[tuple[int, Definition]]:
        """The classes and functions of a file that may be entries, callers first, numbered."""
        known = self.possible.get(path)
        if known is None:
            file, decides = self.project.python_file(path), self.interpreter.relevance.decides
            some = file is not None and not file.is_notebook and any(decides(n) for n in file.tree.body if isinstance(n, Definition))
            nodes = acting(file) if file is not None and some else []
            known = self.possible[path] = list(enumerate(node for node in nodes if decides(node)))
        return known

    def weight(self, path: str) -> int:
        """How many lines of the file are to be walked."""
        return sum((n.end_lineno or n.lineno) - n.lineno + 1 for _, n in self.candidates(path) if not self.used(n))

    def part(self, paths: list[str]) -> dict[Place, Walked]:
        """Everything in these files that nobody has used."""
        walked: dict[Place, Walked] = {}
        for path in paths:
            self.project.advance(1, path)
            for number, node in self.candidates(path):
                if not self.used(node):
                    walked[path, number] = found = self.walk(path, node)
                    self.seen |= found.entered
        return walked

    def elsewhere(self, paths: list[str], part: list[str]) -> dict[Place, Walked]:
        """The same in a second process: what was entered is told by the functions that stand in the files of all parts, which both
        processes know by the same numbers."""
        self.project.advance = lambda count=1, doing="", more=0: None
        walked = self.part(part)
        shared: set[int] = set()
        for file in filter(None, map(self.project.python_file, paths)):
            for node in file.tree.body:
                shared.update(map(id, self.methods(node)) if isinstance(node, ast.ClassDef) else (id(node),))
        for found in walked.values():
            found.entered &= shared
        return walked

    def walk(self, path: str, node: Definition) -> Walked:
        """A class whose methods nobody called, or a function nobody called."""
        found = Walked()
        file = self.project.python_file(path)
        assert file is not None
        kept, self.project.problems = (self.project.problems, self.seen), found.problems
        self.seen = found.entered
        try:
            self.interpreter.begin(file)
            values = values_of(self.interpreter.run_module(file).slots.get(node.name, ()))
            if isinstance(node, ast.ClassDef):
                whole = len(values) == 1 and isinstance(values[0], ClassValue) and values[0].node is node
                entries = [self.entry(file, f"{path}: class {node.name}", lambda: self.use_class(values[0]))] if whole else []
            else:
                entries = [self.entry(file, f"{path}: {node.name}()", lambda value=value: self.use_function(value)) for value in values]
        finally:
            self.project.problems, self.seen = kept
        found.histories.extend(history for history in entries if history is not None)
        return found

    def methods(self, cls: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        return [n for n in cls.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]

    def used(self, node: Definition) -> bool:
        """Somebody has called the function, or a method of the class besides the constructor."""
        if not isinstance(node, ast.ClassDef):
            return id(node) in self.seen
        return any(id(m) in self.seen for m in self.methods(node) if m.name != "__init__")

    def use_function(self, value: Any) -> None:
        self.interpreter.unasked = self.interpreter.leftover = True
        if isinstance(value, Function):
            self.interpreter.span(value.node, value.env.file)
        result = self.interpreter.call_value(value, [], {}, value.node if isinstance(value, Function) else self.interpreter.nowhere)
        self.interpreter.lose_all([result], self.interpreter.nowhere)

    def use_class(self, cls: ClassValue) -> None:
        """Make an object and call its methods twice: first so that every attribute is set, then for the record."""
        interpreter = self.interpreter
        row = interpreter.class_row(cls) or {}
        interpreter.unasked = interpreter.leftover = True
        made = single(interpreter.instantiate(cls, [], {}, cls.node))
        assert isinstance(made, Instance)
        hooks = [h for h in row.get("hooks", ()) if interpreter.class_attribute_exists(cls, h)]
        others = [m.name for m in self.methods(cls.node) if m.name not in hooks and m.name != "__init__" and not m.name.startswith("__")]
        others += [name for name in self.inherited(cls) if name not in hooks and name not in others]
        called = self.called_within(cls)
        public = [name for name in others if name not in called] or others
        public += ["__call__"] if interpreter.class_attribute_exists(cls, "__call__") else []
        records = len(interpreter.records)
        things = len(interpreter.things)
        interpreter.costly = COSTLY_REHEARSED
        self.call_methods(made, [*hooks, *public], row)
        interpreter.costly = COSTLY_UNASKED
        interpreter.costs.clear()
        del interpreter.records[records:]
        kept = interpreter.things[things:]
        interpreter.entries.clear()
        unseen = {thing.ident for thing in interpreter.promoted.values()}
        for thing in kept:
            thing.lost = thing.lost if thing.ident in unseen else None
        self.forget(interpreter, kept, made)
        self.call_methods(made, [*hooks, *public], row)
        told = {r.thing.ident for r in interpreter.records if r.thing is not None}
        told |= {i for r in interpreter.records for v in r.arguments.values() for i in v.sources}
        interpreter.things = [t for t in interpreter.things if t not in kept or t.ident in told]

    def forget(self, interpreter: Interpreter, kept: list[Instance], made: Instance) -> None:
        """Objects of the rehearsal that no attribute holds were only rehearsed."""
        held = interpreter.inside(made) | {v for a in made.slots.values() for x, _ in a for v in interpreter.inside(x)}
        interpreter.things = [t for t in interpreter.things if t not in kept or t in held]

    def inherited(self, cls: ClassValue) -> list[str]:
        """Methods of the project's classes it comes from that lead to something: whoever uses the class calls them too."""
        ancestors = [a for a in cls.mro() if isinstance(a, ClassValue) and a is not cls]
        leads = self.interpreter.relevance.leads
        found = [m.name for a in ancestors for m in self.methods(a.node) if not m.name.startswith("__") and leads(m)]
        return [name for name in dict.fromkeys(found) if not any(m.name == name for m in self.methods(cls.node))]

    def called_within(self, cls: ClassValue) -> set[str]:
        """Names of methods that other methods of the class, or of those it comes from, call: they are no entries of their own."""
        return {
            n.func.attr
            for a in cls.mro()
            if isinstance(a, ClassValue)
            for m in self.methods(a.node)
            for n in ast.walk(m)
            if isinstance(n, ast.Call)
            and isinstance(n.func, ast.Attribute)
            and isinstance(n.func.value, ast.Name)
            and n.func.attr != m.name
        }

    def call_methods(self, made: Instance, names: list[str], row: dict[str, Any]) -> None:
        interpreter = self.interpreter
        for number, name in enumerate(names):
            bound = interpreter.method_of(made, name)
            if bound is None or not isinstance(bound, Bound) or not isinstance(bound.function, Function):
                continue
            framework = name in row.get("hooks", ())
            place = len(interpreter.place)
            span = made.made_at
            if not framework:
                interpreter.place.append(Frame("call", span, ("entry", number), name, facts={"entry": number}))
            elif name in row.get("per_epoch", ()):
                interpreter.place.append(Frame("loop", span, ("loop", "epochs"), "framework"))
            elif name in row.get("per_batch", ()):
                interpreter.place.append(Frame("loop", span, ("loop", "epochs"), "framework"))
                interpreter.place.append(Frame("loop", span, ("loop", "batches"), "framework"))
            interpreter.unasked = True
            interpreter.span(bound.function.node, bound.function.env.file)  # which may be that of a base or a decorator
            result: Alts = interpreter.call_value(bound, [], {}, bound.function.node)
            del interpreter.place[place:]
            if name == row.get("configures"):
                made.slots[("configured",)] = result
                manual = single(made.slots.get(row.get("manual", ""), ()))
                if not (isinstance(manual, Const) and manual.value is False):
                    for value in values_of(result):
                        interpreter.manage(value, bound.function.node)
            elif not framework:
                interpreter.lose_all([result], bound.function.node)
