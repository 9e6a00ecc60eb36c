"""Keeping what a run writes out of the user's files: a layer over the project, else a copy of it.

An overlay shows the project as it is and keeps every change in a scratch folder; it needs Linux and the right to make a mount of
one's own. A copy is taken where the project is small enough; big data in it are links to the real files until they are written to.
On the real files a command runs on request alone. What lies outside the project is real in every case.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

KINDS = ("overlay", "copy", "none")
#: Chosen from without being asked; a command works on the real files on request alone.
SAFE = ("overlay", "copy")
ENTER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "enter.py")

#: A copy must cost seconds at most.
MOST_FILES = 20_000
MOST_BYTES = 1_000_000_000
#: A file larger than this is data or weights: the copy holds a link to it.
BIG_FILE = 50_000_000
#: A folder without Python that holds more files than this is a data set: the copy links it whole.
MANY_FILES = 2_000
#: Folders of installed packages, linked whole too.
LINKED = frozenset({".venv", "venv", "node_modules", ".tox", ".nox", "site-packages"})
LEFT_OUT = frozenset({".git", ".hg", ".svn", ".mllint", ".mllint_cache", ".mypy_cache", ".ruff_cache", ".pytest_cache", "__pycache__"})
#: A socket's path may have about 100 characters. Workers of data loaders put theirs into the folder for temporary files, and need 60.
LONGEST_FOLDER = 40
#: Comparing the project before and after looks at this many files at most.
MOST_COMPARED = 200_000


class SandboxError(Exception):
    """The sandbox that was asked for cannot be had; the message says why."""


@dataclass
class Sandbox:
    """Where a command runs. `root` is the project as the command sees it, `real` as the user does.

    `scratch` holds everything the run needs and is removed afterwards; `why` says why no better kind was to be had.
    """

    kind: str
    real: str
    root: str
    scratch: str
    why: str = ""
    notes: list[str] = field(default_factory=list)
    user: bool = False
    linked: tuple[str, ...] = ()
    _copied: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    _put: frozenset[str] = frozenset()

    @property
    def temporary(self) -> str:
        """The folder for temporary files of the command."""
        return os.path.join(self.scratch, "tmp")

    def inside(self, path: str) -> str:
        """A path as the command sees it."""
        if self.root == self.real:
            return path
        if path == self.real or path.startswith(self.real.rstrip(os.sep) + os.sep):
            return os.path.normpath(os.path.join(self.root, os.path.relpath(path, self.real)))
        return path

    def roots(self) -> dict[str, str]:
        """For `record.read_parts`: folders as the command sees them, and what the user calls them ("" is the project)."""
        names = dict.fromkeys((self.root, os.path.realpath(self.root), self.real, os.path.realpath(self.real)), "")
        # The longest first, should one lie in the other.
        return dict(sorted(names.items(), key=lambda pair: -len(pair[0])))

    def put(self, files: Mapping[str, str | None]) -> None:
        """Show other files than the user's: by their names below the root, the files to copy there; None where nothing may be.

        Raises SandboxError where the command would run on the real files.
        """
        if self.kind == "none":
            raise SandboxError("another state of the project can only be shown in a sandbox")
        if self.kind == "copy":
            for name in files:
                folder = os.path.dirname(name)
                while folder:
                    if os.path.islink(os.path.join(self.root, folder)):
                        raise SandboxError(f"{folder} is not copied, so {name} cannot stand for another")
                    folder = os.path.dirname(folder)
            from mllint.runtime.enter import put

            put(self.root, files)
            self._copied = snapshot(self.root)
            return
        self._put = frozenset(files)
        with open(os.path.join(self.scratch, "files.json"), "w", encoding="ascii") as stream:
            json.dump(dict(files), stream)

    def overlay(self, run_folder: str) -> dict[str, Any] | None:
        """The order for `enter.py`. The run folder stays reachable beside the layer that would hide it."""
        if self.kind != "overlay":
            return None
        order = {"root": self.real, "scratch": self.scratch, "user": self.user, "shown": [[run_folder, self.parts(run_folder)]]}
        return order | ({"files": os.path.join(self.scratch, "files.json")} if self._put else {})

    def parts(self, run_folder: str) -> str:
        """The run folder as the command sees it."""
        return os.path.join(self.scratch, "run") if self.kind == "overlay" else run_folder

    def kept_out(self) -> list[str]:
        """Files of the project that the command wrote, changed or deleted in the scratch folder only, relative to the root."""
        if self.kind == "overlay":
            upper = os.path.join(self.scratch, "upper")
            return sorted({os.path.relpath(path, upper).replace(os.sep, "/") for path in _files(upper)} - self._put)
        if self.kind == "copy":
            return differences(self._copied, snapshot(self.root))
        return []

    def close(self) -> None:
        """Remove the scratch folder."""
        discard(self.scratch)


def discard(folder: str) -> None:
    """Remove a folder whatever the rights on what is in it; the kernel leaves folders without any behind."""

    def again(remove: Any, path: str, error: BaseException) -> None:
        try:
            os.chmod(os.path.dirname(path), stat.S_IRWXU)
            os.chmod(path, stat.S_IRWXU, follow_symlinks=False) if os.path.isdir(path) else None
            shutil.rmtree(path, ignore_errors=True) if os.path.isdir(path) else os.unlink(path)
        except (OSError, NotImplementedError):
            pass

    if sys.version_info >= (3, 12):
        shutil.rmtree(folder, onexc=again)
    else:
        shutil.rmtree(folder, onerror=lambda remove, path, info: again(remove, path, info[1]))


# ---------------------------------------------------------------- choosing


def choose(root: str, kind: str) -> Sandbox:
    """A sandbox of that kind for a project. Raises SandboxError when it cannot be had."""
    try:
        return _MAKERS[kind](root)
    except (SandboxError, OSError) as error:
        raise SandboxError(f"{kind}: {error}") from error


def _scratch(within: str | None = None) -> str:
    if within is None and len(os.path.realpath(tempfile.gettempdir())) > LONGEST_FOLDER and os.access("/tmp", os.W_OK):
        within = "/tmp"
    folder = os.path.realpath(tempfile.mkdtemp(prefix="mllint-", dir=within))
    os.mkdir(os.path.join(folder, "tmp"))
    return folder


def _none(root: str) -> Sandbox:
    return Sandbox("none", root, root, _scratch())


# ---------------------------------------------------------------- overlay


def _overlay(root: str) -> Sandbox:
    if sys.platform != "linux":
        raise SandboxError("it needs Linux")
    root = os.path.realpath(root)
    if root in ("/", os.path.realpath(tempfile.gettempdir())):
        raise SandboxError(f"{root} is no folder of a project")
    said = ""
    for within in (None, "/dev/shm"):
        # A layer cannot lie on another overlay, which is what the file system of a container often is; memory will do.
        if within and not os.access(within, os.W_OK):
            continue
        scratch = _scratch(within)
        if scratch.startswith(root + "/"):
            said = said or f"the folder for temporary files lies in {root}"
            discard(scratch)
            continue
        for name in ("upper", "work", "lower", "run"):
            os.mkdir(os.path.join(scratch, name))
        # Root of this machine may mount as it is, and then keeps its rights on the files of others.
        for user in (False, True) if os.geteuid() == 0 else (True,):
            said = _probe(scratch, user)
            if not said:
                shutil.copymode(root, os.path.join(scratch, "upper"))
                return Sandbox("overlay", root, root, scratch, user=user)
        discard(scratch)
    raise SandboxError(said)


#: What a training script does to files, tried on a layer: some kernels mount one on which half of this fails.
_TRIED = """
import os, shutil
open("kept/new", "w").write("1")
open("kept/old", "a").write("2")
os.remove("gone")
shutil.rmtree("folder"); os.mkdir("folder"); assert os.listdir("folder") == []
os.rename("kept/old", "kept/other"); assert open("kept/other").read() == "old2"
"""


def _probe(scratch: str, user: bool) -> str:
    """What is wrong with overlays here, in a few words; nothing when they work."""
    trial = os.path.join(scratch, "trial")
    root = os.path.join(scratch, "project")
    try:
        for folder in ("upper", "work", "lower", "run"):
            os.makedirs(os.path.join(trial, folder))
        for name in ("kept/old", "gone", "folder/file"):
            path = Path(root, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("old")
        overlay = {"root": root, "scratch": trial, "user": user, "shown": []}
        command = [sys.executable, "-I", "-S", "-c", _TRIED]
        with subprocess.Popen(**entering(command, root, overlay, os.environ, 2), stderr=subprocess.PIPE) as done:
            said = done.communicate()[1].decode("utf-8", "replace").strip()
        if done.returncode == 0 and Path(root, "kept/old").read_text() == "old" and not Path(root, "kept/new").exists():
            return ""
        return said.splitlines()[-1] if said else "a layer could not be laid"
    except OSError as error:
        return str(error)
    finally:
        discard(trial)
        discard(root)


def entering(command: Sequence[str], cwd: str, overlay: Mapping[str, Any] | None, env: Mapping[str, str], report: int) -> dict[str, Any]:
    """Arguments for `subprocess.Popen` that start a command by way of `enter.py`, in a session of its own."""
    order = {"parent": os.getpid(), "report": report, "cwd": cwd, "overlay": overlay}
    return {
        "args": [sys.executable, "-I", "-S", ENTER, json.dumps(order), *command],
        "env": dict(env),
        "stdin": subprocess.DEVNULL,
        "start_new_session": True,
        "pass_fds": (report,),
    }


# ---------------------------------------------------------------- copy


def _copy(root: str) -> Sandbox:
    entries = _without_data(_entries(root))
    sizes = [entry.size for entry in entries if entry.kind == "file" and entry.size <= BIG_FILE]
    if len(sizes) > MOST_FILES or sum(sizes) > MOST_BYTES:
        raise SandboxError(f"{len(sizes):,} files of {sum(sizes) / 1e6:,.0f} MB are too much to copy")
    scratch = _scratch()
    target = os.path.join(scratch, "project")
    linked = []
    os.mkdir(target)
    for name, kind, size in entries:
        source, copy = os.path.join(root, name), os.path.join(target, name)
        if kind == "folder":
            os.makedirs(copy, exist_ok=True)
        elif kind == "link":
            # A link that leads out of the project, to where the data are, leads there from the copy too.
            to = os.readlink(source)
            here = os.path.normpath(os.path.join(os.path.dirname(source), to))
            stays = here.startswith(root.rstrip(os.sep) + os.sep)
            os.symlink(to if stays and not os.path.isabs(to) else _moved(here, root, target), copy)
        elif kind == "linked" or size > BIG_FILE:
            if not (kind == "file" and _cloned(source, copy)):
                os.symlink(source, copy)
                linked.append(name)
        else:
            shutil.copy2(source, copy)
    return Sandbox("copy", root, target, scratch, linked=tuple(linked), _copied=snapshot(target))


def _moved(path: str, root: str, target: str) -> str:
    below = path == root or path.startswith(root.rstrip(os.sep) + os.sep)
    return os.path.join(target, os.path.relpath(path, root)) if below else path


class _Entry(NamedTuple):
    """A part of a project: its relative name, what it is ("folder", "file", "link", "linked" as a whole), its size in bytes."""

    name: str
    kind: str
    size: int = 0


def _without_data(entries: Iterable[_Entry]) -> list[_Entry]:
    """The entries, with folders that only hold data as one entry each."""
    kept = list(entries)
    count: dict[str, int] = {}
    code: set[str] = set()
    for entry in kept:
        folder = os.path.dirname(entry.name)
        while folder:
            count[folder] = count.get(folder, 0) + (entry.kind == "file")
            if entry.name.endswith(".py"):
                code.add(folder)
            folder = os.path.dirname(folder)
    data = tuple(folder for folder, files in count.items() if files > MANY_FILES and folder not in code)
    whole = [folder for folder in data if os.path.dirname(folder) not in data]
    inside = tuple(folder + os.sep for folder in whole)
    return [
        entry._replace(kind="linked") if entry.name in whole else entry for entry in kept if not (inside and entry.name.startswith(inside))
    ]


def _entries(root: str) -> Iterator[_Entry]:
    stack = [""]
    while stack:
        prefix = stack.pop()
        with os.scandir(os.path.join(root, prefix)) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        for entry in entries:
            name = os.path.join(prefix, entry.name)
            if entry.name in LEFT_OUT:
                continue
            if entry.is_symlink():
                yield _Entry(name, "link")
            elif entry.is_dir(follow_symlinks=False):
                if entry.name in LINKED or os.path.exists(os.path.join(entry.path, "pyvenv.cfg")):
                    yield _Entry(name, "linked")
                else:
                    yield _Entry(name, "folder")
                    stack.append(name)
            elif entry.is_file(follow_symlinks=False):
                yield _Entry(name, "file", entry.stat(follow_symlinks=False).st_size)


def _cloned(source: str, copy: str) -> bool:
    """Copy a file without copying its bytes, where the file system can share them (Btrfs, XFS, APFS)."""
    if sys.platform == "darwin":
        return subprocess.run(["cp", "-c", "-p", source, copy], capture_output=True, check=False).returncode == 0
    if sys.platform != "linux":
        return False
    import fcntl

    FICLONE = 0x40049409
    try:
        with open(source, "rb") as read, open(copy, "xb") as write:
            fcntl.ioctl(write.fileno(), FICLONE, read.fileno())
    except OSError:
        if os.path.exists(copy):
            os.unlink(copy)
        return False
    shutil.copystat(source, copy)
    return True


_MAKERS = {"overlay": _overlay, "copy": _copy, "none": _none}


# ---------------------------------------------------------------- before and after


def snapshot(root: str) -> dict[str, tuple[int, ...]]:
    """Size, times and kind of every file below a folder, by its relative name; not of git's own files and of ours."""
    seen: dict[str, tuple[int, ...]] = {}
    for path in _files(root, leave_out=(".git", ".mllint")):
        try:
            known = os.lstat(path)
        except OSError:
            continue
        seen[os.path.relpath(path, root).replace(os.sep, "/")] = (known.st_size, known.st_mtime_ns, known.st_ino, known.st_mode)
        if len(seen) >= MOST_COMPARED:
            break
    return seen


def differences(before: Mapping[str, tuple[int, ...]], after: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Names that are new, gone or changed."""
    if len(before) >= MOST_COMPARED or len(after) >= MOST_COMPARED:
        # One of the two stopped somewhere: only what both saw can be compared.
        return sorted(name for name in before.keys() & after.keys() if before[name] != after[name])
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _files(top: str, leave_out: Sequence[str] = ()) -> Iterator[str]:
    stack = [top]
    while stack:
        try:
            with os.scandir(stack.pop()) as scan:
                entries = list(scan)
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in leave_out:
                    stack.append(entry.path)
            else:
                yield entry.path
