"""Notebooks: cells as one module, magics masked in place, spans in cells."""

from __future__ import annotations

import ast
import json

import nbformat.v4
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllint.read import Unreadable
from mllint.read.notebook import mask_magics, read_notebook
from mllint.read.python import parse


def notebook(*cells: str, **metadata: object) -> bytes:
    """A notebook as nbformat writes it; a cell that starts with `# [markdown]` is text."""
    made = []
    for cell in cells:
        make = nbformat.v4.new_markdown_cell if cell.startswith("# [markdown]") else nbformat.v4.new_code_cell
        made.append(make(cell))
    return nbformat.writes(nbformat.v4.new_notebook(cells=made, metadata=dict(metadata))).encode()


def names(data: bytes) -> list[tuple[int | None, int, int, str]]:
    """Every name with its cell, line, column and text."""
    file = read_notebook("a.ipynb", data)
    assert not file.problems
    found = []
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Name):
            span = file.source.span(node)
            found.append((span.cell, span.line, span.column, file.source.segment(node)))
    return sorted(found)


def masked(text: str) -> str:
    return "\n".join(mask_magics(text.split("\n")))


def test_spans_are_in_cells():
    data = notebook("aa = 1\n\nbb = 'é', cc", "# [markdown]\n# Title", "", "    dd = 1\n    ee = 2", "ff = 3")
    assert names(data) == [(0, 1, 1, "aa"), (0, 3, 1, "bb"), (0, 3, 11, "cc"), (3, 1, 5, "dd"), (3, 2, 5, "ee"), (4, 1, 1, "ff")]
    source = read_notebook("a.ipynb", data).source
    assert source.code_cells == (0, 2, 3, 4)
    assert source.lines_of(3) == ["    dd = 1", "    ee = 2"] and source.lines_of(1) == []
    assert source.line_text(3, 0) == "bb = 'é', cc" and source.line_text(4, 0) == "" and source.line_text(1, 4) == "ff = 3"


def test_tree_order_is_cell_order():
    file = read_notebook("a.ipynb", notebook("a = 1", "b = 1\nc = 1", "d = 1"))
    assert [n.targets[0].id for n in file.tree.body] == ["a", "b", "c", "d"]
    assert [n.lineno for n in file.tree.body] == sorted({n.lineno for n in file.tree.body})
    assert [file.source.text.split("\n")[n.lineno - 1][0] for n in file.tree.body] == ["a", "b", "c", "d"]
    compile(file.tree, "a.ipynb", "exec")


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("%matplotlib inline\nx = 1", "pass              \nx = 1"),
        ("!pip install x", "pass          "),
        ("!!ls", "pass"),
        ("%run other.py", "pass         "),
        ("f?", "pass"),
        ("torch.nn??", "pass      "),
        ("?f", "pass"),
        ("files = !ls", "files = None"),
        ("x = %timeit -o f()", "x = None          "),
        ("a, b = !ls $d[0]", "a, b = None     "),
        ("d['=%'] = %env X", "d['=%'] = None  "),
        ("%%time\nx = 1", "\nx = 1"),
        ("%%capture out --no-stderr\nx = 1", "\nx = 1"),
        ("%%timeit -n 3\n%%capture\nx = 1", "\n\nx = 1"),
        ("\n\n%%time\nx = 1", "\n\n\nx = 1"),
        ("%%bash\nls | wc", "\n"),
        ("%%writefile x.py\nimport a\nx = 1", "\n\n"),
        ("%%html\n<b>", "\n"),
        ("#@title Setup\n\n%%bash\nls -la", "#@title Setup\n\n\n"),
        ("#@title Setup\n%%time\nx = 1", "#@title Setup\n\nx = 1"),
        ("if x:\n    !cmd\nelse:\n    %m y\nz = 1", "if x:\n    pass\nelse:\n    pass\nz = 1"),
        ("for a in b:\n\t!l {a}\n\tc = !d", "for a in b:\n\tpass  \n\tc = None"),
        ("!cmd \\\n  --x \\\n  y\nz = 1", "pass  \n\n\nz = 1"),
        ("x = !cmd \\\n  --y\nz = 1", "x = None  \n\nz = 1"),
        ("pip install -q torch", "pass                "),
        ("conda install torch", "pass               "),
        ("cd ../data", "pass      "),
        ("ls -la", "pass  "),
        ("/f x", "pass"),
        ("x = foo?", "pass    "),
    ],
)
def test_magics_are_masked_in_place(cell, expected):
    assert masked(cell) == expected
    ast.parse(expected)


