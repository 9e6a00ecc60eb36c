"""Each kind of edit on small texts: what it makes of them, and what it declines."""

from __future__ import annotations

import json
from collections.abc import Callable

import nbformat
import pytest

from mllint.fix.files import Editable
from mllint.fix.patch import Declined
from mllint.model.finding import Span
from mllint.model.fix import (
    AddImport,
    Dedent,
    Delete,
    DropArgument,
    Edit,
    Insert,
    Move,
    Rename,
    Replace,
    Rewrite,
    SetArgument,
    SetFormat,
    Unwrap,
    Wrap,
)

Make = Callable[[Callable[..., Span]], list[Edit]]


def spans(text: str, path: str = "t.py") -> Callable[..., Span]:
    """Where the n-th occurrence of a piece of text stands; of two pieces, from the one to the other."""

    def at(piece: str, nth: int = 1, *, to: str | None = None, cell: int | None = None) -> Span:
        start = -1
        for _ in range(nth):
            start = text.index(piece, start + 1)
        end = start + len(piece) if to is None else text.index(to, start) + len(to)
        lines, last = text[:start].split("\n"), text[:end].split("\n")
        return Span(path, len(lines), len(lines[-1]) + 1, len(last), len(last[-1]) + 1, cell)

    return at


def edited(text: str, make: Make) -> str:
    file = Editable("t.py", text.encode(), "python")
    return file.changed(file.plan(make(spans(text))).patches).decode()


LOOP = """\
for epoch in range(3):
    for x in loader:
        # gradients
        loss = model(x)
        loss.backward()
        optimizer.step()  # update
    # the end of an epoch
print("done")
"""


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda at: [Insert(at("optimizer.step()"), "after", "scheduler.step()")],
            LOOP.replace("# update\n", "# update\n        scheduler.step()\n"),
        ),
        (
            lambda at: [Insert(at("model(x)"), "before", "optimizer.zero_grad()")],
            LOOP.replace("        # gradients\n", "        optimizer.zero_grad()\n        # gradients\n"),
        ),
        (
            lambda at: [Insert(at("loader"), "after", "if scheduler is not None:\n    scheduler.step()")],
            LOOP.replace(
                "    # the end of an epoch\n", "    if scheduler is not None:\n        scheduler.step()\n    # the end of an epoch\n"
            ),
        ),
        (
            lambda at: [Insert(at("epoch"), "end", "scheduler.step()")],
            LOOP.replace("epoch\nprint", "epoch\n    scheduler.step()\nprint"),
        ),
        (lambda at: [Insert(at("x in"), "start", "net.train()")], LOOP.replace("loader:\n", "loader:\n        net.train()\n")),
        (lambda at: [Insert(at("print"), "after", "bye()")], LOOP + "bye()\n"),
    ],
    ids=["after", "before", "after-a-loop", "end", "start", "last"],
)
def test_insert(make: Make, expected: str) -> None:
    assert edited(LOOP, make) == expected


@pytest.mark.parametrize(
    ("text", "make", "expected"),
    [
        ("a(); b()\n", lambda at: [Insert(at("a()"), "after", "c()")], "a(); c(); b()\n"),
        ("a(); b()  # c\n", lambda at: [Insert(at("b()"), "after", "c()")], "a(); b()  # c\nc()\n"),
        ("if x: a()\n", lambda at: [Insert(at("a()"), "after", "c()")], "if x: a(); c()\n"),
        ("if x: a()\nelse: b()\n", lambda at: [Insert(at("a()"), "before", "c()")], "if x: c(); a()\nelse: b()\n"),
        (
            "for x in y: a(); b()  # why\n",
            lambda at: [Insert(at("a()"), "after", "if z:\n    c()")],
            "for x in y:\n    a()\n    if z:\n        c()\n    b()  # why\n",
        ),
        (
            "for x in y: a()  # why\n",
            lambda at: [Insert(at("a()"), "after", "if z:\n    c()")],
            "for x in y:\n    a()  # why\n    if z:\n        c()\n",
        ),
        (
            "def f():\n  for x in y: a()\n",
            lambda at: [Insert(at("x"), "start", "while z:\n    c()")],
            "def f():\n  for x in y:\n    while z:\n      c()\n    a()\n",
        ),
        ("def f():\n    'text'\n    a()\n", lambda at: [Insert(at("def f"), "start", "b()")], "def f():\n    'text'\n    b()\n    a()\n"),
        ("if x:\n\ta()\nb()", lambda at: [Insert(at("b()"), "after", "for y in z:\n    c()")], "if x:\n\ta()\nb()\nfor y in z:\n\tc()"),
        ("if x:\r\n\ta()\r\n", lambda at: [Insert(at("a()"), "after", "b()\nc()")], "if x:\r\n\ta()\r\n\tb()\r\n\tc()\r\n"),
        ("a = f(1,\n      2)\nb\n", lambda at: [Insert(at("2"), "after", "c()")], "a = f(1,\n      2)\nc()\nb\n"),
        ("a = 1 + \\\n    2\nb\n", lambda at: [Insert(at("a"), "after", "c()")], "a = 1 + \\\n    2\nc()\nb\n"),
        ("@d\ndef f(): pass\n", lambda at: [Insert(at("pass"), "before", "c()")], "@d\ndef f(): c(); pass\n"),
        (
            "@d\n@e(\n  1)\nclass A:\n    x = 1\n",
            lambda at: [Insert(at("class A"), "before", "c()")],
            "c()\n@d\n@e(\n  1)\nclass A:\n    x = 1\n",
        ),
        ("x = 1  # type: int\n", lambda at: [Insert(at("x"), "after", "y = 2")], "x = 1  # type: int\ny = 2\n"),
    ],
)
def test_insert_in_odd_places(text: str, make: Make, expected: str) -> None:
    assert edited(text, make) == expected


