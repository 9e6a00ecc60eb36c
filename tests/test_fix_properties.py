"""Fixes of page examples, written in every way people write code: made or declined, and never a byte lost that nobody meant."""

from __future__ import annotations

import ast
import io
import itertools
import re
import tempfile
import tokenize
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mllint.config import Config
from mllint.discover import discover
from mllint.fix.rounds import Result, fix_project
from mllint.model.fix import AddImport, Dedent, Fix, Insert, Move, Unwrap, Wrap, path_of
from mllint.pages import Example, examples, load_pages

PAGES = load_pages()
FIXABLE = [
    example
    for name, page in PAGES.items()
    if page.rule.fixable
    for example in examples(name, PAGES)
    if example.role == "bad" and all(path.endswith(".py") for path in example.files)
]

Files = dict[str, str]
Change = Callable[[Files, st.DataObject], Files]

# ------------------------------------------------------------ ways to write code


def _python(change: Callable[[str, st.DataObject], str]) -> Change:
    def of_files(files: Files, data: st.DataObject) -> Files:
        return {path: change(text, data) for path, text in files.items()}

    return of_files


def _tokens(text: str) -> list[tokenize.TokenInfo]:
    return list(tokenize.generate_tokens(io.StringIO(text).readline))


def renamed(files: Files, data: st.DataObject) -> Files:
    """One variable of the project gets another name, where the name is nothing but a variable."""
    names: Counter[str] = Counter()
    others: set[str] = set()
    for text in files.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names[node.id] += 1
            elif isinstance(node, ast.Attribute):
                others.add(node.attr)
            elif (isinstance(node, ast.keyword) and node.arg) or isinstance(node, ast.arg):
                others.add(node.arg)
            elif isinstance(node, ast.alias):
                others.add((node.asname or node.name).partition(".")[0])
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                others.add(node.name)
    free = sorted(set(names) - others - {"_"})
    if not free:
        return files
    old, new = data.draw(st.sampled_from(free)), data.draw(st.sampled_from(["zürich", "a_b", "Ω2", "step_", "lr_"]))
    return {path: re.sub(rf"(?<![\w.\"']){re.escape(old)}(?![\w\"'])", new, text) for path, text in files.items()}


def in_function(files: Files, data: st.DataObject) -> Files:
    """The program of the last file stands in a function, or in a method."""
    path, text = list(files.items())[-1]
    tree = ast.parse(text)
    at = next((n for n, s in enumerate(tree.body) if not isinstance(s, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef))), None)
    if (
        at is None
        or any(isinstance(n, (ast.Global, ast.Nonlocal)) for n in ast.walk(tree))
        or any(m in text for m in ('"""', "'''", "\\\n"))
    ):
        return files
    lines = text.split("\n")
    start = tree.body[at].lineno - 1
    depth = data.draw(st.sampled_from([1, 2]))
    body = [("    " * depth + line) if line.strip() else line for line in lines[start:]]
    head = ["def work():"] if depth == 1 else ["class Job:", "    def work(self):"]
    call = "work()" if depth == 1 else "Job().work()"
    return files | {path: "\n".join([*lines[:start], *head, *body, "", "", call, ""])}


def in_another_file(files: Files, data: st.DataObject) -> Files:
    """What the program of a single file does stands in a function that another file calls."""
    if len(files) > 1:
        return files
    moved = in_function(files, data)
    ((path, text),) = moved.items()
    head, call, _ = text.rpartition("\n\n\nwork()\n")
    if moved == files or not call:
        return files
    return {"jobs/steps.py": head + "\n", path: "from jobs.steps import work\n\nwork()\n"}


def commented(text: str, data: st.DataObject) -> str:
    """Comments on lines of their own and behind statements."""
    ends = [t.start for t in _tokens(text) if t.type == tokenize.NEWLINE]
    lines = text.split("\n")
    starts = {s.lineno for s in ast.walk(ast.parse(text)) if isinstance(s, ast.stmt)}
    for line, column in reversed(ends):
        what = data.draw(st.integers(0, 5))
        if what == 0 and "#" not in lines[line - 1]:
            lines[line - 1] = lines[line - 1][:column] + data.draw(st.sampled_from(["  # why ä", " # type: ignore", "  # noqa: E501"]))
        elif what == 1 and line in starts:
            indent = re.match(r"[ \t]*", lines[line - 1]).group()  # type: ignore[union-attr]
            if not lines[line - 1].strip().startswith(("else", "elif", "except", "finally")):
                lines.insert(line - 1, f"{indent}# a remark of line {line}")
    return "\n".join(lines)


