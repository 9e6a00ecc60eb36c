"""A second process for half of the work: the whole of Python is there at once where `fork` is, and no import is paid for."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import TypeVar

Own = TypeVar("Own")
Other = TypeVar("Other")


def available() -> bool:
    """A second process would run beside this one. A copy of a process with threads may wait for locks that nobody frees."""
    threads = sys.modules.get("threading")
    return hasattr(os, "fork") and (threads is None or threads.active_count() == 1) and cores() > 1


def cores() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def beside(
    own: Callable[[], Own], other: Callable[[], Other], pack: Callable[[Other], bytes], unpack: Callable[[bytes], Other]
) -> tuple[Own, Other | None]:
    """Run `own` here and `other` in a second process; None stands for what that one could not give.

    What `other` changes is lost with its process, all but what it returns, which `pack` must be able to say in bytes."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            data = pack(other())
            with os.fdopen(writing, "wb") as stream:
                stream.write(data)
            status = 0
        finally:
            os._exit(status)  # without a word: the work is done here again, and tells what is wrong with it
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as stream:
            result = own()
            data = stream.read()
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    _, status = os.waitpid(child, 0)
    return result, unpack(data) if status == 0 else None