@pytest.mark.parametrize("leaving", ["return", "break", "continue", "raise x"])
def test_nothing_goes_behind_a_statement_that_leaves(leaving: str) -> None:
    text = f"def f():\n    for x in y:\n        {leaving}\n"
    with pytest.raises(Declined, match="never reached"):
        edited(text, lambda at: [Insert(at(leaving), "after", "a()")])
    with pytest.raises(Declined, match="never reached"):
        edited(text, lambda at: [Insert(at("x in"), "end", "a()")])


@pytest.mark.parametrize(
    ("text", "make", "expected"),
    [
        ("a()\nb()\nc()\n", lambda at: [Delete(at("b()"))], "a()\nc()\n"),
        ("a()\nb()\nc()", lambda at: [Delete(at("c()"))], "a()\nb()"),
        ("a()\n\nb()\n\n\nc()\n", lambda at: [Delete(at("b()"))], "a()\n\n\nc()\n"),
        ("a()\nb()\n\nc()\n", lambda at: [Delete(at("b()"))], "a()\n\nc()\n"),
        ("a()\n\nb()\n\n", lambda at: [Delete(at("b()"))], "a()\n\n"),
        ("a()\nb()  # why\nc()\n", lambda at: [Delete(at("b()"))], "a()\n# why\nc()\n"),
        ("a(); b(); c()\n", lambda at: [Delete(at("b()"))], "a(); c()\n"),
        ("a(); b(); c()\n", lambda at: [Delete(at("c()"))], "a(); b()\n"),
        ("a(); b();\n", lambda at: [Delete(at("b()"))], "a();\n"),
        ("if x:\n    a()\nb()\n", lambda at: [Delete(at("a()"))], "if x:\n    pass\nb()\n"),
        ("if x:\n    a()  # c\nb()\n", lambda at: [Delete(at("a()"))], "if x:\n    pass\n    # c\nb()\n"),
        ("if x: a()\n", lambda at: [Delete(at("a()"))], "if x: pass\n"),
        (
            "if x:\n    a()\n    b()\nelse:\n    c()\n",
            lambda at: [Delete(at("a()")), Delete(at("b()"))],
            "if x:\n    pass\nelse:\n    c()\n",
        ),
        ("if x:\n    a()\n", lambda at: [Delete(at("a()")), Insert(at("a()"), "after", "b()")], "if x:\n    b()\n"),
        ("if x:\n    a(1,\n  2)\n    b()\n", lambda at: [Delete(at("a(", to="2)"))], "if x:\n    b()\n"),
        ("if x:\n    a()\nb()\n", lambda at: [Delete(at("if x", to="a()"))], "b()\n"),
    ],
)
def test_delete(text: str, make: Make, expected: str) -> None:
    assert edited(text, make) == expected


@pytest.mark.parametrize("text", ["y = a()\n", "if a(): b()\n", "a() and b()\n", "(a())\n", "await a()\n", "x = [a() for b in c]\n"])
def test_a_part_of_a_statement_is_not_deleted(text: str) -> None:
    with pytest.raises(Declined, match="part of a statement"):
        edited(text, lambda at: [Delete(at("a()"))])


