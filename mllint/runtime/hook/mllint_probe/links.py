"""In a copy of a project, big files and folders of data are links to the user's own: they become the copy's before a program writes.

Python tells its audit hooks before it opens, removes or renames something. What libraries write by themselves is not told; of those
`torch.save` and safetensors are watched elsewhere and ask here.
"""

import os
import shutil
import sys
import threading
from typing import Any, Tuple

from . import state

#: Events whose arguments at these places are paths that change, and whether the file itself does (else only its folder).
_CHANGED = {
    "os.remove": ((0, False),),
    "os.rename": ((0, False), (1, False)),
    "os.link": ((1, False),),
    "os.symlink": ((1, False),),
    "os.mkdir": ((0, False),),
    "os.rmdir": ((0, False),),
    "os.truncate": ((0, True),),
    "os.chmod": ((0, True),),
    "os.utime": ((0, True),),
    "os.chown": ((0, True),),
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_thread = threading.local()


def install() -> None:
    """Attach to the interpreter."""
    sys.addaudithook(_hook)


def _hook(event: str, args: Tuple[Any, ...]) -> None:
    if event == "open":
        path, mode, flags = args
        if isinstance(mode, str) and not set(mode) & set("wax+"):
            return
        if isinstance(mode, str) or (isinstance(flags, int) and flags & _WRITING):
            release(path, isinstance(mode, str) and "w" in mode)
    elif event in _CHANGED:
        for place, itself in _CHANGED[event]:
            _release(args[place], itself, False)


def release(path: Any, anew: bool) -> None:
    """Make what stands at `path` the copy's own before it is written to; `anew` where nothing of the old content is needed."""
    if state.run.options.get("sandbox") == "copy":
        _release(path, True, anew)


def _release(path: Any, itself: bool, anew: bool) -> None:
    if getattr(_thread, "busy", False) or not isinstance(path, (str, bytes, os.PathLike)):
        return
    _thread.busy = True
    try:
        root = os.path.join(state.run.options["root"], "")
        name = os.path.abspath(os.fsdecode(path))
        if not name.startswith(root):
            return
        parts = name[len(root) :].split(os.sep)
        for depth in range(1, len(parts)):
            _unfold(os.path.join(root, *parts[:depth]), root)
        if itself and _leaves(name, root):
            if os.path.isdir(name):
                _unfold(name, root)
            else:
                _take(name, anew)
    except OSError:
        return  # the program's own call says what is wrong
    finally:
        _thread.busy = False


def _leaves(name: str, root: str) -> bool:
    """A link that leads out of the copy."""
    return os.path.islink(name) and not os.path.realpath(name).startswith(os.path.join(os.path.realpath(root), ""))


def _unfold(folder: str, root: str) -> None:
    """Put a folder of links in the place of the link to a folder."""
    if not (_leaves(folder, root) and os.path.isdir(folder)):
        return
    real = os.path.realpath(folder)
    os.unlink(folder)
    os.mkdir(folder)
    for entry in os.listdir(real):
        os.symlink(os.path.join(real, entry), os.path.join(folder, entry))


def _take(name: str, anew: bool) -> None:
    """Put a copy, or nothing, in the place of the link to a file."""
    real = os.path.realpath(name)
    os.unlink(name)
    if not anew and os.path.exists(real):
        shutil.copy2(real, name)
