"""What comments hide, what they do not, and what is said about those that hide nothing."""

from __future__ import annotations

import json

import pytest

from mllint.model.finding import Finding, Hit, Span
from mllint.read.notebook import read_notebook
from mllint.read.source import Source
from mllint.suppress import FileMarks, comments, may_hold_marks

RULES = {"never-stepped": "schedulers", "wrong-cadence": "schedulers", "clip-late": "training-step", "unused-ignore": "suppressions"}
ALSO = {"TOR102": frozenset({"clip-late"}), "B614": frozenset({"never-stepped"}), "W5509": frozenset({"wrong-cadence"})}


def members(name: str) -> frozenset[str]:
    return frozenset(rule for rule, topic in RULES.items() if name in (rule, topic))


def marks(code: str | Source) -> FileMarks:
    return FileMarks(comments(code if isinstance(code, Source) else Source("t.py", code.encode())), members, ALSO)


def finding(rule: str, line: int, end_line: int | None = None, cell: int | None = None) -> Finding:
    span = Span("t.py", line, 1, end_line or line, 5, cell)
    return Finding(rule, RULES[rule], Hit(span, "message"), "error", "high", "")


def unused(code: str, *hidden: Finding, at: frozenset[str] = frozenset(RULES)) -> list[tuple[int, tuple[str, ...]]]:
    of_file = marks(code)
    for each in hidden:
        assert of_file.hides(each)
    return [(m.span.line, m.unused) for m in of_file.leftovers(lambda rules: rules <= at, lambda name: "") if m.unused]


@pytest.mark.parametrize(
    ("code", "line", "rule", "hidden"),
    [
        ("x = 1  # mllint: ignore[never-stepped]", 1, "never-stepped", True),
        ("x = 1  # mllint: ignore[never-stepped] the plugin does", 1, "never-stepped", True),
        ("x = 1  # mllint:ignore[never-stepped]", 1, "never-stepped", True),
        ("x = 1  # mllint: ignore[clip-late, schedulers]", 1, "never-stepped", True),
        ("x = 1  # mllint: ignore[clip-late]", 1, "never-stepped", False),
        ("x = 1  # mllint: ignore", 1, "never-stepped", False),
        ("x = 1  # mllint: ignore[]", 1, "never-stepped", False),
        ("x = 1  # type: ignore  # mllint: ignore[never-stepped]", 1, "never-stepped", True),
        ("# mllint: ignore[never-stepped]\nx = 1", 2, "never-stepped", True),
        ("# mllint: ignore[never-stepped]\n# and a word more\nx = 1", 3, "never-stepped", True),
        ("# mllint: ignore[never-stepped]\n\nx = 1", 3, "never-stepped", False),
        ("y = 2  # mllint: ignore[never-stepped]\nx = 1", 2, "never-stepped", False),
        ("s = '# mllint: ignore[never-stepped]'", 1, "never-stepped", False),
        ("s = '''\n# mllint: ignore[never-stepped]\n'''", 3, "never-stepped", False),
        ("x = 1  # noqa: TOR102", 1, "clip-late", True),
        ("x = 1  # noqa:E501,TOR102", 1, "clip-late", True),
        ("x = 1  # NOQA: TOR102", 1, "clip-late", True),
        ("x = 1  # noqa: E501 TOR102 later", 1, "clip-late", True),
        ("x = 1  # noqa: TOR102", 1, "never-stepped", False),
        ("x = 1  # noqa", 1, "clip-late", False),
        ("# noqa: TOR102\nx = 1", 2, "clip-late", False),
        ("x = 1  # nosec B614", 1, "never-stepped", True),
        ("x = 1  # nosec: B101, B614", 1, "never-stepped", True),
        ("x = 1  # nosec", 1, "never-stepped", False),
        ("x = 1  # pylint: disable=invalid-name, W5509", 1, "wrong-cadence", True),
    ],
)
def test_what_a_comment_hides(code, line, rule, hidden):
    assert marks(code).hides(finding(rule, line)) is hidden