@pytest.mark.parametrize(
    ("text", "make", "expected"),
    [
        (
            LOOP,
            lambda at: [Move(at("loss.backward()"), at("optimizer.step()"), "after")],
            LOOP.replace("        loss.backward()\n", "").replace("# update\n", "# update\n        loss.backward()\n"),
        ),
        (
            LOOP,
            lambda at: [Move(at("optimizer.step()"), at("loader"), "after")],
            LOOP.replace("        optimizer.step()  # update\n", "    optimizer.step()  # update\n"),
        ),
        (
            LOOP,
            lambda at: [Move(at("loss = model(x)"), at("epoch"), "before")],
            "# gradients\nloss = model(x)\n" + LOOP.replace("        # gradients\n        loss = model(x)\n", ""),
        ),
        (
            "for a in b:\n    if c:\n        d()\n    e()\n",
            lambda at: [Move(at("d()"), at("e()"), "after")],
            "for a in b:\n    if c:\n        pass\n    e()\n    d()\n",
        ),
        (
            "with a:\n    s = '''\n  x\n'''\n    b(\n        1)\nc()\n",
            lambda at: [Move(at("s = ", to="'''\n    b(\n        1)"), at("c()"), "after")],
            "with a:\n    pass\nc()\ns = '''\n  x\n'''\nb(\n    1)\n",
        ),
        ("a()\nb()\nif c:\n\td()\n", lambda at: [Move(at("a()"), at("d()"), "before")], "b()\nif c:\n\ta()\n\td()\n"),
        ("a(); b()\nc()\n", lambda at: [Move(at("a()"), at("c()"), "after")], "b()\nc()\na()\n"),
        ("a()\nif c: d()\n", lambda at: [Move(at("a()"), at("d()"), "after")], "if c: d(); a()\n"),
        ("a()\nb(1)\n", lambda at: [Move(at("a()"), at("b(1)"), "after"), SetArgument(at("a()"), "x", "2")], "b(1)\na(x=2)\n"),
        ("a()\nb()", lambda at: [Move(at("a()"), at("b()"), "after")], "b()\na()"),
        ("a()\nb()", lambda at: [Move(at("b()"), at("a()"), "before")], "b()\na()"),
    ],
)
def test_move(text: str, make: Make, expected: str) -> None:
    assert edited(text, make) == expected


def test_a_statement_does_not_move_into_itself() -> None:
    with pytest.raises(Declined, match="into itself"):
        edited("for a in b:\n    c()\n", lambda at: [Move(at("for a in b:\n    c()"), at("c()"), "after")])


@pytest.mark.parametrize(
    ("text", "make", "expected"),
    [
        ("a()\nb()\nc()\n", lambda at: [Wrap(at("a()", to="b()"), "with x:")], "with x:\n    a()\n    b()\nc()\n"),
        (
            "if y:\n\t# c\n\ta('''\nz\n''')\n\n\tb()  # d\n",
            lambda at: [Wrap(at("a(", to="b()"), "with x:")],
            "if y:\n\twith x:\n\t\t# c\n\t\ta('''\nz\n''')\n\n\t\tb()  # d\n",
        ),
        ("a()\n", lambda at: [Wrap(at("a()"), "if x:\n    b()\nelse:")], "if x:\n    b()\nelse:\n    a()\n"),
        ("for x in y: a()\n", lambda at: [Wrap(at("a()"), "with z:")], "for x in y:\n    with z:\n        a()\n"),
        (
            "a()\nb()\nc()\n",
            lambda at: [Wrap(at("a()", to="c()"), "with x:"), Insert(at("b()"), "after", "d()")],
            "with x:\n    a()\n    b()\n    d()\n    c()\n",
        ),
        (
            "a()\nb()\nc()\n",
            lambda at: [Wrap(at("a()", to="b()"), "with x:"), Insert(at("b()"), "after", "d()"), Rewrite(at("b()"), "e($whole)")],
            "with x:\n    a()\n    e(b())\nd()\nc()\n",
        ),
        (
            "a()\nb()\nc()\n",
            lambda at: [Wrap(at("a()", to="c()"), "with x:"), Delete(at("b()"))],
            "with x:\n    a()\n    c()\n",
        ),
        (
            "z()\na()\nb()\nc()\n",
            lambda at: [Wrap(at("a()", to="c()"), "with x:"), Move(at("b()"), at("z()"), "before")],
            "b()\nz()\nwith x:\n    a()\n    c()\n",
        ),
        ("a(); b()\nc()\n", lambda at: [Wrap(at("a()", to="b()"), "with x:")], "with x:\n    a(); b()\nc()\n"),
        ("a(1, \\\n  2)", lambda at: [Wrap(at("a("), "with x:")], "with x:\n    a(1, \\\n      2)"),
    ],
)
def test_wrap(text: str, make: Make, expected: str) -> None:
    assert edited(text, make) == expected


