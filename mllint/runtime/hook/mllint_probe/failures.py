"""What went wrong in the program, and the first thing that was missing; also its warnings."""

import re
import sys
import threading
import traceback
import warnings
from typing import Any, List, Optional, Tuple

from . import sites, state, writer

seen: List[str] = []
_pending: List[Any] = []
_CUDA = re.compile(
    r"not compiled with CUDA|No CUDA GPUs|NVIDIA driver|CUDA is not available|cuda.is_available\(\) is False"
    r"|invalid device ordinal|CUDA unavailable|no NVIDIA|requires? (?:a )?(?:GPU|CUDA)",
    re.IGNORECASE,
)
_FILE = re.compile(r"No such file or directory: '?\"?([^'\"\n]+)")
_MODULE = re.compile(r"No module named '([^']+)'")
_OFFLINE = ("URLError", "gaierror", "OfflineModeIsEnabled", "LocalEntryNotFoundError")
_QUOTED = re.compile(r"((?:[\w.-]*/)+[\w.-]+)")


def install() -> None:
    """Attach to the hooks of uncaught exceptions and to sys.exit."""
    before = sys.excepthook

    def excepthook(kind: Any, error: Any, trace: Any) -> None:
        _note(kind, error, trace)
        before(kind, error, trace)

    sys.excepthook = excepthook
    if hasattr(threading, "excepthook"):
        before_thread = threading.excepthook

        def thread_hook(args: Any) -> None:
            _note(args.exc_type, args.exc_value, args.exc_traceback)
            before_thread(args)

        threading.excepthook = thread_hook
    leaving = sys.exit

    def exit(status: Any = None) -> Any:  # the name stands in tracebacks
        if not state.run.off:
            _pending[:] = [] if status in (None, 0, False) else [(status, _frames(sys._getframe(1)), state.run.events)]
        return leaving(status)

    exit.__doc__ = leaving.__doc__
    exit.__module__ = "sys"
    sys.exit = exit


def _note(kind: Any, error: Any, trace: Any) -> None:
    if state.run.off or kind is None or issubclass(kind, KeyboardInterrupt):
        return
    try:
        _write(kind, error, trace)
    except Exception as problem:
        try:
            state.fault("failures", problem)
        except Exception:
            return


def _write(kind: Any, error: Any, trace: Any) -> None:
    if error is not None and getattr(error, "__mllint_seen__", False):
        return
    frames = [[f.filename, f.lineno, f.name] for f in reversed(traceback.extract_tb(trace))]
    message = str(error)[:2000] if error is not None else ""
    seen.append(kind.__name__)
    writer.line(
        {"k": "error", "type": kind.__name__, "message": message, "frames": frames[:60], "n": state.run.events, "missing": missing(error)}
    )


def missing(error: Any) -> Optional[str]:
    """The first thing that was not there: a file, a module, a device. The cause counts before what was raised because of it."""
    chain: List[Any] = []
    while error is not None and len(chain) < 10:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    for item in reversed(chain):
        found = _missing(item)
        if found is not None:
            return found
    return None


def _missing(error: Any) -> Optional[str]:
    text = str(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        return "module " + error.name
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return _text(error.filename)
    if _CUDA.search(text):
        return "a CUDA device"
    for pattern, prefix in ((_MODULE, "module "), (_FILE, "")):
        match = pattern.search(text)
        if match:
            return prefix + match.group(1)
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        match = _QUOTED.search(text)
        return match.group(1) if match else None
    if isinstance(error, KeyError) and isinstance(getattr(error, "args", (None,))[0], str) and _is_environment(error):
        return "environment variable " + error.args[0]
    if isinstance(error, ConnectionError) or type(error).__name__ in _OFFLINE:
        return "the network"
    return None


def _is_environment(error: Any) -> bool:
    trace = error.__traceback__
    file = ""
    while trace is not None:
        file, trace = trace.tb_frame.f_code.co_filename, trace.tb_next
    return file.endswith("os.py") or file == "<frozen os>"


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _frames(frame: Any) -> List[Tuple[str, int, str]]:
    out: List[Tuple[str, int, str]] = []
    while frame is not None and len(out) < 60:
        out.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return out


def at_exit() -> None:
    """A call of sys.exit that really ended the program is written as its error; one that was caught is not."""
    if _pending and not state.run.off and not seen and _pending[0][2] == state.run.events:
        status, frames, _ = _pending[0]
        message = status if isinstance(status, str) else f"exit status {status}"
        seen.append("SystemExit")
        found = _missing(Exception(message)) if isinstance(status, str) else None
        fields = {"k": "error", "type": "SystemExit", "message": str(message)[:2000], "frames": frames, "missing": found}
        writer.line({**fields, "n": state.run.events})


def watch_warnings() -> None:
    """Attach to the way warnings are shown; who replaces it later is left alone."""
    before = warnings.showwarning

    def showwarning(message: Any, category: Any, filename: Any, lineno: Any, file: Any = None, line: Any = None) -> None:
        note(message, category)
        before(message, category, filename, lineno, file, line)

    note = state.guarded(_warned)
    showwarning.__doc__ = before.__doc__
    warnings.showwarning = showwarning


def _warned(message: Any, category: Any) -> None:
    from . import events

    if events.room():
        name = getattr(category, "__name__", "Warning")
        writer.line({"k": "warning", "n": state.run.events, "category": name, "message": str(message)[:500], "site": sites.here()})
