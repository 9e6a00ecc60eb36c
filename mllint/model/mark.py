"""A comment that speaks to mllint, once it is known what it did."""

from __future__ import annotations

from dataclasses import dataclass

from mllint.model.finding import Span


@dataclass(frozen=True, slots=True)
class Mark:
    """One `# mllint: ...` comment after the run: what in it hid nothing, and what in it nobody understands.

    `unused` are names of rules or topics that were looked for and hid nothing. `unknown` pairs what is not understood with the
    sentence that helps ("; did you mean `scheduler-never-stepped`?").
    """

    span: Span
    text: str
    unused: tuple[str, ...] = ()
    unknown: tuple[tuple[str, str], ...] = ()