@pytest.mark.parametrize(
    ("text", "make", "expected"),
    [
        ("with x:\n    a()\n    # c\n    b()\nc()\n", lambda at: [Dedent(at("b()"))], "with x:\n    a()\n# c\nb()\nc()\n"),
        (
            "if y:\n  with x as z:\n    a()\n    b()\n    c()\n",
            lambda at: [Dedent(at("b()"), reopen=True)],
            "if y:\n  with x as z:\n    a()\n  b()\n  with x as z:\n    c()\n",
        ),
        ("with x:\n    a()\n    b('''\n   z''')\n", lambda at: [Dedent(at("b("))], "with x:\n    a()\nb('''\n   z''')\n"),
        ("with x: a(); b()\n", lambda at: [Dedent(at("b()"))], "with x: a()\nb()\n"),
        ("with x:\n    a(); b()\n", lambda at: [Dedent(at("b()"))], "with x:\n    a()\nb()\n"),
        (
            "with x:\n    a()\n    if b:\n        c(\n1)\n\n    d()\n",
            lambda at: [Dedent(at("c(", to="d()"))],
            "with x:\n    a()\nif b:\n    c(\n1)\n\nd()\n",
        ),
        ("with x:  # why\n    a()\n    b()\nc()\n", lambda at: [Unwrap(at("x"))], "# why\na()\nb()\nc()\n"),
        ("if y:\n    with x: a()\n", lambda at: [Unwrap(at("x"))], "if y:\n    a()\n"),
        ("with (\n    x,\n):\n    # c\n    a()\n", lambda at: [Unwrap(at("x"))], "# c\na()\n"),
    ],
)
def test_leaving_a_block(text: str, make: Make, expected: str) -> None:
    assert edited(text, make) == expected


@pytest.mark.parametrize(
    ("text", "make", "said"),
    [
        ("with x:\n    a()\n    b()\n", lambda at: [Dedent(at("a()"))], "would be empty"),
        ("with x:\n    a()\n    b()\n    c()\n", lambda at: [Dedent(at("b()"))], "other statements follow"),
        ("if x:\n    a()\n    b()\nelse:\n    c()\n", lambda at: [Dedent(at("b()"))], "no block they could leave"),
        ("def f():\n    a()\n    b()\n", lambda at: [Dedent(at("b()"))], "no block they could leave"),
        ("if x:\n    a()\nelse:\n    b()\n", lambda at: [Unwrap(at("x"))], "another arm"),
        ("if x: a(); b()\n", lambda at: [Wrap(at("b()"), "with z:")], "part of a block on one line"),
        ("a(); b()\n", lambda at: [Wrap(at("b()"), "with z:")], "part of a line"),
        ("a(); b()\n", lambda at: [Delete(at("a()")), Replace(at("a()"), "c()")], "overlap"),
        ("a(b)\n", lambda at: [Rewrite(at("(b)"), "c")], "no expression"),
        ("x\n", lambda at: [Insert(Span("t.py", 9, 1, 9, 1), "after", "a")], "no line 9"),
        ("x = 1\n", lambda at: [Replace(at("1"), "(")], "would not parse"),
        ("a(  # c\n  1)  # c\n", lambda at: [Delete(at("a(", to="1)"))], "the comment `# c` would be lost"),
    ],
)
def test_declined(text: str, make: Make, said: str) -> None:
    with pytest.raises(Declined, match=said):
        edited(text, make)


@pytest.mark.parametrize(
    ("text", "piece", "template", "expected"),
    [
        ("loss.backward()\n", "loss.backward()", "scaler.scale($receiver).backward($arguments)", "scaler.scale(loss).backward()\n"),
        (
            "(a + b).backward(retain_graph=True)\n",
            "(a + b).backward(retain_graph=True)",
            "scaler.scale($receiver).backward($arguments)",
            "scaler.scale((a + b)).backward(retain_graph=True)\n",
        ),
        ("self.opt.step()\n", "self.opt.step()", "self.scaler.step($receiver, $arguments)", "self.scaler.step(self.opt)\n"),
        ("opt.step(c)\n", "opt.step(c)", "s.step($receiver, $arguments)", "s.step(opt, c)\n"),
        ("f(softmax(x + 1, dim=1), y)\n", "softmax(x + 1, dim=1)", "$0", "f(x + 1, y)\n"),
        ("z = 2 * softmax(x + 1)\n", "softmax(x + 1)", "$0", "z = 2 * (x + 1)\n"),
        ("z = softmax(x + 1)\n", "softmax(x + 1)", "$0", "z = x + 1\n"),
        ("z = softmax(\n    x\n    + 1)\n", "softmax(\n    x\n    + 1)", "$0", "z = (x\n    + 1)\n"),
        ("z = softmax(x + 1).y\n", "softmax(x + 1)", "$0", "z = (x + 1).y\n"),
        ("f(input=a, dim=1)\n", "f(input=a, dim=1)", "g($input)", "g(a)\n"),
        ("f(a, b)\n", "f(a, b)", "f($1, $0)", "f(b, a)\n"),
        ("(l / 2).backward()\n", "(l / 2).backward()", "($receiver / n).backward()", "((l / 2) / n).backward()\n"),
        ("loss(x).backward()\n", "loss(x)", "$whole / n", "(loss(x) / n).backward()\n"),
        ("y = loss(x)\n", "loss(x)", "$whole / n", "y = loss(x) / n\n"),
        ("y = a if b else c\n", "a if b else c", "$whole / n", "y = (a if b else c) / n\n"),
        ("x = f(\n  a,  # why\n  b)\n", "f(\n  a,  # why\n  b)", "g($arguments)", "x = g(a,  # why\n  b)\n"),
    ],
)
def test_rewrite(text: str, piece: str, template: str, expected: str) -> None:
    assert edited(text, lambda at: [Rewrite(at(piece), template)]) == expected


