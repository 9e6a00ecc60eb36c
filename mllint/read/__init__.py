"""From bytes to something with positions: Python files and the code cells of notebooks."""

from __future__ import annotations

from mllint.read.python import PythonFile, read_python
from mllint.read.source import Source, Unreadable

__all__ = ["PythonFile", "Source", "Unreadable", "read_code", "read_python"]


def read_code(path: str, data: bytes) -> PythonFile:
    """Read a Python file or a notebook, by its name; the notebook reader is loaded only where there is one."""
    if path.endswith(".ipynb"):
        from mllint.read.notebook import read_notebook

        return read_notebook(path, data)
    return read_python(path, data)
