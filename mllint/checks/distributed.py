"""Detectors of the topic distributed: what each of several processes sees, and where it computes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from mllint.checks import each
from mllint.flow.lexical import CodeFile
from mllint.flow.loaders import DISTRIBUTED, arms, sampled, scope_of, surely, unshuffled
from mllint.flow.questions import called, path
from mllint.flow.registration import last_name
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
    if not any(e.thing is not None and e.thing.kind in ("optimizer", "engine") for e in history.events(None, "step")):
        return None  # gradients alone (a measure of importance) are no training
    for event in history.lap(batches):
        if event.action not in ("backward", "step") or made is None:
            continue
        turns = event.turns()
        place = next(n for n, f in enumerate(turns) if f.key == batches.key)
        kept = [f for f in turns[:place] if all(f.key != own.key for own in made.turns())]
        return next((f for f in kept if f.size is None or f.size.constant != 1), None)
    return None


#: Where each process is given a device of its own, in any file of the project.
PER_RANK = re.compile(
    rb"set_device|CUDA_VISIBLE_DEVICES|cuda\.device\(|init_device_mesh|device_index\s*=|hvd\.|deepspeed|Accelerator\(|fabric"
)
PARALLEL = frozenset(("torch.nn.parallel.DistributedDataParallel", "torch.nn.parallel.distributed.DistributedDataParallel"))


@each(CodeFile)
def device_not_set_per_rank(code: CodeFile) -> Iterator[Hit]:
    for call in code.all(ast.Call):
        # asked by its first letter before by its meaning, which costs a walk over the whole file
        if not call.args or not last_name(call.func)[:1].isupper() or code.dotted(call.func) not in PARALLEL:
            continue
        moved = next((m for m in moves(code, call) if first_device(code, m)), None)
        if moved is None or any(PER_RANK.search(code.project.bytes_of(path)) for path in code.project.files):
            continue
        yield Hit(
            code.span(moved),
            f"`{code.text(moved)}` puts the model of every process on the first device, because no process chooses one of its own",
            path((code.span(moved), "the same device for all"), (code.span(call), "one copy of the model for each process")),
        )


def moves(code: CodeFile, call: ast.Call) -> Iterator[ast.Call]:
    """The calls that put the model on a device: around it in the call, in its assignment, or in a statement before."""
    model = call.args[0]
    yield from (n for n in (model, surely(code, model)) if isinstance(n, ast.Call))
    scope, name = scope_of(code, call), ast.dump(model)
    for node in ast.walk(scope):
        moved = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and ast.dump(node.func.value) == name
        if moved and scope_of(code, node) is scope and node.lineno < call.lineno and arms(code, node) <= arms(code, call):  # type: ignore[attr-defined]
            yield node  # type: ignore[misc]


def first_device(code: CodeFile, call: ast.Call) -> bool:
    """`.cuda()`, or `.to` of a device that is written as `cuda` or `cuda:0`."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in ("cuda", "to"):
        return False
    if not call.args:
        return call.func.attr == "cuda" and not call.keywords
    device = surely(code, call.args[0])
    if isinstance(device, ast.Call) and code.dotted(device.func) == "torch.device" and len(device.args) == 1:
        device = device.args[0]
    if isinstance(device, ast.IfExp):
        device = device.body
    return isinstance(device, ast.Constant) and device.value in (("cuda", "cuda:0") if call.func.attr == "to" else (0, "cuda", "cuda:0"))
