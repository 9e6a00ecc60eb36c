"""The charts of a run as Plotly figures: plain data that the page draws in the colours of the reader's scheme.

Colours are not in here: `meta.color` is the number of a colour of the page.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mllint.runtime.curves import Curve, Examples, Training, examples, memory, trainings, whole
from mllint.runtime.record import Part, Record

MIB = 1 << 20
COLORS = 8  # of the page; further lines begin anew

Trace = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Chart:
    """One figure: a title, the axes, the traces, and a sentence below it where the numbers need one."""

    name: str
    title: str
    y: str
    traces: list[Trace]
    note: str = ""
    x: str = "optimizer step"
    layout: dict[str, Any] = field(default_factory=dict)

    def figure(self) -> dict[str, Any]:
        """What Plotly takes."""
        layout: dict[str, Any] = {"xaxis": {"title": {"text": self.x}}, "yaxis": {"title": {"text": self.y}}}
        layout["showlegend"] = len(self.traces) > 1
        if max((x for trace in self.traces for x in trace["x"]), default=0) <= 12:
            # Plotly would put marks between the steps.
            layout["xaxis"]["dtick"] = 1
        for key, value in self.layout.items():
            layout[key] = {**layout[key], **value} if isinstance(value, dict) and isinstance(layout.get(key), dict) else value
        return {"data": self.traces, "layout": layout}


def charts(record: Record) -> list[Chart]:
    """Every chart the record has numbers for."""
    part = record.main
    if part is None:
        return []
    several = trainings(part)
    found = [_losses(record, part, several), *_components(several), _rates(part, several), _norms(several), *_times(several), _memory(part)]
    return [chart for chart in (*found, *(_examples(k, known) for k, known in enumerate(examples(part)))) if chart.traces]


# ---------------------------------------------------------------- each chart


def _losses(record: Record, part: Part, several: Sequence[Training]) -> Chart:
    traces, notes, marks = [], [], _edges(part, several)
    for number, training in enumerate(several):
        traces.append(_line(training.steps, training.loss, training.name if len(several) > 1 else "loss", number))
        if bad := _not_finite(training.steps, training.loss):
            notes.append(f"The loss {f'of {training.name} ' if len(several) > 1 else ''}was not finite at {_listed(bad)}.")
            marks += [{"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "meta": "bad"} for x in bad]
    for other in record.trained[1:]:
        for training in trainings(other):
            trace = _line(training.steps, training.loss, f"{training.name if len(several) > 1 else 'loss'}, rank {other.rank}", len(traces))
            traces.append(trace)
    traces = [trace for trace in traces if any(y is not None for y in trace["y"])]
    x = "backward pass" if several and several[0].optimizer is None else "optimizer step"
    if skipped := sum(training.skipped for training in several):
        notes.append(f"The gradient scaler skipped {skipped} {'step' if skipped == 1 else 'steps'}.")
    if any(mark.get("meta") == "pass" for mark in marks):
        notes.append("Dotted lines: a pass over the data ends.")
    return Chart("loss", "Loss", "loss", traces, " ".join(notes), x, {"shapes": marks, **_log([t.loss for t in several])})


def _components(several: Sequence[Training]) -> Iterator[Chart]:
    for training in several:
        if training.components:
            traces = [_line(training.steps, curve, curve.name, number + 1) for number, curve in enumerate(training.components)]
            total = _line(training.steps, training.loss, "total", 0)
            total["line"] = {"dash": "dot"}
            title = "Parts of the loss" + (f", {training.name}" if len(several) > 1 else "")
            note = "" if whole(training) is not None else "Parts as their functions gave them, before any weight: they do not add up."
            layout = _log([training.loss, *training.components])
            yield Chart(f"parts-{training.optimizer}", title, "loss", [total, *traces], note, layout=layout)


def _rates(part: Part, several: Sequence[Training]) -> Chart:
    traces: list[Trace] = []
    for training in several:
        for curve in training.rates:
            name = ", ".join(word for word in (training.name if len(several) > 1 else "", curve.name) if word)
            traces.append(_line(training.steps, curve, name, len(traces)))
            traces[-1]["line"] = {"shape": "hv"}
    note = "It never moved." if traces and all(curve.constant for training in several for curve in training.rates) else ""
    layout = {"yaxis": {"rangemode": "tozero", "exponentformat": "e"}, "shapes": _edges(part, several)}
    return Chart("lr", "Learning rate", "learning rate", traces, note, layout=layout)


def _norms(several: Sequence[Training]) -> Chart:
    traces, notes = [], []
    for number, training in enumerate(several):
        if training.norm.known:
            traces.append(_line(training.steps, training.norm, training.name, number))
            if bad := _not_finite(training.steps, training.norm):
                notes.append(f"{training.name}: not finite at {_listed(bad)}.")
    layout = _log([training.norm for training in several]) or {"yaxis": {"rangemode": "tozero"}}
    return Chart("norm", "Gradient norm", "norm of all gradients", traces, " ".join(notes), layout=layout)


def _times(several: Sequence[Training]) -> Iterator[Chart]:
    for training in several:
        heights = [_height(training, k) for k in range(len(training.steps))]
        if not any(heights):
            continue
        traces = [_bars(training.steps, curve, number) for number, curve in enumerate(training.times)]
        rest = [_rest(training, k) for k in range(len(training.steps))]
        if any(rest):
            traces.append({**_bars(training.steps, Curve("between", tuple(rest)), 0), "meta": {"color": COLORS - 1}})
        layout: dict[str, Any] = {"barmode": "stack", "legend": {"traceorder": "normal"}}
        note, others = "", heights[1:]
        if others and heights[0] > 3 * max(others):
            layout["yaxis"] = {"range": [0, max(others) * 1250]}
            note = f"The first step took {heights[0] * 1000:.0f} ms and is cut off."
        title = "Time a step" + (f", {training.name}" if len(several) > 1 else "")
        yield Chart(f"time-{training.optimizer}", title, "milliseconds", traces, note, layout=layout)


def _memory(part: Part) -> Chart:
    traces, notes = [], []
    for number, curve in enumerate(memory(part)):
        first = curve.known[0]
        grown = tuple(None if value is None else (value - first) / MIB for value in curve.values)
        traces.append(_line(range(len(grown)), Curve(curve.name, grown), curve.name, number))
        notes.append(f"{curve.name} {first / MIB:,.0f} MiB")
    return Chart("memory", "Memory, growth since the first step", "MiB", traces, f"At the first step: {', '.join(notes)}." if notes else "")


def _examples(number: int, known: Examples) -> Chart:
    count = max(map(len, known.losses), default=0)
    traces = []
    for k in range(count):
        values = tuple(row[k] if k < len(row) else None for row in known.losses)
        traces.append(_line(known.steps, Curve("", values), f"example {k}", k if known.followed else 0))
        if not known.followed:
            traces[-1]["mode"] = "markers"  # a line would join examples that have nothing to do with each other
        if count > COLORS or not known.followed:
            traces[-1]["opacity"] = 0.5
    layout = {"showlegend": known.followed and 1 < count <= COLORS, **_log([Curve("", row) for row in known.losses])}
    title = "Loss of each example of the first batch" if known.followed else f"Loss of the first {count} examples of each batch"
    title += f", {known.name}" if known.name else ""
    return Chart(f"examples-{number}", title, "loss", traces, layout=layout)


# ---------------------------------------------------------------- pieces


def _line(xs: Sequence[int], curve: Curve, name: str, color: int) -> Trace:
    """Names come from the user's code, and Plotly reads tags in them: they are escaped."""
    mode = "lines+markers" if len(xs) <= 60 else "lines"
    return {
        "type": "scatter", "mode": mode, "name": html.escape(name), "x": list(xs), "y": [_plain(value) for value in curve.values],
        "meta": {"color": color % COLORS}, "hovertemplate": "%{y:.6g}",
    }  # fmt: skip


