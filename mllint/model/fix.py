"""Fixes as small values: what to change, carried out later by `mllint.fix`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from mllint.model.finding import Span

SAFETIES = ("safe", "unsafe", "shown")


@dataclass(frozen=True, slots=True)
class Replace:
    """Put `text` where `span` is."""

    span: Span
    text: str


Edit: TypeAlias = Replace


@dataclass(frozen=True, slots=True)
class Fix:
    """A named set of edits that belong together. `safety` is one of SAFETIES."""

    title: str
    safety: str
    edits: tuple[Edit, ...]
