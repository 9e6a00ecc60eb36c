"""Finding and ending every process a command has started, those that left its group and session included.

On Linux the launcher becomes the one that inherits orphans, so that whatever the command started stays its descendant. Elsewhere
`ps` is asked, and a daemon that has cut all ties is known by what was seen of it before.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37
#: How long killed processes may take to be gone, in seconds; a process that waits for a disk cannot be killed at once.
PATIENCE = 5.0


@contextmanager
def inheriting_orphans() -> Iterator[None]:
    """Descendants that lose their parent become children of this process while the block runs (Linux)."""
    if sys.platform != "linux":
        yield
        return
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    before = ctypes.c_int(0)
    libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


class Tree:
    """The processes that came from one child of this process, and from the orphans it left behind."""

    def __init__(self) -> None:
        """Made before the child is started: what this process already has are not its descendants."""
        self.child: int | None = None
        self._known: dict[int, str] = {}
        self._others = frozenset(pid for pid, row in _table().items() if row.parent == os.getpid())
        self.killed: set[int] = set()

    def alive(self) -> set[int]:
        """The ids of all that still run. Dead ones that nobody has waited for do not count."""
        running = {pid: row for pid, row in _table().items() if row.state != "Z"}
        own = os.getpid()
        children: dict[int, list[int]] = {}
        for pid, row in running.items():
            children.setdefault(row.parent, []).append(pid)
        found: set[int] = set()
        stack = [pid for pid in children.get(own, ()) if pid not in self._others]
        # A number may belong to somebody else by now; the time of its start tells.
        stack += [pid for pid, started in self._known.items() if pid in running and running[pid].started == started]
        while stack:
            pid = stack.pop()
            if pid not in found and pid != own:
                found.add(pid)
                stack.extend(children.get(pid, ()))
        if sys.platform != "linux":
            self._known |= {pid: running[pid].started for pid in found}
        return found

    def others(self) -> set[int]:
        """All but the child itself."""
        return self.alive() - {self.child}

    def signal(self, number: int) -> None:
        """Send a signal to each of them."""
        for pid in self.alive():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def kill(self) -> bool:
        """Kill them all, also those that are started meanwhile. False when something could not be killed."""
        end = time.monotonic() + PATIENCE
        pause = 0.002
        while alive := self.alive():
            for pid in alive:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            self.killed |= alive - {self.child}
            self.reap()
            if time.monotonic() > end:
                return False
            time.sleep(pause)
            pause = min(0.1, pause * 2)
        return True

    def reap(self) -> None:
        """Take leave of orphans that have ended; the child itself is waited for by whoever started it."""
        if sys.platform != "linux":
            return
        for pid, row in _table().items():
            if row.parent == os.getpid() and row.state == "Z" and pid != self.child and pid not in self._others:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)


@contextmanager
def avenged(mark: str, scratch: str) -> Iterator[None]:
    """Should this process be killed while the block runs, another one ends whatever has `mark` in its environment, and removes
    `scratch` (Linux)."""
    if sys.platform != "linux":
        yield
        return
    read, write = os.pipe()
    # By path and without site: it starts in a few milliseconds and needs nothing of mllint.
    command = [sys.executable, "-I", "-S", os.path.abspath(__file__), str(read), mark, scratch]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    keeper = subprocess.Popen(command, pass_fds=(read,), start_new_session=True, **quiet)  # type: ignore[call-overload]
    os.close(read)
    try:
        yield
    finally:
        os.write(write, b".")
        os.close(write)
        keeper.wait()


def _avenge(read: int, mark: str, scratch: str) -> None:
    """Wait for the word that all is well; the end of the pipe without it means that the launcher is dead."""
    if os.read(read, 1):
        return
    end = time.monotonic() + PATIENCE
    while (marked := _marked(os.fsencode(mark))) and time.monotonic() < end:
        for pid in marked:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    import shutil

    shutil.rmtree(scratch, ignore_errors=True)


def _marked(mark: bytes) -> list[int]:
    found = []
    for pid, row in _table().items():
        with suppress(OSError):
            if row.state != "Z" and pid != os.getpid():
                with open(f"/proc/{pid}/environ", "rb") as stream:
                    if mark in stream.read().split(b"\0"):
                        found.append(pid)
    return found


class _Row(NamedTuple):
    """A process: its parent, its state in one letter, when it was started (where that is needed)."""

    parent: int
    state: str
    started: str = ""


def _table() -> dict[int, _Row]:
    """Every process of this machine that can be seen."""
    if not os.path.isdir("/proc/self"):
        return _asked_of_ps()
    table = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stream:
                    # The name of the program stands in brackets and may hold anything.
                    state, parent = stream.read().rpartition(b")")[2].split()[:2]
            except (OSError, ValueError):
                continue
            table[int(name)] = _Row(int(parent), state.decode())
    return table


def _asked_of_ps() -> dict[int, _Row]:
    with subprocess.Popen(["ps", "-A", "-o", "pid=,ppid=,state=,lstart="], stdout=subprocess.PIPE, text=True) as ps:
        rows = [line.split(None, 3) for line in ps.communicate()[0].splitlines()]
    return {int(row[0]): _Row(int(row[1]), row[2][:1], row[3]) for row in rows if len(row) == 4 and int(row[0]) != ps.pid}


if __name__ == "__main__":
    _avenge(int(sys.argv[1]), sys.argv[2], sys.argv[3])
