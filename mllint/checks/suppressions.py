"""Detectors of the topic suppressions: what the comments that speak to mllint did in this run."""

from __future__ import annotations

from collections.abc import Iterator

from mllint.checks import each
from mllint.model.finding import Hit
from mllint.model.mark import Mark


@each(Mark)
def unused_ignore(mark: Mark) -> Iterator[Hit]:
    """A comment that hides nothing would hide the mistake when it comes back."""
    for name in mark.unused:
        yield Hit(mark.span, f"`ignore[{name}]` hides nothing here; take it out before it hides a new mistake")


@each(Mark)
def unknown_ignore(mark: Mark) -> Iterator[Hit]:
    """A misspelt comment looks like a decision and is none."""
    for name, hint in mark.unknown:
        yield Hit(mark.span, f"`{name}` is nothing that mllint knows, so the comment hides nothing{hint}")
