"""Conditions: what a test tells about the arms behind it."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from mllint.flow.losing import PLAIN
from mllint.flow.state import Condition, State
from mllint.flow.values import (
    Alts,
    Bound,
    ClassValue,
    Const,
    External,
    Generator,
    Instance,
    Mapping,
    Opaque,
    Sequence,
    Slots,
    join,
    single,
    values_of,
)

if TYPE_CHECKING:
    from mllint.flow.interpret import Interpreter

COMPARISONS: dict[type, str] = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Is: "is", ast.IsNot: "is not",
    ast.In: "in", ast.NotIn: "not in",
}  # fmt: skip
#: A comparison and the one that says the opposite: both become one key with a polarity.
OPPOSITE = {"!=": "==", "is not": "is", "not in": "in", ">=": "<", ">": "<="}
#: Library classes every object of their kind is one of.
GENERAL_CLASSES = frozenset(("torch.nn.Module", "torch.optim.Optimizer", "torch.optim.lr_scheduler.LRScheduler"))


def pattern_test(subject: ast.expr, pattern: ast.pattern) -> ast.expr | bool | None:
    """The test a case makes, as the expression an `if` would have; True when it always holds, None when no expression says it."""
    test: ast.expr
    if isinstance(pattern, ast.MatchAs):
        return True if pattern.pattern is None else pattern_test(subject, pattern.pattern)
    if isinstance(pattern, ast.MatchValue):
        test = ast.Compare(subject, [ast.Eq()], [pattern.value])
    elif isinstance(pattern, ast.MatchSingleton):
        test = ast.Compare(subject, [ast.Is()], [ast.copy_location(ast.Constant(pattern.value), pattern)])
    elif isinstance(pattern, ast.MatchClass) and not pattern.patterns and not pattern.kwd_patterns:
        name = ast.copy_location(ast.Name("isinstance", ast.Load()), pattern)
        test = ast.Call(name, [subject, pattern.cls], [])
    elif isinstance(pattern, ast.MatchOr):
        tests = [pattern_test(subject, p) for p in pattern.patterns]
        if None in tests or True in tests:
            return True if True in tests else None
        test = ast.BoolOp(ast.Or(), [t for t in tests if isinstance(t, ast.expr)])
    else:
        return None
    return ast.copy_location(test, pattern)


class Conditions(State):
    """Evaluation of tests; mixed into the Interpreter."""

    compared: tuple[Alts, Alts] = ((), ())  # the two sides of the comparison last looked at

    def truth_of(self: Interpreter, value: Any) -> bool | None:
        if isinstance(value, Const):
            return None if value.soft is not None else bool(value.value)
        if isinstance(value, Sequence):
            return None if value.length is None else value.length > 0
        if isinstance(value, (Mapping, Opaque, Generator)):
            return None
        if isinstance(value, External) and value.name.partition(".")[0] not in PLAIN:
            return None  # a setting of a module that is not here (`FLAGS.freeze`), or a package that may be missing
        if isinstance(value, Bound) and isinstance(value.function, str):
            return None  # an attribute of a library object, of which nobody said that it is a method
        if isinstance(value, Instance) and value.kind in ("", "loader") and value.cls is not None:
            return None if self.class_attribute(value.cls, value, "__len__") or self.class_attribute(value.cls, value, "__bool__") else True
        return True

    def condition(self: Interpreter, node: ast.expr) -> Condition:
        """What a test tells: decided, or the facts and narrowings of both arms. Calls inside it happen."""
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return self.condition(node.operand).negated()
        if isinstance(node, ast.BoolOp):
            return self.conjunction(node)
        if isinstance(node, ast.NamedExpr):
            self.evaluate(node)
            return self.condition(node.target)
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            return self.comparison(node)
        if isinstance(node, ast.Call):
            test = self.class_test(node)
            if test is not None:
                return test
        alts = self.held(self.evaluate(node))
        return self.truth(node, alts)

    def truth(self: Interpreter, node: ast.expr, alts: Alts) -> Condition:
        verdicts = {self.truth_of(v) for v, _ in alts}
        text = self.project.text_of(self.file, node)
        if len(verdicts) == 1 and None not in verdicts:
            return Condition(verdicts.pop(), text=text)
        narrow: tuple[list, list] = ([], [])
        if len(alts) > 1:
            for slots, key in self.cells(node):
                narrow[0].append((slots, key, tuple(a for a in alts if self.truth_of(a[0]) is not False)))
                narrow[1].append((slots, key, tuple(a for a in alts if self.truth_of(a[0]) is not True)))
        value = single(alts)
        return self.by_key(self.test_key(value, alts), text, narrow)

    def test_key(self: Interpreter, value: Any, alts: Alts) -> tuple:
        if isinstance(value, Const) and value.soft is not None:
            return value.soft
        if isinstance(value, Opaque):
            return value.key[1][0][0] if value.key[0] == "test" and len(value.key[1]) == 1 and value.key[1][0][1] else value.key
        return ("truth", *sorted((v.key for v, _ in alts), key=repr))

    def by_key(self: Interpreter, key: tuple, text: str, narrow: tuple[list, list] | None = None) -> Condition:
        """A condition known by its key alone: decided when an arm around us has decided it."""
        if key in self.assumed:
            return Condition(self.assumed[key], text=text, narrow=narrow or ([], []))
        return Condition(None, (((key, True),), ((key, False),)), narrow or ([], []), text)

    def conjunction(self: Interpreter, node: ast.BoolOp) -> Condition:
        """`a and b` holds all facts of its parts when true; `a or b` denies all of them when false."""
        conjunctive = isinstance(node.op, ast.And)
        text = self.project.text_of(self.file, node)
        facts: list[tuple[tuple, bool]] = []
        narrowed: list[tuple[Slots, Any, Alts]] = []
        other: list[tuple] = []
        undecided = 0
        only: Condition | None = None
        old: list[tuple[Slots, Any, Alts]] = []
        decided: bool | None = None
        assumed = len(self.assumptions)
        for operand in node.values:
            part = self.condition(operand)
            if part.verdict is not None:
                if part.verdict != conjunctive:
                    decided = part.verdict
                    break
                continue
            undecided += 1
            only = part
            side = 0 if conjunctive else 1
            facts.extend(part.facts[side])
            narrowed.extend(part.narrow[side])
            other.append(part.facts[side])
            self.assume(part.facts[side])
            for slots, key, alts in part.narrow[side]:  # the next operand is evaluated only where this one let it
                if key in slots:
                    old.append((slots, key, slots[key]))
                    self.write(slots, key, alts)
        for slots, key, alts in reversed(old):
            self.write(slots, key, alts)
        self.forget(assumed)
        if decided is not None and undecided == 0:
            return Condition(decided, text=text)
        if undecided == 0:
            return Condition(conjunctive, text=text)
        if undecided == 1 and only is not None:
            return Condition(None, only.facts, only.narrow, text)
        key = ("all" if conjunctive else "any", *other)
        if conjunctive:
            return Condition(None, (tuple(facts), ((key, False),)), (narrowed, []), text)
        return Condition(None, (((key, True),), tuple(facts)), ([], narrowed), text)

    def type_test(self: Interpreter, node: ast.Compare) -> Condition | None:
        """`type(x) is C`, `type(x).__name__ == "C"`, `x.__class__ in (C, D)`: tells apart what x may be."""
        left, sign = node.left, COMPARISONS[type(node.ops[0])]
        named = isinstance(left, ast.Attribute) and left.attr in ("__name__", "__qualname__")
        left = left.value if named and isinstance(left, ast.Attribute) else left
        if isinstance(left, ast.Call) and isinstance(left.func, ast.Name) and left.func.id == "type" and len(left.args) == 1:
            subject = left.args[0]
        elif isinstance(left, ast.Attribute) and left.attr == "__class__":
            subject = left.value
        else:
            return None
        positive, sign = sign not in OPPOSITE, OPPOSITE.get(sign, sign)
        alts = self.held(self.quiet(subject))
        if sign not in ("==", "is", "in") or not any(isinstance(v, Instance) for v, _ in alts):
            return None
        meant = self.evaluate(node.comparators[0])
        if sign == "in":
            holder = single(meant)
            meant = tuple(a for e in holder.elements() for a in e) if isinstance(holder, Sequence) else ()
        judged = [(a, self.is_exactly(a[0], meant, named)) for a in alts]
        text = self.project.text_of(self.file, node)
        verdicts = {v for _, v in judged}
        if len(verdicts) == 1 and None not in verdicts:
            condition = Condition(verdicts.pop(), text=text)
        else:
            narrow: tuple[list, list] = ([], [])
            for slots, cell in self.cells(subject) if len(alts) > 1 else ():
                narrow[0].append((slots, cell, tuple(a for a, v in judged if v is not False)))
                narrow[1].append((slots, cell, tuple(a for a, v in judged if v is not True)))
            condition = self.by_key(("type", self.joint_key(alts), *(v.key for v, _ in meant)), text, narrow)
        return condition if positive else condition.negated()

    def is_exactly(self: Interpreter, value: Any, classes: Alts, named: bool) -> bool | None:
        """The class of the value is one of these, or has one of these names."""
        if not isinstance(value, Instance) or (value.cls is None and not value.type):
            return None
        own = value.cls.node.name if value.cls is not None else value.type.rpartition(".")[2]
        answers: list[bool | None] = []
        for wanted in values_of(classes):
            if named:
                answers.append(own == wanted.value if isinstance(wanted, Const) and wanted.soft is None else None)
            elif isinstance(wanted, ClassValue):
                answers.append(value.cls is wanted)
            else:
                answers.append(value.cls is None and value.type == wanted.name if isinstance(wanted, External) else None)
        return True if True in answers else (False if answers and all(a is False for a in answers) else None)

    def comparison(self: Interpreter, node: ast.Compare) -> Condition:
        if isinstance(node.left, (ast.Call, ast.Attribute)) and (test := self.type_test(node)) is not None:
            return test
        sign = COMPARISONS[type(node.ops[0])]
        left, right = self.held(self.evaluate(node.left)), self.held(self.evaluate(node.comparators[0]))
        self.compared = (left, right)
        text = self.project.text_of(self.file, node)
        positive = sign not in OPPOSITE
        sign = OPPOSITE.get(sign, sign)
        condition = self.decide(sign, node, left, right, text)
        return condition if positive else condition.negated()

    def decide(self: Interpreter, sign: str, node: ast.Compare, left: Alts, right: Alts, text: str) -> Condition:
        other = single(right)
        if sign in ("is", "==") and isinstance(other, Const) and (other.value is None or sign == "==" or isinstance(other.value, bool)):
            yes = tuple(a for a in left if self.equal(a[0], other) is not False)
            no = tuple(a for a in left if self.equal(a[0], other) is not True)
            if not no:
                return Condition(True, text=text)
            if not yes:
                return Condition(False, text=text)
            narrow: tuple[list, list] = ([], [])
            for slots, key in self.cells(node.left):
                narrow[0].append((slots, key, yes))
                narrow[1].append((slots, key, no))
            return self.by_key((sign, self.joint_key(left), other.key), text, narrow)
        a, b = single(left), other
        if isinstance(a, Const) and isinstance(b, Const) and a.soft is None and b.soft is None:
            verdict = self.compare_constants(sign, a.value, b.value)
            if verdict is not None:
                return Condition(verdict, text=text)
        if sign == "in" and isinstance(b, (Sequence, Mapping)) and isinstance(a, Const) and a.soft is None:
            verdict = self.contained(a, b)
            if verdict is not None:
                return Condition(verdict, text=text)
        return self.by_key((sign, self.joint_key(left), self.joint_key(right)), text)

    def joint_key(self: Interpreter, alts: Alts) -> tuple:
        value = single(alts)
        if isinstance(value, Const) and value.soft is not None:
            return value.soft
        return value.key if value is not None else ("either", *sorted((v.key for v, _ in alts), key=repr))

    def equal(self: Interpreter, value: Any, constant: Const) -> bool | None:
        if isinstance(value, Const):
            if constant.value is None and value.value is not None and value.soft is not None and value.soft[0] == "setting":
                return False  # a number somebody may edit stays a number
            if value.soft is not None or constant.soft is not None:
                return None
            return (type(value.value) is type(constant.value) and bool(value.value == constant.value)) or value.value == constant.value
        if isinstance(value, (Opaque, External)):
            return None
        return False

    def compare_constants(self: Interpreter, sign: str, a: Any, b: Any) -> bool | None:
        try:
            if sign == "<":
                return bool(a < b)
            if sign == "<=":
                return bool(a <= b)
            if sign == "in":
                return bool(a in b)
            return bool(a == b)
        except TypeError:
            return None

    def contained(self: Interpreter, a: Const, b: Sequence | Mapping) -> bool | None:
        if isinstance(b, Mapping):
            return True if ("k", a.value) in b.slots else (None if "*" in b.slots or b.slots == {} else False)
        if b.length is None:
            return None
        items = [single(e) for e in b.elements()]
        if any(isinstance(i, Const) and i.value == a.value for i in items):
            return True
        return False if all(isinstance(i, Const) for i in items) else None

    def cells(self: Interpreter, node: ast.expr) -> list[tuple[Slots, Any]]:
        """The slots a narrowing of this expression may write: a name, or an attribute of one known object."""
        if isinstance(node, ast.NamedExpr):
            node = node.target
        if isinstance(node, ast.Name):
            slots = self.find_name(node.id)
            return [(slots, node.id)] if slots is not None else []
        if isinstance(node, ast.Attribute):
            base = single(self.held(self.quiet(node.value)))
            if isinstance(base, Instance) and node.attr in base.slots:
                return [(base.slots, node.attr)]
        if isinstance(node, ast.Subscript):
            base, index = single(self.held(self.quiet(node.value))), single(self.quiet(node.slice))
            if isinstance(base, Mapping) and isinstance(index, Const) and ("k", index.value) in base.slots:
                return [(base.slots, ("k", index.value))]
        return []

    def quiet(self: Interpreter, node: ast.expr) -> Alts:
        """Evaluate what has no effect: names, attributes, constants; nothing else."""
        if isinstance(node, (ast.Name, ast.Constant)):
            return self.evaluate(node)
        if isinstance(node, ast.Attribute):
            inner = self.quiet(node.value)
            found: Alts = ()
            for value, _ in inner:
                if isinstance(value, Instance) and node.attr in value.slots:
                    found = join(found, value.slots[node.attr])
            return found
        return ()

    def class_test(self: Interpreter, node: ast.Call) -> Condition | None:
        """`isinstance(x, C)`, `hasattr(x, "y")`, `callable(x)`."""
        if not isinstance(node.func, ast.Name) or len(node.args) != 2 or self.bound_in_project(node.func.id):
            return None
        text = self.project.text_of(self.file, node)
        if node.func.id == "isinstance":
            alts = self.held(self.evaluate(node.args[0]))
            classes = self.evaluate(node.args[1])
            judged = [(a, self.is_instance(a[0], classes)) for a in alts]
            key = ("isinstance", self.joint_key(alts), *(v.key for v, _ in classes))
        elif node.func.id == "hasattr":
            alts = self.held(self.evaluate(node.args[0]))
            name = single(self.evaluate(node.args[1]))
            judged = [(a, self.has_attribute(a[0], name)) for a in alts]
            key = ("hasattr", self.joint_key(alts), getattr(name, "value", None))
        else:
            return None
        verdicts = {v for _, v in judged}
        if len(verdicts) == 1 and None not in verdicts:
            return Condition(verdicts.pop(), text=text)
        narrow: tuple[list, list] = ([], [])
        if len(alts) > 1:
            for slots, cell in self.cells(node.args[0]):
                narrow[0].append((slots, cell, tuple(a for a, v in judged if v is not False)))
                narrow[1].append((slots, cell, tuple(a for a, v in judged if v is not True)))
        return self.by_key(key, text, narrow)

    def is_instance(self: Interpreter, value: Any, classes: Alts) -> bool | None:
        wanted: list[Any] = []
        for found in values_of(classes):
            wanted.extend(v for e in found.elements() for v in values_of(e)) if isinstance(found, Sequence) else wanted.append(found)
        if isinstance(value, Const) and value.value is None:
            return False
        if not isinstance(value, Instance):
            kinds = {Sequence: ("list", "tuple", "set"), Mapping: ("dict",)}.get(type(value))
            if kinds is None or not all(isinstance(w, External) and w.name.startswith("builtins.") for w in wanted):
                return None
            own = value.kind if isinstance(value, Sequence) else "dict"
            return any(w.name == "builtins." + own for w in wanted)
        answers = [self.is_one(value, w) for w in wanted]
        return True if True in answers else (False if all(a is False for a in answers) else None)

    def is_one(self: Interpreter, value: Instance, cls: Any) -> bool | None:
        if isinstance(cls, ClassValue):
            if value.cls is None:
                return False if value.kind else None
            return cls in value.cls.mro() or (None if value.cls.unseen_base() else False)
        if isinstance(cls, External):
            names = [value.type, *(value.cls.externals() if value.cls is not None else ())]
            if cls.name in names:
                return True
            row = self.knowledge.row("bases", cls.name)
            if value.kind and row is not None and row.get("kind") == value.kind and cls.name in GENERAL_CLASSES:
                return True
            return False if value.kind and not (value.cls is not None and value.cls.unseen_base()) else None
        return None

    def has_attribute(self: Interpreter, value: Any, name: Any) -> bool | None:
        if not isinstance(name, Const) or not isinstance(value, Instance):
            return False if isinstance(value, Const) and value.value is None else None
        if name.value in value.slots or (value.cls is not None and self.class_attribute_exists(value.cls, name.value)):
            return True
        return None

    def class_attribute_exists(self: Interpreter, cls: ClassValue, name: str) -> bool:
        return any(isinstance(a, ClassValue) and name in a.slots for a in cls.mro())
