"""Why a run did not get as far as it should: one sentence that names the first thing that was missing."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mllint.runtime.record import Record

LONGEST = 200
QUOTE = "'"

#: Reasons of the probes to end a run: they have seen enough.
ENOUGH = frozenset({"steps", "passes", "backwards"})

_ERROR = re.compile(r"^([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Enabled|Timeout))(?:: ?(.*))?$")
_FRAME = re.compile(r'^\s+File "(.+?)", line (\d+)(?:,? in (.+))?')
_RANK = re.compile(r"^\[(?:default|rank)?\d*\]:\s?|^\[rank\d+\]:\s?")
#: What launchers raise when the program they started has failed: it says nothing of the reason.
_LAUNCHERS = ("ChildFailedError", "CalledProcessError", "ProcessRaisedException", "ProcessExitedException")

_NO_GPU = (
    "not compiled with CUDA",
    "Found no NVIDIA driver",
    "No CUDA GPUs are available",
    "on a CUDA device but torch.cuda.is_available() is False",
    "accelerator device when none is available",
    "no NVIDIA GPU",
    "CUDA is not available",
    "CUDA driver",
    "invalid device ordinal",
)
_OFFLINE = ("OfflineModeIsEnabled", "LocalEntryNotFoundError", "offline mode", "couldn't connect to 'https://huggingface.co")
_NETWORK = ("ConnectionError", "URLError", "gaierror", "ConnectTimeout", "ConnectionRefusedError", "MaxRetryError")


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception nobody caught: its type and message, and the place in the project it came from, as `file:line`."""

    type: str
    message: str
    place: str = ""
    files: tuple[str, ...] = ()
    missing: str | None = None


def problem(record: Record, output: str, dump: str, roots: Mapping[str, str], imported: bool) -> str | None:
    """What kept the run from being as long as it was to be, or None. `dump` is where its processes stood when they were ended;
    `imported` says whether any process imported torch."""
    ended, status = record.head["ended"], record.head["exit_status"]
    trained = bool(record.trained)
    if ended in ENOUGH:
        return None
    if ended == "killed":
        return "interrupted"
    if ended == "time":
        return _too_long(record, dump, roots)
    raised = _observed(record) if trained or record.error else None
    if raised is None and status != 0:
        raised = last_raised(output, roots)
    if raised is not None and (status != 0 or not trained):
        if raised.type == "SystemExit":
            at = f" ({raised.place})" if raised.place else ""
            said = _last_line(output) if raised.message == f"exit status {status}" else raised.message
            return f"the command ended with status {status}{at}" + (f": {_short(said)}" if said else "")
        return sentence(raised)
    if status is not None and status < 0:
        return _by_signal(-status)
    if status:
        last = _last_line(output)
        missing = re.search(r"can't open file '(.+?)'", output)
        if missing:
            return f"there is no file {_relative(missing[1], roots)}"
        return f"the command ended with status {status}" + (f": {_short(last)}" if last else "")
    if not trained:
        return "the command ended without training: " + (
            "torch was imported, but no optimizer, loss or model was used" if imported else "the probes saw no process of it import torch"
        )
    return None


def without_torch(record: Record, output: str) -> bool:
    """The command failed because a Python has no torch."""
    raised = _observed(record) or last_raised(output, {})
    if raised is None or not record.head["exit_status"]:
        return False
    return (raised.missing or _missing(raised.type, raised.message, ())) == "module torch"


def _last_line(output: str) -> str:
    return next((line for line in reversed(output.splitlines()) if line.strip()), "")


def sentence(raised: Raised) -> str:
    """An exception in words, the first missing thing named."""
    kind, message = raised.type.rpartition(".")[2], raised.message
    at = f" ({raised.place})" if raised.place else ""
    missing = raised.missing or _missing(kind, message, raised.files)
    if missing and missing.startswith("module "):
        return f"the Python of the command has no module `{missing.removeprefix('module ')}`{at}: install it there"
    if missing and missing.startswith("environment variable "):
        return f"the {missing} is not set{at}"
    if kind in _OFFLINE or any(words in message for words in _OFFLINE):
        return (
            f"something from a hub is not in the local cache{at}, and such a run stays offline: "
            f"fetch it once before, or set HF_HUB_OFFLINE=0: {_short(message)}"
        )
    if "ProcessGroupNCCL" in message or ("NCCL" in message and "GPU" in message):
        return f"the script asks for NCCL, which needs GPUs, and there is none here{at}: `gloo` works on a CPU"
    if missing == "a CUDA device" or any(words in message for words in _NO_GPU):
        return f"the script needs a GPU, and there is none here{at}: --emulate-cuda runs it on the CPU"
    if kind == "EOFError" and "reading a line" in message:
        return f"the script reads standard input, which is empty in such a run{at}"
    if missing == "the network" or kind in _NETWORK:
        return f"the script needs the network{at}: {_short(message)}"
    if missing:
        return f"a file is missing: {missing}{at}"
    if kind in ("SyntaxError", "IndentationError", "TabError"):
        named = re.fullmatch(r"(.*) \((.+), line (\d+)\)", message, re.DOTALL)
        if named:
            return f"not valid Python ({named[2]}:{named[3]}): {_short(named[1])}"
        return f"not valid Python{at}: {_short(message)}"
    if kind in ("MemoryError", "OutOfMemoryError"):
        return f"out of memory{at}: {_short(message)}"
    return f"{kind}{at}" + (f": {_short(message)}" if message else "")


