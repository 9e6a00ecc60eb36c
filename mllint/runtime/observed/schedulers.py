"""What a run shows of schedules beyond the order of the calls: the errors they raise."""

from __future__ import annotations

from collections.abc import Iterator

from mllint.model.finding import Hit
from mllint.runtime.observed.questions import failed
from mllint.runtime.watched import Watched


def plateau_without_metric(watched: Watched) -> Iterator[Hit]:
    span = failed(watched, "missing 1 required positional argument: 'metrics'")
    if span is not None:
        yield Hit(span, "`step()` of a plateau scheduler was called without a metric, which raised a TypeError")
