"""Running the user's own command, unmodified, under the probes: started apart, limited, ended with all it started, and recorded.

The probes attach by the environment alone (`PYTHONPATH` and `MLLINT_RUN_*`), so whatever starts Python in the end is watched:
launchers, shell scripts, `python -m`. They stop the run by themselves when they have seen enough; this side only makes sure that
it ends.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import IO, Any

from mllint.runtime import failure
from mllint.runtime.command import LaunchError, Options, environment, found, interpreter_of, lacks_torch, no_torch, runnable
from mllint.runtime.enter import CANNOT_START
from mllint.runtime.processes import Tree, avenged, inheriting_orphans
from mllint.runtime.record import Record, read_parts
from mllint.runtime.sandbox import SAFE, Sandbox, SandboxError, choose, differences, entering, snapshot

#: The probes end the run after `seconds`; a process they do not reach is ended this many seconds later, sooner in a short run.
GRACE = 5.0
#: How long a process that was told to say where it stands may take to say it.
LAST_WORDS = 1.0
#: A Python process that outlives the command may still be importing torch; afterwards it is known whether it trains.
SETTLING = 20.0
#: Output beyond this many bytes is no longer passed on, and of all output this much of the end is kept.
MOST_SHOWN = 8_000_000
KEPT = 64_000

Show = Callable[[bytes], None]


def run(
    command: Sequence[str],
    root: str,
    options: Options,
    folder: str,
    *,
    cwd: str | None = None,
    sandbox: str | None = None,
    keep: bool = False,
    show: Show | None = None,
    files: Mapping[str, str | None] | None = None,
) -> Record:
    """Run a command of the project at `root` and give the record of what happened.

    `folder` is where the processes leave their parts; its name is the id of the run. `sandbox` asks for one kind of sandbox, `keep`
    leaves its scratch folder, `show` gets the output of the command as it comes. `files` stand in the place of the project's own for
    this run (see `Sandbox.put`). An interruption ends the run like a limit does, and is told by `ended` "killed". Raises LaunchError
    for a command that cannot be started.
    """
    root, cwd, folder = os.path.realpath(root), os.path.realpath(cwd or os.getcwd()), os.path.realpath(folder)
    program = runnable(command, cwd)
    os.makedirs(folder, exist_ok=True)
    before = snapshot(root)
    watched = _in_best_sandbox([program, *command[1:]], root, cwd, folder, options, sandbox, show, files)
    try:
        return _record(watched, command, root, cwd, folder, options, before, keep)
    finally:
        if not keep:
            watched.sandbox.close()


# ---------------------------------------------------------------- the run


@dataclass
class _Watched:
    """A run that has ended. `status` None: it had to be killed. `dump` is what its processes said of where they stood."""

    sandbox: Sandbox
    started: float
    ended: str = "exit"
    status: int | None = None
    seconds: float = 0.0
    output: bytes = b""
    dump: bytes = b""
    stragglers: int = 0
    notes: list[str] = field(default_factory=list)


class _NotEntered(Exception):
    """The sandbox could not be entered after all."""


def _in_best_sandbox(
    command: list[str],
    root: str,
    cwd: str,
    folder: str,
    options: Options,
    wanted: str | None,
    show: Show | None,
    files: Mapping[str, str | None] | None = None,
) -> _Watched:
    """Run in the sandbox that is wanted, else in the first kind that works."""
    kinds = (wanted,) if wanted else SAFE
    reasons: list[str] = []
    for kind in kinds:
        try:
            sandbox = choose(root, kind)
        except SandboxError as error:
            reasons.append(str(error))
            continue
        try:
            if files:
                sandbox.put(files)
            watched = _watched(command, cwd, folder, sandbox, options, show)
        except (_NotEntered, SandboxError) as error:
            sandbox.close()
            reasons.append(f"{sandbox.kind}: {error}")
            continue
        except BaseException:
            sandbox.close()
            raise
        sandbox.why = "; ".join(reasons)
        return watched
    hint = "" if wanted else "; --no-sandbox runs the command on the real files"
    raise LaunchError(f"nothing can keep the files of the project from what the command writes ({'; '.join(reasons)}){hint}")


def _watched(command: list[str], cwd: str, folder: str, sandbox: Sandbox, options: Options, show: Show | None) -> _Watched:
    """Start the command, pass its output on, and see that it ends, with everything it has started."""
    inside = [command[0], *(sandbox.inside(word) if os.path.isabs(word) and os.path.exists(word) else word for word in command[1:])]
    watched = _Watched(sandbox, time.time())
    start = time.monotonic()
    limit = start + options.seconds + min(GRACE, max(1.0, options.seconds / 4))
    output, report = os.pipe(), os.pipe()
    mark = f"MLLINT_RUN_DIR={sandbox.parts(folder)}"
    with inheriting_orphans(), _interruptible(), avenged(mark, sandbox.scratch):
        tree = Tree()
        try:
            try:
                arguments = entering(
                    inside, sandbox.inside(cwd), sandbox.overlay(folder), environment(sandbox, cwd, folder, options), report[1]
                )
                child = subprocess.Popen(**arguments, stdout=output[1], stderr=subprocess.STDOUT)
                tree.child = child.pid
            finally:
                os.close(output[1])
                os.close(report[1])
            pump = _Pump(output[0], show)
            # Ends when the command has taken the place of what prepared it.
            said = _read_all(report[0])
            if said:
                child.wait()
                if said.startswith(CANNOT_START):
                    raise LaunchError(said)
                raise _NotEntered(said)
            try:
                watched.ended = _until_the_end(child, tree, pump, folder, limit)
            except KeyboardInterrupt:
                watched.ended = "killed"
            if watched.ended == "time":
                watched.dump = _last_words(tree, pump)
        finally:
            with _undisturbed():
                own = tree.child is not None and child.poll() is None
                tree.kill()
            os.close(report[0])
        watched.status = child.wait()
        tree.reap()
        pump.drain()
        os.close(output[0])
    watched.output = bytes(pump.kept)
    watched.seconds = time.monotonic() - start
    watched.stragglers = len(tree.killed)
    if own or watched.ended == "time":
        watched.status = None  # ended from here: it says nothing of the command
    return watched


def _until_the_end(child: subprocess.Popen[bytes], tree: Tree, pump: _Pump, folder: str, limit: float) -> str:
    """Wait for the command and for what trains behind its back. "time" when the limit was reached first."""
    left: float | None = None
    seen = 0.0
    while True:
        now = time.monotonic()
        if now > limit:
            return "time"
        pump.wait(0.05)
        if child.poll() is None:
            if sys.platform != "linux" and now > seen + 0.5:
                seen = now
                tree.alive()  # who leaves the family later was seen in it
            continue
        others = tree.others()
        if not others:
            return "exit"
        left = left or now
        parts = _parts(folder)
        if not any(pid in others and not ended for pid, ended in parts.items()) and (
            parts or now - left > SETTLING or not any(map(_is_python, others))
        ):
            return "exit"
        time.sleep(0.1)


def _parts(folder: str) -> dict[int, bool]:
    """The processes that have left a part, and whether they have come to their end."""
    ends = {}
    for name in os.listdir(folder):
        match = re.fullmatch(r"part-\d+-(\d+)\.jsonl", name)
        if match:
            with open(os.path.join(folder, name), "rb") as stream:
                stream.seek(max(0, os.path.getsize(stream.name) - 4096))
                ends[int(match[1])] = b'"end"' in stream.read().rstrip().rpartition(b"\n")[2]
    return ends


def _imported(folder: str) -> bool:
    """A process of the run has imported torch: parts are also left by those that failed before."""
    for name in os.listdir(folder):
        if name.startswith("part-"):
            with open(os.path.join(folder, name), "rb") as stream:
                try:
                    if json.loads(stream.readline()).get("torch"):
                        return True
                except (ValueError, AttributeError):
                    continue
    return False


def _is_python(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            return b"python" in stream.read()
    except OSError:
        return not os.path.isdir("/proc/self")


def _last_words(tree: Tree, pump: _Pump) -> bytes:
    """Let each process say where it stands: Python writes its stack when it is aborted (PYTHONFAULTHANDLER)."""
    pump.show = None
    before = pump.total
    tree.signal(signal.SIGABRT)
    end = time.monotonic() + LAST_WORDS
    while tree.alive() and time.monotonic() < end:
        pump.wait(0.05)
    pump.drain()
    said = bytes(pump.kept[-min(len(pump.kept), pump.total - before) :]) if pump.total > before else b""
    if said:
        del pump.kept[-len(said) :]
    return said


class _Pump:
    """Takes the output of the command as it comes, passes it on and keeps its end."""

    def __init__(self, source: int, show: Show | None) -> None:
        self.source = source
        self.show = show
        self.kept = bytearray()
        self.total = 0
        self._open = True
        os.set_blocking(source, False)

    def wait(self, seconds: float) -> None:
        """Read what there is, or wait that long for something."""
        if not self._open:
            time.sleep(seconds)
        elif select.select([self.source], [], [], seconds)[0]:
            self._read()

    def drain(self) -> None:
        """Read what is left, without waiting for whoever still holds the other end."""
        while self._open and select.select([self.source], [], [], 0)[0] and self._read():
            pass

    def _read(self) -> bool:
        try:
            data = os.read(self.source, 65536)
        except BlockingIOError:
            return False
        if not data:
            self._open = False
            return False
        if self.show is not None:
            if self.total < MOST_SHOWN:
                self.show(data[: MOST_SHOWN - self.total])
            if self.total < MOST_SHOWN <= self.total + len(data):
                self.show(b"\nmllint: the command writes more than this; the rest is not shown\n")
        self.total += len(data)
        self.kept += data
        del self.kept[:-KEPT]
        return True


def _read_all(source: int) -> str:
    with open(source, "rb", closefd=False) as stream:
        return stream.read().decode("utf-8", "replace")


@contextmanager
def _interruptible() -> Iterator[None]:
    """A request to end this process ends the run first: it becomes an interruption, like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        handler = signal.getsignal(number)
        # Below nohup the end of the terminal is to be ignored.
        if handler is not None and handler is not signal.SIG_IGN:
            before[number] = handler
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C must not keep the first from ending everything."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def passed_to(stream: IO[str]) -> Show:
    """Passes output on to a text stream, byte for byte where the stream takes bytes."""
    below = getattr(stream, "buffer", None)

    def show(data: bytes) -> None:
        try:
            if below is not None:
                stream.flush()
                below.write(data)
                below.flush()
            else:
                stream.write(data.decode("utf-8", "replace"))
        except (OSError, ValueError):
            pass  # nobody looks; the run goes on

    return show


