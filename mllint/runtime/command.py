"""The user's command: what it is, whether it can be watched, and the environment it gets."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from mllint.runtime.sandbox import Sandbox

HOOK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "hook")

#: Set in every case: a run of a few steps must not appear on a server among real ones.
TRACKERS_OFFLINE = {
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "COMET_START_ONLINE": "0",
    "NEPTUNE_MODE": "offline",
    "CLEARML_OFFLINE_MODE": "1",
    "SWANLAB_MODE": "offline",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
#: Set where the user has not said otherwise.
DEFAULTS = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "Agg",
}
#: Where libraries keep what they make: folders below the scratch folder.
FOLDERS = {
    "TMPDIR": "",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "MPLCONFIGDIR": "matplotlib",
    "WANDB_DIR": "wandb",
    "WANDB_CACHE_DIR": "wandb",
    "WANDB_CONFIG_DIR": "wandb",
    "COMET_OFFLINE_DIRECTORY": "comet",
    "CLEARML_CACHE_DIR": "clearml",
}
MOST_THREADS = 4


class LaunchError(Exception):
    """The command cannot be started, or not be watched; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the probes are asked for. `seconds` is the limit of the run; `set` gives new defaults to options of the script."""

    steps: int = 6
    batches: int = 3
    passes: int = 2
    seconds: float = 120.0
    seed: int | None = None
    emulate_cuda: bool = False
    compile: bool = False
    set: Mapping[str, str] = field(default_factory=dict)
    examples: int = 0


def runnable(command: Sequence[str], cwd: str) -> str:
    """The program a command starts, where it can be watched. Raises LaunchError with what to do where it cannot."""
    if os.name != "posix":
        raise LaunchError("runtime-check needs Linux or macOS")
    program = found(command, cwd)
    check_flags(command, interpreter_of(program))
    return program


def found(command: Sequence[str], cwd: str) -> str:
    """The program a command starts, as a shell would find it. Raises LaunchError when there is none."""
    if not command:
        raise LaunchError("there is no command: mllint runtime-check [options] -- python train.py")
    name = command[0]
    path = os.path.normpath(os.path.join(cwd, name)) if os.sep in name else shutil.which(name)
    if path is None or not os.path.isfile(path):
        script = os.path.isfile(os.path.join(cwd, name))
        raise LaunchError(f"command not found: {name}" + (f"; did you mean: python {name}?" if script and name.endswith(".py") else ""))
    if not os.access(path, os.X_OK):
        hint = f"; did you mean: python {name}?" if name.endswith(".py") else ""
        raise LaunchError(f"{name} is not executable{hint}")
    return os.path.abspath(os.path.join(cwd, path))


def interpreter_of(path: str) -> str | None:
    """The Python that a command is or names in its first line; None where nothing tells."""
    if re.fullmatch(r"(python|pypy)[\d.]*t?", os.path.basename(path)):
        return path
    with open(path, "rb") as stream:
        first = stream.readline(500)
    if not first.startswith(b"#!") or b"python" not in first:
        return None
    words = os.fsdecode(first[2:]).split()
    name = words[0]
    if os.path.basename(name) == "env":
        name = next((word for word in words[1:] if not word.startswith("-")), "")
    return shutil.which(name)


def check_flags(command: Sequence[str], interpreter: str | None) -> None:
    """Python that is told to ignore its environment does not see the probes."""
    if interpreter is None:
        return
    for number, word in enumerate(command[1:], 1):
        if not word.startswith("-") or word.startswith(("-c", "-m")) or word == "-":
            break
        if not word.startswith("--") and set("IES") & set(word.split("W")[0].split("X")[0]):
            if command[number + 1 : number + 3] == ["-m", "mllint.runtime"]:
                return
            rest = " ".join(command[number + 1 :])
            raise LaunchError(
                f"`{' '.join(command[: number + 1])}` ignores the environment, by which the probes are attached: leave {word} out, "
                f"or, where mllint is installed beside torch: {' '.join(command[: number + 1])} -m mllint.runtime {rest}"
            )


def lacks_torch(interpreter: str, cwd: str) -> bool:
    """A Python in which torch cannot be found, asked in the folder of the command: torch may lie there."""
    ask = "import importlib.util as u, sys; sys.exit(11 if u.find_spec('torch') is None else 0)"
    try:
        done = subprocess.run([interpreter, "-c", ask], cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 11


def no_torch(interpreter: str) -> str:
    """What to do about a Python without torch."""
    return (
        f"{interpreter} has no torch, so there is nothing to watch: name the Python your training runs with, "
        "or install it there (pip install 'mllint-repo[runtime]')"
    )


def environment(sandbox: Sandbox, cwd: str, folder: str, options: Options) -> dict[str, str]:
    """What the command finds around it: the probes, no trackers, and folders of its own for what libraries make."""
    env = dict(os.environ)
    env["PYTHONPATH"] = os.pathsep.join([HOOK, *filter(None, [env.get("PYTHONPATH")])])
    env["MLLINT_RUN_DIR"] = sandbox.parts(folder)
    told = {"root": sandbox.root, **asdict(options), "raise": False, "sandbox": sandbox.kind, "until": time.time() + options.seconds}
    env["MLLINT_RUN_JSON"] = json.dumps(told)
    env |= TRACKERS_OFFLINE
    for name, value in DEFAULTS.items():
        env.setdefault(name, value)
    for name, below in FOLDERS.items():
        env[name] = os.path.join(sandbox.temporary, below) if below else sandbox.temporary
        os.makedirs(env[name], exist_ok=True)
    env["MLFLOW_TRACKING_URI"] = f"file://{sandbox.temporary}/mlruns"
    # Output of a process that is killed must not be lost, nor compiled files be left in the user's folders.
    env |= {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONFAULTHANDLER": "1", "PYTHONBREAKPOINT": "0"}
    threads = "1" if options.seed is not None else str(min(MOST_THREADS, os.cpu_count() or 1))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        if options.seed is not None:
            env[name] = threads
        else:
            env.setdefault(name, threads)
    if options.seed is not None:
        env |= {"PYTHONHASHSEED": str(options.seed), "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    if not options.compile:
        env["TORCHDYNAMO_DISABLE"] = "1"
    env["PWD"] = sandbox.inside(cwd)
    return env
