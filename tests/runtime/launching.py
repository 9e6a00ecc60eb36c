"""Real commands below a real `mllint runtime-check`, and what must be true after each of them."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllint.runtime.sandbox import differences, snapshot

#: What mllint itself may take beside the limit of the run, on a slow machine.
OWN_SECONDS = 20.0
PYTHON = sys.executable


@dataclass(frozen=True)
class Outcome:
    """What a call of the command gave."""

    status: int
    report: dict[str, Any]
    shown: str
    seconds: float
    root: Path

    @property
    def run(self) -> dict[str, Any]:
        return self.report["run"]

    @property
    def problem(self) -> str:
        return self.run["problem"] or ""


class Place:
    """A small project with runs in it. `MLLINT_TEST` marks every process that descends from here."""

    def __init__(self, root: Path, library: Path) -> None:
        self.root = root
        self.mark = uuid.uuid4().hex
        self.env = os.environ | {"MLLINT_TEST": self.mark}
        if importlib.util.find_spec("torch") is None:
            # What is tested here happens to any Python program; all that is asked of torch is to be there.
            (library / "torch").mkdir(parents=True)
            (library / "torch" / "__init__.py").write_text("__version__ = '0'\n")
            self.env["PYTHONPATH"] = str(library)
        (root / ".git").mkdir()
        # Not below the folder of the test: the paths of sockets may not be long.
        self.scratch = Path(tempfile.mkdtemp(prefix="runs-"))
        self.env["TMPDIR"] = str(self.scratch)

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
        return path

    def start(self, *command: str, options: tuple[str, ...] = (), seconds: float = 30, **more: Any) -> subprocess.Popen[str]:
        arguments = ["runtime-check", "--format", "json", "--seconds", str(seconds), *options, "--", *command]
        settings: dict[str, Any] = {"cwd": self.root, "env": self.env, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        settings |= {"encoding": "utf-8", "errors": "replace"} | more
        return subprocess.Popen([PYTHON, "-m", "mllint", *arguments], **settings)

    def check(self, *command: str, options: tuple[str, ...] = (), seconds: float = 30, untouched: bool = True) -> Outcome:
        """Run the command and hold what must hold of every run: an end in time, no process left, no file changed, a clean report."""
        before = snapshot(str(self.root))
        started = time.monotonic()
        process = self.start(*command, options=options, seconds=seconds)
        out, err = process.communicate(timeout=seconds + 60)
        took = time.monotonic() - started
        assert took < seconds + OWN_SECONDS, err
        assert not self.left(), "no process may stay"
        assert os.listdir(self.scratch) == [] or "--keep" in options, "nor any scratch folder"
        if untouched:
            assert differences(before, snapshot(str(self.root))) == []
        assert process.returncode in (0, 1), err
        report = json.loads(out)
        record = Path(report["run"]["record"])
        assert json.loads(record.read_text())["id"] == report["run"]["id"]
        assert [p.name for p in record.parent.iterdir() if p.is_dir()] == [], "the working folder of the run is gone"
        return Outcome(process.returncode, report, err, took, self.root)

    def script(self, text: str, **more: Any) -> Outcome:
        """Run a Python script of that text."""
        self.write("train.py", text)
        return self.check(PYTHON, "train.py", **more)

    def left(self, patience: float = 1.0) -> list[str]:
        """Processes that descend from this test, by their environment or by the name of the project in their arguments."""
        end = time.monotonic() + patience
        while (found := self._left()) and time.monotonic() < end:
            time.sleep(0.05)
        return found

    def _left(self) -> list[str]:
        found = []
        for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
            if name.isdigit() and int(name) != os.getpid():
                try:
                    environment = Path("/proc", name, "environ").read_bytes()
                    command = Path("/proc", name, "cmdline").read_bytes()
                except OSError:
                    continue
                if self.mark.encode() in environment or self.mark.encode() in command:
                    found.append(command.replace(b"\0", b" ").decode("utf-8", "replace"))
        return found

    def clean(self) -> None:
        """End and remove what a failing test has left."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
            if name.isdigit():
                try:
                    if self.mark.encode() in Path("/proc", name, "environ").read_bytes():
                        os.kill(int(name), signal.SIGKILL)
                except OSError:
                    continue
