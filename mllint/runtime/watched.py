"""One process of a run as the detectors and the evidence see it: its rows, its History, and where in the source they belong."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from mllint.model.finding import Span
from mllint.model.history import Event, Frame, History, Thing
from mllint.read.tables import Knowledge
from mllint.runtime.record import Part, Record, Row
from mllint.runtime.replay import replay
from mllint.runtime.structure import Structure


class Watched:
    """The process of the lowest rank that trained. `part` holds its rows, `history` what they make."""

    def __init__(self, record: Record, part: Part, root: str, knowledge: Knowledge) -> None:
        self.record = record
        self.part = part
        self.structure = Structure(root)
        self.knowledge = knowledge
        self._places: dict[int, tuple[Frame, ...]] | None = None

    @cached_property
    def history(self) -> History:
        return replay(self.part, self.structure, self.knowledge)

    def place(self, site: int) -> tuple[Frame, ...]:
        """The frames around the first event of a site."""
        if self._places is None:
            self._places = {}
            sites = {row["n"]: row["site"] for row in self.part.of("event")}
            for event in self.history.events_in_order:
                self._places.setdefault(sites[event.observations["n"]], event.place)
        return self._places.get(site, ())

    @property
    def steps(self) -> list[Row]:
        """One row for each optimizer step: rates, loss, norms, times; see the record's contract."""
        return self.part.of("step")

    @property
    def passes(self) -> list[Row]:
        """One row for each pass over a loader that ended."""
        return self.part.of("pass")

    @property
    def settled(self) -> bool:
        """An epoch was over, or there are none: what never happened until then is not only late."""
        if self.part.end.get("reason") == "exit":
            return True
        return bool(self.passes) or not any(row["action"] == "iter" for row in self.part.of("event"))

    def span(self, site: int | None) -> Span | None:
        """The place of a site in the user's own code; None where only libraries were on the stack."""
        step = self.part.own_step(site)
        return self.structure.span(step) if step is not None and step.own else None

    def rates(self, optimizer: Thing | None) -> list[float]:
        """The learning rate of the first parameter group at each step of the optimizer, of any where none is named."""
        rows = [row for row in self.steps if optimizer is None or row.get("optimizer") == optimizer.id]
        return [float(row["lr"][0]) for row in rows if row.get("lr")]

    def names(self, params: list[int], most: int = 3) -> str:
        """Parameters as a sentence names them: the first few, and how many more."""
        known = [str(self.part.params[p].get("name") or f"parameter {p}") for p in params if p in self.part.params]
        shown = ", ".join(f"`{name}`" for name in known[:most])
        return shown + (f" and {len(known) - most} more" if len(known) > most else "")

    def at(self, span: Span, *actions: str) -> list[Event]:
        """The events that happened on this line."""
        events = self.history.events(None, *actions) if actions else self.history.events_in_order
        return [e for e in events if (e.span.path, e.span.line) == (span.path, span.line)]

    @cached_property
    def reached(self) -> frozenset[tuple[str, int]]:
        """Every line of the project known to have run: calls on a stack, the statements around them, places things were made at."""
        return frozenset(self._reached())

    def _reached(self) -> Iterator[tuple[str, int]]:
        for stack in self.part.stacks.values():
            for step in stack:
                if step.own:
                    span = self.structure.span(step)
                    yield step.file, step.line
                    yield from ((step.file, line) for line in self.structure.heads(step))
                    yield span.path, span.line
                    for block in self.structure.blocks(step):
                        yield block.span.path, block.span.line
                        if block.header is not None:
                            yield block.header.path, block.header.line
        for event in self.history.events_in_order:
            for frame in event.place:
                yield frame.span.path, frame.span.line