@pytest.mark.parametrize(
    ("text", "template", "said"),
    [
        ("step(x)\n", "$receiver", "no method call"),
        ("step(x)\n", "$1", "no argument number 2"),
        ("step(*x)\n", "$0", "no argument number 1"),
        ("step(x)\n", "$closure", "no argument `closure`"),
        ("step(x,  # why\n)\n", "other(1)", "would be lost"),
    ],
)
def test_rewrite_declines(text: str, template: str, said: str) -> None:
    with pytest.raises(Declined, match=said):
        edited(text, lambda at: [Rewrite(at("step(", to=")"), template)])


@pytest.mark.parametrize(
    ("text", "make", "expected"),
    [
        ("f()\n", lambda at: [SetArgument(at("f()"), "x", "1")], "f(x=1)\n"),
        ("f(a)\n", lambda at: [SetArgument(at("f(a)"), "x", "1")], "f(a, x=1)\n"),
        ("f(a,)\n", lambda at: [SetArgument(at("f(a,)"), "x", "1")], "f(a, x=1,)\n"),
        ("f(x=2, y=3)\n", lambda at: [SetArgument(at("f(x=2, y=3)"), "x", "1")], "f(x=1, y=3)\n"),
        ("f(a, b)\n", lambda at: [SetArgument(at("f(a, b)"), "x", "1", position=1)], "f(a, 1)\n"),
        ("f(a, b=(1))\n", lambda at: [SetArgument(at("f(a, b=(1))"), "b", "2")], "f(a, b=2)\n"),
        (
            "f(\n    a,\n    b,  # why\n)\n",
            lambda at: [SetArgument(at("f(", to=")"), "x", "1")],
            "f(\n    a,\n    b,  # why\n    x=1,\n)\n",
        ),
        ("f(\n    a,\n    b  # why\n)\n", lambda at: [SetArgument(at("f(", to=")"), "x", "1")], "f(\n    a,\n    b,  # why\n    x=1\n)\n"),
        ("f(\n    a,\n    b\n)\n", lambda at: [SetArgument(at("f(", to=")"), "x", "1")], "f(\n    a,\n    b,\n    x=1\n)\n"),
        ("f(a, b, c=1)\n", lambda at: [DropArgument(at("f(", to=")"), 1)], "f(a, c=1)\n"),
        ("f(a, b, c=1)\n", lambda at: [DropArgument(at("f(", to=")"), "c")], "f(a, b)\n"),
        ("f(a)\n", lambda at: [DropArgument(at("f(", to=")"), 0)], "f()\n"),
        ("f(\n    a,\n    b,\n)\n", lambda at: [DropArgument(at("f(", to=")"), 1)], "f(\n    a,\n)\n"),
        ("f(\n    a,  # why\n    b,\n)\n", lambda at: [DropArgument(at("f(", to=")"), 1)], "f(\n    a,  # why\n)\n"),
        ("x.require_grad = 1\n", lambda at: [Rename(at("require_grad"), "requires_grad")], "x.requires_grad = 1\n"),
        ("ä = 'ö'; f(ä)\n", lambda at: [SetArgument(at("f(ä)"), "ü", "'ß'")], "ä = 'ö'; f(ä, ü='ß')\n"),
    ],
)
def test_arguments_and_names(text: str, make: Make, expected: str) -> None:
    assert edited(text, make) == expected


@pytest.mark.parametrize(
    ("text", "make", "said"),
    [
        ("f(**k)\n", lambda at: [SetArgument(at("f(**k)"), "x", "1")], "unpacked"),
        ("f(*k)\n", lambda at: [SetArgument(at("f(*k)"), "x", "1", position=1)], "unpacked"),
        ("f(a for a in b)\n", lambda at: [SetArgument(at("f(a for a in b)"), "x", "1")], "generator"),
        ("f(a)\n", lambda at: [DropArgument(at("f(a)"), "x")], "no such argument"),
        ("f(a,  # why\n  b)\n", lambda at: [DropArgument(at("f(", to="b)"), 0)], "would be lost"),
        ("f(a)\n", lambda at: [Rename(at("(a)"), "x")], "no name"),
    ],
)
def test_arguments_and_names_decline(text: str, make: Make, said: str) -> None:
    with pytest.raises(Declined, match=said):
        edited(text, make)


