"""What a run shows of work on several processes."""

from __future__ import annotations

from collections.abc import Iterator

from mllint.model.finding import Hit
from mllint.runtime.watched import Watched


def sampler_epoch_not_set(watched: Watched) -> Iterator[Hit]:
    """Two training passes over one loader drew the same order: the sampler was told of no new epoch."""
    by_loader: dict[int, list[dict]] = {}
    for row in watched.passes:
        if row.get("sampler") == "DistributedSampler" and row.get("shuffle") and row.get("grad") != "eval":
            by_loader.setdefault(row["loader"], []).append(dict(row))
    for rows in by_loader.values():
        span = watched.span(rows[0].get("site"))
        if len(rows) > 1 and len({row.get("epoch") for row in rows}) == 1 and span is not None:
            yield Hit(span, f"{len(rows)} epochs see the data in the same order, because `set_epoch` is not called between them")
