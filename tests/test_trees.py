"""The table of children leaves nothing out that has children."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mllint
from mllint.flow.project import acts, yields
from mllint.flow.relevance import used_in
from mllint.flow.trees import CHILDREN

MORE = """
match x:
    case {"a": first, **rest}: pass
    case Point(a.b, c=[d, *_]) | None if e: pass
async def f(*p: q, r: s = t, **u) -> v:
    async with w as y: y, z = [b async for b in d if e], {**g, h: i}
    def inner(): yield j
    class K(l, metaclass=m): n: o = lambda: (yield)
    print(f"{aa!r:{bb}}", cc[dd:ee], -ff, gg < hh, ii if jj else kk, (ll := mm), *nn, oo=pp)
    try: pass
    except qq as rr: raise ss from tt
    del uu; assert vv, ww; xx += yy; global zz
    return await ab
"""
SOURCES = [MORE, *(p.read_text(encoding="utf-8") for p in sorted(Path(mllint.__file__).parent.glob("flow/*.py")))]


def children(node: ast.AST) -> list[ast.AST]:
    found = [getattr(node, name) for name in CHILDREN[type(node)]]
    return [c for value in found for c in (value if isinstance(value, list) else [value]) if c is not None]


@pytest.mark.parametrize("source", SOURCES, ids=range(len(SOURCES)))
def test_nothing_below_is_left_out(source: str) -> None:
    stack: list[ast.AST] = [ast.parse(source)]
    while stack:
        node = stack.pop()
        quiet = (ast.expr_context, ast.operator, ast.cmpop, ast.boolop, ast.unaryop, ast.alias)
        assert children(node) == [c for c in ast.iter_child_nodes(node) if not isinstance(c, quiet)]
        stack.extend(children(node))


@pytest.mark.parametrize("source", SOURCES, ids=range(len(SOURCES)))
def test_names_are_those_a_plain_walk_finds(source: str) -> None:
    tree = ast.parse(source)
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} | {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    assert {name for name in used_in(tree) if not name.endswith("()")} == names


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("x = yield", True),
        ("with a: b((yield from c))", True),
        ("def g(): yield", False),
        ("h = lambda: (yield)", False),
        ("class C:\n  x = [(yield)]", False),
        ("return [d for d in e]", False),
    ],
)
def test_generators_are_told_by_their_own_yield(code: str, answer: bool) -> None:
    body = "\n".join("    " + line for line in code.splitlines())
    (function,) = ast.parse(f"def f():\n{body}").body
    assert yields(function) is answer


def test_acting_code_is_found_at_any_depth() -> None:
    assert acts(ast.parse(MORE + "\nx = {**a, b: [c for c in d if e(lambda: loss.backward())]}"))
    assert not acts(ast.parse(MORE))