@pytest.mark.parametrize(
    ("text", "piece", "was", "index", "expected"),
    [
        ('f"{lr:.4f} {x:.4f}"\n', "lr", ".4f", 0, 'f"{lr:.3e} {x:.4f}"\n'),
        ('f"{lr:>8.2f}"\n', "lr", ">8.2f", 0, 'f"{lr:>8.3e}"\n'),
        ("rf'{{lr}} {lr!s:.2f}'\n", "lr!s", ".2f", 0, None),
        ('"%d %5.2f" % (a, lr)\n', '"%d %5.2f" % (a, lr)', ".2f", 1, '"%d %5.3e" % (a, lr)\n'),
        ('"%% %(a)s %(lr).4f" % d\n', '"%% %(a)s %(lr).4f" % d', ".4f", 1, '"%% %(a)s %(lr).3e" % d\n'),
        ('"{{}} {} {:.3f}".format(a, lr)\n', '"{{}} {} {:.3f}".format(a, lr)', ".3f", 1, '"{{}} {} {:.3e}".format(a, lr)\n'),
        ('log.info("%s"\n  " %.3f", a, lr)\n', 'log.info("%s"\n  " %.3f", a, lr)', ".3f", 1, 'log.info("%s"\n  " %.3e", a, lr)\n'),
        ('format(lr, "08.3f")\n', 'format(lr, "08.3f")', "08.3f", 0, 'format(lr, "08.3e")\n'),
        ('f"{lr:.{n}f}"\n', "lr", ".2f", 0, None),
        ("text % lr\n", "text % lr", ".2f", 0, None),
        ('f"{lr:.4f}"\n', "lr", ".5f", 0, None),
    ],
)
def test_number_format(text: str, piece: str, was: str, index: int, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(Declined):
            edited(text, lambda at: [SetFormat(at(piece), was, ".3e", index)])
    else:
        assert edited(text, lambda at: [SetFormat(at(piece), was, ".3e", index)]) == expected


IMPORT = AddImport("t.py", "torch.amp", "autocast")


@pytest.mark.parametrize(
    ("text", "edit", "expected"),
    [
        ("import torch\nx()\n", IMPORT, "import torch\nfrom torch.amp import autocast\nx()\n"),
        (
            "import os\nimport torch\nimport sys\n\nx()\n",
            IMPORT,
            "import os\nimport torch\nfrom torch.amp import autocast\nimport sys\n\nx()\n",
        ),
        ("from torch.amp import GradScaler\n", IMPORT, "from torch.amp import GradScaler, autocast\n"),
        ("from torch.amp import z\n", IMPORT, "from torch.amp import autocast, z\n"),
        ("from torch.amp import (\n    GradScaler,\n)\n", IMPORT, "from torch.amp import (\n    GradScaler,\n    autocast,\n)\n"),
        ("from torch.amp import (\n    z,\n)\n", IMPORT, "from torch.amp import (\n    autocast,\n    z,\n)\n"),
        ("from torch.amp import autocast\n", IMPORT, "from torch.amp import autocast\n"),
        ("import torch.nn\n", AddImport("t.py", "torch"), "import torch.nn\nimport torch\n"),
        (
            "#!/usr/bin/python\n# -*- coding: utf-8 -*-\n'''Text.'''\nx()\n",
            AddImport("t.py", "os"),
            "#!/usr/bin/python\n# -*- coding: utf-8 -*-\n'''Text.'''\nimport os\nx()\n",
        ),
        (
            "'''Text.'''\nfrom __future__ import annotations\n\nx()\n",
            AddImport("t.py", "os"),
            "'''Text.'''\nfrom __future__ import annotations\nimport os\n\nx()\n",
        ),
        ("import numpy as np\n", AddImport("t.py", "numpy", asname="np"), "import numpy as np\n"),
        (
            "try:\n    import a\nexcept ImportError:\n    a = None\nimport b\nx()\n",
            AddImport("t.py", "os"),
            "try:\n    import a\nexcept ImportError:\n    a = None\nimport b\nimport os\nx()\n",
        ),
    ],
)
def test_imports(text: str, edit: AddImport, expected: str) -> None:
    assert edited(text, lambda at: [edit]) == expected


@pytest.mark.parametrize("text", ["def autocast(): pass\n", "def f(autocast): pass\n", "from x import autocast\n", "x = 1\nautocast = x\n"])
def test_a_name_that_means_something_else_declines(text: str) -> None:
    with pytest.raises(Declined, match="already means"):
        edited(text, lambda at: [IMPORT])


def test_two_imports_go_together() -> None:
    file = Editable("t.py", b"import os\n", "python")
    one, two = file.plan([AddImport("t.py", "torch")]), file.plan([AddImport("t.py", "sys")])
    assert not one.clashes(two) and not one.clashes(file.plan([AddImport("t.py", "torch")]))
    both = file.changed([*one.patches, *two.patches, *file.plan([AddImport("t.py", "torch")]).patches])
    assert both == b"import os\nimport torch\nimport sys\n"


def test_fixes_of_the_same_place_clash() -> None:
    file = Editable("t.py", LOOP.encode(), "python")
    at = spans(LOOP)
    step = file.plan([Insert(at("optimizer.step()"), "after", "scheduler.step()")])
    assert step.clashes(file.plan([Insert(at("optimizer.step()"), "after", "ema.update()")]))
    assert step.clashes(file.plan([Insert(at("optimizer.step()"), "after", "scheduler.step()")]))
    assert not step.clashes(file.plan([Insert(at("model(x)"), "before", "optimizer.zero_grad()")]))
    wrap = file.plan([Wrap(at("loss = ", to="backward()"), "with autocast():")])
    assert wrap.clashes(file.plan([Rewrite(at("loss.backward()"), "f($whole)")]))
    assert wrap.clashes(file.plan([Insert(at("loss.backward()"), "before", "a()")]))
    assert not wrap.clashes(file.plan([Delete(at('print("done")'))]))


# ------------------------------------------------------------------- bytes


@pytest.mark.parametrize(
    "data",
    [
        "\ufeffx = 'ä'\r\na()\r\n".encode(),
        "# -*- coding: latin-1 -*-\nx = 'ä'\na()\n".encode("latin-1"),
        "# coding: cp1252\nx = '€'\na()".encode("cp1252"),
        b"x = 1\r\na()\nb()\r\n",
        b"x = 1\n\x0c\na()\n",
    ],
    ids=["bom-crlf", "latin-1", "cp1252-no-end", "mixed-ends", "form-feed"],
)
def test_everything_else_keeps_its_bytes(data: bytes) -> None:
    file = Editable("t.py", data, "python")
    line = next(n for n, text in enumerate(file.text.replace("\r\n", "\n").split("\n"), 1) if text == "a()")
    span = Span("t.py", line, 1, line, 4)
    new = file.changed(file.plan([SetArgument(span, "y", "1")]).patches)
    assert new == data.replace(b"a()", b"a(y=1)")


def test_text_its_encoding_cannot_write_is_declined() -> None:
    file = Editable("t.py", b"# coding: latin-1\na()\n", "python")
    with pytest.raises(Declined, match="cannot be written in latin-1"):
        file.changed(file.plan([Replace(Span("t.py", 2, 1, 2, 1), "x = '\u20ac'; ")]).patches)


# ------------------------------------------------------------------ other files


@pytest.mark.parametrize(
    ("path", "text", "edit", "expected"),
    [
        ("c.yaml", "a: 1  # why\nb: 'x'\n", Replace(Span("c.yaml", 1, 4, 1, 5), "2"), "a: 2  # why\nb: 'x'\n"),
        ("c.yaml", "a:\n  b: 1\r\n  c: 2\r\n", Delete(Span("c.yaml", 2, 3, 2, 4)), "a:\n  c: 2\r\n"),
        ("c.yaml", "a:\n  b: 1\n", Insert(Span("c.yaml", 2, 3, 2, 4), "after", "c: 2"), "a:\n  b: 1\n  c: 2\n"),
        ("c.json", '{"a":  1}', Replace(Span("c.json", 1, 8, 1, 9), "[2]"), '{"a":  [2]}'),
        ("c.toml", "a = 1\nb = 2", Delete(Span("c.toml", 2, 1, 2, 2)), "a = 1"),
        ("r.md", "# A\n\ntext ä x\n", Replace(Span("r.md", 3, 8, 3, 9), "y"), "# A\n\ntext ä y\n"),
        ("s.sh", "a\n#SBATCH x\nb\n", Move(Span("s.sh", 2, 1, 2, 10), Span("s.sh", 1, 1, 1, 2), "before"), "#SBATCH x\na\nb\n"),
    ],
)
def test_other_kinds_of_files(path: str, text: str, edit: Edit, expected: str) -> None:
    file = Editable(path, text.encode(), "text")
    assert file.changed(file.plan([edit]).patches) == expected.encode()


@pytest.mark.parametrize(
    ("path", "text", "new"),
    [("c.yaml", "a: 1\n", "["), ("c.json", '{"a": 1}', "]"), ("c.toml", "a = 1\n", "="), ("c.jsonl", '{"a": 1}\n', "]")],
)
def test_a_file_its_parser_would_refuse_is_declined(path: str, text: str, new: str) -> None:
    file = Editable(path, text.encode(), "text")
    at = text.index("1") + 1
    with pytest.raises(Declined, match="no longer be read"):
        file.changed(file.plan([Replace(Span(path, 1, at, 1, at + 1), new)]).patches)


def notebook(cells: list[object], **style: object) -> str:
    made = [
        {
            "cell_type": "code",
            "id": f"c{n}",
            "metadata": {"z": 1, "a": [{}]},
            "execution_count": n,
            "outputs": [{"text": ["ä\n"]}],
            "source": s,
        }
        for n, s in enumerate(cells)
    ]
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, **style)  # type: ignore[arg-type]


