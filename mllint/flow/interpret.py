"""The abstract interpreter: walks the statements of a program from an entry, in the order they would run.

It never runs the code. Arms of a branch are walked on the same state one after the other and joined; a loop body is walked once,
or once for each element of a short list that is known; calls into the project are entered at every call site.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from mllint.flow.calls import Calls
from mllint.flow.conditions import Conditions, pattern_test
from mllint.flow.expressions import Expressions
from mllint.flow.followed import Followed
from mllint.flow.keeping import Keeping
from mllint.flow.library import Library
from mllint.flow.loops import Loops
from mllint.flow.losing import Losing
from mllint.flow.methods import Methods
from mllint.flow.names import Names
from mllint.flow.opaque import Unknown
from mllint.flow.python import Python
from mllint.flow.reach import Reaching
from mllint.flow.state import BREAK, CONTINUE, MOST_STEPS, NORMAL, RAISE, RETURN, Changes, Condition, State
from mllint.flow.values import (
    NO_GUARD,
    NONE,
    Alts,
    ClassValue,
    Const,
    Context,
    Deferred,
    Env,
    External,
    Function,
    Instance,
    ModuleValue,
    Opaque,
    Sequence,
    guarded,
    join,
    one,
    single,
    values_of,
)
from mllint.read.python import PythonFile

#: Decorators that change how a function is called, by the name they are known under.
MARKS = {
    "builtins.property": "property",
    "functools.cached_property": "property",
    "builtins.staticmethod": "staticmethod",
    "builtins.classmethod": "classmethod",
    "contextlib.contextmanager": "contextmanager",
    "contextlib.asynccontextmanager": "contextmanager",
    "dataclasses.dataclass": "dataclass",
    "abc.abstractmethod": "abstract",
    "typing.overload": "overload",
}


class Interpreter(
    Expressions, Names, Conditions, Loops, Calls, Library, Followed, Methods, Unknown, Losing, Python, Reaching, Keeping, State
):
    """One entry's interpretation. Statements here; expressions, calls and library knowledge in the modules beside."""

    # ------------------------------------------------------------ statements

    def block(self, statements: list[ast.stmt]) -> int:
        for statement in statements:
            self.steps += 1
            if self.steps > MOST_STEPS:
                self.limit(f"stopped after {MOST_STEPS:,} statements")
                self.stopped = self.stopped or self.span(statement)
                return RAISE
            status: int = _STATEMENTS.get(type(statement), Interpreter.other)(self, statement)
            if status != NORMAL:
                return status
        return NORMAL

    def other(self, node: ast.stmt) -> int:
        return NORMAL

    def expression_statement(self, node: ast.Expr) -> int:
        value = single(self.evaluate(node.value))
        if isinstance(value, Context) and value.name == "set_grad_enabled":
            self.record("grad-mode", None, node)  # `torch.set_grad_enabled(False)`, which holds until it is called again
        return RAISE if self.ends_program(node.value) else NORMAL

    def ends_program(self, node: ast.expr) -> bool:
        """`sys.exit()`, `exit()`, `parser.error()`: what follows does not run."""
        if not isinstance(node, ast.Call):
            return False
        function = node.func
        if isinstance(function, ast.Name):
            return function.id in ("exit", "quit") and not self.bound_in_project(function.id)
        return (
            isinstance(function, ast.Attribute)
            and isinstance(function.value, ast.Name)
            and (function.value.id, function.attr) in (("sys", "exit"), ("os", "_exit"), ("os", "abort"))
        )

    # assignments

    def assign(self, node: ast.Assign) -> int:
        alts = self.soften(node.value, node.targets[0], self.evaluate(node.value))
        if isinstance(node.value, ast.BinOp) and isinstance(node.value.op, ast.Add) and self.in_loop():
            self.note_sum_of_itself(node, node.value)
        for target in node.targets:
            self.bind(target, alts, node)
        return NORMAL

    def annotated(self, node: ast.AnnAssign) -> int:
        if node.value is not None:
            self.bind(node.target, self.soften(node.value, node.target, self.evaluate(node.value)), node)
        return NORMAL

    def soften(self, value: ast.expr, target: ast.expr, alts: Alts) -> Alts:
        """A literal given to a name is a setting somebody edits, not a fact of the program."""
        if isinstance(value, ast.Constant) and value.value is not None and isinstance(target, (ast.Name, ast.Attribute)):
            return one(Const(value.value, ("setting", id(value))))
        return alts

    def augmented(self, node: ast.AugAssign) -> int:
        old = self.evaluate(node.target)
        change = self.evaluate(node.value)
        for value in values_of(old):
            if isinstance(value, Sequence) and isinstance(node.op, ast.Add):
                for added in (e for v in values_of(change) if isinstance(v, Sequence) for e in v.elements()):
                    self.note_kept(value.ident, added, node, node.target)
                self.extend(value, change)
                return NORMAL
        if isinstance(node.op, ast.Add) and self.in_loop():
            self.note_summed(node, node.target, old, change)
        self.bind(node.target, self.arithmetic(node.op, old, change, node), node)
        return NORMAL

    def bind(self, target: ast.expr, alts: Alts, node: ast.AST) -> None:
        """Give a value to a name, attribute, item or pattern of those."""
        if isinstance(target, ast.Name):
            self.name_things(alts, target)
            self.write_name(target.id, alts)
        elif isinstance(target, ast.Attribute):
            self.name_things(alts, target)
            self.set_attribute(self.evaluate(target.value), target.attr, alts, node)
        elif isinstance(target, ast.Subscript):
            self.name_things(alts, target)
            self.set_item(self.evaluate(target.value), self.evaluate(target.slice), alts, target)
        elif isinstance(target, (ast.Tuple, ast.List)):
            self.unpack(target, alts, node)
        elif isinstance(target, ast.Starred):
            self.bind(target.value, alts, node)

    def name_things(self, alts: Alts, target: ast.expr) -> None:
        for value, _ in alts:
            if isinstance(value, Instance) and value.kind and not value.name:
                value.name = ast.unparse(target)

    def unpack(self, target: ast.Tuple | ast.List, alts: Alts, node: ast.AST) -> None:
        count = len(target.elts)
        star = next((n for n, e in enumerate(target.elts) if isinstance(e, ast.Starred)), None)
        columns: list[Alts] = [()] * count
        for value, guard in self.held(alts):
            parts = self.split(value, count, star)
            columns = [join(column, guarded(part, guard)) for column, part in zip(columns, parts, strict=True)]
        for element, column in zip(target.elts, columns, strict=True):
            self.bind(element, column or one(self.unknown()), node)

    def split(self, value: Any, count: int, star: int | None) -> list[Alts]:
        """The value taken apart into `count` targets."""
        if isinstance(value, Sequence):
            length = value.length
            if length is None:
                return value.elements() * count
            items = [value.slots.get(n, ()) for n in range(length)]
            if star is None and length == count:
                return items
            if star is not None and length >= count - 1:
                middle = Sequence(self.fresh(), items[star : length - (count - 1 - star)])
                return [*items[:star], one(middle), *items[length - (count - 1 - star) :]]
        if isinstance(value, Const):
            return [()] * count
        return [self.element(value, n) for n in range(count)]

    # branches

    def if_(self, node: ast.If) -> int:
        condition = self.condition(node.test)
        if condition.verdict is not None:
            self.enter_side(node, 0, condition, condition.verdict, frames=False)
            return self.block(node.body if condition.verdict else node.orelse)
        return self.fork(node, condition, lambda: self.block(node.body), lambda: self.block(node.orelse))

    def fork(self, node: ast.AST, condition: Condition, body: Callable[[], int], other: Callable[[], int], name: str = "") -> int:
        """Walk both arms and continue behind them; what follows an arm that left runs in the other arm."""
        branch = self.fresh()
        arms = [self.arm(node, branch, condition, True, body, name), self.arm(node, branch, condition, False, other, name)]
        (status_a, changes_a, facts_a), (status_b, changes_b, facts_b) = arms
        if status_a == NORMAL and status_b == NORMAL:
            self.merge(changes_a, changes_b, facts_a, facts_b)
            return NORMAL
        for side, (status, changes, _) in zip((True, False), arms, strict=True):
            self.left_by(status, changes)
            other_status, other_changes, _ = arms[1 if side else 0]
            if status != NORMAL and other_status == NORMAL:
                self.replay(other_changes)
                self.enter_side(node, branch, condition, not side, name, frames=status != RAISE)
                return NORMAL
        return min(status_a, status_b)

    def left_by(self, status: int, changes: Changes) -> None:
        if status == RETURN and self.call is not None:
            self.call.exits.append(changes)
        elif status in (BREAK, CONTINUE) and self.loops:
            self.loops[-1].exits.append(changes)

    def match(self, node: ast.Match) -> int:
        self.evaluate(node.subject)
        return self.cases(node, 0)

    def cases(self, node: ast.Match, number: int) -> int:
        """The case of this number, or else those after it."""
        if number == len(node.cases):
            return NORMAL
        case = node.cases[number]
        names = [p.name for p in ast.walk(case.pattern) if isinstance(p, (ast.MatchAs, ast.MatchStar)) and p.name is not None]
        if names:
            subject = self.evaluate(node.subject)
            for name in names:
                self.write_name(name, subject)
        test = pattern_test(node.subject, case.pattern)
        tests = [t for t in (test, case.guard) if isinstance(t, ast.expr)]
        if test is True and case.guard is None:
            return self.block(case.body)
        whole = tests[0] if len(tests) == 1 else ast.copy_location(ast.BoolOp(ast.And(), tests), node.subject)
        condition = Condition() if test is None else self.condition(whole)
        if condition.verdict is not None:
            self.enter_side(node, 0, condition, condition.verdict, frames=False)
            return self.block(case.body) if condition.verdict else self.cases(node, number + 1)
        return self.fork(node, condition, lambda: self.block(case.body), lambda: self.cases(node, number + 1))

    def try_(self, node: ast.Try) -> int:
        status = self.block(node.body)
        if status == NORMAL:
            status = self.block(node.orelse)
        for handler in node.handlers:
            if handler.name:
                self.write_name(handler.name, one(self.unknown()))
            branch = self.fresh()
            ended, changes, facts = self.arm(handler, branch, Condition(), True, lambda body=handler.body: self.block(body), "except")  # type: ignore[misc]
            if ended == NORMAL:
                if status == RAISE:
                    self.replay(changes)
                    status = NORMAL
                else:
                    self.merge(changes, {}, facts)
                    if status == RETURN:
                        status = NORMAL
            else:
                self.left_by(ended, changes)
        ended = self.block(node.finalbody)
        return ended if ended != NORMAL else status

    # definitions

    def function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
        env = self.env
        owner = env.owner if env.is_class else None
        outer = env.parent if env.is_class and env.parent is not None else env
        function = Function(node, outer, owner)
        result: Alts = one(function)
        marks: list[str] = []
        contexts: list[Context] = []
        for decorator in reversed(node.decorator_list):
            if isinstance(decorator, ast.Attribute) and decorator.attr in ("setter", "deleter", "getter"):
                return NORMAL  # the getter stays; writing through a property is not followed
            for value in values_of(self.evaluate(decorator)):
                value = self.as_context(value)
                if isinstance(value, Context):
                    contexts.append(value)
                elif isinstance(value, External):
                    marks.append(MARKS.get(value.name, value.name))
                    self.registered(value, function, decorator)
                elif isinstance(value, Function) and not self.relevance.leads(value.node):
                    continue  # a decorator that does nothing the rules follow: the function stays what it is
                elif isinstance(value, Opaque) and any(i.kind == "engine" for i in value.sources):
                    self.called_back(function, decorator, set())  # a handler of an engine, which calls it
                elif isinstance(value, (Function, ClassValue)) or getattr(value, "function", None) is not None:
                    function.contexts = tuple(contexts)
                    wrapped = self.call_value(value, [result], {}, decorator)
                    result = wrapped if any(not isinstance(v, (Opaque, Const)) for v in values_of(wrapped)) else result
                elif isinstance(value, Opaque):
                    self.registered(value, function, decorator)
        function.decorators = tuple(marks)
        function.contexts = tuple(contexts)
        self.write_name(node.name, result)
        return NORMAL

    def class_(self, node: ast.ClassDef) -> int:
        bases = []
        for base in node.bases:
            alts = self.evaluate(base)
            bases.append(next((v for v in values_of(alts) if isinstance(v, (ClassValue, External, Opaque))), self.unknown()))
        env = Env(self.file, self.env if not self.env.is_class else self.env.parent, is_class=True)
        value = ClassValue(node, env, tuple(bases))
        env.owner = value
        marks = []
        for decorator in node.decorator_list:
            for found in values_of(self.evaluate(decorator)):
                if isinstance(found, External):
                    marks.append(MARKS.get(found.name, found.name))
                elif isinstance(found, Opaque) and found.key[:1] == ("call",) and "dataclass" in str(found.key):
                    marks.append("dataclass")
        value.decorators = tuple(marks)
        outer, self.env = self.env, env
        self.block(node.body)
        self.env = outer
        self.write_name(node.name, one(value))
        return NORMAL

    # imports

    def import_(self, node: ast.Import) -> int:
        for alias in node.names:
            if alias.asname:
                self.write_name(alias.asname, self.module_value(alias.name, None))
            else:
                self.write_name(alias.name.partition(".")[0], self.module_value(alias.name.partition(".")[0], None))
        return NORMAL

    def import_from(self, node: ast.ImportFrom) -> int:
        module = self.project.absolute(self.file, node.module, node.level)
        for alias in node.names:
            if alias.name == "*":
                stars = self.env.slots.get("*imports", ())
                self.write(self.env.slots, "*imports", (*stars, (Deferred(module, None), NO_GUARD)))
            else:
                self.write_name(alias.asname or alias.name, self.module_value(module, alias.name))
        return NORMAL

    def module_value(self, module: str, name: str | None) -> Alts:
        """The module (or the name in it): put off until used when it is the project's own, a library name otherwise."""
        if self.project.owns(self.file, module):
            return one(Deferred(module, name))
        return one(External(self.knowledge.canonical(module if name is None else f"{module}.{name}")))

    # the rest

    def return_(self, node: ast.Return) -> int:
        alts = self.evaluate(node.value) if node.value is not None else one(NONE)
        if self.call is not None:
            facts = frozenset((f.key, f.polarity) for f in self.place[self.call.place :] if f.kind == "arm" and f.key[:1] != ("branch",))
            self.call.returns.append(guarded(alts, facts))
        return RETURN

    def raise_(self, node: ast.Raise) -> int:
        return RAISE

    def break_(self, node: ast.Break) -> int:
        return BREAK

    def continue_(self, node: ast.Continue) -> int:
        return CONTINUE

    def global_(self, node: ast.Global | ast.Nonlocal) -> int:
        self.env.globals_named |= frozenset(node.names)
        return NORMAL

    def delete(self, node: ast.Delete) -> int:
        return NORMAL

    def assert_(self, node: ast.Assert) -> int:
        condition = self.condition(node.test)
        self.enter_side(node, 0, condition, True, frames=False)
        return NORMAL

    # ------------------------------------------------------------ running

    def run_module(self, file: PythonFile) -> ModuleValue:
        """Walk a module's top level once; its names stay for everybody."""
        known = self.project.modules.get(file.source.path)
        if known is not None:
            return known
        env = Env(file, None)
        module = self.project.modules[file.source.path] = ModuleValue(file, env.slots)
        env.slots["__name__"] = one(Const(self.project.module_name(file)))
        env.slots["__file__"] = one(Opaque(("file", file.source.path)))
        kept = (self.env, self.file, self.call, self.place, self.journal, self.assumed, self.denied, self.assumptions, self.loops)
        self.place, self.journal, self.assumed, self.denied, self.assumptions, self.loops = [], [], {}, set(), [], []
        self.env, self.file, self.call = env, file, None
        try:
            self.block(file.tree.body)
        finally:
            self.env, self.file, self.call, self.place, self.journal, self.assumed, self.denied, self.assumptions, self.loops = kept
        return module


