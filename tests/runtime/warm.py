"""Runs many training scripts under the probes without paying for the import of torch each time.

One process imports torch and the frameworks once and forks for each script; the child attaches the probes by the same code that
`sitecustomize` calls and runs the script as `__main__`. Called as `python warm.py JOBS`, with a JSON list of jobs as `job` makes them.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import importlib.util
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

#: Imported before the forks, where they are installed.
LIBRARIES = ("torch", "torch.distributed", "accelerate", "transformers", "lightning")
#: What `from transformers import ...` would load late, in every child again.
LATE = ("transformers.trainer", "transformers.models.bert.modeling_bert")
#: Seconds after which a script is ended.
LIMIT = 40.0


def job(folder: Path, script: str, ranks: int = 1, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What to run: `script` in `folder`, in so many processes. The parts are left in `folder/parts`, the output in `folder/output`."""
    return {"folder": str(folder), "script": script, "ranks": ranks, "options": dict(options or {})}


def run(jobs: Sequence[Mapping[str, Any]], scratch: Path) -> list[int | None]:
    """Run all jobs in a process of their own; the exit status of each, None for one that had to be ended."""
    statuses = _run(jobs, scratch)
    # gloo now and then waits for ever when a forked process takes its group down: such a job has one more try
    hung = [number for number, status in enumerate(statuses) if status is None and jobs[number]["ranks"] > 1]
    for number in hung:
        shutil.rmtree(os.path.join(jobs[number]["folder"], "parts"))
    for number, status in zip(hung, _run([jobs[number] for number in hung], scratch) if hung else (), strict=True):
        statuses[number] = status
    return statuses


def _run(jobs: Sequence[Mapping[str, Any]], scratch: Path) -> list[int | None]:
    from mllint.runtime.command import DEFAULTS, HOOK, TRACKERS_OFFLINE

    listed = scratch / "jobs.json"
    listed.write_text(json.dumps(list(jobs)), encoding="utf-8")
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    env = {**os.environ, **TRACKERS_OFFLINE, **DEFAULTS, **threads, "TORCHDYNAMO_DISABLE": "1", "MLLINT_HOOK": HOOK}
    done = subprocess.run([sys.executable, __file__, str(listed)], env=env, timeout=900)
    assert done.returncode == 0, f"the runner ended with status {done.returncode}"
    statuses: list[int | None] = json.loads(listed.read_text(encoding="utf-8"))
    return statuses


def record(folder: Path, status: int | None) -> Any:
    """The record of a job, as `launch` makes it of a command."""
    from mllint.runtime.failure import problem
    from mllint.runtime.record import Record, read_parts

    output = (folder / "output").read_text(encoding="utf-8", errors="replace")
    roots = {str(folder): ""}
    head: dict[str, Any] = {
        "id": folder.name,
        "root": str(folder),
        "exit_status": status,
        "output": output[-4000:],
        "options": {"seconds": LIMIT},
    }
    made = Record(head, read_parts(str(folder / "parts"), roots))
    ended = made.main.end.get("reason") if made.main else None
    head["ended"] = str(ended or ("exit" if status == 0 else "error")) if status is not None else "time"
    head["problem"] = problem(made, output, "", roots, True)
    return made


# ---------------------------------------------------------------- the process that forks


class Become(BaseException):
    """Raised in a child: it has to leave everything it was forked in, whose loops are none of the program's."""

    def __init__(self, task: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self.task = task
        self.environment = environment


def serve(jobs: Iterable[Mapping[str, Any]]) -> list[int | None]:
    """Run the jobs, as many processes at a time as there are CPUs."""
    places = max(2, os.cpu_count() or 1)
    statuses: dict[int, int | None] = {}
    running: dict[int, tuple[int, float]] = {}  # process -> number of its job, when it has to be over

    def reap() -> None:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                break
            for late in [p for p, (_, end) in running.items() if time.monotonic() > end]:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(late, signal.SIGKILL)
            time.sleep(0.005)
        number, _ = running.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        one = None if code == -signal.SIGKILL else code
        statuses[number] = one if not statuses.get(number, 0) else statuses[number]

    for number, task in enumerate(jobs):
        while running and len(running) + task["ranks"] > places:
            reap()
        environments = _ranks(task["ranks"])
        os.makedirs(os.path.join(task["folder"], "parts"), exist_ok=True)
        for environment in environments:
            pid = os.fork()
            if not pid:
                raise Become(task, environment)
            running[pid] = number, time.monotonic() + LIMIT
    while running:
        reap()
    return [statuses[number] for number in sorted(statuses)]


def _ranks(count: int) -> list[dict[str, str]]:
    """What torchrun tells each of its processes."""
    if count == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"} for rank in range(count)]


def enter(child: Become) -> str:
    """Take on the folder, the arguments, the output and the probes of the program, and give the path of its script."""
    folder = child.task["folder"]
    os.setsid()
    output = os.open(os.path.join(folder, "output"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(folder)
    sys.argv = [child.task["script"]]
    sys.path.insert(0, folder)
    os.environ.update(child.environment)
    _attach(child.task)
    return os.path.join(folder, child.task["script"])


def leave(status: int) -> None:
    """End as an interpreter ends, but for what the first process has at heart."""
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _attach(task: Mapping[str, Any]) -> None:
    """The probes, as in an interpreter that has just begun, then as after each import that lies behind us."""
    from mllint_probe import attach

    parts = os.path.join(task["folder"], "parts")
    told = {"root": task["folder"], "sandbox": "copy", "until": time.time() + LIMIT / 2, **task["options"]}
    os.environ.update(MLLINT_RUN_DIR=parts, MLLINT_RUN_JSON=json.dumps(told))
    attach.install(parts)
    for name, entered in attach._table().items():
        if name in sys.modules:
            entered()


def main(path: str) -> None:
    """Run the jobs of a file and put the statuses in their place."""
    sys.path[0] = os.environ["MLLINT_HOOK"]
    jobs = json.loads(Path(path).read_text(encoding="utf-8"))
    for name in (*LIBRARIES, *LATE):
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)
    Path(path).write_text(json.dumps(serve(jobs)), encoding="utf-8")


program = None
if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Become as child:
        program = child
if program is not None:
    code = 1
    try:
        runpy.run_path(enter(program), run_name="__main__")
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 0 if left.code is None else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    leave(code)
