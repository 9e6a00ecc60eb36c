"""What all probes share: the options, whether we are watching at all, and what each thread is in the middle of."""

import functools
import os
import sys
import threading
import time
import traceback
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

#: After this many events a run writes its steps only.
EVENTS = 2000

DEFAULTS: Dict[str, Any] = {
    "root": "",
    "steps": 6,
    "batches": 3,
    "passes": 2,
    "seconds": 120.0,
    "seed": None,
    "emulate_cuda": False,
    "compile": False,
    "set": {},
    "examples": 0,
    "raise": False,
    "until": None,
    "wait_for": [],
}


class Thread(threading.local):
    """What one thread is doing; the class attributes are how every thread begins."""

    busy = False  # inside a probe: what torch does now is ours
    forwards = 0  # depth of module calls
    losses = 0
    modes = 0  # depth of Module.train
    clips = 0
    backwards = 0
    via: Optional[int] = None  # thing that is doing what happens now
    making: Tuple[int, ...] = ()  # ids of the objects under construction
    steps: Tuple[Tuple[str, int], ...] = ()  # (method, id of the object) being called


class Run:
    """The one run this process records. `off` is True before it begins, after it ends and in forked children."""

    def __init__(self) -> None:
        self.off = True
        self.compiles = False  # torch.compile is at work: what it traces must find no probe
        self.emulated = False  # CUDA is emulated in main memory
        self.folder = ""
        self.home = ""  # where the process stood when it began: relative file names are of this folder
        self.options = dict(DEFAULTS)
        self.began = time.perf_counter()
        self.lock = threading.RLock()
        self.events = 0
        self.unavailable: List[str] = []
        self.faults: Set[Any] = set()


run = Run()
thread = Thread()


def begin(folder: str, options: Dict[str, Any]) -> None:
    """Set the run up; the part itself is opened with its first line."""
    run.folder = folder
    run.home = os.getcwd()
    run.options.update(options)
    run.began = time.perf_counter()
    run.off = False
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forked)


def _forked() -> None:
    run.off = True


def now() -> float:
    """Seconds since the run began."""
    return time.perf_counter() - run.began


def fault(where: str, error: BaseException) -> None:
    """Write down an error of our own, once for each place and kind."""
    from . import writer

    key = (where, type(error).__name__)
    if key in run.faults or len(run.faults) > 50:
        return
    run.faults.add(key)
    last = traceback.extract_tb(error.__traceback__)[-1:]
    spot = f"{os.path.basename(last[0].filename)}:{last[0].lineno}" if last else ""
    writer.line({"k": "fault", "where": where, "type": type(error).__name__, "message": str(error)[:300], "at": spot})


def unavailable(what: str, error: Optional[BaseException] = None) -> None:
    """Name a probe that could not be attached; it is reported, never guessed around."""
    run.unavailable.append(what if error is None else f"{what} ({type(error).__name__}: {str(error)[:100]})")


def guarded(function: Callable) -> Callable:
    """The function as a probe: silent when we are not watching, and no error of its own gets out."""

    @functools.wraps(function)
    def probe(*args: Any) -> Any:
        if run.off or thread.busy:
            return None
        thread.busy = True
        try:
            return function(*args)
        except Exception as error:
            try:
                fault(function.__module__.rsplit(".", 1)[-1] + "." + function.__name__, error)
            except Exception:
                return None
            return None
        finally:
            thread.busy = False

    return probe


def traced() -> bool:
    """torch.compile is reading the program now; it takes this for True and drops what hangs on it."""
    return bool(sys.modules["torch"].compiler.is_compiling())


def torch() -> Any:
    """The program's torch."""
    return sys.modules["torch"]
