"""Putting new bytes in the place of a file: whole or not at all, with everything else about the file kept."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Mapping

from mllint.fix.patch import Declined

#: Folders that hold copies of other people's code.
VENDORED = frozenset(
    ("vendor", "vendored", "_vendor", "vendors", "third_party", "third-party", "thirdparty", "3rdparty", "site-packages", "node_modules")
)  # fmt: skip
#: What tools write at the head of files they made.
_GENERATED = re.compile(
    rb"@generated\b|\bDO NOT (?:EDIT|MODIFY)\b|\bauto(?:matically)?[- ]?generated\b"
    rb"|^\W*(?:code |(?:this )?file (?:is |was )?)?generated (?:by|from|with)\b",
    re.IGNORECASE | re.MULTILINE,
)
_HEAD = 1000


def refusal(root: str, path: str, data: bytes, *, named: bool) -> str | None:
    """Why a file must not be changed, or None. What is named on the command line may lie in a vendored folder."""
    folders = path.split("/")[:-1]
    vendored = next((f for f in folders if f.lower() in VENDORED), None)
    if vendored and not named:
        return f"lies in `{vendored}`, a copy of other code; name the file itself to change it"
    found = None if path.endswith(".ipynb") else _GENERATED.search(_comments_at_head(data))
    if found:
        return "is generated, as its head says: change what it is made from"
    return _not_writable(root, path)


def _comments_at_head(data: bytes) -> bytes:
    """The comment and blank lines a file begins with, up to a docstring and including it."""
    head = data[:_HEAD]
    kept = []
    quote = b""
    for line in head.split(b"\n"):
        bare = line.strip()
        if quote:
            kept.append(b"#" + line)
            if quote in bare:
                break
        elif bare.startswith((b'"""', b"'''")):
            quote = bare[:3]
            kept.append(b"#" + line)
            if quote in bare[3:]:
                break
        elif not bare or bare.startswith((b"#", b"//", b";", b"<!--")):
            kept.append(line)
        else:
            break
    return b"\n".join(kept)


def _not_writable(root: str, path: str) -> str | None:
    target = os.path.join(root, *path.split("/"))
    real = os.path.realpath(target)
    if os.path.islink(target):
        return f"is a link to {real}; links are not written through"
    if not real.startswith(os.path.realpath(root).rstrip(os.sep) + os.sep):
        return f"lies outside the project, in {real}"
    try:
        status = os.stat(target)
    except OSError as error:
        return f"cannot be changed: {error.strerror or error}"
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if not os.access(target, os.W_OK):
        return "is read-only"
    if not os.access(os.path.dirname(target), os.W_OK | os.X_OK):
        return "lies in a folder that is read-only"
    if hasattr(os, "geteuid") and os.geteuid() not in (0, status.st_uid):
        return "belongs to another user"
    return None


def replace_all(root: str, old: Mapping[str, bytes], new: Mapping[str, bytes]) -> None:
    """Write several files that belong together. Where one cannot be written, those before it get their old bytes back."""
    done: list[str] = []
    try:
        for path in new:
            _unchanged(os.path.join(root, *path.split("/")), old[path])
        for path, data in new.items():
            target = os.path.join(root, *path.split("/"))
            _unchanged(target, old[path])
            replace(target, data)
            done.append(path)
    except (OSError, Declined) as error:
        for path in done:
            with contextlib.suppress(OSError):
                replace(os.path.join(root, *path.split("/")), old[path])
        if isinstance(error, OSError):
            raise Declined(f"cannot be written: {error.strerror or error}") from error
        raise


def _unchanged(target: str, expected: bytes) -> None:
    with open(target, "rb") as stream:
        if stream.read() != expected:
            raise Declined("changed while it was looked at; run again")


def replace(target: str, data: bytes) -> None:
    """New bytes for a file: at every moment its name stands for the old ones or for all of the new ones.

    The new bytes have no name before they are complete, where the system can do that, so that a process that is killed leaves
    nothing behind. Mode, owner and extended attributes are those of the old file.
    """
    folder, name = os.path.split(target)
    descriptor, temporary = _nameless(folder)
    try:
        with open(descriptor, "wb", closefd=False) as stream:
            stream.write(data)
        _like(descriptor, target)
        os.fsync(descriptor)
        if temporary is None:
            temporary = _give_name(descriptor, folder, name)
        os.replace(temporary, target)
    except BaseException:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)
    _sync(folder)


def _nameless(folder: str) -> tuple[int, str | None]:
    """A new file in a folder, without a name where the file system has such files."""
    flag = getattr(os, "O_TMPFILE", None)
    if flag is not None and os.path.isdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            return os.open(folder, flag | os.O_RDWR | os.O_CLOEXEC, 0o600), None
    return tempfile.mkstemp(prefix=".", suffix=".mllint", dir=folder)


def _give_name(descriptor: int, folder: str, name: str) -> str:
    for attempt in range(100):
        temporary = os.path.join(folder, f".{name[:200]}.{os.getpid()}-{attempt}.mllint")
        here = os.open(folder, os.O_RDONLY)
        try:
            # Only with a folder given does Python follow the link that stands for the open file.
            os.link(f"/proc/self/fd/{descriptor}", temporary, src_dir_fd=here)
            return temporary
        except FileExistsError:
            continue
        finally:
            os.close(here)
    raise FileExistsError(f"no free name beside {name}")


def _like(descriptor: int, target: str) -> None:
    """Give a new file the mode, the owner and the attributes of an old one."""
    status = os.stat(target)
    if hasattr(os, "fchown"):
        with contextlib.suppress(OSError):
            os.fchown(descriptor, status.st_uid, status.st_gid)
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
    if hasattr(os, "listxattr"):
        with contextlib.suppress(OSError):
            for attribute in os.listxattr(target):
                with contextlib.suppress(OSError):
                    os.setxattr(descriptor, attribute, os.getxattr(target, attribute))


def _sync(folder: str) -> None:
    """The new name is on disk too, where folders can be told so."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