@pytest.mark.parametrize("style", [{"indent": 1}, {"indent": 2, "ensure_ascii": False}, {}, {"separators": (",", ":"), "indent": "\t"}])
@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize(
    "form", [lambda s: s, lambda s: s.splitlines(keepends=True), lambda s: [s]], ids=["one-string", "lines", "one-item"]
)
def test_notebook_changes_nothing_but_the_source(style, end, form) -> None:
    before = ["import torch\n", "%time x = 'ä\\\\n\\t'\nfor y in z:\n    a()  # ö"]
    after = ["import torch\nimport os\n", "%time x = 'ä\\\\n\\t'\nfor y in z:\n    a(q=1)  # ö\n    b()"]
    text = notebook([form(s) for s in before], **style) + end
    file = Editable("n.ipynb", text.encode(), "notebook")
    at = spans(before[1], "n.ipynb")
    edits = [SetArgument(at("a()", cell=1), "q", "1"), Insert(at("a()", cell=1), "after", "b()"), AddImport("n.ipynb", "os", cell=1)]
    new = file.changed(file.plan(edits).patches).decode()
    parsed = json.loads(new)
    assert ["".join(c["source"]) for c in parsed["cells"]] == after
    if form("x\ny") != ["x\ny"]:
        assert new == notebook([form(s) for s in after], **style) + end
    for cell, old in zip(parsed["cells"], json.loads(text)["cells"], strict=True):
        assert {**cell, "source": 0} == {**old, "source": 0}