def semicolons(text: str, data: st.DataObject) -> str:
    """Two simple statements that follow each other share a line."""
    pairs = []
    for node in ast.walk(ast.parse(text)):
        for body in (getattr(node, "body", None), getattr(node, "orelse", None)):
            if isinstance(body, list):
                for a, b in itertools.pairwise(body):
                    if all(isinstance(s, (ast.Expr, ast.Assign, ast.AugAssign)) and s.lineno == s.end_lineno for s in (a, b)):
                        pairs.append((a, b))
    lines = text.split("\n")
    for a, b in sorted(pairs, key=lambda p: -p[0].lineno):
        if b.lineno == a.lineno + 1 and "#" not in lines[a.lineno - 1] + lines[b.lineno - 1] and data.draw(st.booleans()):
            lines[a.lineno - 1 : b.lineno] = [lines[a.lineno - 1] + "; " + lines[b.lineno - 1].strip()]
    return "\n".join(lines)


def one_line_suites(text: str, data: st.DataObject) -> str:
    """A block of one simple statement stands behind its colon."""
    lines = text.split("\n")
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.If, ast.For, ast.While, ast.With)) and len(node.body) == 1 and not getattr(node, "orelse", []):
            only = node.body[0]
            if isinstance(only, (ast.Expr, ast.Assign, ast.AugAssign)) and only.lineno == only.end_lineno == node.lineno + 1:
                found.append(node.lineno)
    for line in sorted(found, reverse=True):
        if "#" not in lines[line - 1] and lines[line - 1].rstrip().endswith(":") and data.draw(st.booleans()):
            lines[line - 1 : line + 1] = [lines[line - 1].rstrip() + " " + lines[line].strip()]
    return "\n".join(lines)


def backslashes(text: str, data: st.DataObject) -> str:
    """A line is broken behind the sign of an assignment."""
    lines = text.split("\n")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assign) and node.lineno == node.end_lineno and data.draw(st.integers(0, 3)) == 0:
            line = lines[node.lineno - 1]
            if line.count(" = ") == 1 and "\n" not in line and ";" not in line:
                lines[node.lineno - 1] = line.replace(" = ", " = \\\n        ")
    return "\n".join(lines)


def decorated(text: str, data: st.DataObject) -> str:
    """Functions and classes under a decorator of two lines that hands them back."""
    lines = text.split("\n")
    tops = [n for n in ast.parse(text).body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.decorator_list]
    for node in reversed(tops):
        if data.draw(st.booleans()):
            lines.insert(node.lineno - 1, "@same(\n)  # hands it back")
    return "def same():\n    return lambda thing: thing\n\n\n" + "\n".join(lines) if "@same(" in "\n".join(lines) else text


