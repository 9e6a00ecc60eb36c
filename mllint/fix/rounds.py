"""Fixes in rounds: apply what does not overlap, look again, keep what made its finding go away and brought no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from mllint.config import Config, Selection
from mllint.discover import Discovery
from mllint.fix.files import Editable, edits_by_path, kind_of
from mllint.fix.match import matched
from mllint.fix.patch import Declined, Plan
from mllint.model.finding import SEVERITIES, Finding, Problem
from mllint.model.fix import Fix
from mllint.pages import Page
from mllint.session import Outcome, scan

#: A round changes what the first one could not yet see; what still changes after so many goes in circles.
ROUNDS = 4

#: The outcome of a scan with the bytes of some files replaced.
Judge: TypeAlias = Callable[[Mapping[str, bytes]], Outcome]

#: A finding, and its files' bytes without and with the fix: True to make it, False not to, None to stop asking and make no more.
Ask: TypeAlias = Callable[[Finding, Mapping[str, bytes], Mapping[str, bytes]], bool | None]


@dataclass(frozen=True, slots=True)
class Fixed:
    """A finding that is gone, and the files that were changed for it."""

    finding: Finding
    fix: Fix
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A finding whose fix was not made, and why."""

    finding: Finding
    reason: str


@dataclass(slots=True)
class Result:
    """What the rounds came to. `old` and `new` hold the bytes of every file that changes; nothing of it is written yet.

    `outcome` is that of the project with these changes; `judge` gives that of any others.
    """

    outcome: Outcome
    judge: Judge
    fixed: list[Fixed] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    old: dict[str, bytes] = field(default_factory=dict)
    new: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Candidate:
    finding: Finding
    fix: Fix
    plans: Mapping[str, Plan]

    def clashes(self, other: _Candidate) -> bool:
        return any(path in other.plans and plan.clashes(other.plans[path]) for path, plan in self.plans.items())


