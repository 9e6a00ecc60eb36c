"""Python files: bytes to a syntax tree, or one problem that says what to do."""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass

from mllint.model.finding import Problem
from mllint.read.source import BOM, Source, Unreadable

__all__ = ["PythonFile", "Unreadable", "parse", "read_python"]


@dataclass(frozen=True, slots=True)
class PythonFile:
    """A file that was read: its source, its tree, and the parts of it that could not be read (cells of a notebook)."""

    source: Source
    tree: ast.Module
    problems: tuple[Problem, ...] = ()
    is_notebook: bool = False


def parse(code: bytes | str, path: str) -> ast.Module:
    """The tree of a piece of code. `compile` on bytes is a third faster than `ast.parse`; warnings about the code are not ours to print."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = compile(code, path, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    assert isinstance(tree, ast.Module)
    return tree


def read_python(path: str, data: bytes) -> PythonFile:
    """Read one file, or raise Unreadable."""
    source = Source(path, data)
    if not data.isascii():
        _check_encoding(source)
    try:
        return PythonFile(source, parse(data, path))
    except (SyntaxError, ValueError, MemoryError, RecursionError, LookupError) as error:
        from mllint.read.refused import refuse

        raise Unreadable(refuse(error, source)) from None


def _check_encoding(source: Source) -> None:
    """Python itself refuses bytes its encoding does not allow, but `compile` on bytes overlooks them in comments."""
    try:
        if source.encoding == "utf-8":
            source.data.decode()
        elif source.data.startswith(BOM):
            source.data[3:].decode()
        else:
            _ = source.text
    except (UnicodeError, LookupError, ValueError) as error:
        from mllint.read.refused import refuse_encoding

        raise Unreadable(refuse_encoding(error, source)) from None