def tabs(text: str, data: st.DataObject) -> str:
    unit = data.draw(st.sampled_from(["\t", "  ", "   "]))
    inside = _inside_strings(text)

    def shifted(number: int, line: str) -> str:
        blank = len(line) - len(line.lstrip(" "))
        return line if number in inside else unit * (blank // 4) + " " * (blank % 4) + line.lstrip(" ")

    return "\n".join(shifted(n, line) for n, line in enumerate(text.split("\n"), 1))


def _inside_strings(text: str) -> set[int]:
    return {n for t in _tokens(text) if t.start[0] < t.end[0] for n in range(t.start[0] + 1, t.end[0] + 1)}


def no_last_line_end(text: str, data: st.DataObject) -> str:
    return text.rstrip("\n")


CHANGES: dict[str, Change] = {
    "renamed": renamed,
    "in another file": in_another_file,
    "in a function": in_function,
    "commented": _python(commented),
    "semicolons": _python(semicolons),
    "one-line suites": _python(one_line_suites),
    "backslashes": _python(backslashes),
    "decorated": _python(decorated),
    "tabs": _python(tabs),
    "no last line end": _python(no_last_line_end),
}
ENCODINGS = {
    "plain": lambda text: text.encode(),
    "crlf": lambda text: text.replace("\n", "\r\n").encode(),
    "bom": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "cookie": lambda text: b"# -*- coding: utf-8 -*-\n" + text.encode(),
}


# ---------------------------------------------------------------------- what holds


def fixed(files: dict[str, bytes], rule: str) -> Result:
    with tempfile.TemporaryDirectory(prefix="mllint-property-") as folder:
        for path, data in files.items():
            target = Path(folder, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        return fix_project(discover([folder], folder), Config(), PAGES, unsafe=True, select=[rule])


def _decoded(data: bytes) -> str:
    return data.decode("utf-8-sig")


def comments(data: bytes) -> Counter[str]:
    text = _decoded(data).replace("\r\n", "\n")
    return Counter(t.string for t in _tokens(text) if t.type == tokenize.COMMENT)


def untouched_lines_stay(path: str, old: bytes, new: bytes, made: list[Fix]) -> None:
    """Lines that no edit names are there in the same order, blank ones aside; where blocks were made or left, with other indentation."""
    was, now = (_decoded(data).splitlines(keepends=True) for data in (old, new))
    touched: set[int] = set()
    shifted = False
    for edit in (e for fix in made for e in fix.edits if path_of(e) == path):
        if isinstance(edit, AddImport):
            touched |= {n for n, line in enumerate(was, 1) if line.startswith(("import ", "from ")) or line.startswith((" ", "\t", ")"))}
            continue
        shifted = shifted or isinstance(edit, (Wrap, Dedent, Unwrap))
        if isinstance(edit, (Wrap, Dedent, Unwrap)) and any(mark in _decoded(old) for mark in ("; ", ": ")):
            touched |= {n for n, line in enumerate(was, 1) if ";" in line or re.search(r":[ \t]+[^\s#]", line)}
        if isinstance(edit, Unwrap):
            touched |= set(range(edit.anchor.line, edit.anchor.end_line + 1))
        spans = (
            [] if isinstance(edit, (Wrap, Dedent, Unwrap)) else [getattr(edit, name) for name in ("span", "call") if hasattr(edit, name)]
        )
        if isinstance(edit, (Insert, Move)):
            # A line of several statements, or one behind a colon, is written on, or taken apart.
            line = was[edit.anchor.line - 1]
            inline = ";" in line or re.search(r":[ \t]+[^\s#]", line)
            last = edit.anchor.end_line == len(was) and not was[-1].endswith("\n")
            spans += [edit.anchor] if inline or last else []
        for span in spans:
            above = span.line - 1
            while isinstance(edit, Move) and above and was[above - 1].lstrip().startswith(("#", "@")):
                touched.add(above)  # comments go with their statement
                above -= 1
            touched |= set(range(span.line, span.end_line + 1))
    if not was[-1].endswith("\n"):
        touched.add(len(was))
    kept = [line for n, line in enumerate(was, 1) if n not in touched and line.strip()]
    if shifted:
        kept, now = [line.lstrip() for line in kept], [line.lstrip() for line in now]
    at = 0
    for line in kept:
        assert line in now[at:], f"{line!r} is gone or was changed"
        at = now.index(line, at) + 1


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(FIXABLE),
    st.lists(st.sampled_from(sorted(CHANGES)), max_size=4, unique=True),
    st.sampled_from(sorted(ENCODINGS)),
    st.data(),
)
def test_fixes_hold_however_code_is_written(example: Example, changes: list[str], encoding: str, data: st.DataObject) -> None:
    check(example, changes, encoding, data)


def check(example: Example, changes: list[str], encoding: str, data: st.DataObject) -> Result:
    files = dict(example.files)
    for name in sorted(changes, key=list(CHANGES).index):
        files = CHANGES[name](files, data)
        for text in files.values():
            try:
                compile(text, "example", "exec", dont_inherit=True)
            except SyntaxError:
                assume(False)
    before = {path: ENCODINGS[encoding](text) for path, text in files.items()}
    result = fixed(before, example.rule)
    after = before | result.new
    for path, new in after.items():
        compile(new, path, "exec", dont_inherit=True)
        old = before[path]
        assert not comments(old) - comments(new), "a comment is lost"
        assert new.startswith(b"\xef\xbb\xbf") == old.startswith(b"\xef\xbb\xbf")
        assert (b"\r\n" in new, b"\n" in new.replace(b"\r\n", b"")) == (b"\r\n" in old, b"\n" in old.replace(b"\r\n", b""))
        untouched_lines_stay(path, old, new, [one.fix for one in result.fixed])
    again = fixed(after, example.rule)
    assert not again.new, "a second run changes something"
    return result


def test_most_ways_to_write_code_are_fixed_all_the_same() -> None:
    """Declining everything would hold all of the above: what a page shows is fixed, too, when it is indented by tabs and ends in CRLF."""
    assert FIXABLE
    lost = []
    for example in (e for e in FIXABLE if e.fixed is not None):
        before = {path: tabs(text, _Tabs()).replace("\n", "\r\n").encode() for path, text in example.files.items()}
        result = fixed(before, example.rule)
        assert example.fixed is not None
        expected = {p: tabs(t, _Tabs()).replace("\n", "\r\n").encode() for p, t in (example.files | example.fixed).items()}
        if before | result.new != expected:
            lost.append(example.name)
    assert not lost


class _Tabs:
    """Draws a tab."""

    def draw(self, strategy: object) -> str:
        return "\t"
