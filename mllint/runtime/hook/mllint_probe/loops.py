"""How often the loops around an event turn: the bound of `for x in range(...)`, worked out from names without calling anything."""

import ast
import os
from types import CodeType, FrameType, ModuleType
from typing import Any, Dict, List, Optional, Set, Tuple

from . import sites, state, writer

LARGEST = 2000000
_files: Dict[str, List[Tuple[ast.For, Optional[int]]]] = {}
_done: Set[Tuple[str, int]] = set()


class Unknown(Exception):
    """The bound cannot be read off."""


def note(frame: Optional[FrameType]) -> None:
    """Write the sizes of the counted loops around the frames of a new site."""
    root = state.run.options["root"] or state.run.home
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith("<") and sites.visible(frame):
            file = sites.file_of(frame.f_code)
            if file.startswith(root.rstrip(os.sep) + os.sep) and "site-packages" not in file:
                _around(frame, file)
        frame = frame.f_back


def _around(frame: FrameType, file: str) -> None:
    for loop, function in _loops(file):
        key = (file, loop.lineno)
        last = getattr(loop, "end_lineno", None) or loop.lineno
        if key in _done or not loop.lineno <= frame.f_lineno <= last or function != _first(frame.f_code):
            continue
        _done.add(key)
        try:
            size = _size(loop.iter, frame)
        except Unknown:
            continue
        writer.line({"k": "loop", "file": file, "line": loop.lineno, "size": size})


def _first(code: CodeType) -> Optional[int]:
    return None if code.co_name == "<module>" else code.co_firstlineno


def _loops(file: str) -> List[Tuple[ast.For, Optional[int]]]:
    """The counted loops of a file, each with the first line of the function it stands in."""
    known = _files.get(file)
    if known is None:
        known = _files[file] = []
        try:
            if os.path.getsize(file) <= LARGEST:
                with open(file, "rb") as handle:
                    _collect(ast.parse(handle.read()), None, known)
        except (OSError, SyntaxError, ValueError, RecursionError):
            return known
    return known


def _collect(node: ast.AST, function: Optional[int], out: List[Tuple[ast.For, Optional[int]]]) -> None:
    for child in ast.iter_child_nodes(node):
        inside = function
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            inside = min([child.lineno] + [d.lineno for d in child.decorator_list])
        elif isinstance(child, ast.ClassDef):
            inside = -1
        elif isinstance(child, ast.For) and _counts(child.iter):
            out.append((child, function))
        _collect(child, inside, out)


def _counts(call: ast.AST) -> bool:
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "range" and not call.keywords


def _size(call: Any, frame: FrameType) -> int:
    names = _Names(frame)
    try:
        if names.find("range", range) is not range:
            raise Unknown
        numbers = [_evaluate(argument, names) for argument in call.args]
        if not 1 <= len(numbers) <= 3 or not all(type(n) is int for n in numbers) or (len(numbers) == 3 and not numbers[2]):
            raise Unknown
        return len(range(*numbers))
    except (OverflowError, ZeroDivisionError):
        raise Unknown from None
    finally:
        names.forget()


class _Names:
    """The variables of a frame. Before Python 3.13 reading locals leaves a copy in the frame, which would keep tensors alive."""

    def __init__(self, frame: FrameType) -> None:
        self.frame = frame
        self.locals: Optional[Dict[str, Any]] = None

    def find(self, name: str, *default: Any) -> Any:
        code = self.frame.f_code
        if code.co_name != "<module>" and name in code.co_varnames + code.co_cellvars + code.co_freevars:
            if self.locals is None:
                self.locals = self.frame.f_locals
            scope = self.locals
        else:
            scope = self.frame.f_globals
        if name in scope:
            return scope[name]
        if default:
            return default[0]
        raise Unknown

    def forget(self) -> None:
        """Empty the copy, unless the function asks for its own variables and may hold the same copy."""
        code = self.frame.f_code
        if self.locals is not None and type(self.locals) is dict and not {"locals", "vars", "eval", "exec", "dir"} & set(code.co_names):
            self.locals.clear()
        self.locals = None


def _evaluate(node: ast.AST, names: _Names) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return names.find(node.id)
    if isinstance(node, ast.Attribute):
        return _attribute(_evaluate(node.value, names), node.attr)
    if isinstance(node, ast.BinOp):
        return _arithmetic(node.op, _evaluate(node.left, names), _evaluate(node.right, names))
    raise Unknown


def _arithmetic(op: ast.operator, left: Any, right: Any) -> Any:
    if type(left) not in (int, float) or type(right) not in (int, float):
        raise Unknown
    if isinstance(op, ast.Add):
        return left + right
    if isinstance(op, ast.Sub):
        return left - right
    if isinstance(op, ast.Mult):
        return left * right
    if isinstance(op, ast.FloorDiv):
        return left // right
    raise Unknown


def _attribute(item: Any, name: str) -> Any:
    """A stored attribute of an object or its class; a property would have to be called."""
    if isinstance(item, ModuleType) or not isinstance(item, type):
        stored = getattr(item, "__dict__", None) if type(item).__getattribute__ in (object.__getattribute__, _MODULE) else None
        if type(stored) is dict and name in stored:
            return stored[name]
    for kind in (item if isinstance(item, type) else type(item)).__mro__:
        if name in kind.__dict__:
            found = kind.__dict__[name]
            if isinstance(found, (int, float)):
                return found
            raise Unknown
    raise Unknown


_MODULE = ModuleType.__getattribute__
