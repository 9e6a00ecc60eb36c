"""Data loaders: passes cut short, in iteration and in length alike, and what each pass was for."""

import sys
import time
import weakref
from typing import Any, Dict, List, Optional, Tuple

from . import events, patching, sites, state, steps, stopping, things, values, writer

#: Times the usual batches a pass gives where the program counts on its length.
ROOM = 4
_cuts: Dict[int, Tuple[Any, int]] = {}  # id(loader) -> (weak loader, batches a pass gives)
_fixed: Dict[int, Any] = {}  # loaders whose length the program counts on
_passes: Dict[int, "_Pass"] = {}  # id(iterator) -> its pass
_by_data: Dict[int, Tuple[Any, int]] = {}  # id(dataset) -> (weak dataset, the loader made of it)
_numbers: Dict[int, int] = {}  # thing -> passes begun
_length: List[Any] = []  # the original __len__


class _Pass:
    """One pass over a loader, from its first batch to its end."""

    def __init__(self, loader: Any, number: int, site: int, cut: int) -> None:
        self.loader = weakref.ref(loader)
        self.thing = things.ident(loader)
        self.number = number
        self.site = site
        self.cut = cut
        self.batches = 0
        self.truncated = False
        self.taken = 0.0
        self.exhausted = False
        self.last = False  # the one backward pass that may follow its end has been let through
        self.ended = False
        self.steps = 0
        self.backwards = 0
        self.quiet = 0  # forwards without gradient
        self.facts: Dict[str, Any] = {}
        self.iterator: Any = None


def install() -> None:
    """Attach to loaders and their iterators, whose own types stay what they are."""
    from torch.utils.data import dataloader

    kind = dataloader.DataLoader
    patching.each_class(kind, lambda cls: patching.constructor(cls, _made))
    _length.append(kind.__dict__["__len__"])
    setattr(kind, "__len__", _measured(kind.__dict__["__len__"]))  # noqa: B010
    patching.method(kind, "__iter__", state.guarded(_before_iter), state.guarded(_after_iter))
    base = dataloader._BaseDataLoaderIter
    setattr(base, "__next__", _next(base.__dict__["__next__"]))  # noqa: B010
    samplers()


def samplers() -> None:
    """Attach to DistributedSampler.set_epoch."""
    from torch.utils.data import distributed

    def before(args: Any, kwargs: Any) -> int:
        return sites.here()

    def after(site: int, args: Any, kwargs: Any, result: Any, failed: bool) -> None:
        if not failed:
            epoch = args[1] if len(args) > 1 else kwargs.get("epoch")
            events.write("set_epoch", _owner(args[0]), site, {"epoch": values.value(epoch)})

    patching.method(distributed.DistributedSampler, "set_epoch", state.guarded(before), state.guarded(after))


_samplers: Dict[int, Tuple[Any, int]] = {}


def _owner(sampler: Any) -> Optional[int]:
    entry = _samplers.get(id(sampler))
    return entry[1] if entry is not None and entry[0]() is sampler else None


def sampler_of(loader: Any) -> Any:
    """The sampler that orders the data: wrappers of frameworks keep it inside the batch sampler."""
    found = getattr(loader, "sampler", None)
    inner = getattr(loader, "batch_sampler", None)
    for _ in range(5):
        below = getattr(inner, "batch_sampler", None)
        if below is None:
            break
        inner = below
    deep = getattr(inner, "sampler", None)
    return deep if deep is not None else found


def _made(loader: Any, function: Any, args: Any, kwargs: Any, site: int) -> None:
    follow(loader, site, values.bound(function, args, kwargs, 1))


def follow(loader: Any, site: int, arguments: Optional[Dict[str, Any]] = None) -> int:
    """The number of a loader, made known now if it was not."""
    known = things.ident(loader)
    if known is None:
        data = getattr(loader, "dataset", None)
        first = _by_data.get(id(data))
        # a framework that prepares a loader makes another one over the same data
        again = [first[1]] if first is not None and first[0]() is data and sites.framework(site) else []
        known = things.add(loader, "loader", site, arguments, None, again)
        if data is not None and hasattr(type(data), "__weakref__") and not again:
            _by_data[id(data)] = (things._weak(data, _by_data), known)
        for sampler in (sampler_of(loader), getattr(loader, "sampler", None)):
            if sampler is not None and hasattr(sampler, "__dict__"):
                _samplers[id(sampler)] = (things._weak(sampler, _samplers), known)
    return known