def test_long_statement_may_carry_the_comment_on_either_end():
    code = "x = f(\n    1,\n    2,\n)  # mllint: ignore[never-stepped]\n"
    assert marks(code).hides(finding("never-stepped", 1, 4))
    assert not marks(code).hides(finding("never-stepped", 1, 3))
    middle = "x = f(\n    1,\n    2,  # mllint: ignore[never-stepped]\n)\n"
    assert not marks(middle).hides(finding("never-stepped", 1, 4))


def test_skip_file_hides_everything_and_says_nothing():
    code = "x = 1\n# mllint: skip-file generated\ny = 2  # mllint: ignore[never-stepped, no-such]\n"
    assert marks(code).hides(finding("clip-late", 1))
    assert marks(code).leftovers(lambda rules: True, lambda name: "") == []


def test_crlf_and_wide_characters_keep_places():
    source = Source("t.py", "x = 'äöü'  # mllint: ignore[nope]\r\ny = 1  # mllint: ignore[nope]\r\n".encode())
    assert [(c.span.line, c.span.column) for c in comments(source)] == [(1, 12), (2, 8)]


def test_unused_names_are_told_apart_from_used_ones():
    code = "x = 1  # mllint: ignore[never-stepped, clip-late]\n"
    assert unused(code, finding("never-stepped", 1)) == [(1, ("clip-late",))]
    assert unused(code, finding("never-stepped", 1), finding("clip-late", 1)) == []
    assert unused(code) == [(1, ("never-stepped", "clip-late"))]


def test_two_marks_that_hide_one_finding_are_both_used():
    assert unused("# mllint: ignore[schedulers]\nx = 1  # mllint: ignore[never-stepped]\n", finding("never-stepped", 2)) == []


def test_rules_that_were_not_looked_for_are_not_unused():
    code = "x = 1  # mllint: ignore[never-stepped, clip-late]\n"
    assert unused(code, at=frozenset({"clip-late"})) == [(1, ("clip-late",))]


def test_naming_the_rule_about_marks_is_never_unused():
    assert unused("x = 1  # mllint: ignore[unused-ignore]\n") == []


@pytest.mark.parametrize(
    ("code", "unknown"),
    [
        ("x = 1  # mllint: ignore[nevr-stepped, clip-late]", ["nevr-stepped"]),
        ("x = 1  # mllint: ignore", ["ignore"]),
        ("x = 1  # mllint: skip-fil", ["skip-fil"]),
        ("x = 1  # mllint: ignore[never-stepped]", []),
    ],
)
def test_what_is_not_understood_is_kept(code, unknown):
    left = marks(code).leftovers(lambda rules: False, lambda name: f"; near {name}")
    assert [name for mark in left for name, _ in mark.unknown] == unknown
    assert all(hint for mark in left for _, hint in mark.unknown)


def test_comments_before_what_does_not_tokenize_hold():
    assert marks("x = 1  # mllint: ignore[never-stepped]\ny = (\n").hides(finding("never-stepped", 1))


def _notebook(*cells: tuple[str, str]) -> Source:
    listed = [{"cell_type": kind, "metadata": {}, "source": text, "outputs": [], "execution_count": None} for kind, text in cells]
    return read_notebook("t.py", json.dumps({"cells": listed, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()).source


def test_marks_in_a_notebook_hold_in_their_cell():
    source = _notebook(
        ("markdown", "# mllint: ignore[clip-late]"),
        ("code", "%matplotlib inline\n!pip install 'x\n# mllint: ignore[never-stepped]\nx = 1"),
        ("code", "y = (\n"),
        ("code", "x = 1\nx = 2  # mllint: ignore[clip-late]"),
    )
    of_file = marks(source)
    assert of_file.hides(finding("never-stepped", 4, cell=1))
    assert not of_file.hides(finding("never-stepped", 4, cell=3))
    assert not of_file.hides(finding("clip-late", 2, cell=1))
    assert of_file.hides(finding("clip-late", 2, cell=3))


@pytest.mark.parametrize(
    ("data", "findings", "read"),
    [
        (b"x = 1  # mllint: ignore[a]", False, True),
        (b"x = 1  # noqa: E501", False, False),
        (b"x = 1  # NOQA: E501", True, True),
        (b"x = 1", True, False),
    ],
)
def test_only_files_with_marks_are_tokenized(data, findings, read):
    assert may_hold_marks(data, findings) is read
