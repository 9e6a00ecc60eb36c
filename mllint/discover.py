"""Which files there are: the root of the project, everything in it that can be read, and what of it the user asked about.

An own stack of `os.scandir`, with ignore files matched at the folders they stand in: walking must cost less than reading.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mllint.config import ConfigError, holds_settings
from mllint.model.finding import Problem
from mllint.patterns import Patterns

KINDS = {".py": "python", ".pyw": "python", ".ipynb": "notebook"}

NEVER_ENTERED = frozenset(
    {
        ".bzr",
        ".direnv",
        ".eggs",
        ".git",
        ".git-rewrite",
        ".hg",
        ".ipynb_checkpoints",
        ".mllint_cache",
        ".mypy_cache",
        ".nox",
        ".pants.d",
        ".pytest_cache",
        ".pytype",
        ".ruff_cache",
        ".svn",
        ".tox",
        ".venv",
        ".vscode",
        "__pycache__",
        "__pypackages__",
        "buck-out",
        "build",
        "dist",
        "node_modules",
        "site-packages",
        "venv",
    }
)

IGNORE_FILES = (".gitignore", ".mllintignore")

# Where nothing marks a root and only files were named, the folder they stand in may be somebody's whole home.
MOST_ENTRIES_WITHOUT_ROOT = 20_000


@dataclass(frozen=True, slots=True)
class File:
    """A file of the project: its path below the root, with `/`, and how it is read."""

    path: str
    kind: str


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found. `selected` None means: everything; `named` are the files that were named one by one."""

    root: str
    files: tuple[File, ...]
    selected: frozenset[str] | None
    problems: tuple[Problem, ...]
    named: frozenset[str] = frozenset()

    @property
    def checked(self) -> int:
        """How many files the user's question is about."""
        return len(self.files) if self.selected is None else sum(file.path in self.selected for file in self.files)


def find_root(paths: Sequence[str]) -> tuple[str, bool]:
    """The project the paths lie in, and whether anything marks it: the nearest folder with settings of ours or a .git."""
    folders = [p if os.path.isdir(p) else os.path.dirname(p) for p in map(os.path.abspath, paths)]
    try:
        common = os.path.commonpath(folders)
    except ValueError as error:
        raise ConfigError("the paths have no folder in common; scan them one after the other") from error
    # A path that does not exist must not invent a root either.
    while not os.path.isdir(common):
        common = os.path.dirname(common)
    folder = common
    while True:
        if os.path.exists(os.path.join(folder, ".git")) or holds_settings(folder) is not None:
            return folder, True
        parent = os.path.dirname(folder)
        if parent == folder:
            return common, False
        folder = parent


def discover(
    paths: Sequence[str], root: str, *, exclude: Sequence[str] = (), force_exclude: bool = False, marked: bool = True
) -> Discovery:
    """Every file of the project, and which of them `paths` name."""
    walk = _Walk(os.path.abspath(root), Patterns(exclude))
    absolute = [os.path.abspath(path) for path in paths]
    if not marked and all(os.path.isfile(path) for path in absolute):
        walk.left = MOST_ENTRIES_WITHOUT_ROOT
    walk.folder(walk.root, "", walk.ignores_above())
    selected: set[str] | None = set()
    named: set[str] = set()
    for given, path in zip(paths, absolute, strict=True):
        if path == walk.root:
            selected = None
            continue
        relative = _below(path, walk.root)
        if relative is None:
            raise ConfigError(f"{given} lies outside the project root {walk.root}; name another with --root")
        chosen = set(walk.named(given, path, relative, force_exclude))
        named |= chosen & {relative}
        if selected is not None:
            selected |= chosen
    files = tuple(File(path, kind) for path, kind in sorted(walk.found.items()))
    return Discovery(walk.root, files, None if selected is None else frozenset(selected), tuple(walk.problems), frozenset(named))


def _below(path: str, root: str) -> str | None:
    prefix = root if root.endswith(os.sep) else root + os.sep
    for spelling in (path, os.path.realpath(path)):
        for start in (prefix, os.path.realpath(root).rstrip(os.sep) + os.sep):
            if spelling.startswith(start):
                return spelling[len(start) :].replace(os.sep, "/")
    return None


