"""A rule as its page declares it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """The header and the title of a page. `fixable` is derived: the page has a `fixed` block.

    `mentions` is the gate: every group must hold, a group holds when one of its words or regular expressions occurs in the bytes
    of some file of the project (flow rules) or of the file itself.
    """

    name: str
    topic: str
    title: str
    severity: str
    confidence: str
    default: bool
    since: str
    summary: str
    mentions: tuple[tuple[str, ...], ...] = ()
    formerly: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    fixable: bool = False

    @property
    def url(self) -> str:
        return f"https://github.com/mllint/mllint/blob/main/rules/{self.topic}/{self.name}.md"