def _missing(kind: str, message: str, files: Sequence[str]) -> str | None:
    """What was missing, in the words of the probes, of an exception they have not seen."""
    if kind == "ModuleNotFoundError" and (name := re.search(r"No module named '([^']+)'", message)):
        return f"module {name[1]}"
    if kind == "FileNotFoundError":
        name = re.search(r"'([^']+)'", message)
        return name[1] if name else _short(message)
    if kind == "KeyError" and any(os.path.basename(file) in ("os.py", "<frozen os>") for file in files):
        return f"environment variable {message.strip(QUOTE)}"
    return None


def last_raised(output: str, roots: Mapping[str, str]) -> Raised | None:
    """The exception that the output of a program ends with, as far as Python wrote one."""
    found: Raised | None = None
    frames: list[tuple[str, int]] = []
    for raw in output.splitlines():
        line = _RANK.sub("", raw)
        if line.startswith("Traceback (most recent call last)"):
            frames = []
        elif match := _FRAME.match(line):
            frames.append((match[1], int(match[2])))
        elif frames and (match := _ERROR.match(line)):
            raised = Raised(match[1], match[2] or "", _place(frames[::-1], roots), tuple(file for file, _ in frames))
            if found is None or not match[1].endswith(_LAUNCHERS):
                found = raised
            frames = []
    return found


def _observed(record: Record) -> Raised | None:
    row = record.error
    if row is None:
        return None
    frames = [(str(frame[0]), int(frame[1])) for frame in row.get("frames") or ()]
    return Raised(str(row.get("type")), str(row.get("message") or ""), _place(frames, {}), tuple(f for f, _ in frames), row.get("missing"))


def _place(frames: Sequence[tuple[str, int]], roots: Mapping[str, str]) -> str:
    """The innermost place in the project, else the innermost of all. `frames` are innermost first."""
    named = [(_relative(file, roots), line) for file, line in frames]
    own = [(file, line) for file, line in named if not os.path.isabs(file) and not file.startswith("<") and not _installed(file)]
    best = (own or named)[:1]
    return f"{best[0][0]}:{best[0][1]}" if best else ""


def _installed(file: str) -> bool:
    return "site-packages" in file.split("/")


def _relative(file: str, roots: Mapping[str, str]) -> str:
    for seen in roots:
        if file.startswith(seen.rstrip(os.sep) + os.sep):
            return file[len(seen.rstrip(os.sep)) + 1 :].replace(os.sep, "/")
    return file


def _too_long(record: Record, dump: str, roots: Mapping[str, str]) -> str | None:
    main = record.main
    steps = len(main.of("step")) if main else 0
    if main and main.end.get("reason") == "time" and steps:
        return None  # slow, but it trained
    seen = f"after {steps} optimizer step{'' if steps == 1 else 's'}" if main else "before any training was seen"
    where = stood(dump, roots)
    return f"took longer than {record.head['options']['seconds']:g} s and was ended {seen}" + (f"; it stood at {where}" if where else "")


def stood(dump: str, roots: Mapping[str, str]) -> str:
    """Where a Python process was when it was told to abort: the innermost place in the project."""
    threads: list[list[tuple[str, int]]] = []
    for line in dump.splitlines():
        if "most recent call first" in line:
            # The thread that was running when the signal came is marked; the main thread is the last one.
            threads.append([])
        elif threads and (match := _FRAME.match(line)):
            threads[-1].append((match[1], int(match[2])))
    places = [_place(frames, roots) for frames in threads if frames]
    own = [place for place in places if not os.path.isabs(place) and not place.startswith("<")]
    return (own or places or [""])[-1]


def _by_signal(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"the command was ended by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")


def _short(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    line = "".join(c if c.isprintable() else "?" for c in line)
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."
