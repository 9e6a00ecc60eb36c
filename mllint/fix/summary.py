"""What `mllint fix` shows: diffs, questions, and what it says at the end."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from typing import IO

from mllint.fix.files import Editable, kind_of
from mllint.fix.rounds import Fixed, Result
from mllint.model.finding import Finding
from mllint.report import printable, where


def diff(path: str, old: bytes, new: bytes, kind: str | None = None) -> str:
    """A unified diff as `git apply` and `patch` read it."""
    encoding = Editable(path, old, kind_of(path, kind)).encoding
    lines = difflib.unified_diff(_lines(old.decode(encoding)), _lines(new.decode(encoding)), f"a/{path}", f"b/{path}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _lines(text: str) -> list[str]:
    parts = text.split("\n")
    return [part + "\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


class Asking:
    """Shows each fix and waits for an answer."""

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self.kinds = kinds
        self.always = False

    def ask(self, finding: Finding, old: Mapping[str, bytes], new: Mapping[str, bytes]) -> bool | None:
        """True to make the fix, False not to, None to make no more."""
        if self.always:
            return True
        assert finding.hit.fix is not None
        out = sys.stdout
        out.write(f"{where(finding.span)}  {finding.rule}  {printable(finding.hit.message)}\n")
        for path in sorted(new):
            out.write(diff(path, old[path], new[path], self.kinds.get(path)))
        while True:
            out.write(f"{printable(finding.hit.fix.title)} ({finding.hit.fix.safety})? [y]es, [n]o, [a]ll, [q]uit: ")
            out.flush()
            line = sys.stdin.readline()
            answer = line.strip().lower()[:1]
            if not line or answer == "q":
                out.write("\n" if not line else "")
                return None
            if answer in ("y", "a"):
                self.always = answer == "a"
                return True
            if answer == "n":
                return False


def tell(result: Result, left: list[Finding], out: IO[str], *, would: str = "fixed", unsafe: bool = False) -> None:
    """What was fixed, what was skipped and why, what is left, and a line that counts them."""
    skipped = {id(s.finding): s for s in result.skipped}
    reasons = {s.finding.key: s.reason for s in result.skipped}
    for fixed in result.fixed:
        out.write(f"{would}  {_line(fixed)}\n")
    for one in skipped.values():
        out.write(f"skipped  {where(one.finding.span)}  {one.finding.rule}  {printable(one.reason)}\n")
    rest = [f for f in left if f.key not in reasons]
    for finding in rest:
        more = "  (needs --unsafe-fixes)" if _needs_unsafe(finding, unsafe) else ""
        out.write(f"left  {where(finding.span)}  {finding.rule}  {printable(finding.hit.message)}{more}\n")
    for problem in result.outcome.report.problems:
        kind = "note" if problem.kind == "limit" else "problem"
        out.write(f"{kind}  {where(problem)}  {printable(problem.message)}\n")
    more_unsafe = sum(_needs_unsafe(finding, unsafe) for finding in rest)
    done = "fixed" if would == "fixed" else "would be fixed"
    counts = [f"{len(result.fixed)} {done}", f"{len(skipped)} skipped", f"{len(left)} left"]
    hint = f"; {more_unsafe} more with --unsafe-fixes" if more_unsafe else ""
    out.write(f"{', '.join(counts)}{hint}\n")


def _line(fixed: Fixed) -> str:
    others = [path for path in fixed.paths if path != fixed.finding.span.path]
    also = f" (in {', '.join(map(printable, others))})" if others else ""
    return f"{where(fixed.finding.span)}  {fixed.finding.rule}  {printable(fixed.fix.title)}{also}"


def _needs_unsafe(finding: Finding, unsafe: bool) -> bool:
    return finding.hit.fix is not None and finding.hit.fix.safety == "unsafe" and not unsafe