def real_length(loader: Any) -> Optional[int]:
    """The length without the cut, or None when the data have none."""
    try:
        return int(_length[0](loader))
    except Exception:  # a dataset of the program's may raise anything here
        return None


def cut_of(loader: Any) -> int:
    """How many batches a pass over the loader gives at first."""
    entry = _cuts.get(id(loader))
    return entry[1] if entry is not None and entry[0]() is loader else int(state.run.options["batches"])


def _measured(original: Any) -> Any:
    asked = state.guarded(_asked)

    def __len__(self: Any) -> int:
        length: int = original(self)
        if state.run.off or state.thread.busy:
            return length
        asked(self, sys._getframe(1))
        return min(length, cut_of(self))

    return patching.disguised(__len__, original)


def _asked(loader: Any, frame: Any) -> None:
    """The program itself asks for the length before any pass: to count on it, in a schedule, a division, the last batch of a pass.

    The answer must then hold, so it leaves room for a window of accumulation, and passes end exactly there. Libraries ask to show
    progress, or to run as many batches as there are; they get the short pass.
    """
    if id(loader) in _cuts or not sites.of_program(frame):
        return
    cut = ROOM * int(state.run.options["batches"])
    _cuts[id(loader)] = (things._weak(loader, _cuts), cut)
    _fixed[id(loader)] = things._weak(loader, _fixed)


# ---- what a pass was for ------------------------------------------------------------------------------------------------------------

_current: List["_Pass"] = []  # the passes whose batches are being worked on
_closing: List["_Pass"] = []  # passes that ended and are not written yet
_worked = [False]  # something happened since the last batch was taken


def _taken(entry: _Pass) -> None:
    """A batch was taken from a pass: what happens next is for it, and for those taken from just before (two loaders in one zip)."""
    _write_closed()
    if _worked[0]:
        _worked[0] = False
        del _current[:]
    if entry not in _current:
        _current.append(entry)


def happened(what: str) -> None:
    """Count a step, a backward pass or a forward without gradient ("steps", "backwards", "quiet") for the pass it belongs to."""
    _worked[0] = True
    mine = [p for p in _current if not p.ended]
    if not mine:
        # frameworks take a batch ahead: what ended a moment ago may still be worked on, if this is the kind of work it is for
        mine = [p for p in _closing if p in _current and (what == "quiet" or p.backwards)]
    if not mine:
        # the batch was taken before a validation began, inside a training pass
        last = max((p for p in _passes.values() if not p.ended and p.batches), key=lambda p: p.taken, default=None)
        mine = [last] if last is not None and (what != "quiet" or not _closing) else []
    for entry in mine:
        setattr(entry, what, getattr(entry, what) + 1)


def ahead() -> bool:
    """The passes that are worked on have just ended: a batch taken ahead is still to come. True once for each."""
    just = [p for p in _current if p.ended and not p.last]
    for entry in just:
        entry.last = True
    return bool(just) and all(p.ended for p in _current)


# ---- passes -------------------------------------------------------------------------------------------------------------------------


def _before_iter(args: Any, kwargs: Any) -> int:
    return sites.here()


def _after_iter(site: int, args: Any, kwargs: Any, result: Any, failed: bool) -> None:
    if failed:
        return
    loader = args[0]
    number = follow(loader, site)
    for entry in [p for p in _passes.values() if p.thing == number]:
        if entry.iterator is not None and (entry.iterator() is None or entry.iterator() is result):
            _end(entry)  # a persistent iterator begins again without having ended
    _numbers[number] = _numbers.get(number, 0) + 1
    entry = _Pass(loader, _numbers[number], site, cut_of(loader))
    real = real_length(loader)
    sampler = sampler_of(loader)
    entry.facts = {
        "length": None if real is None else min(real, entry.cut),
        "real_length": real,
        "sampler": type(sampler).__name__ if sampler is not None else None,
        "epoch": values.value(getattr(sampler, "epoch", None)),
        "shuffle": _shuffles(sampler),
    }
    _passes[id(result)] = entry
    key = id(result)
    # a loop left by `break` drops its iterator at once
    entry.iterator = weakref.ref(result, lambda _: _dropped(key, entry))
    stopping.stopper.pass_began()
    events.write("iter", number, site, {"length": entry.facts["length"], "real_length": real}, {"epoch": entry.facts["epoch"]})


