"""What a run shows of gradient scaling beyond the order of the calls: the errors it raises."""

from __future__ import annotations

from collections.abc import Iterator

from mllint.model.finding import Hit
from mllint.runtime.observed.questions import failed
from mllint.runtime.watched import Watched


def unscale_outside_boundary(watched: Watched) -> Iterator[Hit]:
    span = failed(watched, "unscale_() has already been called on this optimizer since the last update()")
    if span is not None:
        yield Hit(span, "`unscale_()` was called twice before `update()`, which raised a RuntimeError")


def scaler_incomplete(watched: Watched) -> Iterator[Hit]:
    span = failed(watched, "step() has already been called since the last update()")
    if span is not None:
        yield Hit(span, "`step()` of the scaler was called twice without `update()`, which raised a RuntimeError")