@pytest.mark.parametrize(
    "cell",
    [
        "x = '''\n%foo\n!ls\n'''",
        'x = """a\\"""\n!ls\n"""',
        "x = (a\n%b\n)",
        "x = a \\\n% b",
        "x = [\n    '%d'\n    % y,\n]",
        "a %= 3",
        "b = a % c  # what?",
        "b = '50 %' ; c = a%b",
        "s = 'x = !b'",
        "s = f'{x=!r} {y!s}?'",
        "a != b",
        "f(x='?')",
        "# %%time\n# !ls",
        "ls = 1\ncd = ls",
        "ls in x",
        "cat is dog",
        "pip = 3\npip.x = 4",
        "x = '''\n%%bash\n'''",
        "@a\ndef f(): return '!'",
        "x = 'a\\\n!b'",
        "t = y if '?' else z",
        "#@param {type: '=!'}",
    ],
)
def test_what_only_looks_like_a_magic(cell):
    ast.parse(cell)
    assert masked(cell) == cell


def test_magic_behind_a_string_or_a_comment_that_looks_open():
    cell = "x = 'it''s'  # don't \\\n!ls\ny = \"'''\"\n!pwd\nz = 3 # (\n%a"
    assert masked(cell) == "x = 'it''s'  # don't \\\npass\ny = \"'''\"\npass\nz = 3 # (\npass"


def test_names_beside_magics_keep_their_places():
    data = notebook("%load_ext autoreload\nfor aa in bb:\n    !echo {aa}\n    cc = !ls ü\n    dd(aa)")
    assert names(data) == [(0, 2, 5, "aa"), (0, 2, 11, "bb"), (0, 4, 5, "cc"), (0, 5, 5, "dd"), (0, 5, 8, "aa")]


def test_await_and_return_at_the_top():
    assert names(notebook("await f()\nasync with g() as h:\n    pass", "if x:\n    return")) == [
        (0, 1, 7, "f"),
        (0, 2, 12, "g"),
        (0, 2, 19, "h"),
        (1, 1, 4, "x"),
    ]


def test_broken_cell_is_one_problem_and_the_rest_is_read():
    file = read_notebook("a.ipynb", notebook("a = 1", "b = (", "# [markdown]", "ok = 1\nc = = 2\n", "d = 4"))
    assert [n.targets[0].id for n in file.tree.body] == ["a", "d"]
    assert [(p.kind, p.cell, p.line, p.column) for p in file.problems] == [("syntax", 1, 1, 5), ("syntax", 3, 2, 5)]
    assert all(p.path == "a.ipynb" and p.message.startswith("cell left out: ") for p in file.problems)
    assert file.source.span(file.tree.body[1]).cell == 4


def test_cells_are_not_glued_together():
    file = read_notebook("a.ipynb", notebook("x = '''", "'''\ny = 1", "z = 1"))
    assert [p.cell for p in file.problems] == [0, 1] and len(file.tree.body) == 1


def test_python_2_cell_is_said_as_that():
    file = read_notebook("a.ipynb", notebook("x = 1", "import a\nprint x"))
    assert [(p.cell, p.line) for p in file.problems] == [(1, 2)] and "Python 2" in file.problems[0].message


def test_cell_bomb_null_and_surrogate_are_problems_of_the_cell():
    cells = [{"cell_type": "code", "source": s, "metadata": {}} for s in ("-" * 200_000 + "1", "a\0b", "x = '\ud800'", "d = 1")]
    data = json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()
    file = read_notebook("a.ipynb", data)
    assert [(p.kind, p.cell) for p in file.problems] == [("unreadable", 0), ("unreadable", 1), ("unreadable", 2)]
    assert names_of(file) == [(3, "d")]


def names_of(file):
    return [(file.source.span(n).cell, n.targets[0].id) for n in file.tree.body]


def test_source_as_list_or_string_with_any_line_end():
    cells = [
        {"cell_type": "code", "source": ["a = 1\n", "b = 2"], "metadata": {}},
        {"cell_type": "code", "source": "c = 1\r\nd = 2\r\n", "metadata": {}},
        {"cell_type": "raw", "source": "e = 1"},
        {"cell_type": "code", "metadata": {}},
    ]
    data = json.dumps({"cells": cells, "metadata": {}}).encode()
    assert names(data) == [(0, 1, 1, "a"), (0, 2, 1, "b"), (1, 1, 1, "c"), (1, 2, 1, "d")]
    assert names(b"\xef\xbb\xbf" + data) == names(data)