# ---------------------------------------------------------------- the record


def _record(
    watched: _Watched,
    command: Sequence[str],
    root: str,
    cwd: str,
    folder: str,
    options: Options,
    before: Mapping[str, tuple[int, ...]],
    keep: bool,
) -> Record:
    sandbox = watched.sandbox
    parts = read_parts(folder, sandbox.roots())
    output = watched.output.decode("utf-8", "replace")
    head: dict[str, Any] = {
        "id": os.path.basename(folder),
        "command": list(command),
        "cwd": cwd,
        "root": root,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(watched.started)),
        "seconds": round(watched.seconds, 3),
        "exit_status": watched.status,
        "options": asdict(options),
        "sandbox": sandbox.kind,
        "output": output[-4000:],
    }
    record = Record(head, parts)
    main = record.main
    ended = watched.ended
    if ended == "exit":
        ended = str(main.end.get("reason") or "exit") if main else ("exit" if watched.status == 0 else "error")
    head["ended"] = ended
    head["mode"] = _mode(record, options)
    if not record.trained and ended != "killed":
        _check_torch(record, command, cwd, output)
    kept_out = sandbox.kept_out()
    changed = differences(before, snapshot(root))
    head["kept_out"] = len(kept_out)
    head["written"] = sorted({*_written_outside(record, sandbox, folder), *changed})
    head["network"] = _network(record)
    head["problem"] = failure.problem(record, output, watched.dump.decode("utf-8", "replace"), sandbox.roots(), _imported(folder))
    compiled = not options.compile and _names_compile(record, root)
    head["notes"] = [
        *_notes(watched, head, changed, options, compiled),
        *([f"the scratch folder is kept: {sandbox.scratch}"] if keep else []),
    ]
    return record


