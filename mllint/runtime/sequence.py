"""In what order things happened in the steps of a run, and how often: for people to read, and to tell two runs apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mllint.runtime.record import Part, Row

#: What says nothing about the order within a step: creations, questions, marks written later about an earlier event.
_ASIDE = frozenset(
    {"make", "iter", "get_last_lr", "get_scale", "state_dict", "load_state_dict", "loss-used", "set_epoch", "replaced", "add_param_group"}
)
#: Before the number of a repetition; reads better than a letter.
TIMES = "\N{MULTIPLICATION SIGN}"
_OPENERS = frozenset({"zero_grad", "grad-cleared", "forward", "train"})
_NAMED = frozenset({"scheduler", "scaler", "accelerator", "engine"})


@dataclass(frozen=True, slots=True)
class Cycle:
    """Events in their order, and the steps (from 0) that went that way. A run of the same events is one, with its length behind it."""

    events: tuple[str, ...]
    steps: tuple[int, ...]

    @property
    def when(self) -> str:
        """The steps as a person writes them: `0-3, 5`."""
        spans: list[list[int]] = []
        for step in self.steps:
            if spans and step == spans[-1][1] + 1:
                spans[-1][1] = step
            else:
                spans.append([step, step])
        return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def name(part: Part, row: Row) -> str:
    """What happened, with the kind of thing it happened to where the word alone would not tell: `optimizer.step`, `scaler.update`."""
    action = str(row.get("action"))
    kind = part.things.get(row.get("thing") or 0, {}).get("kind")
    if kind in _NAMED or (kind == "optimizer" and action == "step"):
        return f"{kind}.{action}"
    if action == "forward" and row.get("observed", {}).get("training") is False:
        return "forward in eval mode"
    return action


def counts(part: Part) -> dict[str, int]:
    """How often each thing happened, in the order of the first times."""
    found: dict[str, int] = {}
    for row in part.of("event"):
        key = name(part, row)
        found[key] = found.get(key, 0) + 1
    return found


def cycles(part: Part) -> list[Cycle]:
    """The different orders of events around an optimizer step, each with the steps that show it."""
    found: dict[tuple[str, ...], list[int]] = {}
    for number, events in enumerate(_steps(part)):
        found.setdefault(_shortened(events), []).append(number)
    return [Cycle(events, tuple(numbers)) for events, numbers in found.items()]


def _steps(part: Part) -> list[list[str]]:
    """The events of each step: from the first zeroing or training pass after the step before, to what follows the step itself."""
    done: list[list[str]] = []
    current: list[str] = []
    stepped = False
    for row in part.of("event"):
        action = str(row.get("action"))
        if action in _ASIDE:
            continue
        if stepped and action in _OPENERS and row.get("observed", {}).get("training") is not False:
            done.append(current)
            current, stepped = [], False
        current.append(name(part, row))
        stepped = stepped or (action == "step" and part.things.get(row.get("thing") or 0, {}).get("kind") == "optimizer")
    return [*done, current] if stepped else done


def _shortened(events: Sequence[str]) -> tuple[str, ...]:
    """Repeated groups of events, as accumulation makes them, are written once with their number."""
    shown: list[str] = []
    at = 0
    while at < len(events):
        length, times = _repetition(events, at)
        group = " → ".join(events[at : at + length])
        group = group if length == 1 or times == 1 else f"({group})"
        shown.append(group if times == 1 else f"{group} {TIMES}{times}")
        at += length * times
    return tuple(shown)


def _repetition(events: Sequence[str], at: int) -> tuple[int, int]:
    """The length of the group that starts here and how often it comes in a row; the grouping that covers most is taken."""
    best = (1, 1)
    for length in range(1, min(12, (len(events) - at) // 2) + 1):
        times = 1
        while events[at + length * times : at + length * (times + 1)] == events[at : at + length]:
            times += 1
        if times > 1 and length * times > best[0] * best[1]:
            best = (length, times)
    return best