def test_nbformat_3():
    old = {
        "nbformat": 3,
        "nbformat_minor": 0,
        "metadata": {"name": ""},
        "worksheets": [
            {
                "cells": [
                    {"cell_type": "heading", "source": "t"},
                    {"cell_type": "code", "language": "python", "input": ["a = 1\n", "b = 2"]},
                ]
            },
            {"cells": [{"cell_type": "code", "language": "julia", "input": "x = 1"}, {"cell_type": "code", "input": "c = 1"}]},
        ],
    }
    assert names(json.dumps(old).encode()) == [(1, 1, 1, "a"), (1, 2, 1, "b"), (3, 1, 1, "c")]


@pytest.mark.parametrize(
    "metadata",
    [
        {"kernelspec": {"name": "ir", "display_name": "R", "language": "R"}},
        {"language_info": {"name": "julia"}},
        {"kernelspec": {"name": "julia-1.9", "display_name": "Julia"}},
        {"kernelspec": {"name": "bash", "display_name": "Bash"}},
    ],
)
def test_other_kernels_are_not_read(metadata):
    file = read_notebook("a.ipynb", notebook("x <- 1", "y = 1", **metadata))
    assert file.tree.body == [] and file.problems == () and file.is_notebook


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"kernelspec": {"name": "conda-env-torch-py", "display_name": "torch"}},
        {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        {"language_info": {"name": "ipython"}},
    ],
)
def test_python_kernels_are_read(metadata):
    assert names(notebook("y = 1", **metadata)) == [(0, 1, 1, "y")]


def test_cell_marked_as_another_language_is_not_read():
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("echo hi", metadata={"vscode": {"languageId": "shellscript"}})])
    assert names(nbformat.writes(made).encode()) == []


@pytest.mark.parametrize(
    ("data", "line", "words"),
    [
        (b"", 1, "empty"),
        (b"{\n 'a': 1}", 2, "not JSON"),
        (b'{"cells": [\n<<<<<<< HEAD\n', 2, "merge conflict"),
        (b"version https://git-lfs.github.com/spec/v1\n", 1, "git lfs pull"),
        (b"[1]", None, "no cells"),
        (b"{}", None, "no cells"),
        (b'{"cells": 3}', None, "no cells"),
        (b'{"cells": [{"cell_type": "code", "source": [1]}]}', None, "not text"),
        (b"\xff\xfe{", None, "UTF-8"),
        (b"[" * 200_000, None, "nested too deeply"),
    ],
)
def test_what_is_no_notebook_is_one_problem(data, line, words):
    with pytest.raises(Unreadable) as caught:
        read_notebook("a.ipynb", data)
    problem = caught.value.problem
    assert (problem.kind, problem.path, problem.line) == ("unreadable", "a.ipynb", line) and words in problem.message


ORDINARY = [
    "x = 1",
    "y = a % b",
    "# note?",
    "if x:\n    y = 2",
    "z = '''\n%a\n!b\n'''",
    "w = (1\n  % 2)",
    "v = 'q = !r'",
    "",
    "t = x \\\n  % y",
]
MAGIC = ["%matplotlib inline", "!ls", "?f", "f??", "files = !ls -la", "r = %timeit -o f()", "!a \\\n  b", "if x:\n    !c", "pip install d"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([(text, False) for text in ORDINARY] + [(text, True) for text in MAGIC]), max_size=8))
def test_masking_keeps_lines_and_everything_else(pieces):
    text = "\n".join(piece for piece, _ in pieces)
    lines = text.split("\n")
    result = mask_magics(lines)
    assert len(result) == len(lines)
    ast.parse("\n".join(result))
    at = 0
    for piece, is_magic in pieces:
        count = piece.count("\n") + 1
        if not is_magic:
            assert result[at : at + count] == piece.split("\n")
        else:
            assert result[at : at + count] != piece.split("\n")
        at += count


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab=%!?#'\"\\()[]{} \n\t", max_size=60))
def test_masking_anything_keeps_the_number_of_lines(text):
    lines = text.split("\n")
    before = list(lines)
    result = mask_magics(lines)
    assert len(result) == len(lines) and lines == before
    try:
        parse(text, "cell")
    except (SyntaxError, ValueError):
        return
    # A cell that is Python as it stands loses nothing but what IPython would take as its own: only a leading bare command can be that.
    assert result == lines or any(line.lstrip()[:3] in ("ls ", "cd ", "rm ", "cp ", "mv ") for line in lines)
