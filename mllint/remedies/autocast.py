"""The forward pass of a loss, and the autocast region to put around it."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from mllint.checks.mixed_precision import forwards, region
from mllint.flow.anchors import Code, Line, Named, Spot, calls_of, imported, names_assigned, names_read, seen_from
from mllint.model.finding import Span
from mllint.model.fix import AddImport, Edit, Wrap
from mllint.model.history import Event, History, Thing

#: Statements that may not go into a region with the rest.
LEAVING = (ast.Return, ast.Break, ast.Continue, ast.Raise, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Yield, ast.YieldFrom)


@dataclass(frozen=True, slots=True)
class Forward:
    """The statements of a block that compute a loss, from the first call of a model to the value that goes backward.

    `covered`: they run under autocast already.
    """

    spot: Spot
    first: Line
    last: Line
    covered: bool

    @property
    def span(self) -> Span:
        start, end = self.spot.span_of(self.first.statement), self.spot.span_of(self.last.statement)
        return Span(start.path, start.line, start.column, end.end_line, end.end_column, start.cell)


def forward_of(code: Code, history: History, backward: Event, here: Spot) -> Forward | None:
    """The forward pass in front of the backward pass, in its block; None where it is not there as a whole, or of another precision."""
    calls = calls_of(backward.place)
    around = [e for e in forwards(history, backward) if e.thing is not None]
    regions = [region(e, backward) for e in around]
    if not around or any(r is not None and r.facts.get("dtype") not in (None, "float16") for r in regions):
        return None
    line = here.lines[-1]
    if all(regions):
        return Forward(here, line, line, True)
    if any(regions):
        return None
    indices = []
    for event in around:
        span = seen_from(event, calls)
        spot = code.spot(span) if span is not None else None
        index = next((n.index for n in spot.lines if n.block is line.block), None) if spot is not None else None
        if index is None or index >= line.index:
            return None
        indices.append(index)
    first, needed = min(indices), names_read(here.statement)
    computing = [n for n in range(first, line.index) if names_assigned(line.block[n]) & needed]
    if not computing:
        return None
    last = max(computing[-1], *indices)
    inside = [n for s in line.block[first : last + 1] for n in ast.walk(s)]
    if any(isinstance(n, LEAVING) for n in inside) or any(isinstance(n, ast.Attribute) and n.attr in ("backward", "step") for n in inside):
        return None
    return Forward(here, Line(line.owner, line.block, first), Line(line.owner, line.block, last), False)


def autocast(code: Code, scaler: Thing, name: Named, spot: Spot) -> tuple[Edit, ...] | None:
    """The region that goes with the scaler, written with what the file imports: an import where it needs one, and a Wrap without place."""
    call = code.call(scaler.made_at)
    if call is None or not scaler.type.startswith("torch."):
        return None
    device = device_of(call, scaler)
    switch = f"enabled={name.text} is not None" if name.optional else f"enabled={name.text}.is_enabled()" if switched(call) else ""
    if device is None:
        return None
    edits: list[Edit] = []
    old = imported(spot, "torch.cuda.amp", "autocast")
    new = imported(spot, "torch.amp", "autocast") or imported(spot, "torch", "autocast")
    if device == "cuda" and old is not None and old.count(".") < 2:
        text = f"{old}({switch})"
    else:
        if new is None and not imports_torch(spot):
            edits.append(AddImport(spot.span.path, "torch", cell=spot.span.cell))
        text = f'{new or "torch.autocast"}("{device}"{", " if switch else ""}{switch})'
    return (*edits, Wrap(spot.span, f"with {text}:"))


def imports_torch(spot: Spot) -> bool:
    names = (a for s in spot.file.tree.body if isinstance(s, ast.Import) for a in s.names if not a.asname)
    return any(a.name.partition(".")[0] == "torch" for a in names)


def device_of(call: ast.Call, scaler: Thing) -> str | None:
    """The kind of device the scaler is for; None where that is not written there."""
    if scaler.type.startswith("torch.cuda."):
        return "cuda"
    given = next((k.value for k in call.keywords if k.arg == "device"), call.args[0] if call.args else None)
    if given is None:
        return "cuda"
    return given.value if isinstance(given, ast.Constant) and isinstance(given.value, str) else None


def switched(call: ast.Call) -> bool:
    """Something says whether the scaler does anything."""
    return any(k.arg in ("enabled", None) for k in call.keywords)
