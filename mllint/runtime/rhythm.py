"""Findings that speak of numbers a shortened run changes: what they say of the rhythm of calls is judged instead.

A run of a few batches makes the lengths of loaders small, and with them every total that is computed from one. How often a schedule was
stepped for each pass over the data stays true.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from mllint.checks import function_name
from mllint.model.finding import Hit
from mllint.runtime.evidence import driven_by, schedule_at, steps_of
from mllint.runtime.watched import Watched


def kept(rule: str, watched: Watched, hit: Hit) -> bool | None:
    """Whether the calls came in the rhythm the finding speaks of; None where the run does not tell, or the rule asks for no rhythm."""
    own: Callable[[Watched, Hit], bool | None] | None = getattr(sys.modules[__name__], function_name(rule), None)
    return own(watched, hit) if own is not None else None


def scheduler_wrong_cadence(watched: Watched, hit: Hit) -> bool | None:
    schedule = schedule_at(watched, hit)
    moves, updates = len(steps_of(watched, schedule)), len(steps_of(watched, driven_by(watched, schedule)))
    passes = len([row for row in watched.passes if row.get("grad") != "eval"])
    if not moves or not passes or updates < 2 * passes:
        return None
    if "counted in batches" in hit.message:
        return moves <= passes + 1
    return moves >= updates - 1


def horizon_ignores_accumulation(watched: Watched, hit: Hit) -> bool | None:
    schedule = schedule_at(watched, hit)
    moves, updates = len(steps_of(watched, schedule)), len(steps_of(watched, driven_by(watched, schedule)))
    backwards = len(watched.history.events(None, "backward"))
    if not moves or not updates or backwards < 2 * updates:
        return None
    if "sized in batches" in hit.message:
        return moves <= updates + 1
    return moves >= backwards - 1
