"""Bytes to trees: positions a person counts, and files Python cannot read said as what they are."""

from __future__ import annotations

import ast
import sys
import warnings

import pytest

from mllint.read import Source, Unreadable, read_code, read_python
from mllint.read.refused import _reads_without_f_strings
from mllint.read.source import declared_encoding, split_lines


def places(data: bytes) -> list[tuple[int, int, int, int, str]]:
    """Every name of a file with its span and its text."""
    file = read_python("x.py", data)
    found = []
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Name):
            span = file.source.span(node)
            assert span.path == "x.py" and span.cell is None
            found.append((span.line, span.column, span.end_line, span.end_column, file.source.segment(node)))
    return sorted(found)


def refused(data: bytes):
    with pytest.raises(Unreadable) as caught:
        read_python("x.py", data)
    assert caught.value.problem.path == "x.py"
    return caught.value.problem


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"ab = 1\n", [(1, 1, 1, 3, "ab")]),
        (b"", []),
        (b"# only a comment", []),
        ("x = 'é', ab\n".encode(), [(1, 1, 1, 2, "x"), (1, 10, 1, 12, "ab")]),
        ("x = '😀漢字', größe\n".encode(), [(1, 1, 1, 2, "x"), (1, 12, 1, 17, "größe")]),
        (b"\xef\xbb\xbfab = cd\n", [(1, 1, 1, 3, "ab"), (1, 6, 1, 8, "cd")]),
        (b"\xef\xbb\xbf'\xc3\xa9', cd\n", [(1, 6, 1, 8, "cd")]),
        (b"a = 1\r\nbb = '\xc3\xa9', cc\r\n", [(1, 1, 1, 2, "a"), (2, 1, 2, 3, "bb"), (2, 11, 2, 13, "cc")]),
        (b"a = 1\rb = '\xc3\xa9'\rc = 2\r", [(1, 1, 1, 2, "a"), (2, 1, 2, 2, "b"), (3, 1, 3, 2, "c")]),
        (b"a = 1\n\x0c\nb = '\xc3\xa9'\n", [(1, 1, 1, 2, "a"), (3, 1, 3, 2, "b")]),
        ("a = '\u2028 \x1c \x85'\nb = 1\n".encode(), [(1, 1, 1, 2, "a"), (2, 1, 2, 2, "b")]),
        (b"# -*- coding: latin-1 -*-\n'\xe9', b\n", [(2, 6, 2, 7, "b")]),
        (b"#!/usr/bin/env python\n# vim: set fileencoding=cp1251 :\n'\xe9\xe9', b\n", [(3, 7, 3, 8, "b")]),
        ("# coding: euc-jp\n'漢字', b\n".encode("euc-jp"), [(2, 7, 2, 8, "b")]),
        (b"# coding: utf-7\n'+AGE-', b\n", [(2, 6, 2, 7, "b")]),
    ],
)
def test_spans_count_characters(data, expected):
    assert places(data) == expected


def test_text_is_what_the_bytes_say():
    assert read_python("x.py", b"\xef\xbb\xbfa = '\xc3\xa9'\r\n").source.text == "a = 'é'\r\n"
    assert read_python("x.py", b"# coding: latin-1\na = '\xe9'\n").source.text == "# coding: latin-1\na = 'é'\n"


def test_lines_as_written():
    source = read_python("x.py", b"a = 1\r\nb = '\x0c'\r\n").source
    assert source.lines_of() == ["a = 1", "b = '\x0c'", ""]
    assert (source.line_text(1), source.line_text(2), source.line_text(0), source.line_text(9)) == ("a = 1", "b = '\x0c'", "", "")
    assert source.code_cells == ()


def test_segment_over_several_lines():
    file = read_python("x.py", "é = f(1,\n      'ß')\n".encode())
    assert file.source.segment(file.tree.body[0].value) == "f(1,\n      'ß')"


def test_node_without_a_place_stands_at_the_start():
    file = read_python("x.py", b"a = 1\n")
    span = file.source.span(file.tree)
    assert (span.line, span.column, span.end_line, span.end_column) == (1, 1, 1, 1)


