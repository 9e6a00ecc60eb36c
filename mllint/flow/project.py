"""The project: its files by path and by module name, read when somebody needs them, and the histories of its entries."""

from __future__ import annotations

import ast
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mllint.flow.gate import ACTIVE, CALLED
from mllint.flow.reductions import reduction_of
from mllint.flow.trees import CHILDREN
from mllint.model.finding import Problem

if TYPE_CHECKING:
    from mllint.flow.lexical import CodeFile
    from mllint.flow.values import ClassValue, ModuleValue
    from mllint.model.history import History
    from mllint.model.rule import Rule
    from mllint.read.python import PythonFile
    from mllint.read.tables import Knowledge

#: Bytes at the top of a file in which it says where it comes from.
HEAD = 1_000

#: `compile` gives the tree (ast.PyCF_ONLY_AST, which is not worth loading `ast` for).
ONLY_TREE = 0x400


class Project:
    """All Python of a project. Nothing is read before it is asked for; a file that cannot be read is one problem."""

    def __init__(
        self,
        root: str | os.PathLike[str],
        files: Iterable[Any],
        selected: frozenset[str] | None = None,
        tables: Sequence[str | os.PathLike[str]] = (),
        knowledge: Knowledge | None = None,
        named: frozenset[str] = frozenset(),
        advance: Callable[..., None] | None = None,
        overlay: Mapping[str, bytes] | None = None,
    ) -> None:
        self.root = os.fspath(root)
        self.overlay: Mapping[str, bytes] = overlay or {}  # bytes to read in the place of files, by path
        self.files: dict[str, str] = {f.path: f.kind for f in files}
        self.selected = selected
        self.problems: list[Problem] = []
        self.modules: dict[str, ModuleValue] = {}
        self.varying: set[str] = set()
        self._entries: tuple[set[str], list[str], set[str]] | None = None
        self.matched: dict[str, frozenset[str]] = {}  # the rules about single files that can fire in each, once the bytes have been seen
        self.marked: set[str] | None = None  # files with comments that speak to us, once the bytes have been seen
        self.own_tables = tuple(os.fspath(table) for table in tables)
        self.named = named
        self.advance: Callable[..., None] = advance or (lambda count=1, doing="", more=0: None)
        self._knowledge = knowledge
        self._read: dict[str, PythonFile | None] = {}
        self._by_name: dict[str, str] = {}
        self._by_stem: dict[str, list[str]] = {}
        self._packages: set[str] = set()
        self._assigned: dict[int, frozenset[str]] = {}
        self._added: dict[int, frozenset[str]] = {}
        self._yields: dict[int, bool] = {}
        self._active: dict[int, bool] = {}
        self._reductions: dict[int, frozenset[str]] = {}
        self.handed_on: dict[int, frozenset[str]] = {}  # what a class gets from the losses it names, by the number of its node
        self._code: dict[str, CodeFile | None] = {}
        self._absolute: dict[tuple[str, str | None, int], str] = {}
        self._index()

    # ------------------------------------------------------------------ files

    def _index(self) -> None:
        for path, kind in self.files.items():
            if kind != "python":
                continue
            stem = path.rsplit(".", 1)[0]
            if stem == "__init__" or stem.endswith("/__init__"):
                stem = stem[: -len("/__init__")]
            name = stem.replace("/", ".")
            self._by_name[name] = path
            self._by_stem.setdefault(name.rpartition(".")[2], []).append(name)
            parent = name.rpartition(".")[0]
            while parent and parent not in self._packages:
                self._packages.add(parent)
                parent = parent.rpartition(".")[0]

    def bytes_of(self, path: str) -> bytes:
        """A file's bytes; a file that cannot be opened is a problem and empty."""
        if path in self.overlay:
            return self.overlay[path]
        try:
            fd = os.open(os.path.join(self.root, path), os.O_RDONLY)
        except OSError as error:
            self._problem(Problem("unreadable", f"cannot be opened: {error.strerror}", path))
            return b""
        try:
            size = os.fstat(fd).st_size + 1
            parts = []
            while chunk := os.read(fd, size):
                parts.append(chunk)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        except OSError as error:
            self._problem(Problem("unreadable", f"cannot be read: {error.strerror}", path))
            return b""
        finally:
            os.close(fd)

    def may_be_marked(self, path: str) -> bool:
        """The file may hold a comment that speaks to us."""
        return self.marked is None or path in self.marked

    def _problem(self, problem: Problem) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def asked_about(self, path: str) -> bool:
        """The user wants to know about this file."""
        return self.selected is None or path in self.selected

    def check(self, path: str, data: bytes | None = None) -> None:
        """Say what is wrong with a file that is not followed; nothing of it is kept."""
        content = self.bytes_of(path) if data is None else data
        if self.files[path] == "python" and content.isascii():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    compile(content, path, "exec", ONLY_TREE, dont_inherit=True)
                    return
                except (SyntaxError, ValueError, MemoryError, RecursionError):
                    pass  # read again below, for the words
        if path not in self._read:
            self.python_file(path, content)
            self.release(path)

    def python_file(self, path: str, data: bytes | None = None) -> PythonFile | None:
        """The file's tree, read once; None (and a problem) when it cannot be read."""
        if path in self._read:
            return self._read[path]
        from mllint.read import read_code
        from mllint.read.source import Unreadable

        file: PythonFile | None = None
        if path in self.files:
            try:
                file = read_code(path, self.bytes_of(path) if data is None else data)
                for problem in file.problems:
                    self._problem(problem)
            except Unreadable as error:
                self._problem(error.problem)
        self._read[path] = file
        if file is not None:
            self._note_varying(file.tree)
        return file

    def release(self, path: str) -> None:
        """Let go of a tree that nothing was made from: trees are most of what a scan holds in memory."""
        self._code.pop(path, None)
        if self._read.get(path) is not None and path not in self.modules and self.files[path] == "python":
            del self._read[path]

    def _note_varying(self, tree: ast.Module) -> None:
        """Attributes that are counted up or set in more than one place: their value at one place says nothing about another."""
        seen: set[str] = set()
        for target, counted in targets(tree):
            if target.attr in seen or counted:
                self.varying.add(target.attr)
            seen.add(target.attr)

    # ---------------------------------------------------------------- modules

    def module_name(self, file: PythonFile) -> str:
        stem = file.source.path.rsplit(".", 1)[0]
        if stem.endswith("/__init__"):
            stem = stem[: -len("/__init__")]
        return stem.replace("/", ".")

    def import_name(self, file: PythonFile) -> str:
        """The module as the world imports it: seen from the first folder around it that is no package (`src/`, `third_party/`)."""
        parts = self.module_name(file).split(".")
        inner = len(parts) - 1
        while inner and ".".join(parts[:inner]) in self._by_name:
            inner -= 1
        return ".".join(parts[inner:] if inner < len(parts) - 1 else parts)

    def absolute(self, file: PythonFile, module: str | None, level: int) -> str:
        """The project's name of an imported module: seen from the importing file's folder, its parents, or where it is unique."""
        return self.absolute_from(file.source.path.rpartition("/")[0], module, level)

    def absolute_from(self, folder: str, module: str | None, level: int) -> str:
        """The same for an import in any file of a folder."""
        question = (folder, module, level)
        known = self._absolute.get(question)
        if known is None:
            known = self._absolute[question] = self._seen_from(folder.replace("/", "."), module, level)
        return known

    def _seen_from(self, folder: str, module: str | None, level: int) -> str:
        if level:
            for _ in range(level - 1):
                folder = folder.rpartition(".")[0]
            return ".".join(p for p in (folder, module or "") if p)
        name = module or ""
        while True:
            candidate = f"{folder}.{name}" if folder else name
            if candidate in self._by_name or candidate in self._packages:
                return candidate
            if not folder:
                break
            folder = folder.rpartition(".")[0]
        ends = [n for n in self._by_stem.get(name.rpartition(".")[2], ()) if n.endswith("." + name)]
        if len(ends) == 1 and (name.count(".") or ends[0].count(".") <= 2):
            return ends[0]
        return name

    def owns(self, file: PythonFile, module: str) -> bool:
        return module in self._by_name or module in self._packages

    def is_package(self, module: str) -> bool:
        return module in self._packages

    def locate(self, module: str) -> PythonFile | None:
        """The file of a module of the project, by its project name."""
        path = self._by_name.get(module)
        return None if path is None else self.python_file(path)

    def path_of_module(self, module: str) -> str | None:
        return self._by_name.get(module)

    def code(self, module: str) -> CodeFile | None:
        """A module of the project as text with names, by its project name; None for a library's."""
        path = self._by_name.get(module)
        return None if path is None else self.code_file(path)

    def code_file(self, path: str) -> CodeFile | None:
        """The same by path; None where it cannot be read."""
        if path not in self._code:
            from mllint.flow.lexical import CodeFile

            file = self.python_file(path)
            self._code[path] = None if file is None else CodeFile(self, file)
        return self._code[path]

    def is_template(self, path: str) -> bool:
        """Another file of the folder says at its top that it was generated from this one, which is then never run itself."""
        folder, _, name = path.rpartition("/")
        beside = (other for other in self.files if other != path and other.rpartition("/")[0] == folder)
        heads = (self.bytes_of(other)[:HEAD] for other in beside)
        return any(name.encode() in head and b"generated" in head for head in heads)

    def defines_field(self, name: str) -> bool:
        """Some class of the project has an attribute of this name: set on `self`, or declared in its body."""
        import re

        pattern = re.compile(rb"\bself\." + name.encode() + rb"\b\s*(?::[^=\n]+)?=|^[ \t]+" + name.encode() + rb"[ \t]*:", re.MULTILINE)
        return any(pattern.search(self.bytes_of(path)) for path, kind in self.files.items() if kind == "python")

    # ------------------------------------------------------- facts about trees

    def assigned_in(self, node: ast.stmt) -> frozenset[str]:
        """The names a statement's body assigns, not counting nested functions and classes."""
        known = self._assigned.get(id(node))
        if known is None:
            names: set[str] = set()
            added: set[str] = set()
            stack: list[Any] = [*getattr(node, "body", ()), *getattr(node, "orelse", ())]
            while stack:
                inner = stack.pop()
                kind = type(inner)
                if kind is ast.Name:
                    if type(inner.ctx) is ast.Store:
                        names.add(inner.id)
                    continue
                if kind in SCOPES:
                    continue
                if kind is ast.Attribute and inner.attr in ADDING and type(inner.value) is ast.Name:
                    added.add(inner.value.id)
                for name in CHILDREN[kind]:
                    value = getattr(inner, name)
                    if type(value) is list:
                        stack.extend(value)
                    else:
                        stack.append(value)
            known = self._assigned[id(node)] = frozenset(names)
            self._added[id(node)] = frozenset(added)
        return known

    def added_to_in(self, node: ast.stmt) -> frozenset[str]:
        """The names of what a statement's body adds elements to."""
        self.assigned_in(node)
        return self._added[id(node)]

    def yields(self, node: ast.AST, data: bytes) -> bool:
        """The function is a generator; `data` are the bytes of its file."""
        known = self._yields.get(id(node))
        if known is None:
            known = self._yields[id(node)] = b"yield" in data and yields(node)
        return known

    def active(self, cls: ClassValue) -> bool:
        """A class whose methods do something the rules follow."""
        known = self._active.get(id(cls.node))
        if known is None:
            known = self._active[id(cls.node)] = acts(cls.node)
        return known

    def reduction_of(self, node: ast.AST) -> frozenset[str]:
        """What comes out of a function or class that is not walked, where it is a loss and no mean."""
        known = self._reductions.get(id(node))
        if known is None:
            known = self._reductions[id(node)] = reduction_of(node)
        return known

    def text_of(self, file: PythonFile, node: ast.AST | None) -> str:
        """A short name for an expression, where it has one."""
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Attribute):
            inner = self.text_of(file, node.value)
            return f"{inner}.{node.attr}" if inner else ""
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self.text_of(file, node.operand)
            return f"not {inner}" if inner else ""
        return ""

    # -------------------------------------------------------------- histories

    @property
    def knowledge(self) -> Knowledge:
        """The library tables, read when the first file of interest is met."""
        if self._knowledge is None:
            from pathlib import Path

            from mllint.read.tables import read_tables, shipped_tables

            self._knowledge = read_tables([*shipped_tables(), *map(Path, self.own_tables)])
        return self._knowledge

    def look_over(self, rules: Iterable[Rule] | None = None) -> None:
        """See by the bytes which files and programs can matter to the rules (None: to any); `matched` then tells where those about
        single files can fire."""
        from mllint.flow.survey import survey

        self._entries = survey(self, rules)

    def histories(self, rules: Iterable[Rule] | None = None) -> list[History]:
        """One History for each entry of the project; none where no rule of those wanted can fire (None: those it was looked over
        for, else whatever is wanted)."""
        if self._entries is None or rules is not None:
            self.look_over(rules)
        assert self._entries is not None
        interesting, starting, entered = self._entries
        if not interesting:
            return []
        # The interpreter is most of mllint, and most files never need it.
        from mllint.flow.entries import histories

        self.advance(0, more=len(interesting) + len(starting))
        return list(histories(self, interesting, starting, entered))


