"""Detectors of the topic distributed: what each of several processes sees, and where it computes."""

from __future__ import annotations

from collections.abc import Iterator

from mllint.checks import each
from mllint.flow.lexical import CodeFile
from mllint.flow.loaders import DISTRIBUTED, sampled, unshuffled
from mllint.model.finding import Hit


@each(CodeFile)
def shuffle_with_distributed_sampler(code: CodeFile) -> Iterator[Hit]:
    for call, sampler, classes in sampled(code):
        if classes & DISTRIBUTED:
            yield Hit(
                code.span(call),
                f"a loader is told to shuffle beside the DistributedSampler `{code.text(sampler)}`, and refuses with a ValueError",
                fix=unshuffled(code, call),
            )