def test_span_never_ends_before_it_starts():
    source = Source("x.py", b"a = 1\n")
    span = source.span_at(1, 4, 1, 2)
    assert (span.column, span.end_column) == (5, 5)


def test_nothing_is_split_before_a_span_needs_it():
    source = read_python("x.py", b"a = 1\n" * 50).source
    source.span(ast.parse("a").body[0])
    assert source._lines is None and source._text is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"x", "utf-8"),
        (b"\xef\xbb\xbfx", "utf-8-sig"),
        (b"# coding: latin-1", "latin-1"),
        (b"\n# coding=cp1252\n", "cp1252"),
        (b"x = 1\n# coding: latin-1\n", "utf-8"),
        (b"\n\n# coding: latin-1\n", "utf-8"),
        (b"#!/bin/sh\r\n# coding: koi8-r\r\n", "koi8-r"),
    ],
)
def test_declared_encoding(data, expected):
    assert declared_encoding(data) == expected


def test_split_lines_breaks_where_python_does():
    assert split_lines("a\r\nb\rc\nd\x0ce\u2028f") == ["a", "b", "c", "d\x0ce\u2028f"]


@pytest.mark.parametrize(
    ("data", "line", "column", "words"),
    [
        (b"x = 1\n# caf\xe9\n", 2, 6, ("0xe9", "UTF-8", "coding")),
        (b"x = '\xe9'\n", 1, 6, ("0xe9", "save the file as UTF-8")),
        ("é = 1\ny = ".encode() + b"'\xff'\n", 2, 6, ("0xff",)),
        (b"# coding: ascii\nx = '\xe9'\n", 2, 6, ("not ASCII",)),
        (b"# coding: cp1252\nx = '\x81'\n", 2, 6, ("CP1252",)),
        (b"# coding: nonsense\nx = 1\n", 1, 1, ("unknown encoding: nonsense",)),
        (b"# coding: nonsense\nx = '\xe9'\n", 1, 1, ("unknown encoding: nonsense",)),
        (b"# coding: rot13\nx = 1\n", 1, 1, ("cannot be decoded",)),
        (b"\xef\xbb\xbf# coding: latin-1\nx = 1\n", 1, 1, ("with BOM",)),
        (b"a\0b\n", 1, 1, ("null bytes",)),
        ("x = 1\n".encode("utf-16"), 1, 1, ("UTF-16", "save the file as UTF-8")),
        ("x = 1  # some more text\n".encode("utf-16-le"), 1, 1, ("UTF-16",)),
    ],
)
def test_bytes_that_are_no_text(data, line, column, words):
    problem = refused(data)
    assert (problem.kind, problem.line, problem.column) == ("unreadable", line, column)
    for word in words:
        assert word in problem.message


@pytest.mark.parametrize(
    "line",
    [
        "print 'x'",
        "print x",
        "    print x, y".strip(),
        "exec 'x' in y",
        "raise E, 'x'",
        "x = 0777",
        "x = 10L",
        "x = 0xFFL",
        "x = `y`",
        "x <> y",
        "x = ur'x'",
        "def f(a, (b, c)): pass",
        "f = lambda (a, b): a",
        "try:\n    pass\nexcept (A, B), e:\n    pass",
        "try:\n    pass\nexcept ValueError, error:\n    pass",
        "def f():\n\tif x:\n        return 1\n\tprint 'tabs'",
    ],
)
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="`except A, e` became valid again")
def test_python_2_is_said_as_that(line):
    problem = refused(("import os\n" + line + "\n").encode())
    assert problem.kind == "syntax" and problem.line >= 2
    assert "Python 2 syntax" in problem.message and "exclude" in problem.message and "convert" in problem.message