class Rounds:
    """One run of `fix` over a project.

    `judge` scans the project with some bytes replaced. `wanted` says whose findings are to be fixed, `refusal` why a file must not
    be changed. `ask`, where it is given, is shown each fix that holds, with the old and new bytes of its files, and decides.
    """

    def __init__(
        self,
        judge: Judge,
        *,
        kinds: Mapping[str, str],
        allowed: frozenset[str],
        wanted: Callable[[Finding], bool] = lambda finding: True,
        refusal: Callable[[str, bytes], str | None] = lambda path, data: None,
        ask: Ask | None = None,
    ) -> None:
        self.judge = judge
        self.kinds = kinds
        self.allowed = allowed
        self.wanted = wanted
        self.refusal = refusal
        self.ask = ask
        self.result = Result(judge({}), judge)
        self._refused: dict[str, Skipped] = {}
        self._editable: dict[str, Editable] = {}
        self._stopped = False
        self._last: tuple[dict[str, bytes], Outcome] | None = None

    def run(self) -> Result:
        """Round after round, until nothing more changes."""
        result = self.result
        postponed: list[_Candidate] = []
        for _ in range(ROUNDS):
            self._editable.clear()
            batch, postponed = self._batch(self._candidates())
            accepted = self._one_by_one(batch) if self.ask is not None else self._settled(batch)
            if not accepted:
                # What waited for those that were refused has its turn.
                if not (batch and postponed):
                    break
                continue
            bytes_after = self._applied(accepted)
            assert bytes_after is not None
            for path, data in bytes_after.items():
                result.old.setdefault(path, result.outcome.bytes_of(path))
                result.new[path] = data
            result.fixed += [Fixed(c.finding, c.fix, tuple(c.plans)) for c in accepted]
            result.outcome = self._judged(result.new)
        else:
            self._editable.clear()
            for candidate in self._candidates():
                self._refuse(candidate.finding, f"still waits for other fixes after {ROUNDS} rounds; run again")
        gone = {path for path, data in result.new.items() if data == result.old[path]}
        for path in gone:
            del result.old[path], result.new[path]
        here = {f.key for f in result.outcome.report.shown}
        result.skipped = [skipped for skipped in self._refused.values() if skipped.finding.key in here]
        return result

    # ------------------------------------------------------------- candidates

    def _candidates(self) -> list[_Candidate]:
        found = []
        for finding in self.result.outcome.report.shown:
            fix = finding.hit.fix
            if fix is None or fix.safety not in self.allowed or finding.key in self._refused or not self.wanted(finding):
                continue
            try:
                found.append(_Candidate(finding, fix, self._plans(fix)))
            except Declined as error:
                self._refuse(finding, str(error))
            except Exception as error:  # an edit nobody thought of must not cost the other fixes
                self._refuse(finding, f"failed: {type(error).__name__}: {error}")
        return found

    def _plans(self, fix: Fix) -> dict[str, Plan]:
        plans = {}
        for path, edits in edits_by_path(fix).items():
            if path not in self._editable:
                data = self.result.outcome.bytes_of(path)
                reason = self.refusal(path, self.result.old.get(path, data))
                if reason is not None:
                    raise Declined(f"{path} {reason}")
                self._editable[path] = Editable(path, data, kind_of(path, self.kinds.get(path)))
            plan = self._editable[path].plan(edits)
            if self._editable[path].changed(plan.patches) != self._editable[path].data:
                plans[path] = plan
        if not plans:
            raise Declined("it changes nothing")
        return plans

    def _batch(self, candidates: Iterable[_Candidate]) -> tuple[list[_Candidate], list[_Candidate]]:
        """Those that can be made together, and those that wait for the next round."""
        batch: list[_Candidate] = []
        postponed: list[_Candidate] = []
        for candidate in candidates:
            (postponed if any(candidate.clashes(other) for other in batch) else batch).append(candidate)
        return batch, postponed

    def _refuse(self, finding: Finding, reason: str) -> None:
        self._refused[finding.key] = Skipped(finding, reason)

    # ------------------------------------------------------------ verification

    def _applied(self, candidates: Sequence[_Candidate]) -> dict[str, bytes] | None:
        """The bytes of every file the candidates change; None where they cannot be made together."""
        patches: dict[str, list[Plan]] = {}
        for candidate in candidates:
            for path, plan in candidate.plans.items():
                patches.setdefault(path, []).append(plan)
        try:
            return {path: self._editable[path].changed(p for plan in plans for p in plan.patches) for path, plans in patches.items()}
        except Declined:
            return None

    def _complaints(self, candidates: Sequence[_Candidate]) -> tuple[list[_Candidate], str | None]:
        """Those whose findings are still there after all were made, and what came up that was not there before."""
        changed = self._applied(candidates)
        if changed is None:
            return [], "does not go together with another fix"
        before, after = self.result.outcome, self._judged({**self.result.new, **changed})
        pairs, fresh = matched(before.report.shown, after.report.shown, self._editable, [c.plans for c in candidates])
        stay = [c for c in candidates if c.finding in pairs]
        worst = max(SEVERITIES.index(c.finding.severity) for c in candidates)
        for finding in fresh:
            if SEVERITIES.index(finding.severity) <= worst:
                where = f"{finding.span.path}:{finding.span.line}"
                return stay, f"would bring {finding.rule} at {where}: {finding.hit.message}"
        known = {_place(p) for p in before.report.problems}
        for problem in after.report.problems:
            if problem.kind != "limit" and _place(problem) not in known:
                return stay, f"would bring a problem: {problem.path}: {problem.message}"
        return stay, None

    def _judged(self, overlay: Mapping[str, bytes]) -> Outcome:
        """The outcome with these bytes; what was judged last is not judged again."""
        if self._last is None or self._last[0] != overlay:
            self._last = (dict(overlay), self.judge(overlay))
        return self._last[1]

    def _settled(self, batch: Sequence[_Candidate]) -> list[_Candidate]:
        """The most of a batch that holds together; the rest is refused, or waits where only the company is wrong."""
        batch = list(batch)
        while batch:
            stay, fresh = self._complaints(batch)
            if fresh is None and not stay:
                return batch
            if len(batch) == 1:
                self._refuse(batch[0].finding, fresh or "the finding would still be there")
                return []
            if fresh is not None:
                break
            for candidate in stay:
                if len(stay) == len(batch):
                    break
                self._refuse(candidate.finding, "the finding would still be there")
            if len(stay) == len(batch):
                break
            batch = [c for c in batch if c not in stay]
        if not batch:
            return []
        half = len(batch) // 2
        first, second = self._settled(batch[:half]), self._settled(batch[half:])
        if not first or not second:
            return first or second
        stay, fresh = self._complaints([*first, *second])
        return [*first, *second] if not stay and fresh is None else first

    def _one_by_one(self, batch: Sequence[_Candidate]) -> list[_Candidate]:
        """Each fix that holds, with those before it, as a person decides."""
        accepted: list[_Candidate] = []
        assert self.ask is not None
        for candidate in batch:
            if self._stopped:
                self._refuse(candidate.finding, "not asked about")
                continue
            stay, fresh = self._complaints([*accepted, candidate])
            if stay or fresh is not None:
                self._refuse(candidate.finding, fresh or "the finding would still be there")
                continue
            before = {
                path: self._editable[path].changed(p for c in accepted if path in c.plans for p in c.plans[path].patches)
                for path in candidate.plans
            }
            after = self._applied([*accepted, candidate]) or {}
            answer = self.ask(candidate.finding, before, {path: after[path] for path in candidate.plans})
            if answer:
                accepted.append(candidate)
            else:
                self._stopped = answer is None
                self._refuse(candidate.finding, "not wanted" if answer is False else "not asked about")
        return accepted