class _Walk:
    """One walk over a project: what was found, what could not be read, and what may still be entered."""

    def __init__(self, root: str, exclude: Patterns) -> None:
        self.root = root
        self.exclude = exclude
        self.found: dict[str, str] = {}
        self.problems: list[Problem] = []
        self.left: int | None = None

    def ignores_above(self) -> list[tuple[str, Patterns]]:
        """The ignore files between the repository the root lies in and the root: they hold below it too.

        Each comes with the path of the root below it, plus a slash.
        """
        ignores: list[tuple[str, Patterns]] = []
        folder = self.root
        below = ""
        while not os.path.exists(os.path.join(folder, ".git")):
            parent, name = os.path.split(folder)
            if parent == folder:
                return []
            folder, below = parent, f"{name}/{below}"
            lines = [line for file in IGNORE_FILES for line in _lines(os.path.join(folder, file))]
            if lines:
                ignores.insert(0, (below, Patterns(lines)))
        return ignores

    def folder(self, top: str, relative: str, above: list[tuple[str, Patterns]]) -> None:
        """Find every file below `top`. `above` are the ignore files that hold there, each with the prefix its paths get."""
        stack = [(top, relative, above)]
        while stack:
            folder, prefix, ignores = stack.pop()
            try:
                with os.scandir(folder) as scan:
                    entries = list(scan)
            except OSError as error:
                message = f"cannot list this folder: {error.strerror or error}"
                self.problems.append(Problem("unreadable", message, prefix.rstrip("/") or "."))
                continue
            if self.left is not None:
                self.left -= len(entries)
                if self.left < 0:
                    message = f"stopped looking after {MOST_ENTRIES_WITHOUT_ROOT} entries: no project root is marked; name one with --root"
                    self.problems.append(Problem("limit", message, prefix.rstrip("/") or "."))
                    return
            lines = [line for entry in entries if entry.name in IGNORE_FILES for line in _lines(entry.path)]
            if lines:
                ignores = [*ignores, ("", Patterns(lines))]
            for entry in entries:
                name = entry.name
                kind = KINDS.get(name[name.rfind(".") :]) if "." in name else None
                if kind is None:
                    if name in NEVER_ENTERED or not entry.is_dir(follow_symlinks=False):
                        continue
                    path = prefix + name
                    if not self._ignored(path, name, True, ignores):
                        stack.append((entry.path, path + "/", [(base + name + "/", patterns) for base, patterns in ignores]))
                    continue
                path = prefix + name
                # A folder may be called x.py.
                is_folder = entry.is_dir(follow_symlinks=False)
                if self._ignored(path, name, is_folder, ignores):
                    continue
                if is_folder:
                    stack.append((entry.path, path + "/", [(base + name + "/", patterns) for base, patterns in ignores]))
                elif entry.is_symlink():
                    self._link(entry.path, path, kind)
                elif entry.is_file(follow_symlinks=False):
                    self.found[path] = kind

    def _ignored(self, path: str, name: str, is_folder: bool, ignores: list[tuple[str, Patterns]]) -> bool:
        if self.exclude and self.exclude.verdict(path, is_folder):
            return True
        # The nearest ignore file is asked first: it may take back what one above it ignores.
        for base, patterns in reversed(ignores):
            verdict = patterns.verdict(base + name, is_folder)
            if verdict is not None:
                return verdict
        return False

    def _link(self, path: str, relative: str, kind: str) -> None:
        """A linked file counts once: as itself where it lies in the tree, as the link where it does not."""
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            # Editors keep their locks as links to nowhere.
            if not os.path.basename(path).startswith(".#"):
                self.problems.append(Problem("unreadable", f"this link leads nowhere: {error.strerror or error}", relative))
            return
        if stat.S_ISREG(mode) and not os.path.realpath(path).startswith(os.path.realpath(self.root) + os.sep):
            self.found[relative] = kind

    def named(self, given: str, path: str, relative: str, force_exclude: bool) -> Iterator[str]:
        """The files a path on the command line stands for. What is named is scanned even where it is excluded."""
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            missing = isinstance(error, FileNotFoundError) and not os.path.islink(path)
            kind, message = ("missing", "no such file or folder") if missing else ("unreadable", f"{error.strerror or error}")
            if not any(problem.path == relative for problem in self.problems):
                self.problems.append(Problem(kind, message, relative))
            return
        if stat.S_ISDIR(mode):
            prefix = relative.rstrip("/") + "/"
            inside = [found for found in self.found if found.startswith(prefix)]
            if not inside and not (force_exclude and self._excluded(relative)):
                self.folder(path, prefix, [])
                inside = [found for found in self.found if found.startswith(prefix)]
            yield from inside
            return
        if not stat.S_ISREG(mode):
            self.problems.append(Problem("unreadable", "not a regular file", relative))
            return
        if relative in self.found:
            yield relative
            return
        if force_exclude and self._excluded(relative):
            return
        kind = KINDS.get(os.path.splitext(path)[1], "python" if _is_python_script(path) else "")
        if not kind:
            self.problems.append(Problem("limit", "neither Python nor a notebook: nothing to check", relative))
            return
        # The walk left out the folder this file stands in, and with it the files it imports.
        self.folder(os.path.dirname(path), relative[: relative.rfind("/") + 1], [])
        self.found[relative] = kind
        yield relative

    def _excluded(self, relative: str) -> bool:
        """The walk leaves this path out: by name, by `exclude`, or by an ignore file on the way to it."""
        parts = relative.split("/")
        ignores = self.ignores_above()
        folder = self.root
        for number, name in enumerate(parts):
            lines = [line for file in IGNORE_FILES for line in _lines(os.path.join(folder, file))]
            if lines:
                ignores = [*ignores, ("", Patterns(lines))]
            path = "/".join(parts[: number + 1])
            folder = os.path.join(folder, name)
            if name in NEVER_ENTERED or self._ignored(path, name, os.path.isdir(folder), ignores):
                return True
            ignores = [(base + name + "/", patterns) for base, patterns in ignores]
        return False


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read().splitlines()
    except OSError:
        return []


def _is_python_script(path: str) -> bool:
    try:
        with open(path, "rb") as stream:
            first = stream.readline(200)
    except OSError:
        return False
    return first.startswith(b"#!") and b"python" in first