@pytest.mark.parametrize(
    ("code", "version"),
    [
        ("type X = int", (3, 12)),
        ("type X[T] = list[T]", (3, 12)),
        ("def f[T](x): pass", (3, 12)),
        ("async def f[*Ts](x): pass", (3, 12)),
        ("class A[T]: pass", (3, 12)),
        ("class A[T: (int, str)](B): pass", (3, 12)),
        ("class A[T = int]: pass", (3, 13)),
        ("x = f'{x['a']}'", (3, 12)),
        ('x = f"{", ".join(y)}"', (3, 12)),
        ("x = f\"{'\\n'.join(y)}\"", (3, 12)),
        ("x = f'{y +\n1}'", (3, 12)),
        ("x = f'''{y # why\n}'''", (3, 12)),
        ("x = (f'{a[\"b\"]}', '# no f\"{', rf'{f'{b}'}', f'{c:{d['w']}}', f'{{')", (3, 12)),
        ("x = t'hi {y}'", (3, 14)),
        ("x = rT'''hi {y['a']}'''", (3, 14)),
        ('print(tr"{y}", "don\'t")', (3, 14)),
        ("try:\n    pass\nexcept A, B:\n    pass", (3, 14)),
        ("try:\n    pass\nexcept a.A, b.B, c.C:\n    pass", (3, 14)),
        ("lazy import json", (3, 15)),
        ("x = [*y for y in z]", (3, 15)),
    ],
)
def test_newer_syntax_is_said_as_that(code, version):
    if version <= sys.version_info[:2]:
        assert read_python("x.py", code.encode()).tree.body
        return
    problem = refused(f"import os\n{code}\n".encode())
    wanted, running = ".".join(map(str, version)), ".".join(map(str, sys.version_info[:2]))
    assert problem.kind == "syntax" and problem.line >= 2
    assert f"needs Python {wanted} or newer to read; mllint runs on {running}" in problem.message
    assert "exclude" in problem.message


@pytest.mark.parametrize(
    ("code", "line", "words"),
    [
        ("x = (1,\n", 1, "never closed"),
        ("x = 'abc\n", 1, "unterminated"),
        ("if x:\npass\n", 2, "indented block"),
        ("x = f'{a}' +\n", 1, "invalid syntax"),
        ("x = type Y\n", 1, "invalid syntax"),
        ("x = 'can't'\n", 1, "unterminated"),
        ("x = t'a' +\n", 1, "invalid syntax"),
        ("def f(:\n    print('0777')\n", 1, "cannot be parsed"),
        ("x = 'raise E, 1' 'type X = 3' )\n", 1, "unmatched"),
        ("<<<<<<< HEAD\nx = 1\n", 1, "merge conflict"),
        ("import os\n!pip install x\n", 2, "notebook command"),
        ("import {{ cookiecutter.name }}\n", 1, "template"),
        ("y = x.cuda(async=True)\n", 1, "non_blocking"),
        ("from x.async import y\n", 1, "keyword since Python 3.7"),
    ],
)
def test_plain_syntax_errors(code, line, words):
    problem = refused(code.encode())
    assert (problem.kind, problem.line) == ("syntax", line) and problem.column >= 1
    assert words in problem.message and "Python 2" not in problem.message and "newer" not in problem.message


@pytest.mark.parametrize(
    "data", [b"(" * 5000, b"-" * 200_000 + b"1", b"x = " + b"+".join([b"1"] * 50_000), b"x" + b".a" * 100_000, b"[" * 100 + b"(" * 200]
)
def test_recursion_bombs_are_one_problem(data):
    problem = refused(data)
    assert problem.kind == "unreadable" and "nested too deeply" in problem.message and "exclude" in problem.message


def test_warnings_about_the_code_are_not_ours():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file = read_python("x.py", rb"x = '\d'; y = 1 is 1" + b"\n")
    assert len(file.tree.body) == 2


def test_read_code_goes_by_the_name():
    assert not read_code("a/b.py", b"x = 1").is_notebook
    assert read_code("a/b.ipynb", b'{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}').is_notebook


@pytest.mark.parametrize(
    ("code", "reads"),
    [("x = f'{a['b']}'", True), ("x = f'{a['b']'", False), ("x = f'{a['b']}' )", False), ("x = 'f\"{' # f'{\ny = f'{1}'", True)],
)
def test_f_strings_are_taken_out_by_the_newer_rules(code, reads):
    assert _reads_without_f_strings(code) is reads


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="nested quotes are valid there")
def test_looking_for_the_reason_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "3.12" in refused(rb"y = '\d' if 1 is 1 else f'{x['a']}'").message
