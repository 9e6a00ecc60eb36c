"""Findings and a run: which are confirmed, refuted, or out of its reach, and what only the run showed.

The detectors that read the code read the recorded History too. What they find there at the place of a finding confirms it; where
every place the finding names was run and they are silent, it is refuted. Rules that only a run can judge have detectors of their own
in `mllint.runtime.observed`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mllint.checks import MissingDetector, detector, function_name
from mllint.model.finding import Finding, Hit, Problem, Span
from mllint.model.history import History, Thing
from mllint.model.rule import Rule
from mllint.read.tables import Knowledge
from mllint.runtime.evidence import evidence
from mllint.runtime.record import Record
from mllint.runtime.rhythm import kept
from mllint.runtime.watched import Watched

CONFIRMED, REFUTED, NOT_REACHED = "confirmed", "refuted", "not reached"
NOT_OBSERVABLE, FAILED = "not observable here", "failed to run"
VERDICTS = (CONFIRMED, REFUTED, NOT_REACHED, NOT_OBSERVABLE, FAILED)

#: Fewer optimizer steps than these refute nothing: much happens only from the second turn on.
ENOUGH_STEPS = 2

#: Rules that say that something never happens. A run that was cut short inside its first epoch does not confirm them, and what never
#: happened in a few steps is no news where reading the code found nothing.
NEVER = frozenset(("scheduler-never-stepped", "scaler-never-used", "backward-without-step", "missing-zero-grad"))

#: Topics whose detectors of runs know better than those of code: modes, gradients and values are seen, not concluded.
TOLD_ALONE = frozenset(("evaluation", "losses", "distributed"))


@dataclass(frozen=True, slots=True)
class Seen:
    """A hit of a run, with what was seen."""

    rule: Rule
    hit: Hit
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The findings that were given, each with its verdict, and what only the run showed. `problems` are detectors that raised."""

    findings: tuple[Finding, ...]
    seen: tuple[Seen, ...]
    problems: tuple[Problem, ...] = ()


def judge(record: Record, findings: Sequence[Finding], rules: Mapping[str, Rule], root: str, knowledge: Knowledge) -> Judgement:
    """Say of each finding what the run shows, and find what only the run shows by those of `rules` that look at runs.

    `root` is the folder the record's relative file names start from; it is only read.
    """
    part = record.main
    if part is None:
        return Judgement(tuple(_unseen(finding, record, rules) for finding in findings), ())
    watched = Watched(record, part, root, knowledge)
    problems: list[Problem] = []
    said = {finding.rule for finding in findings}
    found = {n: list(_hits(rule, watched, n in said, problems)) for n, rule in rules.items() if n in said or "run" in rule.seen}
    judged = tuple(_judged(f, found.get(f.rule, []), watched, rules.get(f.rule)) for f in findings)
    taken = {id(hit) for f in findings for hit in found.get(f.rule, []) if _same(f.hit, hit)}
    seen = [
        Seen(rules[name], hit, evidence(name, watched, hit))
        for name, hits in found.items()
        if "run" in rules[name].seen and not _off(rules[name], watched)
        for hit in hits
        if hit.confidence in (None, "high") and id(hit) not in taken and hit.span.path and not hit.span.path.startswith(("/", "<"))
    ]
    return Judgement(judged, tuple(_distinct(seen)), tuple(problems))


def _distinct(seen: Iterable[Seen]) -> Iterator[Seen]:
    """One of several hits of a rule at one place: a run repeats itself."""
    told: set[tuple[str, str, int]] = set()
    for one in seen:
        where = (one.rule.name, one.hit.span.path, one.hit.span.line)
        if where not in told:
            told.add(where)
            yield one


# ---------------------------------------------------------------- detectors


def _hits(rule: Rule, watched: Watched, said: bool, problems: list[Problem]) -> Iterator[Hit]:
    """What the rule finds in the run: its detector on the recorded History, and the one that knows what only runs show.

    `said` tells that reading the code found something already.
    """
    try:
        own = observed(rule)
        alone = own is not None and rule.topic in TOLD_ALONE
        if "code" in rule.seen and not alone and (said or rule.name not in NEVER):
            yield from _by_history(rule, watched.history)
        if own is not None:
            yield from own(watched)
    except Exception as error:
        problems.append(Problem("internal", f"the rule {rule.name} failed on the run: {type(error).__name__}: {error}"))


def _by_history(rule: Rule, history: History) -> Iterator[Hit]:
    try:
        function = detector(rule)
    except MissingDetector:
        return
    if function.subject is History:
        yield from function(history)
    elif function.subject is Thing:
        for thing in history.all_things:
            if all(getattr(thing, key) == value for key, value in function.conditions.items()):
                yield from function(thing, history)


