"""One run: files in, a report out. Hits of the detectors become findings under the name and the settings of their rule."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mllint.config import Config, ConfigError, Selection, nearest
from mllint.discover import Discovery
from mllint.model.finding import CONFIDENCES, Finding, Hit, Problem, Report, Span
from mllint.model.rule import Rule
from mllint.pages import Page

if TYPE_CHECKING:
    from mllint.checks import Detector

SUPPRESSIONS = "suppressions"

#: Files with work for the rules about single files from which on a second process does it.
MANY_MATCHED = 12


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has to show, and how to show the lines it speaks of.

    `bytes_of` gives the bytes of a file as they were judged.
    """

    report: Report
    rules: Mapping[str, Rule]
    files: int
    line_of: Callable[[Span], str]
    bytes_of: Callable[[str], bytes]


def scan(
    discovery: Discovery,
    config: Config,
    pages: Mapping[str, Page],
    *,
    select: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    extend_select: Sequence[str] = (),
    tables: Sequence[str] = (),
    advance: Callable[..., None] | None = None,
    overlay: Mapping[str, bytes] | None = None,
) -> Outcome:
    """Look for every selected rule in the files that were found. `tables` are the paths of tables of the user's own;
    `advance` is told of each file; `overlay` are bytes to judge in the place of those that some files hold."""
    from mllint.flow.project import Project

    rules = {name: page.rule for name, page in pages.items()}
    selection = Selection(config, rules, select, ignore, extend_select)
    project = Project(
        discovery.root, list(discovery.files), discovery.selected, tables, named=discovery.named, advance=advance, overlay=overlay
    )
    if tables:
        _check_tables(project)
    return _Run(project, discovery, selection, pages).outcome()


def findings_of_a_run(
    discovery: Discovery,
    config: Config,
    pages: Mapping[str, Page],
    hits: Iterable[tuple[Rule, Hit]],
    select: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
) -> list[Finding]:
    """What a run showed, as findings of a scan are: at their severity, with their keys, hidden by comments, paths and the baseline."""
    from mllint.flow.project import Project

    selection = Selection(config, {name: page.rule for name, page in pages.items()}, select, ignore)
    project = Project(discovery.root, list(discovery.files), discovery.selected, named=discovery.named)
    return _Run(project, discovery, selection, pages).told(hits)


def _check_tables(project: Any) -> None:
    """A table that is wrong stops the run, even where nothing would have asked it."""
    from mllint.read.tables import TableError

    try:
        _ = project.knowledge
    except TableError as error:
        raise ConfigError(str(error)) from error


