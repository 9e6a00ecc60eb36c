"""A bar for scans that take long enough to wonder about; never in a log, never for a short scan."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

PATIENCE = 0.7  # seconds without a bar; loading rich takes a third of one
PAUSE = 0.1  # seconds between two pictures of it


@contextmanager
def progress(total: int, stream: IO[str], patience: float = PATIENCE) -> Iterator[Callable[..., None]]:
    """Gives `advance(count=1, doing="", more=0)`; `more` is work that has come up.

    On a terminal a bar appears once the work has taken `patience` seconds, and goes again."""
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda count=1, doing="", more=0: None
        return
    done, started, drawn, bar, task = 0, time.perf_counter(), 0.0, None, None

    def advance(count: int = 1, doing: str = "", more: int = 0) -> None:
        nonlocal done, total, drawn, bar, task
        done += count
        total += more
        if bar is None and done < total and time.perf_counter() - started >= patience:
            bar = _bar(stream)
            task = bar.add_task("", total=total)
            bar.start()
        if bar is not None and task is not None and (now := time.perf_counter()) - drawn >= PAUSE:
            drawn = now
            bar.update(task, completed=done, total=total, description=doing, refresh=True)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.stop()


def _bar(stream: IO[str]) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    # Drawn by us: a thread that draws it would keep the scan from using a second process.
    return Progress(*columns, console=Console(file=stream), transient=True, auto_refresh=False)