def acts(node: ast.AST) -> bool:
    """The code does something the rules follow."""
    stack: list[Any] = [node]
    while stack:
        inner = stack.pop()
        kind = type(inner)
        if kind is ast.Name:
            if inner.id in ACTIVE:
                return True
            continue
        if kind is ast.Attribute:
            if inner.attr in ACTIVE:
                return True
        elif kind is ast.FunctionDef:
            if inner.name in ACTIVE:
                return True
        elif kind is ast.Call and type(inner.func) is ast.Attribute and inner.func.attr in CALLED:
            return True
        for name in CHILDREN[kind]:
            value = getattr(inner, name)
            if type(value) is list:
                stack.extend(value)
            else:
                stack.append(value)
    return False


def yields(node: ast.AST) -> bool:
    """A `yield` stands in the function itself."""
    stack: list[Any] = list(getattr(node, "body", ())) if not isinstance(node, ast.Lambda) else []
    while stack:
        inner = stack.pop()
        kind = type(inner)
        if kind is ast.Yield or kind is ast.YieldFrom:
            return True
        if kind in SCOPES:
            continue
        for name in CHILDREN[kind]:
            value = getattr(inner, name)
            if type(value) is list:
                stack.extend(value)
            else:
                stack.append(value)
    return False


#: Methods that add to a list or set.
ADDING = frozenset(("append", "extend", "insert", "add", "appendleft"))
#: What has names, and yields, of its own.
SCOPES = frozenset((ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda))


def targets(tree: ast.Module) -> Iterator[tuple[ast.Attribute, bool]]:
    """The attributes statements assign, and whether it is by counting up."""
    stack: list[Any] = [*tree.body]
    while stack:
        node = stack.pop()
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            more = node.__dict__.get(name)
            if type(more) is list:
                stack.extend(more)
        given: list[Any] = []
        if isinstance(node, ast.Assign):
            given.extend(node.targets)
        elif isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.For, ast.AsyncFor)):
            given.append(node.target)
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            given.extend(item.optional_vars for item in node.items)
        while given:
            target = given.pop()
            if isinstance(target, ast.Attribute):
                yield target, isinstance(node, ast.AugAssign)
            elif isinstance(target, (ast.Tuple, ast.List)):
                given.extend(target.elts)
            elif isinstance(target, ast.Starred):
                given.append(target.value)