def fix_project(
    found: Discovery,
    config: Config,
    pages: Mapping[str, Page],
    *,
    unsafe: bool = False,
    select: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    extend_select: Sequence[str] = (),
    tables: Sequence[str] = (),
    refusal: Callable[[str, bytes], str | None] = lambda path, data: None,
    ask: Ask | None = None,
    only: frozenset[str] | None = None,
) -> Result:
    """The fixes of the selected rules, in memory; with `only` those of the findings with these keys.

    What a fix must not bring are findings of these rules or any the settings select.
    """
    selection = Selection(config, {name: page.rule for name, page in pages.items()}, select, ignore, extend_select)

    def judge(overlay: Mapping[str, bytes]) -> Outcome:
        more = (*(select or ()), *extend_select)
        return scan(found, config, pages, ignore=ignore, extend_select=more, tables=tables, overlay=overlay)

    rounds = Rounds(
        judge,
        kinds={file.path: file.kind for file in found.files},
        allowed=frozenset(("safe", "unsafe") if unsafe else ("safe",)),
        wanted=lambda finding: finding.rule in selection.at(finding.span.path) and (only is None or finding.key in only),
        refusal=refusal,
        ask=ask,
    )
    return rounds.run()


def _place(problem: Problem) -> Problem:
    return replace(problem, line=None, column=None)


def groups(result: Result) -> list[list[str]]:
    """The changed files, those that one fix touches together in one group: they are written together or not at all."""
    group_of: dict[str, list[str]] = {path: [path] for path in result.new}
    for fixed in result.fixed:
        paths = [path for path in fixed.paths if path in group_of]
        for path in paths[1:]:
            first, other = group_of[paths[0]], group_of[path]
            if first is not other:
                first += other
                for moved in other:
                    group_of[moved] = first
    found: list[list[str]] = []
    for group in group_of.values():
        if not any(group is other for other in found):
            found.append(group)
    return found
