"""The part of this process: one JSON object a line, each written at once, so that a killed process keeps its evidence."""

import json
import os
import sys
import time
from typing import Any, Dict, List, Optional

from . import state

_handle: Optional[int] = None
_joined: List[int] = []  # rank and number of processes, once the program joined a group


def rank() -> Optional[int]:
    """The rank the launcher or the program gave this process, or None."""
    if _joined:
        return _joined[0]
    text = os.environ.get("RANK", os.environ.get("SLURM_PROCID", ""))
    return int(text) if text.isdigit() else None


def line(fields: Dict[str, Any]) -> None:
    """Append one object to the part."""
    data = _encode(fields).encode("utf-8", "backslashreplace") + b"\n"
    with state.run.lock:
        _write(data)


def _write(data: bytes) -> None:
    global _handle
    if _handle is None:
        name = f"part-{rank() or 0}-{os.getpid()}.jsonl"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        _handle = os.open(os.path.join(state.run.folder, name), flags, 0o644)
        begin = _encode(_start()).encode("utf-8", "backslashreplace") + b"\n"
        os.write(_handle, begin)
    while data:
        data = data[os.write(_handle, data) :]


def _other(value: Any) -> str:
    return type(value).__module__ + "." + type(value).__qualname__


def open_part() -> None:
    """Open the part with its first line."""
    with state.run.lock:
        _write(b"")


_encode = json.JSONEncoder(separators=(",", ":"), default=_other).encode


def opened() -> bool:
    """A part exists."""
    return _handle is not None


def joined(number: int, world: int) -> None:
    """The program made this process one of a group."""
    _joined[:] = [number, world]
    restart()


def restart() -> None:
    """Write the opening line again: the process learned something about itself, a rank or a device."""
    if _handle is not None:
        line(_start())


def _start() -> Dict[str, Any]:
    torch: Any = sys.modules.get("torch")
    cuda, name = False, None
    if torch is not None and hasattr(torch, "cuda") and not state.run.emulated:
        try:
            # is_available() may start the driver, after which forked children cannot use it; counting does not
            cuda = torch.cuda.device_count() > 0
            if cuda and torch.cuda.is_initialized():
                name = torch.cuda.get_device_name()
        except Exception:
            cuda = False
    world = str(_joined[1]) if _joined else os.environ.get("WORLD_SIZE", "1")
    return {
        "k": "start",
        "version": 1,
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "rank": rank(),
        "world": int(world) if world.isdigit() else 1,
        "argv": [str(a)[:500] for a in getattr(sys, "argv", [])][:50],
        "python": ".".join(str(v) for v in sys.version_info[:3]),
        "torch": str(getattr(torch, "__version__", "")) or None,
        "device": "cuda" if cuda else "cpu",
        "device_name": name,
        "cuda_available": cuda,
        "emulated": state.run.emulated,
        "threads": torch.get_num_threads() if hasattr(torch, "get_num_threads") else None,
        "time": time.time(),
        "unavailable": list(state.run.unavailable),
    }