def _check_torch(record: Record, command: Sequence[str], cwd: str, output: str) -> None:
    """Raise LaunchError where nothing was trained for want of torch. Asked afterwards: a Python may start another that has it."""
    interpreter = interpreter_of(found(command, cwd))
    if interpreter is not None and lacks_torch(interpreter, cwd):
        failed = failure.without_torch(record, output)
        if failed or os.path.basename(interpreter) == os.path.basename(found(command, cwd)):
            raise LaunchError(no_torch(interpreter))
    elif failure.without_torch(record, output):
        raise LaunchError(no_torch("the Python of the command"))


def _mode(record: Record, options: Options) -> str:
    device = next((str(p.start.get("device")) for p in record.trained if p.start.get("device")), "cpu")
    return "emulated cuda" if options.emulate_cuda and not device.startswith("cuda") else device


#: Files of the system that are written to as a matter of course.
DEVICES = ("/dev/", "/proc/", "/sys/")
#: An address of a socket as the probes write it, of another machine.
_ELSEWHERE = re.compile(r"\('(?!127\.|localhost'|::1'|0\.0\.0\.0')([^']*)', (\d+)")
#: Rows of what was written that name something else.
NO_FILES = frozenset({"connect", "subprocess", "system", "exec", "spawn"})


def _written_outside(record: Record, sandbox: Sandbox, folder: str) -> Iterator[str]:
    """Files the processes wrote that no sandbox held, as far as the interpreter saw it."""
    own = tuple(os.path.join(path, "") for path in (sandbox.scratch, folder, sandbox.parts(folder)))
    for row in _rows(record, "write"):
        path, mode = str(row.get("path", "")), str(row.get("mode", ""))
        if mode in NO_FILES or not path or path.startswith((*own, *DEVICES)) or path == sandbox.scratch:
            continue
        if os.path.isabs(path) or sandbox.kind == "none":
            yield path