def test_notebook_lines_between_are_replaced_alone() -> None:
    text = notebook([["a()\n", "b()\n", "c()"]], indent=1)
    file = Editable("n.ipynb", text.encode(), "notebook")
    at = spans("a()\nb()\nc()", "n.ipynb")
    assert file.changed(file.plan([Delete(at("b()", cell=0))]).patches).decode() == notebook([["a()\n", "c()"]], indent=1)
    assert file.changed(file.plan([Delete(at("c()", cell=0))]).patches).decode() == notebook([["a()\n", "b()"]], indent=1)
    assert file.changed(file.plan([Move(at("c()", cell=0), at("a()", cell=0), "before")]).patches).decode() == notebook(
        [["c()\n", "a()\n", "b()"]], indent=1
    )


def test_notebook_of_format_3() -> None:
    text = json.dumps(
        {"nbformat": 3, "worksheets": [{"cells": [{"cell_type": "code", "input": ["a()\n", "b()"], "outputs": []}]}]}, indent=1
    )
    file = Editable("n.ipynb", text.encode(), "notebook")
    new = file.changed(file.plan([Delete(Span("n.ipynb", 1, 1, 1, 4, 0))]).patches).decode()
    assert json.loads(new)["worksheets"][0]["cells"][0]["input"] == ["b()"]


def test_prose_cell_of_a_notebook() -> None:
    text = json.dumps({"cells": [{"cell_type": "markdown", "metadata": {}, "source": ["old \U0001f600\n", "name"]}], "nbformat": 4})
    file = Editable("n.ipynb", text.encode(), "notebook")
    new = file.changed(file.plan([Replace(Span("n.ipynb", 1, 1, 1, 4, 0), "new")]).patches).decode()
    assert new == text.replace('"old ', '"new ')


def test_a_notebook_as_jupyter_writes_it_stays_one() -> None:
    """The outcome is what Jupyter itself would have written for the new source, and nbformat finds nothing wrong with it."""
    made = nbformat.v4
    output = made.new_output("execute_result", {"text/plain": "tensor(\u03b1)", "image/png": "iVBORw0="}, execution_count=2)
    first = made.new_code_cell("import torch\n\n%matplotlib inline", execution_count=1)
    second = made.new_code_cell("for x in y:\n    # \u00e4\n    a(x)\n!ls", execution_count=2, outputs=[output])
    book = made.new_notebook(cells=[made.new_markdown_cell("# T\u00eftel"), first, second])
    text = nbformat.writes(book) + "\n"
    file = Editable("n.ipynb", text.encode(), "notebook")
    at = spans(second.source, "n.ipynb")
    edits = [Wrap(at("a(x)", cell=2), "with autocast():"), AddImport("n.ipynb", "torch.amp", "autocast", cell=2)]
    new = file.changed(file.plan(edits).patches).decode()
    nbformat.validate(nbformat.reads(new, as_version=4))
    first.source = "import torch\nfrom torch.amp import autocast\n\n%matplotlib inline"
    second.source = "for x in y:\n    with autocast():\n        # \u00e4\n        a(x)\n!ls"
    assert new == nbformat.writes(book) + "\n"
