"""When a run has shown enough, and how it ends: the report is written, the output flushed, and the process leaves with 0."""

import os
import sys
import threading
import time
from typing import Dict, List, Set

from . import state, writer


class Stop(BaseException):
    """Ends the run where the option `raise` asks for it: for tests inside one process."""


class Stopper:
    """Counts what happens. All processes of a distributed run count the same things, so they stop at the same step."""

    def __init__(self) -> None:
        self.optimizers: List[int] = []
        self.optimised: Set[int] = set()  # parameters in an optimizer
        self.had_gradient: Set[int] = set()
        self.schedulers: Dict[int, int] = {}  # scheduler -> steps
        self.by_optimizer: Dict[int, int] = {}  # optimizer -> steps
        self.steps = 0  # of the optimizer that was stepped most
        self.skips = 0
        self.backwards = 0
        self.since = 0  # backward passes since the last step
        self.quiet = 0  # root forwards without gradient
        self.passes = 0  # training passes that ended
        self.opened = 0
        self.ended_after = False  # a training pass ended after enough steps
        self.last = ""  # why the run ends after this turn
        self.turned = False  # and that turn took its step
        self.in_backward = 0
        self.done = False

    # ---- what happens

    def happened(self, what: str) -> None:
        """Count it for the pass over a loader to which it belongs."""
        from . import loaders

        loaders.happened(what)

    def optimizer_made(self, number: int) -> None:
        self.optimizers.append(number)

    def total(self) -> int:
        """The steps of all optimizers."""
        return sum(self.by_optimizer.values())

    def scheduler_made(self, number: int) -> None:
        self.schedulers.setdefault(number, 0)

    def scheduler_stepped(self, number: int) -> None:
        self.schedulers[number] = self.schedulers.get(number, 0) + 1

    def forward(self, grad: bool) -> None:
        if not grad:
            self.quiet += 1
            self.happened("quiet")

    def stepped(self, number: int) -> None:
        self.turned = self.turned or bool(self.last)
        self.by_optimizer[number] = self.by_optimizer.get(number, 0) + 1
        self.steps = max(self.by_optimizer.values())
        self.since = 0
        self.happened("steps")
        if self.steps >= self.limit() * 5:
            stop("steps")

    def skipped(self, number: int) -> None:
        self.skips += 1
        self.turned = self.turned or bool(self.last)

    def backward(self) -> None:
        self.backwards += 1
        self.since += 1
        self.happened("backwards")
        if self.since >= 4 * self.limit():
            stop("backwards")

    def pass_began(self) -> None:
        self.opened += 1

    def pass_ended(self, trained: bool) -> None:
        if trained:
            self.passes += 1
            if self.steps >= self.limit():
                self.ended_after = True

    def at_backward(self) -> None:
        """A training turn begins: whatever follows a pass, a scheduler step or a validation, has had its chance.

        The turn that shows it is still taken, with its step: it may be trained in the mode the validation left behind.
        """
        from . import loaders

        if loaders.ahead():
            return
        if self.turned:
            stop(self.last)
        elif self.steps >= self.limit() and self._shown():
            self.last = self.last or "steps"
        elif self.steps + self.skips > 0 and self._passes_enough() and not self._waits():
            self.last = self.last or "passes"

    # ---- what is enough

    def limit(self) -> int:
        """The optimizer steps that are wanted."""
        return max(1, int(state.run.options["steps"]))

    def _passes_enough(self) -> bool:
        """The passes that are wanted are over; where they held fewer steps than are wanted, up to three times as many."""
        wanted = max(1, int(state.run.options["passes"]))
        return self.passes >= (wanted if self.steps >= self.limit() else 3 * wanted)

    def _shown(self) -> bool:
        if self._waits():
            return False
        if self.opened:
            return self.ended_after
        # without a loader nothing tells where a pass ends, so a scheduler that never stepped is waited for
        return all(self.schedulers.values())

    def _waits(self) -> bool:
        """Something a claim needs has not happened yet."""
        wanted = state.run.options["wait_for"]
        if "pass" in wanted and self.passes < int(state.run.options["passes"]):
            return True
        if "scheduler" in wanted and not all(self.schedulers.values()):
            return True
        return "eval" in wanted and not self.quiet


stopper = Stopper()
_lock = threading.Lock()
_woken = threading.Event()


def stop(reason: str) -> None:
    """End the run from within a probe."""
    if not _finish(reason):
        return
    if state.run.options["raise"]:
        raise Stop(reason)
    leave()


def leave() -> None:
    """Flush what the program printed and go, without its clean-up: `finally` blocks would write checkpoints."""
    flusher = threading.Thread(target=_flush, daemon=True)
    flusher.start()
    flusher.join(2.0)  # a thread may hold the stream's lock for ever
    os._exit(0)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            continue


def _finish(reason: str) -> bool:
    """Write the end of the report, once. False when it is written already."""
    with _lock:
        if state.run.off or stopper.done:
            return False
        stopper.done = True
    try:
        _end(reason)
    except Exception as error:
        state.fault("stopping.end", error)
    state.run.off = True
    return True


def _end(reason: str) -> None:
    from . import contexts, loaders, readings, steps

    # another thread's probe must not fire while the end is written; ours may, since `busy` is per thread
    state.thread.busy = True
    try:
        without: List[int] = []
        outside: List[int] = []
        if state.run.events:
            try:
                loaders.end_all()
                readings.flush([])
                without, outside = steps.never()
            except Exception as error:
                state.fault("stopping", error)
        writer.line(
            {
                "k": "end",
                "reason": reason,
                "n": state.run.events,
                "t": round(state.now(), 6),
                "never_gradient": without,
                "not_optimised": outside,
                "disabled": sorted(contexts.disabled),
                "counts": {"steps": stopper.steps, "skipped": stopper.skips, "backwards": stopper.backwards, "passes": stopper.passes},
            }
        )
    finally:
        state.thread.busy = False


def at_exit() -> None:
    """The program ended by itself."""
    _woken.set()
    if not state.run.off and writer.opened():
        from . import failures

        _finish("error" if failures.seen else "exit")


def watch_clock() -> None:
    """Start the thread that ends the run after `seconds`, with the evidence collected so far."""
    seconds = float(state.run.options["seconds"] or 0)
    until = state.run.options["until"]
    if until:
        # the launcher counts from its own start, of which importing torch has taken a part
        seconds = max(1.0, min(seconds or float("inf"), state.now() + float(until) - time.time()))
    if seconds > 0:
        threading.Thread(target=_clock, args=(seconds,), name="mllint-clock", daemon=True).start()


def _clock(seconds: float) -> None:
    # time counts from the import of torch; a process in which nothing happened is somebody's launcher and none of ours to end
    while not _woken.wait(max(0.05, seconds - state.now()) if state.now() < seconds else 0.5):
        if state.run.off:
            return
        if state.now() >= seconds and state.run.events and _finish("time"):
            leave()
