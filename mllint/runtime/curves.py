"""The numbers of a run as series over its steps: the same ones for the terminal, the page and a comparison.

Losses and gradient norms have no unit, learning rates are those of the parameter groups, times are in seconds, memory in bytes. A value
that was not recorded is None; one that is not finite stays what it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mllint.runtime.record import Part, Row

Values = tuple[float | None, ...]

#: The parts of a step whose time the probes take; what is left of the total is the user's own work between them.
PHASES = ("data", "forward", "backward", "step")


@dataclass(frozen=True, slots=True)
class Curve:
    """One value a step."""

    name: str
    values: Values

    @property
    def known(self) -> list[float]:
        return [value for value in self.values if value is not None]

    @property
    def constant(self) -> bool:
        """The value never moved over at least two steps."""
        known = self.known
        return len(known) > 1 and all(value == known[0] for value in known)


@dataclass(frozen=True, slots=True)
class Training:
    """The steps of one optimizer; or, in a run that has none, the backward passes (`optimizer` is then None).

    `rates` has a curve for each parameter group, without a name where there is one group.
    """

    name: str
    optimizer: int | None
    steps: tuple[int, ...]
    loss: Curve
    rates: tuple[Curve, ...]
    norm: Curve
    components: tuple[Curve, ...]
    times: tuple[Curve, ...]
    total: Curve
    skipped: int


@dataclass(frozen=True, slots=True)
class Examples:
    """What a few examples gave at each step of an optimizer: rows are steps, columns the examples, which are the first of a batch.

    `followed` says that it is the same batch in every step; else it is that of the step.
    """

    name: str
    followed: bool
    steps: tuple[int, ...]
    losses: tuple[Values, ...]
    predictions: tuple[tuple[Any, ...], ...]
    targets: tuple[tuple[Any, ...], ...]


def trainings(part: Part) -> list[Training]:
    """What each optimizer of the process did, in the order of their first steps."""
    of: dict[int, list[Row]] = {}
    for row in part.of("step"):
        of.setdefault(row.get("optimizer", -1), []).append(row)
    if not of:
        rows = [row for row in part.of("event") if row.get("action") == "backward"]
        return [_without_optimizer(rows)] if rows else []
    names = _names(part, of)
    return [_training(names[ident], ident, rows) for ident, rows in of.items()]


def examples(part: Part) -> list[Examples]:
    """The recorded examples of each optimizer; none where none were asked for. A batch of another size ends where it ends."""
    of: dict[int | None, list[Row]] = {}
    for row in part.of("examples"):
        of.setdefault(row.get("optimizer"), []).append(row)
    names = {training.optimizer: training.name for training in trainings(part)}
    return [_examples(names.get(ident, "") if len(of) > 1 else "", rows) for ident, rows in of.items()]


def _examples(name: str, rows: Sequence[Row]) -> Examples:
    followed = all(row.get("followed") is True for row in rows)
    losses = tuple(_numbers(row.get("loss")) for row in rows)
    predictions = tuple(tuple(_listed(row.get("prediction"))) for row in rows)
    targets = tuple(tuple(_listed(row.get("target"))) for row in rows)
    return Examples(name, followed, tuple(int(number(row.get("step")) or 0) for row in rows), losses, predictions, targets)


def memory(part: Part) -> list[Curve]:
    """Memory of the device and of the process in bytes, over the steps of all optimizers in their order; only what was recorded."""
    rows = part.of("step")
    device, process = _curve("device", (row.get("memory") for row in rows)), _curve("process", (row.get("rss") for row in rows))
    return [curve for curve in (device, process) if curve.known]


def whole(training: Training) -> float | None:
    """The last loss where the parts add up to it, so that each has a share in it; None where they are weighted or not finite."""
    last = [curve.values[-1] for curve in (training.loss, *training.components) if curve.values]
    known = [value for value in last if value is not None and math.isfinite(value)]
    if len(known) < 2 or len(known) != len(last) or not known[0]:
        return None
    return known[0] if math.isclose(known[0], math.fsum(known[1:]), rel_tol=1e-4) else None


def rate_name(curve: Curve) -> str:
    """What a learning rate is called among other curves."""
    return f"lr, {curve.name}" if curve.name else "lr"


def number(value: Any) -> float | None:
    """The value as a float where it is a number, else None."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def steps(part: Part) -> int:
    """How many optimizer steps the process made, over all of its optimizers."""
    return len(part.of("step"))


# ---------------------------------------------------------------- from rows


def _training(name: str, ident: int, rows: Sequence[Row]) -> Training:
    groups = max((len(_listed(row.get("lr"))) for row in rows), default=0)
    parts = dict.fromkeys(key for row in rows for key in _table(row.get("components")))
    if len(parts) == 1 and all(_only_part(row) for row in rows):
        parts = {}
    return Training(
        name,
        ident,
        tuple(int(number(row.get("step")) or 0) for row in rows),
        _curve("loss", (row.get("loss") for row in rows)),
        tuple(_curve(f"group {k}" if groups > 1 else "", (_item(row.get("lr"), k) for row in rows)) for k in range(groups)),
        _curve("gradient norm", (row.get("grad_norm") for row in rows)),
        tuple(_curve(str(key), (_table(row.get("components")).get(key) for row in rows)) for key in parts),
        tuple(curve for curve in (_curve(p, (_table(row.get("seconds")).get(p) for row in rows)) for p in PHASES) if curve.known),
        _curve("total", (_table(row.get("seconds")).get("total") for row in rows)),
        sum(row.get("skipped") is True for row in rows),
    )


def _only_part(row: Row) -> bool:
    """The step has one loss function, and its value is the loss: nothing that would have to be told apart."""
    loss, values = number(row.get("loss")), [number(value) for value in _table(row.get("components")).values()]
    return all(value == loss or (value is not None and loss is not None and math.isclose(value, loss, rel_tol=1e-6)) for value in values)


def _without_optimizer(rows: Sequence[Row]) -> Training:
    values = [_table(_table(row.get("arguments")).get("loss")).get("value") for row in rows]
    empty = Curve("", ())
    loss = _curve("loss", values)
    return Training("no optimizer", None, tuple(range(len(rows))), loss, (), empty, (), (), empty, 0)


def _names(part: Part, idents: Iterable[int]) -> dict[int, str]:
    """A name for each optimizer: its class, with the place it was made at where the class alone does not tell it from the others."""
    idents = list(idents)
    short = {ident: str(part.things.get(ident, {}).get("type", "optimizer")).rsplit(".", 1)[-1] for ident in idents}
    names: dict[int, str] = {}
    for ident, name in short.items():
        if list(short.values()).count(name) > 1:
            place = part.own_step(part.things.get(ident, {}).get("site"))
            name = f"{name} {place.file}:{place.line}" if place is not None else f"{name} {ident}"
        names[ident] = name if name not in names.values() else f"{name} ({ident})"
    return names


def _curve(name: str, values: Iterable[Any]) -> Curve:
    return Curve(name, tuple(number(value) for value in values))


def _numbers(values: Any) -> Values:
    return tuple(number(value) for value in _listed(values))


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _item(values: Any, index: int) -> Any:
    listed = _listed(values)
    return listed[index] if index < len(listed) else None


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
