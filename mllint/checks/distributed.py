"""Detectors of the topic distributed: what each of several processes sees, and where it computes."""

from __future__ import annotations

from collections.abc import Iterator

from mllint.checks import each
from mllint.flow.lexical import CodeFile
from mllint.flow.loaders import DISTRIBUTED, sampled, unshuffled
from mllint.flow.questions import called, path
from mllint.model.finding import Hit
from mllint.model.history import Frame, History, Thing


@each(CodeFile)
def shuffle_with_distributed_sampler(code: CodeFile) -> Iterator[Hit]:
    for call, sampler, classes in sampled(code):
        if classes & DISTRIBUTED:
            yield Hit(
                code.span(call),
                f"a loader is told to shuffle beside the DistributedSampler `{code.text(sampler)}`, and refuses with a ValueError",
                fix=unshuffled(code, call),
            )


@each(Thing, kind="sampler")
def sampler_epoch_not_set(sampler: Thing, history: History) -> Iterator[Hit]:
    shuffle = sampler.arguments.get("shuffle")
    if not history.never(sampler, "set_epoch") or (shuffle is not None and shuffle.constant is not True):
        return
    for loader in history.partners(sampler, "loader"):
        if not history.never(loader, "set_epoch") or "prepared_by" in loader.facts:
            continue
        for loop in history.loops_over(loader):
            epochs = epochs_around(history, sampler, loop)
            if epochs is not None:
                yield Hit(
                    loop.span,
                    f"every epoch sees the data in the same order, because `set_epoch` of {called(sampler)} is never called",
                    path((sampler.made_at, "created here"), (epochs.span, "the epochs"), (loop.span, "the batches")),
                    confidence=None if sampler.sure and loader.sure else "medium",
                )
                return


def epochs_around(history: History, sampler: Thing, batches: Frame) -> Frame | None:
    """The loop over epochs around a training pass over the batches, where the sampler is the same in all of them."""
    made = history.made(sampler)
    for event in history.lap(batches):
        if event.action not in ("backward", "step") or made is None:
            continue
        turns = event.turns()
        place = next(n for n, f in enumerate(turns) if f.key == batches.key)
        kept = [f for f in turns[:place] if all(f.key != own.key for own in made.turns())]
        return next((f for f in kept if f.size is None or f.size.constant != 1), None)
    return None
