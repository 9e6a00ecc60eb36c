"""The gate: which files can matter at all, told from their bytes.

A file is of interest when it names something the lifecycle rules follow. Everything else is read only when code of interest
imports it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from mllint.model.rule import Rule

#: Literals, each searched with `in`: the cheapest test there is. One of them must occur in a file of interest.
WORDS = (
    b"backward(", b"GradScaler", b"_schedule", b"Scheduler", b"torch.optim", b"optim.", b"import optim", b"get_last_lr", b"param_groups",
)  # fmt: skip

#: What a comment that speaks to us holds.
MARK = b"mllint:"

#: What starts a program: a main guard, or a line at the left margin that does something.
STARTS = re.compile(rb"\n(?:if\s+__name__\s*==|for |while |with |[A-Za-z_][\w.]*\((?:[^\n]*\))?[ \t\r]*(?:#[^\n]*)?\n)")
#: A pattern that starts with one certain byte is searched several times faster than one that starts with `^`.
IMPORTS = re.compile(rb"\n[ \t]*(?:from[ \t]+([.\w]+)[ \t]+import|import[ \t]+([\w., \t]+))")

#: Attributes and names whose use is something the rules follow; the first are common words, which count only where they are called.
CALLED = frozenset(("step", "scale"))
ACTIVE = frozenset(
    ("backward", "zero_grad", "clip_grad_norm_", "clip_grad_value_", "autocast", "GradScaler", "unscale_", "configure_optimizers")
)
ACTING = re.compile(rb"\b(?:" + "|".join(sorted(CALLED | ACTIVE)).encode() + rb")\b")

#: The last part of a dotted name in a table, which is what code that uses it holds.
NAMES = re.compile(rb"\w\.([A-Za-z_]\w*)\b(?![.*])")


def words(tables: Iterable[str]) -> tuple[bytes, ...]:
    """The words of interest: ours, and the names in tables of the user's own."""
    more: set[bytes] = set()
    for path in tables:
        try:
            with open(path, "rb") as stream:
                more.update(NAMES.findall(stream.read()))
        except OSError:
            continue  # whoever reads the table says so
    return (*WORDS, *sorted(more))


def of_interest(data: bytes, words: Iterable[bytes] = WORDS) -> bool:
    """The bytes name something that lifecycle rules follow."""
    return any(word in data for word in words)


def starts_program(data: bytes) -> bool:
    return STARTS.search(b"\n" + data + b"\n") is not None


def imported(data: bytes) -> list[str]:
    """The modules a file imports, as written (leading dots kept)."""
    names: list[str] = []
    for source, several in IMPORTS.findall(b"\n" + data):
        if source:
            names.append(source.decode())
        else:
            names.extend(n.split(b" as ")[0].strip().decode() for n in several.split(b","))
    return names


class RuleGate:
    """Which rules can fire in a project: every group of a rule's `mentions` occurs in some file."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.open: set[str] = set()
        self._groups: dict[str, list[tuple[str, ...]]] = {}
        for rule in rules:
            if rule.mentions:
                self._groups[rule.name] = list(rule.mentions)
            else:
                self.open.add(rule.name)
        self._patterns: dict[tuple[str, ...], re.Pattern[bytes]] = {}

    def see(self, data: bytes) -> None:
        """Take one more file into account."""
        for name, groups in list(self._groups.items()):
            left = [g for g in groups if not self._pattern(g).search(data)]
            if left:
                self._groups[name] = left
            else:
                del self._groups[name]
                self.open.add(name)

    def closed(self) -> dict[str, list[tuple[str, ...]]]:
        """The rules that cannot fire by the files seen so far, with what is still missing."""
        return dict(self._groups) if not self.open else {}

    def join(self, closed: dict[str, list[tuple[str, ...]]]) -> None:
        """Take into account what was seen elsewhere."""
        if self.open:
            return
        for name, groups in list(self._groups.items()):
            left = [g for g in groups if g in closed.get(name, ())]
            if left:
                self._groups[name] = left
            else:
                del self._groups[name]
                self.open.add(name)

    def _pattern(self, group: tuple[str, ...]) -> re.Pattern[bytes]:
        known = self._patterns.get(group)
        if known is None:
            known = self._patterns[group] = re.compile("|".join(f"(?:{p})" for p in group).encode())
        return known


#: What a regular expression holds that is more than a word, when nothing in it is escaped.
SPECIAL = re.compile(r"[\\.^$*+?{}\[\]|()]")


class FileGate:
    """Which rules about the text of one file can fire in it: every group of a rule's `mentions` occurs in its own bytes."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = [(rule.name, [test_of(group) for group in rule.mentions]) for rule in rules]

    def open_in(self, data: bytes) -> frozenset[str]:
        """The names of the rules that can fire in a file of these bytes."""
        return frozenset(name for name, groups in self._rules if all(holds(data) for holds in groups))


def test_of(group: tuple[str, ...]) -> Callable[[bytes], bool]:
    """Whether bytes hold one of these expressions; plain words are searched as such, which is many times faster."""
    plain = [re.sub(r"\\(\W)", r"\1", word) for word in group]
    if all(SPECIAL.search(re.sub(r"\\\W", "", word)) is None for word in group):
        words = [word.encode() for word in plain]
        return lambda data: any(word in data for word in words)
    # One by one: each is searched by the letters it begins with, which an alternation of them is not.
    patterns = [re.compile(expression.encode()) for expression in group]
    return lambda data: any(pattern.search(data) is not None for pattern in patterns)
