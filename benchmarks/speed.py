"""How long mllint takes beside ruff and TorchFix on the same files, in one run.

    python benchmarks/speed.py PATH... [--rounds 5] [--torchfix PYTHON] [--sample 150]

The commands take turns, so that a busy spell of the machine hits all of them. What counts is the ratio in the last column.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

Command = tuple[str, list[str]]


def measured(command: Sequence[str]) -> tuple[float, float, float]:
    """(seconds on the clock, seconds of processor time, peak memory in MiB of its largest process) of one run."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} failed with status {process.returncode}")
    memory = usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024 * 1024)
    return wall, usage.ru_utime + usage.ru_stime, memory


def compare(title: str, commands: Sequence[Command], rounds: int) -> None:
    """Run the commands in turn and print a row for each; the first is what the others are compared with."""
    runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name, _ in commands}
    for _, command in commands[:3]:
        measured(command)  # afterwards the files are in memory for everybody
    for _ in range(rounds):
        for name, command in commands:
            runs[name].append(measured(command))
    print(f"\n{title}; median of {rounds}\n")
    print("| | wall s | processor s | peak MiB | wall of mllint / its wall |")
    print("|---|---|---|---|---|")
    ours = statistics.median(run[0] for run in runs[commands[0][0]])
    for name, _ in commands:
        wall, processor, memory = (statistics.median(column) for column in zip(*runs[name], strict=True))
        print(f"| {name} | {wall:.3f} | {processor:.3f} | {memory:.0f} | {ours / wall:.3f} |", flush=True)


def sources(paths: Sequence[str]) -> Iterator[Path]:
    for path in map(Path, paths):
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def sample(paths: Sequence[str], number: int, folder: Path) -> None:
    """Copy some of the files, always the same ones, into a folder."""
    files = [file for file in sources(paths) if file.stat().st_size]
    for count, file in enumerate(random.Random(0).sample(files, min(number, len(files)))):
        shutil.copyfile(file, folder / f"{count:04}_{file.name}")


def described(paths: Sequence[str]) -> str:
    files = list(sources(paths))
    return f"{len(files):,} files, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ruff", default=shutil.which("ruff", path=os.path.dirname(sys.executable)) or "ruff")
    parser.add_argument("--torchfix", metavar="PYTHON", help="the Python of an environment that has torchfix")
    parser.add_argument("--sample", type=int, default=150, help="files for TorchFix, which takes minutes for more")
    options = parser.parse_args()

    mllint = [sys.executable, "-m", "mllint", "scan"]
    ruff = [options.ruff, "check", "--no-cache", "--quiet"]

    def commands(paths: list[str]) -> list[Command]:
        return [
            ("mllint", [*mllint, *paths]),
            ("ruff, default rules", [*ruff, *paths]),
            ("ruff --select E9", [*ruff, "--select", "E9", *paths]),
        ]

    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores")
    compare(described(options.paths), commands(options.paths), options.rounds)
    if options.torchfix:
        with tempfile.TemporaryDirectory() as folder:
            sample(options.paths, options.sample, Path(folder))
            peer = ("TorchFix", [options.torchfix, "-m", "torchfix", "--select", "ALL", folder])
            compare(f"a sample: {described([folder])}", [*commands([folder]), peer], min(options.rounds, 3))


if __name__ == "__main__":
    main()
