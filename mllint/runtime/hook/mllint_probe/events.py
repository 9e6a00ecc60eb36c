"""Events, in the order of the process, with the contexts that are active around them."""

from typing import Any, Dict, Optional

from . import state, writer

counts: Dict[str, int] = {}


def write(
    action: str,
    thing: Optional[int],
    site: Optional[int] = None,
    arguments: Optional[Dict[str, Any]] = None,
    observed: Optional[Dict[str, Any]] = None,
    via: Optional[int] = None,
    depth: int = 0,
) -> int:
    """Write one event at its site (here, when none is given) and return its number."""
    from . import contexts, sites

    if site is None:
        site = sites.here()
    with state.run.lock:
        number = state.run.events
        state.run.events = number + 1
        counts[action] = counts.get(action, 0) + 1
    if number < state.EVENTS or action == "step":
        fields: Dict[str, Any] = {"k": "event", "n": number, "t": round(state.now(), 6), "action": action, "thing": thing, "site": site}
        fields["via"] = via
        fields["arguments"] = arguments or {}
        fields["observed"] = observed or {}
        fields["depth"] = depth
        fields["contexts"] = contexts.active()
        writer.line(fields)
    return number


def room() -> bool:
    """Events are still being written."""
    return state.run.events < state.EVENTS