def observed(rule: Rule) -> Callable[[Watched], Iterable[Hit]] | None:
    """The detector of what only a run shows, where the rule has one."""
    name = f"mllint.runtime.observed.{function_name(rule.topic)}"
    try:
        module: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name in (name, "mllint.runtime.observed"):
            return None
        raise
    found: Callable[[Watched], Iterable[Hit]] | None = getattr(module, function_name(rule.name), None)
    return found


# ---------------------------------------------------------------- verdicts


def _judged(finding: Finding, hits: Sequence[Hit], watched: Watched, rule: Rule | None) -> Finding:
    def say(verdict: str, *sentences: str) -> Finding:
        return replace(finding, verdict=verdict, evidence=tuple(sentences))

    if rule is None or rule.observable == "never" or (rule.subject == "file" and observed(rule) is None):
        return say(NOT_OBSERVABLE, "nothing that happens in a run shows it")
    if off := _off(rule, watched):
        return say(NOT_OBSERVABLE, f"{' and '.join(off)} switched off by themselves: there is no CUDA device here")
    hit = next((hit for hit in hits if _same(finding.hit, hit)), None)
    missed = [s for s in _places(finding.hit) if (s.path, s.line) not in watched.reached]
    if hit is not None and (watched.settled or finding.rule not in NEVER):
        return say(CONFIRMED, *evidence(finding.rule, watched, hit))
    if hit is not None:
        return say(NOT_REACHED, "the run was stopped before an epoch was over")
    rhythm = kept(finding.rule, watched, finding.hit) if not missed else None
    if rhythm is not None:
        return say(CONFIRMED if rhythm else REFUTED, *evidence(finding.rule, watched, finding.hit))
    error = watched.record.error
    if missed and error is not None:
        return _unseen(finding, watched.record, {rule.name: rule})
    if missed:
        return say(NOT_REACHED, f"{missed[0].path}:{missed[0].line} did not run")
    if len(watched.steps) < ENOUGH_STEPS:
        return say(NOT_REACHED, f"the run ended after {len(watched.steps)} optimizer steps")
    return say(REFUTED, *evidence(finding.rule, watched, finding.hit))


def _off(rule: Rule, watched: Watched) -> list[str]:
    """What the rule needs to be active and is not."""
    return list(watched.part.end.get("disabled") or ()) if rule.observable == "active" else []


def _unseen(finding: Finding, record: Record, rules: Mapping[str, Rule]) -> Finding:
    """The verdict where the run never came to the finding."""
    rule = rules.get(finding.rule)
    if rule is None or rule.observable == "never":
        return replace(finding, verdict=NOT_OBSERVABLE, evidence=("nothing that happens in a run shows it",))
    error, problem = record.error, record.head.get("problem")
    if error is not None and needs_cuda(f"{error.get('type')}: {error.get('message')}"):
        return replace(finding, verdict=NOT_OBSERVABLE, evidence=(f"the command needs CUDA: {_first_line(error)}",))
    if error is not None:
        missing = error.get("missing")
        said = str(problem) if problem else f"missing: {missing}" if missing else _first_line(error)
        return replace(finding, verdict=FAILED, evidence=(said,))
    if record.head.get("exit_status") or record.head.get("ended") in ("time", "killed"):
        said = str(problem or f"exit status {record.head.get('exit_status')}")
        return replace(finding, verdict=FAILED, evidence=(said,))
    return replace(finding, verdict=NOT_REACHED, evidence=(str(problem or "the command took no training step"),))


def _first_line(error: Mapping[str, Any]) -> str:
    message = str(error.get("message") or "").strip().split("\n", 1)[0]
    return f"{error.get('type')}: {message}" if message else str(error.get("type"))


def needs_cuda(message: str) -> bool:
    """The error says that there is no CUDA device, or no CUDA in this build of torch."""
    signs = ("not compiled with CUDA", "Found no NVIDIA driver", "No CUDA GPUs", "CUDA is not available", "NCCL", "cuda runtime error")
    return any(sign in message for sign in signs)


def _same(a: Hit, b: Hit) -> bool:
    """Both speak of one place: the main one, or each names the other's main place."""
    first, second = _where(a.span), _where(b.span)
    if first == second:
        return True
    return first in {_where(s) for s in _places(b)} and second in {_where(s) for s in _places(a)}


def _where(span: Span) -> tuple[str, int]:
    return span.path, span.line


def _places(hit: Hit) -> list[Span]:
    return [hit.span, *(label.span for label in hit.labels)]