class _Run:
    """The steps of one run and what they hand on."""

    def __init__(self, project: Any, discovery: Discovery, selection: Selection, pages: Mapping[str, Page]) -> None:
        self.project = project
        self.discovery = discovery
        self.selection = selection
        self.config = selection.config
        self.pages = pages
        self.problems: list[Problem] = []
        self.histories: Sequence[Any] = ()
        self._failed: set[tuple[str, str | None]] = set()

    def outcome(self) -> Outcome:
        wanted = self.selection.wanted
        about_code = [page for name, page in sorted(self.pages.items()) if name in wanted and _read_for(page.rule)]
        hits = list(self._hits(about_code)) if about_code else []
        findings = self._findings(hits)
        findings = self._suppressed(findings, wanted)
        low = 0
        shown: list[Finding] = []
        threshold = CONFIDENCES.index(self.config.confidence)
        for finding in sorted(findings, key=Finding.sort_key):
            if not self._asked_about(finding.hit):
                continue
            if CONFIDENCES.index(finding.confidence) < threshold:
                low += 1
            else:
                shown.append(finding)
        shown = self._mended(shown)
        problems = tuple(dict.fromkeys((*self.discovery.problems, *self.project.problems, *self.problems)))
        report = Report(tuple(shown), tuple(p for p in problems if self._concerns(p)))
        report = replace(report, counts=self._counts(report, low))
        return Outcome(report, self.selection.rules, self.discovery.checked, self.line_of, self.bytes_of)

    def _counts(self, report: Report, low: int) -> dict[str, int]:
        visible = report.shown
        counts = {"files": self.discovery.checked, "findings": len(visible), "suppressed": len(report.findings) - len(visible)}
        counts |= {level: sum(f.severity == level for f in visible) for level in ("error", "warning", "info")}
        return counts | {"low_confidence": low, "problems": len(report.problems)}

    # ------------------------------------------------------------ detectors

    def _hits(self, wanted: Sequence[Page]) -> Iterator[tuple[Rule, Hit]]:
        from mllint.flow import processes

        self._attempt(lambda: self.project.look_over([page.rule for page in wanted]))
        about_files = [page for page in wanted if page.rule.subject == "file"]
        about_programs = [page for page in wanted if page.rule.subject != "file"]
        if len(self.project.matched) < MANY_MATCHED or not processes.available():
            yield from self._hits_in_files(about_files)
            yield from self._hits_in_programs(about_programs)
            return
        import pickle

        known = set(self.problems), set(self.project.problems)

        def beside() -> tuple[list[tuple[str, Hit]], list[Problem], list[Problem]]:
            hits = [(rule.name, hit) for rule, hit in self._hits_in_files(about_files)]
            new = [p for p in self.problems if p not in known[0]], [p for p in self.project.problems if p not in known[1]]
            return hits, *new

        own, other = processes.beside(lambda: list(self._hits_in_programs(about_programs)), beside, pickle.dumps, pickle.loads)
        if other is None:
            yield from self._hits_in_files(about_files)
        else:
            self.problems += other[1]
            self.project.problems += other[2]
            yield from ((self.pages[name].rule, hit) for name, hit in other[0])
        yield from own

    def _hits_in_programs(self, wanted: Sequence[Page]) -> Iterator[tuple[Rule, Hit]]:
        """The hits of the rules about what a program does to its objects."""
        histories = self.histories = self._attempt(self.project.histories) or ()
        if not histories:
            # Rules of ours all speak of histories (a test holds that), so that most runs load no detector at all.
            wanted = [page for page in wanted if page.own]
        detectors = [(page.rule, function) for page in wanted if (function := self._detector(page)) is not None]
        if not detectors:
            return
        from mllint.model.history import History, Thing

        for rule, function in detectors:
            if function.subject not in (History, Thing):
                yield from self._ask(rule, function, (self.project,), None)
        for history in histories:
            for rule, function in detectors:
                if function.subject is History:
                    yield from self._ask(rule, function, (history,), history.entry)
                elif function.subject is Thing:
                    for thing in history.all_things:
                        if _meets(thing, function.conditions):
                            yield from self._ask(rule, function, (thing, history), thing.made_at.path)

    def _hits_in_files(self, wanted: Sequence[Page]) -> Iterator[tuple[Rule, Hit]]:
        """The hits of the rules about the text of one file, in each file whose bytes say that they can fire there."""
        detectors: dict[str, Detector | None] = {}
        for path, names in self.project.matched.items():
            code = self.project.code_file(path)
            for page in wanted:
                if code is None or page.rule.name not in names:
                    continue
                if page.rule.name not in detectors:
                    detectors[page.rule.name] = self._detector(page)
                function = detectors[page.rule.name]
                hits = list(self._ask(page.rule, function, (code,), path)) if function is not None else []
                if hits and not self.project.is_template(path):
                    yield from hits
            self.project.release(path)

    def _attempt(self, work: Callable[[], Any]) -> Any:
        """What the work gives; None, and a problem, where it fails."""
        try:
            return work()
        except Exception as error:
            self.problems.append(Problem("internal", f"the code could not be followed: {_said(error)}"))
            return None

    def _detector(self, page: Page) -> Detector | None:
        from mllint.checks import detector

        try:
            return detector(page.rule, page.path if page.own else None)
        except Exception as error:
            message = f"the rule {page.rule.name} cannot be used: {_said(error)}"
            self.problems.append(Problem("internal", message, page.path if page.own else None))
            return None

    def _ask(self, rule: Rule, function: Detector, subject: tuple[Any, ...], where: str | None) -> Iterator[tuple[Rule, Hit]]:
        """The hits of one detector on one subject. One that raises loses its remaining hits there, and nothing else."""
        try:
            for hit in function(*subject):
                yield rule, hit
        except Exception as error:
            path = where.split(": ", 1)[0] if where else None
            if (rule.name, path) not in self._failed:
                self._failed.add((rule.name, path))
                self.problems.append(Problem("internal", f"the rule {rule.name} failed: {_said(error)}", path))

    # ------------------------------------------------------------ findings

    def told(self, hits: Iterable[tuple[Rule, Hit]]) -> list[Finding]:
        """Hits that no detector of the code gave, as findings."""
        return self._suppressed(self._findings(hits), frozenset())

    def _findings(self, hits: Iterable[tuple[Rule, Hit]]) -> list[Finding]:
        """Hits as findings. The same hit in several histories counts once, as sure as the surest of them."""
        best: dict[tuple[str, Span, str], tuple[Rule, Hit, int]] = {}
        for rule, hit in hits:
            at = (rule.name, replace(hit.span, end_line=hit.span.line, end_column=hit.span.column), hit.message)
            sure = min(CONFIDENCES.index(rule.confidence), CONFIDENCES.index(hit.confidence or rule.confidence))
            known = best.get(at)
            if known is None or known[2] < sure:
                best[at] = (rule, hit, sure)
        findings = []
        for rule, hit, sure in best.values():
            path = hit.span.path
            looked_for = self.selection.at(path)
            if rule.name not in looked_for and rule.name not in self.selection.selected:
                continue
            hidden = None if rule.name in looked_for else "path"
            severity = self.selection.severity(rule, path)
            findings.append(Finding(rule.name, rule.topic, hit, severity, CONFIDENCES[sure], "", hidden))
        return self._keyed(findings)

    def _keyed(self, findings: list[Finding]) -> list[Finding]:
        """Give each finding its key: it stays the same when lines move, because it speaks of the text of the line, not its number."""
        if not findings:
            return []
        from hashlib import sha1

        seen: dict[tuple[str, str, str], int] = {}
        keyed = []
        for finding in sorted(findings, key=Finding.sort_key):
            text = " ".join(self.line_of(finding.span).split())
            same = (finding.rule, finding.span.path, text)
            seen[same] = seen.get(same, -1) + 1
            digest = sha1("\0".join((*same, str(seen[same]))).encode("utf-8", "surrogatepass"), usedforsecurity=False)
            keyed.append(replace(finding, key=digest.hexdigest()[:16]))
        return keyed

    def _mended(self, findings: list[Finding]) -> list[Finding]:
        """The findings with the fixes that the remedies of their rules make from the clues of the detectors."""
        if not any(finding.hit.clues for finding in findings):
            return findings
        from mllint.flow.anchors import Code
        from mllint.remedies import remedy

        code = Code(self.project, self.histories)
        mended = []
        for finding in findings:
            hit = finding.hit
            if hit.clues:
                try:
                    fix = remedy(finding.topic, finding.rule)(code, *hit.clues) if finding.hidden is None else None
                except Exception as error:
                    fix = None
                    self.problems.append(Problem("internal", f"the fix of the rule {finding.rule} failed: {_said(error)}", hit.span.path))
                finding = replace(finding, hit=replace(hit, fix=fix, clues=()))
            mended.append(finding)
        return mended

    def _suppressed(self, findings: list[Finding], wanted: frozenset[str]) -> list[Finding]:
        """The findings with what hides them, and with what is to say about marks that hid nothing."""
        from mllint.suppress import FileMarks, comments, may_hold_marks

        about_marks = wanted & {name for name, page in self.pages.items() if page.rule.topic == SUPPRESSIONS}
        also: dict[str, frozenset[str]] = {}
        for name, page in self.pages.items():
            for code in page.also:
                also[code] = also.get(code, frozenset()) | {name}
        hit_paths = {finding.span.path for finding in findings}
        marks: dict[str, FileMarks] = {}
        for file in self.discovery.files:
            path = file.path
            if path not in hit_paths and not (about_marks and self._selected(path) and self.project.may_be_marked(path)):
                continue
            if may_hold_marks(self.project.bytes_of(path), path in hit_paths) and (source := self._source(path)) is not None:
                marks[path] = FileMarks(comments(source), self.selection.members, also)

        def hide(finding: Finding) -> Finding:
            if finding.hidden is None and finding.span.path in marks and marks[finding.span.path].hides(finding):
                return replace(finding, hidden="comment")
            return finding

        told = [hide(finding) for finding in findings]
        told += [hide(finding) for finding in self._about_marks(marks, about_marks)]
        baseline = self._baseline()
        return [replace(f, hidden="baseline") if f.hidden is None and f.key in baseline else f for f in told]

    def _about_marks(self, marks: Mapping[str, Any], names: frozenset[str]) -> list[Finding]:
        doubtful = {problem.path for problem in (*self.project.problems, *self.problems)}
        hits: list[tuple[Rule, Hit]] = []
        for path, of_file in marks.items():
            # Where something could not be looked at, nobody knows what a mark would have hidden.
            if path in doubtful or None in doubtful or not self._selected(path):
                continue
            at = self.selection.at(path)
            for mark in of_file.leftovers(lambda rules, at=at: self._looked_for(rules, at), self._near):
                for name in sorted(names):
                    function = self._detector(self.pages[name])
                    if function is not None:
                        hits.extend(self._ask(self.pages[name].rule, function, (mark,), path))
        return self._findings(hits)

    def _looked_for(self, rules: frozenset[str], at: frozenset[str]) -> bool:
        """A rule was looked for; of a topic, every rule that is on by default."""
        if len(rules) > 1:
            rules = frozenset(name for name in rules if self.pages[name].rule.default) or rules
        return rules <= at

    def _near(self, name: str) -> str:
        topics = {page.rule.topic for page in self.pages.values()}
        return nearest(name, (*self.pages, *topics))

    def _baseline(self) -> frozenset[str]:
        """The keys of the findings in the report that `baseline` names: known, and not to be shown again."""
        if self.config.baseline is None:
            return frozenset()
        import json

        folder = os.path.dirname(self.config.source) if self.config.source else self.discovery.root
        path = os.path.join(folder, self.config.baseline)
        try:
            with open(path, encoding="utf-8") as stream:
                return frozenset(finding["key"] for finding in json.load(stream)["findings"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"`baseline` must name a report written with --format json: {path}: {_said(error)}") from error

    # ------------------------------------------------------------ what the user asked about

    def _selected(self, path: str) -> bool:
        return self.discovery.selected is None or path in self.discovery.selected

    def _asked_about(self, hit: Hit) -> bool:
        return self._selected(hit.span.path) or any(self._selected(label.span.path) for label in hit.labels)

    def _concerns(self, problem: Problem) -> bool:
        """A file nobody asked about and that cannot be read is no problem of this run, unless mllint itself failed."""
        if problem.path is None or problem.kind in ("internal", "limit") or problem in self.discovery.problems:
            return True
        return self._selected(problem.path)

    # ------------------------------------------------------------ bytes and lines

    def _source(self, path: str) -> Any:
        try:
            file = self.project.python_file(path)
        except Exception:
            return None
        return None if file is None else file.source

    def bytes_of(self, path: str) -> bytes:
        """The bytes of a file as they were judged."""
        source = self._source(path)
        data: bytes = self.project.bytes_of(path) if source is None else source.data
        return data

    def line_of(self, span: Span) -> str:
        """The text of the first line of a span, or nothing where its file cannot be read any more."""
        source = self._source(span.path)
        return "" if source is None else source.line_text(span.line, span.cell)


def _read_for(rule: Rule) -> bool:
    """The rule is looked for by reading code; others are about marks, or seen only when something runs."""
    return rule.topic != SUPPRESSIONS and "code" in rule.seen


def _meets(subject: Any, conditions: Mapping[str, Any]) -> bool:
    return all(getattr(subject, key) == value for key, value in conditions.items())


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