_STATEMENTS: dict[type, Any] = {
    ast.Expr: Interpreter.expression_statement,
    ast.Assign: Interpreter.assign,
    ast.AnnAssign: Interpreter.annotated,
    ast.AugAssign: Interpreter.augmented,
    ast.If: Interpreter.if_,
    ast.Match: Interpreter.match,
    ast.Try: Interpreter.try_,
    ast.TryStar: Interpreter.try_,
    ast.For: Interpreter.for_,
    ast.AsyncFor: Interpreter.for_,
    ast.While: Interpreter.while_,
    ast.With: Interpreter.with_,
    ast.AsyncWith: Interpreter.with_,
    ast.FunctionDef: Interpreter.function,
    ast.AsyncFunctionDef: Interpreter.function,
    ast.ClassDef: Interpreter.class_,
    ast.Import: Interpreter.import_,
    ast.ImportFrom: Interpreter.import_from,
    ast.Return: Interpreter.return_,
    ast.Raise: Interpreter.raise_,
    ast.Break: Interpreter.break_,
    ast.Continue: Interpreter.continue_,
    ast.Global: Interpreter.global_,
    ast.Nonlocal: Interpreter.global_,
    ast.Delete: Interpreter.delete,
    ast.Assert: Interpreter.assert_,
}
