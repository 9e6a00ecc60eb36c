"""The last step before the user's command: this file runs in the new process, prepares it, and becomes the command.

It is run by path with `python -I -S`, so it may import nothing of mllint. Its one argument is a JSON object:
`parent` (the process that must stay alive), `report` (a descriptor for what goes wrong), `cwd`, and `overlay` (None, or
`root`, `scratch`, `user` (a user namespace is needed), `shown` (pairs of folders: the second shows the first), `files` (None, or a
file with what `put` takes)).
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from collections.abc import Mapping
from typing import Any

# From <linux/prctl.h>, <linux/sched.h> and <linux/mount.h>: numbers of the kernel's interface, which never change.
PR_SET_PDEATHSIG = 1
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000
#: Flags of a mount that a user namespace may not take away; a remount has to repeat them.
KEPT = {"nosuid": 0x2, "nodev": 0x4, "noexec": 0x8, "noatime": 0x400, "nodiratime": 0x800, "relatime": 0x200000}


#: Begins what is reported when the command itself is at fault, and not what was to be prepared for it.
CANNOT_START = "the command cannot be started: "


def main() -> None:
    """Prepare this process, then run the command in its place. What fails goes to the descriptor `report`."""
    order = json.loads(sys.argv[1])
    os.set_inheritable(order["report"], False)
    stage = ""
    try:
        if order["overlay"] is not None:
            _mount(**order["overlay"])
        if sys.platform == "linux":
            # Behind the change of namespaces, which may take it back.
            _die_with(order["parent"])
        # A process that is told to abort, to say where it stands, shall leave no image of its memory.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        stage = CANNOT_START
        os.chdir(order["cwd"])
        os.execvp(sys.argv[2], sys.argv[2:])
    except OSError as error:
        said = f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
        os.write(order["report"], (stage + said).encode("utf-8", "surrogateescape"))
    os._exit(127)


def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _checked(status: int, what: str) -> None:
    if status != 0:
        import ctypes

        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _die_with(parent: int) -> None:
    """Let the kernel kill this process, and what it becomes, together with the launcher."""
    import signal

    _libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(127)


def put(root: str, files: Mapping[str, str | None]) -> None:
    """Show other files below `root`: by their names, the files to copy there; None where nothing may be."""
    for name, source in files.items():
        target = os.path.join(root, name)
        if os.path.islink(target) or os.path.isfile(target):
            os.unlink(target)
        elif os.path.isdir(target):
            shutil.rmtree(target)
        if source is not None:
            parent = os.path.dirname(target)
            if os.path.lexists(parent) and not os.path.isdir(parent):
                os.unlink(parent)
            os.makedirs(parent, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def _mount(root: str, scratch: str, user: bool, shown: list[list[str]], files: str | None = None) -> None:
    """Lay a writable layer over `root` for this process and its children alone."""
    libc = _libc()
    uid, gid = os.geteuid(), os.getegid()

    def mount(source: str, target: str, kind: str | None, flags: int, options: str | None, what: str) -> None:
        coded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
        _checked(libc.mount(*coded, flags, None if options is None else options.encode()), what)

    _checked(libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if user else 0)), "unshare")
    if user:
        # The user stays who he is: programs behave differently for root.
        _put("/proc/self/setgroups", "deny")
        _put("/proc/self/uid_map", f"{uid} {uid} 1")
        _put("/proc/self/gid_map", f"{gid} {gid} 1")
    mount("none", "/", None, MS_REC | MS_PRIVATE, None, "mount")
    below = list(_mounts_below(root))
    for real, seen in shown:
        mount(real, seen, None, MS_BIND, None, "bind")
    # The folder is bound to a plain name first: in the options of an overlay, commas and colons of a path would mean something.
    os.chdir(scratch)
    mount(root, "lower", None, MS_BIND | MS_REC, None, "bind")
    layers = "lowerdir=lower,upperdir=upper,workdir=work"
    try:
        mount("overlay", root, "overlay", 0, layers + (",userxattr" if user else ""), "overlay")
    except OSError:
        if not user:
            raise
        mount("overlay", root, "overlay", 0, layers, "overlay")  # before Linux 5.11
    for path, flags in below:
        # A layer does not show what is mounted inside the folder: data sets often are. They can be read, not written.
        inner = os.path.join(scratch, "lower", os.path.relpath(path, root))
        mount(inner, path, None, MS_BIND, None, f"bind {path}")
        mount("none", path, None, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, None, f"remount {path}")
    if files is not None:
        with open(files, encoding="utf-8") as stream:
            put(root, json.load(stream))


def _put(path: str, text: str) -> None:
    with open(path, "w") as stream:
        stream.write(text)


def _mounts_below(root: str) -> list[tuple[str, int]]:
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
        for line in stream:
            fields = line.split(" ")
            path = fields[4].encode("latin-1", "surrogateescape").decode("unicode_escape") if "\\" in fields[4] else fields[4]
            if path.startswith(root.rstrip("/") + "/"):
                flags = sum(KEPT.get(name, 0) for name in fields[5].split(","))
                found.append((path, flags))
    return found


if __name__ == "__main__":
    main()
