"""Graphs that outlive their step: a sentinel in each graph says exactly which are alive, and keeps none of them so."""

from typing import Any, Dict, List, Optional, Tuple

from . import events, graph, state, writer

FIRST = 3  # nothing can be said before this many steps
_watched: Dict[Tuple[Optional[int], int], List[Tuple[Any, int]]] = {}  # (thing, site) -> (weak sentinel, step)
_steps = [0]


def watch(tensor: Any, thing: Optional[int], site: int) -> None:
    """Follow the graph of a tensor: a module's output, a loss."""
    reference = graph.watch(tensor)
    if reference is not None:
        with state.run.lock:
            _watched.setdefault((thing, site), []).append((reference, _steps[0]))


def at_step() -> None:
    """Write which graphs are alive at this optimizer step."""
    _steps[0] += 1
    for (thing, site), entries in list(_watched.items()):
        entries[:] = [entry for entry in entries if entry[0]() is not None]
        if _steps[0] >= FIRST and entries and (events.room() or len(entries) > 2):
            alive = sorted({step for _, step in entries})
            writer.line({"k": "retained", "thing": thing, "site": site, "alive": alive, "now": _steps[0] - 1, "n": state.run.events})
