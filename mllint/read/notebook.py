"""Notebooks: the code cells as one module, with what only IPython understands masked in place."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from mllint.model.finding import Problem
from mllint.read.python import PythonFile, parse
from mllint.read.source import Source, Unreadable, split_lines

# Cell magics whose body is Python that runs in the notebook's own namespace; the body of any other is another language, a file to
# write or another process.
PYTHON_CELL_MAGICS = frozenset(
    {
        "time",
        "timeit",
        "capture",
        "prun",
        "memit",
        "mprun",
        "lprun",
        "debug",
        "wandb",
        "snakeviz",
        "pyinstrument",
        "scalene",
        "notify",
        "px",
    }
)
_MAYBE = re.compile(
    r"^[ \t]*[%!?/,;]|\?[ \t]*\r?$|=[ \t]*[%!]|^[ \t]*(?:pip3?|conda|mamba|cd|ls|cat|cp|mv|rm|mkdir)[ \t]+[\w./~$-]", re.MULTILINE
)
# `pip install x` works without `%` in IPython as long as no variable is called pip.
_BARE_COMMAND = re.compile(
    r"""(?:pip3?|conda|mamba)[ \t]+(?:install|uninstall|list|show|freeze|update)\b
      | (?:cd|ls|cat|cp|mv|rm|mkdir)[ \t]+(?!(?:is|in|if|and|or|not|for)\b)[\w./~$]
      | (?:ls|cp|rm|mkdir)[ \t]+-[a-zA-Z]+(?:[ \t]|$)""",
    re.VERBOSE,
)
_PIECE = re.compile(
    r"""#.*|'''|\"\"\"|'(?:\\.|[^'\\])*(?:'|$|\\$)|"(?:\\.|[^"\\])*(?:"|$|\\$)|[(\[{]|[)\]}]|(?<![=!<>])=[ \t]*(?=[%!])|\?"""
)
_SKIPPED = re.compile(r"[ \t\f]*(?:#.*)?$")
_CELL_MAGIC = re.compile(r"%%[ \t]*(\S*)")


def read_notebook(path: str, data: bytes) -> PythonFile:
    """Read one notebook, or raise Unreadable. A cell that does not parse is a problem of its own and the others are read."""
    notebook = _load(path, data)
    listed = _cells(path, notebook)
    if not _speaks_python(notebook):
        listed = []
    cells: list[tuple[int, list[str], list[str]]] = []
    for index, cell in enumerate(listed):
        if isinstance(cell, dict) and cell.get("cell_type") == "code" and _is_python_cell(cell):
            text = _cell_text(cell)
            if text is None:
                raise Unreadable(Problem("unreadable", "not a notebook: the source of a cell is not text", path, cell=index))
            written = split_lines(text)
            cells.append((index, written, mask_magics(written)))
    body: list[ast.stmt] = []
    problems: list[Problem] = []
    shift = 1
    for index, written, parsed in cells:
        try:
            body += _parse_cell("\n".join(parsed), path, shift)
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            from mllint.read.refused import refuse_cell

            problems.append(refuse_cell(error, "\n".join(parsed), path, index, shift))
        shift += len(written)
    return PythonFile(Source(path, data, cells), ast.Module(body=body, type_ignores=[]), tuple(problems), is_notebook=True)


def _parse_cell(code: str, path: str, shift: int) -> list[ast.stmt]:
    """The statements of a cell, counted on from the lines before it. IPython lets a cell start indented; so do we, below an `if`."""
    first = re.search(r"^([ \t]*)[^\s#]", code, re.MULTILINE)
    if first is None:
        return []
    if not first.group(1):
        return parse("\n" * shift + code + "\n", path).body
    block = parse("\n" * (shift - 1) + "if 1:\n" + code + "\n", path).body
    assert isinstance(block[0], ast.If)
    return block[0].body + block[1:]


def mask_magics(lines: list[str]) -> list[str]:
    """The cell with its magics replaced by Python that does nothing: as many lines, every other line untouched, columns kept."""
    if not _MAYBE.search("\n".join(lines)):
        return lines
    masked = list(lines)
    at = _mask_cell_magics(masked)
    depth, quote, joined = 0, "", False
    while at < len(masked):
        line = masked[at]
        if not depth and not quote and not joined:
            kept = _mask_line(line)
            if kept is not None:
                masked[at] = kept
                while line.endswith("\\") and at + 1 < len(masked):
                    at += 1
                    line, masked[at] = masked[at], ""
                at += 1
                continue
        depth, quote = _scan(line, depth, quote)
        joined = line.endswith("\\") and not _ends_in_comment(line, quote)
        at += 1
    return masked


def _mask_cell_magics(lines: list[str]) -> int:
    """Mask `%%` lines at the head of the cell, and the whole body where it is not Python; the first line left to look at."""
    at = 0
    while at < len(lines):
        found = _CELL_MAGIC.match(lines[at].lstrip())
        if found:
            lines[at] = ""
            if found.group(1) not in PYTHON_CELL_MAGICS:
                lines[at:] = [""] * (len(lines) - at)
                return len(lines)
        elif not _SKIPPED.match(lines[at]):
            break
        at += 1
    return 0