def _bars(xs: Sequence[int], curve: Curve, color: int) -> Trace:
    values = [None if value is None else _plain(value * 1000) for value in curve.values]
    name = "optimizer" if curve.name == "step" else curve.name
    return {
        "type": "bar", "name": name, "x": list(xs), "y": values, "meta": {"color": color}, "hovertemplate": "%{y:.3g} ms",
    }  # fmt: skip


def _height(training: Training, k: int) -> float:
    """The time of a step: the first has no step before it to count from, so that it is as long as its phases."""
    total = training.total.values[k]
    return total if total is not None else sum(curve.values[k] or 0 for curve in training.times)


def _rest(training: Training, k: int) -> float | None:
    total = training.total.values[k]
    if total is None or not training.times:
        return total
    return max(total - sum(curve.values[k] or 0 for curve in training.times), 0)


def _edges(part: Part, several: Sequence[Training]) -> list[dict[str, Any]]:
    """A mark after the last step of each training pass but the last; only where the steps of one optimizer make the axis."""
    if len(several) != 1 or several[0].optimizer is None:
        return []
    at = [row.get("n", 0) for row in part.of("step")]
    ends = {sum(n < row.get("n", 0) for n in at) for row in part.of("pass") if row.get("grad") == "train"}
    places = sorted(end - 0.5 for end in ends if 0 < end < len(at))
    return [{"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "meta": "pass"} for x in places]


def _log(curves: Sequence[Curve]) -> dict[str, Any]:
    """A logarithmic axis where the values are positive and span more than two decades."""
    known = [value for curve in curves for value in curve.known if math.isfinite(value)]
    if known and min(known) > 0 and max(known) / min(known) > 100:
        return {"yaxis": {"type": "log", "exponentformat": "power", "dtick": 1}}
    return {}


def _not_finite(xs: Sequence[int], curve: Curve) -> list[int]:
    return [x for x, value in zip(xs, curve.values, strict=False) if value is not None and not math.isfinite(value)]


def _plain(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return f"{'step' if len(numbers) == 1 else 'steps'} {shown}{' and later' if len(numbers) > 8 else ''}"
