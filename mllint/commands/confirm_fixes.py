"""`mllint fix --confirm`: the training command runs without and with the fixes; what the runs do not confirm is put back."""

from __future__ import annotations

import difflib
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mllint.commands.compare_runs import changed
from mllint.commands.runtime_check import Checked, Project, check
from mllint.config import ConfigError
from mllint.fix.rounds import Result, Skipped
from mllint.model.finding import Finding, Span
from mllint.runtime.command import LaunchError, Options
from mllint.runtime.compare import SEED
from mllint.runtime.confirm import CONFIRMED, REFUTED

#: Makes the fixes of some findings, given by their keys.
Make = Callable[[frozenset[str]], Result]

#: Each time fixes are put back, the ones that stay are run again; more often than this nothing is learnt.
RUNS = 3


def confirmed(line: str, project: Project, result: Result, make: Make) -> Result:
    """The fixes that the runs confirm: the finding shows without the fix and is gone with it. The others count as skipped, with the
    reason. Raises ConfigError for a command that cannot be started."""
    try:
        command = shlex.split(line)
    except ValueError as error:
        raise ConfigError(f"--confirm: {error}") from error
    if not command:
        raise ConfigError("--confirm takes a command that trains, such as `python train.py`")
    options = Options(seed=SEED)
    first = [fixed.finding for fixed in result.fixed]
    try:
        before = check(command, project, options, findings=first, show=sys.stderr)
        reasons = {f.key: _not_shown(f) for f in _of(before, first) if f.verdict != CONFIRMED}
        kept = frozenset(f.key for f in first) - reasons.keys()
        for _ in range(RUNS):
            trial = make(kept)
            if not trial.new:
                break
            fixed = [one.finding for one in trial.fixed]
            with changed(project, "fixed", dict(trial.new)) as tree:
                after = check(command, project, options, findings=[_moved(f, trial) for f in fixed], show=sys.stderr, tree=tree)
            left = {f.key: _not_gone(f) for f in _of(after, fixed) if f.verdict != REFUTED}
            if not left:
                break
            reasons |= left
            kept -= left.keys()
        else:
            trial = make(frozenset())
            reasons |= dict.fromkeys(kept, "put back: what the runs say of it changes with every run")
    except LaunchError as error:
        raise ConfigError(f"--confirm: {error}") from error
    made = {one.finding.key for one in trial.fixed}
    by_key = {finding.key: finding for finding in first}
    known = {skipped.finding.key for skipped in (*trial.skipped, *result.skipped)}
    trial.skipped += [skipped for skipped in result.skipped if skipped.finding.key not in {s.finding.key for s in trial.skipped}]
    for key, finding in by_key.items():
        if key not in made and key not in known:
            trial.skipped.append(Skipped(finding, reasons.get(key, "cannot be made without another fix that was put back")))
    return trial


def _of(checked: Checked, findings: Sequence[Finding]) -> list[Finding]:
    """The findings with the verdicts of a run."""
    keys = {finding.key for finding in findings}
    return [finding for finding in checked.findings if finding.key in keys]


def _not_shown(finding: Finding) -> str:
    why = f" ({'; '.join(finding.evidence)})" if finding.evidence else ""
    if finding.verdict == REFUTED:
        return f"put back: the run says that the finding is not so{why}"
    return f"put back: the run cannot confirm it: {finding.verdict}{why}"


def _not_gone(finding: Finding) -> str:
    why = f" ({'; '.join(finding.evidence)})" if finding.evidence else ""
    if finding.verdict == CONFIRMED:
        return f"put back: the run still shows it with the fix{why}"
    return f"put back: the run with the fix cannot confirm that it is gone: {finding.verdict}{why}"


# ------------------------------------------------- places after the fixes


def _moved(finding: Finding, result: Result) -> Finding:
    """The finding at the lines its places have become. The key stays, by which it is known again."""
    hit = finding.hit
    labels = tuple(replace(label, span=_line_after(label.span, result.old, result.new)) for label in hit.labels)
    return replace(finding, hit=replace(hit, span=_line_after(hit.span, result.old, result.new), labels=labels))


def _line_after(span: Span, old: Mapping[str, bytes], new: Mapping[str, bytes]) -> Span:
    """The line a line has become: the same text if it still stands or has moved, else what stands in its place."""
    if span.path not in old or span.cell is not None:
        return span
    was, now = (data[span.path].decode("utf-8", "replace").splitlines() for data in (old, new))
    at = span.line - 1
    for kind, start, end, begin, stop in difflib.SequenceMatcher(None, was, now, autojunk=False).get_opcodes():
        if not start <= at < end:
            continue
        if kind == "equal":
            return _at_line(span, begin + at - start)
        text = was[at].strip()
        twins = [n for n, line in enumerate(now) if line.strip() == text]
        nearest = min(twins, key=lambda n: abs(n - begin)) if twins else min(begin + at - start, max(stop - 1, begin))
        return _at_line(span, min(nearest, len(now) - 1))
    return span


def _at_line(span: Span, index: int) -> Span:
    return replace(span, line=index + 1, end_line=index + 1 + span.end_line - span.line)
