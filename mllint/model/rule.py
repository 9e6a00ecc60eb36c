"""A rule as its page declares it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """The header and the title of a page. `fixable` is derived: the page has a `fixed` block.

    `mentions` is the gate: every group must hold, a group holds when one of its words or regular expressions occurs in the bytes
    of some file of the project (flow rules) or of the file itself.

    `seen` says how mistakes are found: "code" by reading it, "run" by watching it run (then a run reports what reading overlooked).
    `observable` says what a run needs to judge a finding: "always" enough, "active" autocast and scaling that did not switch
    themselves off, "never".
    `subject` is what its detector is asked about: the "program", followed from its entries, or one "file" after the other.
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
    seen: tuple[str, ...] = ("code",)
    observable: str = "always"
    subject: str = "program"

    @property
    def url(self) -> str:
        return f"https://github.com/mllint/mllint/blob/main/rules/{self.topic}/{self.name}.md"