def _shuffles(sampler: Any) -> Optional[bool]:
    names = {k.__name__ for k in type(sampler).__mro__}
    if names & {"RandomSampler", "SubsetRandomSampler", "WeightedRandomSampler", "SeedableRandomSampler"}:
        return True
    if "SequentialSampler" in names:
        return False
    shuffle = getattr(sampler, "shuffle", None)
    return shuffle if isinstance(shuffle, bool) else None


_gone = state.guarded(lambda key, entry: _end(entry))


def _dropped(key: int, entry: _Pass) -> None:
    if _passes.get(key) is entry:
        del _passes[key]
    _gone(key, entry)


def _next(original: Any) -> Any:
    probe = state.guarded(_is_over)
    counted = state.guarded(_counted)
    ended = state.guarded(_end)

    def __next__(self: Any) -> Any:
        entry = None if state.run.off else _passes.get(id(self))
        if entry is None or entry.iterator() is not self:
            return original(self)
        if probe(entry):
            raise StopIteration
        began = time.perf_counter()
        try:
            batch = original(self)
        except StopIteration:
            entry.exhausted = True
            ended(entry)
            raise
        counted(entry, time.perf_counter() - began)
        return batch

    return patching.disguised(__next__, original)


def _is_over(entry: _Pass) -> bool:
    """The pass has given enough: its share, or more while a training pass has not come to two optimizer steps."""
    if entry.ended:
        return True
    loader = entry.loader()
    if loader is not None and id(loader) in _fixed:
        entry.cut = cut_of(loader)  # asked in the middle of the first pass, often whether this is the last batch
    if entry.batches < entry.cut:
        return False
    fewest = 1 if id(loader) in _fixed else 2
    if entry.backwards and entry.steps < fewest and entry.batches < 8 * int(state.run.options["batches"]):
        return False
    entry.truncated = entry.facts["real_length"] is None or entry.facts["real_length"] > entry.batches
    if loader is not None and entry.batches > entry.cut:
        _cuts[id(loader)] = (things._weak(loader, _cuts), entry.batches)
    _end(entry)
    return True


def _counted(entry: _Pass, seconds: float) -> None:
    entry.batches += 1
    entry.taken = time.perf_counter()
    _taken(entry)
    steps.spent("data", seconds)


def _end(entry: _Pass) -> None:
    if entry.ended:
        return
    entry.ended = True
    if entry.batches:
        entry.facts["n"] = state.run.events
        _closing.append(entry)
        stopping.stopper.pass_ended(bool(entry.backwards))


def _write_closed() -> None:
    """Write the passes that ended: with the next batch of any loader it is known that nothing more belongs to them."""
    while _closing:
        entry = _closing.pop(0)
        grad = "eval" if not entry.backwards else ("mixed" if entry.quiet else "train")
        fields: Dict[str, Any] = {"k": "pass", "loader": entry.thing, "number": entry.number, "batches": entry.batches}
        real = entry.facts["real_length"]
        length = entry.facts["length"] = None if real is None else min(real, entry.cut)
        # a loop over range(len(loader)) or a framework that asks for the length stops by itself at the cut
        counted_out = real is not None and length is not None and length <= entry.batches < real and not entry.exhausted
        fields["truncated"] = entry.truncated or counted_out
        fields.update(entry.facts, site=entry.site, grad=grad, steps=entry.steps, backwards=entry.backwards)
        writer.line(fields)


def end_all() -> None:
    """Write the training passes that are still open when the run ends."""
    for entry in list(_passes.values()):
        if not entry.ended and entry.backwards:
            entry.facts["open"] = True
            _end(entry)
    _write_closed()