def _mask_line(line: str) -> str | None:
    """The line without its magic, or None where it holds none; asked only at the start of a statement."""
    bare = line.lstrip(" \t")
    indent = line[: len(line) - len(bare)]
    if bare[:1] in ("%", "!", "?", "/", ",", ";") and bare:
        return _nothing(indent, line)
    if _BARE_COMMAND.match(bare):
        return _nothing(indent, line)
    depth, asked = 0, False
    at = 0
    while found := _PIECE.search(line, at):
        piece, at = found.group(), found.end()
        if piece[0] == "#":
            break
        if piece in ("'''", '"""'):
            close = line.find(piece, at)
            if close < 0:
                return None
            at = close + 3
        elif piece in "([{":
            depth += 1
        elif piece in ")]}":
            depth -= 1
        elif piece[0] == "=" and depth == 0:
            return (line[:at] + "None").ljust(len(line))
        elif piece == "?" and not line[at:].strip("? \t"):
            asked = True
    return _nothing(indent, line) if asked else None


def _nothing(indent: str, line: str) -> str:
    return (indent + "pass").ljust(len(line))


def _scan(line: str, depth: int, quote: str) -> tuple[int, str]:
    """Bracket depth and the triple quote that is open behind the line."""
    at = 0
    if quote:
        at = _close(line, 0, quote)
        if at < 0:
            return depth, quote
    while found := _PIECE.search(line, at):
        piece, at = found.group(), found.end()
        if piece[0] == "#":
            break
        if piece in ("'''", '"""'):
            at = _close(line, at, piece)
            if at < 0:
                return depth, piece
        elif piece in "([{":
            depth += 1
        elif piece in ")]}":
            depth = max(depth - 1, 0)
    return depth, ""


def _close(line: str, at: int, quote: str) -> int:
    """Just behind the closing triple quote, or -1."""
    while at < len(line):
        if line[at] == "\\":
            at += 2
        elif line.startswith(quote, at):
            return at + 3
        else:
            at += 1
    return -1


def _ends_in_comment(line: str, quote: str) -> bool:
    if quote or "#" not in line:
        return False
    return any(found.group()[0] == "#" for found in _PIECE.finditer(line))


def _load(path: str, data: bytes) -> dict[str, Any]:
    try:
        notebook = json.loads(data.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise Unreadable(Problem("unreadable", _not_json(data, error), path, error.lineno, error.colno)) from None
    except UnicodeDecodeError:
        raise Unreadable(Problem("unreadable", "not a notebook: it is not UTF-8; save it again from Jupyter", path)) from None
    except RecursionError:
        raise Unreadable(Problem("unreadable", "not a notebook: JSON nested too deeply", path)) from None
    if not isinstance(notebook, dict):
        raise Unreadable(Problem("unreadable", "not a notebook: JSON, but no cells; exclude the file", path))
    return notebook


def _not_json(data: bytes, error: json.JSONDecodeError) -> str:
    if not data.strip():
        return "not a notebook: the file is empty; save it again from Jupyter, or remove it"
    if data.startswith(b"version https://git-lfs"):
        return "not a notebook: a Git LFS pointer; fetch it with `git lfs pull`"
    if re.search(rb"^<{7} ", data, re.MULTILINE):
        return "not JSON: it holds an unresolved merge conflict; resolve it"
    return f"not JSON ({error.msg}); save it again from Jupyter, or exclude it"


def _cells(path: str, notebook: dict[str, Any]) -> list[Any]:
    """All cells; nbformat 3 and older keep them in worksheets."""
    cells = notebook.get("cells")
    if cells is None and isinstance(notebook.get("worksheets"), list):
        cells = [cell for sheet in notebook["worksheets"] if isinstance(sheet, dict) for cell in sheet.get("cells") or []]
    if not isinstance(cells, list):
        raise Unreadable(Problem("unreadable", "not a notebook: JSON, but no cells; exclude the file", path))
    return cells


def _cell_text(cell: dict[str, Any]) -> str | None:
    """The source of a cell: `source`, or `input` in nbformat 3; a string or a list of strings."""
    source = cell.get("source", cell.get("input", ""))
    if isinstance(source, list):
        return "".join(source) if all(isinstance(part, str) for part in source) else None
    return source if isinstance(source, str) else None


def _speaks_python(notebook: dict[str, Any]) -> bool:
    """The kernel runs Python, or nothing says that it does not."""
    metadata = notebook.get("metadata")
    if not isinstance(metadata, dict):
        return True
    for holder, name in (("language_info", "name"), ("kernelspec", "language")):
        part = metadata.get(holder)
        language = part.get(name) if isinstance(part, dict) else None
        if isinstance(language, str) and language:
            return "python" in language.lower()
    kernel = metadata.get("kernelspec")
    called = kernel.get("name") if isinstance(kernel, dict) else None
    return not (isinstance(called, str) and re.match(r"ir$|julia|bash$|scala|javascript|deno|\.net|rust|gophernotes", called))


def _is_python_cell(cell: dict[str, Any]) -> bool:
    """False for a cell marked as another language (nbformat 3, or an editor's polyglot notebooks)."""
    metadata = cell.get("metadata")
    marked = cell.get("language")
    editor = metadata.get("vscode") if isinstance(metadata, dict) else None
    if isinstance(editor, dict) and isinstance(editor.get("languageId"), str):
        marked = editor["languageId"]
    return not isinstance(marked, str) or "python" in marked.lower()
