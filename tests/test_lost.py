"""Escape means silence: who says that something never happens must say nothing once unseen code holds the thing it would happen to.

Each row takes a bad example of a page, lets go of one object in it in every way there is, and expects the rule to be quiet. The example
by itself is the control.
"""

from __future__ import annotations

import functools
import textwrap
from pathlib import Path

import pytest

from mllint.config import Config
from mllint.discover import discover
from mllint.pages import examples, load_pages
from mllint.session import scan

PAGES = load_pages()

# how the object gets away: the lines put in, with X for the object
WAYS = {
    "argument": "unseen.use(X)",
    "second-argument": "unseen.use(1, X)",
    "keyword": "unseen.use(part=X)",
    "starred": "unseen.use(*[X])",
    "double-starred": "unseen.use(**{'part': X})",
    "list": "unseen.use([X])",
    "tuple": "unseen.use((1, X))",
    "dict": "unseen.use({'part': X})",
    "nested": "unseen.use({'parts': [(1, X)]})",
    "list-appended": "parts = []\nparts.append(X)\nunseen.use(parts)",
    "dict-item": "parts = {}\nparts['it'] = X\nunseen.use(parts)",
    "comprehension": "unseen.use([part for part in [X]])",
    "attribute": "class Holder:\n    pass\n\nholder = Holder()\nholder.part = X\nunseen.use(holder)",
    "namespace": "import types\nunseen.use(types.SimpleNamespace(part=X))",
    "setattr": "class Holder:\n    pass\n\nholder = Holder()\nsetattr(holder, 'part', X)\nunseen.use(holder)",
    "dataclass": "import dataclasses\n\n@dataclasses.dataclass\nclass Holder:\n    part: object\n\nunseen.use(Holder(X))",
    "bound-method": "unseen.use(X.METHOD)",
    "partial": "import functools\nunseen.use(functools.partial(print, X))",
    "lambda": "unseen.use(lambda: X)",
    "closure": "def give():\n    return X\n\nunseen.use(give)",
    "alias": "other = X\nunseen.use(other)",
    "unseen-class": "keeper = unseen.Keeper(X)",
    "unseen-method": "keeper = unseen.Keeper()\nkeeper.add(X)",
    "unseen-attribute": "keeper = unseen.Keeper()\nkeeper.part = X",
    "unseen-item": "unseen.PARTS['part'] = X",
    "module-attribute": "unseen.part = X",
    "own-function": "def hand_on(thing):\n    unseen.use(thing)\n\nhand_on(X)",
    "unseen-decorator": "@unseen.hook\ndef at_end(*given):\n    X.METHOD()",
    "unseen-decorator-call": "@unseen.on('end')\ndef at_end(*given):\n    X.METHOD()",
    "in-a-branch": "if unseen.wanted():\n    unseen.use(X)",
    "subscribed": "unseen.bus.subscribe('end', X.METHOD)",
}

# rule, number of the example, the object, a method of it, the line before which it goes
ROWS = [
    ("scheduler-never-stepped", 1, "scheduler", "step", "for epoch in"),
    ("scaler-never-used", 1, "scaler", "scale", "model.train()"),
    ("scaler-incomplete", 2, "scaler", "update", "model.train()"),
    ("scaler-state-not-saved", 1, "scaler", "state_dict", "first = 0"),
    ("missing-zero-grad", 1, "optimizer", "zero_grad", "for epoch in"),
    ("backward-without-step", 1, "optimizer", "step", "for epoch in"),
    ("optimizer-before-parameters", 1, "optimizer", "add_param_group", "model.train()"),
    ("clip-before-unscale", 1, "scaler", "unscale_", "clip_grad_norm_"),
    ("unscale-outside-boundary", 1, "scaler", "update", "if (i + 1)"),
]


def _example(rule: str, number: int) -> str:
    (text,) = next(e for e in examples(rule, PAGES) if e.number == number).files.values()
    return text


def _with_lines(text: str, before: str, added: str) -> str:
    """The text with lines added above the first that starts with `before`, as deep as it stands."""
    lines = text.splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if line.lstrip().startswith(before))
    depth = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    return "import unseen\n" + "".join(lines[:at]) + textwrap.indent(added, depth) + "\n" + "".join(lines[at:])


def _found(folder: Path, text: str, rule: str) -> list[str]:
    (folder / "example.py").write_text(text, encoding="utf-8")
    report = scan(discover([str(folder)], str(folder)), Config(), PAGES, select=[rule]).report
    assert not report.problems
    return [f"{finding.span.line}: {finding.hit.message}" for finding in report.shown]


row_ids = functools.partial(pytest.mark.parametrize, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")


@row_ids("row", ROWS)
def test_control(row, tmp_path):
    """Without the escape it is found, also when the unseen module is about and given something else."""
    rule, number, _, _, before = row
    assert _found(tmp_path, _example(rule, number), rule)
    assert _found(tmp_path, _with_lines(_example(rule, number), before, "unseen.use(1)\nother = unseen.Keeper()"), rule)


@pytest.mark.parametrize("way", WAYS)
@row_ids("row", ROWS)
def test_handed_to_unseen_code(row, way, tmp_path):
    rule, number, name, method, before = row
    added = WAYS[way].replace("X", name).replace("METHOD", method)
    text = _with_lines(_example(rule, number), before, added)
    assert _found(tmp_path, text, rule) == [], text


# what a function that nobody calls gives back is in the hands of whoever calls it
RETURNS = {
    "returned": "return X",
    "in-a-tuple": "return model, X",
    "in-a-dict": "return {'part': X}",
    "yielded": "yield X",
    "in-an-attribute": "holder.part = X",
    "closure": "return lambda: X",
    "bound-method": "return X.METHOD",
}


@pytest.mark.parametrize("way", RETURNS)
@row_ids("row", [row for row in ROWS if row[0] in ("scheduler-never-stepped", "scaler-never-used", "scaler-state-not-saved")])
def test_given_back_by_a_function_that_nobody_calls(row, way, tmp_path):
    rule, number, name, method, _ = row
    body = _example(rule, number)
    control = "import unseen\n\n\ndef run(holder):\n" + textwrap.indent(body, "    ")
    assert _found(tmp_path, control, rule)
    text = control + textwrap.indent(RETURNS[way].replace("X", name).replace("METHOD", method), "    ") + "\n"
    assert _found(tmp_path, text, rule) == [], text
