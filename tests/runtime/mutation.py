"""One bug, written into a correct script of `fixtures/runtime` as a textual edit, and where a finding of it may stand."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from textwrap import indent

FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "runtime"
CLEAN = tuple(sorted(path.stem for path in FOLDER.glob("*.py")))
#: Shapes that run in two processes.
DISTRIBUTED = ("ddp",)

#: Rules whose mistake leaves no trace in a run, and why.
UNSEEN = {
    "lr-display-precision": "the format of a printed number changes nothing in the run",
    "scaler-state-not-saved": "a run of a few steps is not resumed",
    "redundant-log-softmax": "nothing in a run tells it: the loss is the same",
}

#: Rules about several processes.
SEVERAL = ("sampler-epoch-not-set", "loader-without-distributed-sampler")
AUTOCAST = 'with torch.autocast("cpu", dtype=torch.float16):'
BFLOAT = 'with torch.autocast("cpu", dtype=torch.bfloat16):'
SCALER = 'torch.amp.GradScaler("cpu", init_scale=256.0)'

Edit = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Mutation:
    """`edits` are made one after the other, each searched text being there exactly once.

    A finding stands where it should when it, or one of its labels, touches a line the edits wrote or one that holds a text of `at`.
    `also` are the rules that the same bug breaks as well. `name` tells apart two ways to break one rule.
    """

    shape: str
    rule: str
    edits: tuple[Edit, ...]
    at: tuple[str, ...] = ()
    also: frozenset[str] = frozenset()
    name: str = ""

    @property
    def id(self) -> str:
        return "-".join(part for part in (self.shape, self.rule, self.name) if part)

    def text(self) -> str:
        """The script with the bug in it."""
        text = source(self.shape)
        for old, new in self.edits:
            assert text.count(old) == 1, f"{self.id}: {text.count(old)} times in the script: {old!r}"
            text = text.replace(old, new)
        return text

    def lines(self) -> frozenset[int]:
        """The lines, from 1, at which the bug may be reported."""
        lines = self.text().splitlines()
        for part in self.at:
            assert any(part in line for line in lines), f"{self.id}: not in the script: {part!r}"
        same = SequenceMatcher(None, source(self.shape).splitlines(), lines, autojunk=False).get_opcodes()
        written = {n for kind, _, _, first, end in same if kind != "equal" for n in range(first + 1, end + 1)}
        return frozenset(written | {n for n, line in enumerate(lines, 1) if any(part in line for part in self.at)})


def source(shape: str) -> str:
    """The correct script."""
    return (FOLDER / f"{shape}.py").read_text(encoding="utf-8")


def script(shape: str) -> str:
    """The name a script has in its folder."""
    return f"{shape}.py"


def drop(text: str) -> Edit:
    return text, ""


def before(text: str, added: str) -> Edit:
    return text, added + text


def after(text: str, added: str) -> Edit:
    return text, text + added


def inside(header: str, block: str) -> Edit:
    """The block under a header that stands as deep as its first line."""
    depth = block[: len(block) - len(block.lstrip(" "))]
    return block, f"{depth}{header}\n" + indent(block, "    ")


class Shape:
    """Collects the mutations of one script."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.mutations: list[Mutation] = []
        self.absent: dict[str, str] = {}

    def breaks(self, rule: str, *edits: Edit, at: str | tuple[str, ...] = (), also: tuple[str, ...] = (), name: str = "") -> None:
        """The edits are a bug that the rule finds."""
        places = (at,) if isinstance(at, str) else at
        self.mutations.append(Mutation(self.name, rule, edits, places, frozenset(also), name))

    def cannot(self, reason: str, *rules: str) -> None:
        """The bugs of these rules cannot be written into this script."""
        for rule in rules:
            self.absent[rule] = reason
