"""What the program does outside itself: files written, made, removed or renamed, connections, processes."""

import os
import sys
from typing import Any, Dict, Optional, Set, Tuple

from . import links, patching, state, writer

MOST = 2000
_count = [0]
_written: Set[Any] = set()
_NAMED: Dict[str, str] = {
    "os.mkdir": "mkdir",
    "os.remove": "remove",
    "os.rmdir": "rmdir",
    "os.rename": "rename",
    "os.link": "link",
    "os.symlink": "symlink",
    "os.truncate": "truncate",
    "shutil.rmtree": "rmtree",
    "shutil.move": "move",
    "shutil.copyfile": "copy",
    "socket.connect": "connect",
    "subprocess.Popen": "subprocess",
    "os.system": "system",
    "os.exec": "exec",
    "os.posix_spawn": "spawn",
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def install() -> None:
    """Attach to the interpreter's audit events. An audit hook cannot be taken away again, so it is quick where it has nothing to say."""
    sys.addaudithook(_hook)


def saving() -> None:
    """Attach to torch.save, which writes files without the interpreter's knowledge."""
    _watch(state.torch(), "save", 1, "f")


def safetensors() -> None:
    """Attach to safetensors, which does the same."""
    _watch(sys.modules["safetensors.torch"], "save_file", 1, "filename")


def _watch(owner: Any, name: str, position: int, keyword: str) -> None:
    def before(args: Any, kwargs: Any) -> None:
        target = args[position] if len(args) > position else kwargs.get(keyword)
        if isinstance(target, (str, bytes, os.PathLike)):
            links.release(target, True)
            _write("open", (target, "w", 0))

    probe = state.guarded(before)
    patching.function([owner], name, lambda original: patching.observed(original, probe, _never))


def _never(*_: Any) -> None:
    raise AssertionError("nothing was seen before, so nothing is seen after")


def _hook(event: str, args: Tuple[Any, ...]) -> None:
    if event == "open":
        if state.run.off or not _writes(args):
            return
    elif event not in _NAMED or state.run.off:
        return
    if state.thread.busy or _count[0] >= MOST or not writer.opened():
        return
    _probe(event, args)


def _writes(args: Tuple[Any, ...]) -> bool:
    mode, flags = args[1], args[2]
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return bool(isinstance(flags, int) and flags & _WRITING)


def _write(event: str, args: Tuple[Any, ...]) -> None:
    mode = (args[1] if isinstance(args[1], str) else "w") if event == "open" else _NAMED[event]
    path = _path(event, args)
    if path is None or path.startswith((state.run.folder, "/dev/null", "/proc/")) or (path, mode) in _written:
        return
    _written.add((path, mode))
    _count[0] += 1
    writer.line({"k": "write", "path": path[:1000], "mode": mode, "n": state.run.events})


_probe = state.guarded(_write)


def _path(event: str, args: Tuple[Any, ...]) -> Optional[str]:
    if event == "socket.connect":
        return str(args[1])
    if event in ("subprocess.Popen", "os.exec", "os.posix_spawn"):
        words = args[1] if isinstance(args[1], (list, tuple)) else [args[0]]
        return " ".join(_text(w) for w in words)
    item = args[1] if event in ("os.rename", "os.link", "os.symlink", "shutil.move", "shutil.copyfile") else args[0]
    if isinstance(item, int):
        return None  # a descriptor: its opening was seen
    text = _text(item)
    return text if event == "os.system" else os.path.abspath(text)


def _text(item: Any) -> str:
    return os.fsdecode(item) if isinstance(item, (str, bytes, os.PathLike)) else str(item)