def _network(record: Record) -> list[str]:
    """The hosts that were asked for a connection. Processes of one machine talk by sockets too: those are left out."""
    asked = set()
    for row in _rows(record, "write"):
        if row.get("mode") == "connect" and (address := _ELSEWHERE.match(str(row.get("path")))):
            asked.add(f"{address[1]}:{address[2]}")
    return sorted(asked)


def _rows(record: Record, kind: str) -> Iterator[Mapping[str, Any]]:
    for part in record.parts:
        yield from part.of(kind)


def _names_compile(record: Record, root: str) -> bool:
    """A file of the project that took part in the run speaks of compiling."""
    files = {step.file for part in record.parts for stack in part.stacks.values() for step in stack if step.own}
    for file in files:
        try:
            with open(os.path.join(root, file), "rb") as stream:
                if re.search(rb"torch\.compile\b|\.compile\(|torch_compile", stream.read()):
                    return True
        except OSError:
            continue
    return False


def _notes(watched: _Watched, head: Mapping[str, Any], changed: Sequence[str], options: Options, compiled: bool) -> Iterator[str]:
    sandbox = watched.sandbox
    if sandbox.kind == "copy":
        yield (
            f"ran in a copy of the project, because no layer could be laid over it ({sandbox.why})"
            if sandbox.why
            else ("ran in a copy of the project")
        )
        if sandbox.linked:
            yield f"links to the real files stood in the copy for {_listed(sandbox.linked)}"
    if sandbox.kind == "none":
        yield "ran on the real files"
    if changed:
        yield f"files of the project changed during the run: {_listed(changed)}"
    if head["network"]:
        yield f"asked for connections to {_listed(head['network'])}"
    if watched.stragglers and head["ended"] in ("exit", "error"):
        # Where the probes ended a process, its workers are left over by that.
        several = watched.stragglers > 1
        yield f"{watched.stragglers} process{'es' if several else ''} that outlived the run {'were' if several else 'was'} ended"
    if compiled:
        yield "torch.compile was switched off (--compile keeps it on)"
    if options.emulate_cuda:
        yield "CUDA was emulated on the CPU: what only a GPU does was not seen"


def _listed(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
