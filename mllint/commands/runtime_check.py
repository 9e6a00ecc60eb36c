"""`mllint runtime-check`: run the user's command for a few steps, and say of each finding what was seen."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from mllint.config import Config, ConfigError, Selection
from mllint.discover import Discovery, discover
from mllint.model.finding import Finding, Problem, Report, Span
from mllint.model.rule import Rule
from mllint.pages import Page, body_of
from mllint.report import FORMATS, printable, where
from mllint.runtime.command import LaunchError, Options
from mllint.runtime.compare import Tree
from mllint.runtime.record import Record, save
from mllint.runtime.sandbox import KINDS

Write = Callable[[Callable[[IO[str], bool], None]], None]


@dataclass(frozen=True, slots=True)
class Project:
    """What the rules and the settings of a project say, and what of it the question is about."""

    root: str
    config: Config
    pages: Mapping[str, Page]
    paths: Sequence[str] = (".",)
    marked: bool = True
    tables: Sequence[str] = ()
    select: Sequence[str] | None = None
    ignore: Sequence[str] = ()

    @property
    def rules(self) -> dict[str, Rule]:
        return {name: page.rule for name, page in self.pages.items()}

    @property
    def selection(self) -> Selection:
        return Selection(self.config, self.rules, self.select, self.ignore)

    def at(self, folder: str) -> Project:
        """The same project in another folder, with the rules and settings of this one."""
        return replace(self, root=folder, paths=(folder,), marked=True)

    def discovered(self) -> Discovery:
        """The files of the project."""
        return discover(self.paths, self.root, exclude=self.config.exclude, marked=self.marked)


@dataclass(frozen=True, slots=True)
class Checked:
    """A run and what it says: the record as it is saved, the findings with their verdicts, and what could not be done."""

    record: Record
    findings: tuple[Finding, ...]
    problems: tuple[Problem, ...]
    files: int = 0
    line_of: Callable[[Span], str] = field(default=lambda span: "")
    path: str | None = None

    @property
    def left(self) -> list[Finding]:
        """The findings the run did not refute."""
        return [f for f in self.findings if f.hidden is None and f.verdict != "refuted"]

    @property
    def status(self) -> int:
        """0: nothing is left; 1: findings are, or the run failed; 2: a part of mllint failed; 130: interrupted."""
        if self.record.head["ended"] == "killed":
            return 130
        if any(problem.kind == "internal" for problem in self.problems):
            return 2
        return 1 if self.left or self.record.head["problem"] else 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may follow `mllint runtime-check`."""
    add = parser.add_argument
    parser.usage = "mllint runtime-check [options] -- COMMAND ..."
    add("run", nargs="*", default=[], metavar="COMMAND", help="what trains: python train.py, torchrun ..., a script")
    add("--report", default=None, metavar="FILE", help="judge the findings of this report of --format json (default: those of a scan)")
    add("--select", action="append", metavar="NAMES", help="rules or topics to look for, comma separated, or ALL, DEFAULT")
    add("--ignore", action="append", metavar="NAMES", help="rules or topics not to look for")
    add("--steps", type=_positive, default=6, metavar="N", help="optimizer steps to watch (default: 6)")
    add("--batches", type=_positive, default=3, metavar="K", help="batches of each pass over the data (default: 3)")
    add("--passes", type=_positive, default=2, metavar="N", help="passes over the training data (default: 2)")
    add("--seconds", type=_seconds, default=120.0, metavar="S", help="end the run after this time (default: 120)")
    add("--examples", type=_positive, default=0, metavar="N", help="record loss and prediction of the first N examples")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="another default for an option of the script, such as epochs=2")
    add("--emulate-cuda", action="store_true", default=False, help="let code that asks for a GPU run on the CPU")
    add("--compile", action="store_true", default=False, help="do not switch torch.compile off")
    add("--seed", type=int, default=None, metavar="N", help="seed every generator with N before the command starts")
    add("--compare", default=None, metavar="REV", help="run the command on this git revision too, with the same seeds, and compare")
    add("--html", default=None, metavar="FILE", help="write a page with curves, to be opened in a browser")
    add("--format", choices=tuple(FORMATS), help="how to report (default: text)")
    add("--output", metavar="FILE", help="write the report to FILE instead of standard output")
    sandbox = parser.add_mutually_exclusive_group()
    sandbox.add_argument("--sandbox", choices=KINDS, default=None, help="what keeps the project's files (default: the first that works)")
    sandbox.add_argument("--no-sandbox", action="store_const", const="none", dest="sandbox", help="run on the real files")
    add("--keep", action="store_true", default=False, help="keep the folder with what the command wrote")
    add("--config", metavar="FILE", help="read settings from FILE instead of the project's own")
    add("--root", metavar="DIR", help="the root of the project (default: found from the current folder)")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e7:
        raise ValueError(text)
    return number


def main(options: Any, project: Project, write: Write) -> int:
    """Carry out the command as the command line gave it, and give the exit status."""
    started = time.perf_counter()
    if options.run:
        raise ConfigError("the command stands behind `--`: mllint runtime-check [options] -- python train.py")
    wanted = Options(
        steps=options.steps,
        batches=options.batches,
        passes=options.passes,
        seconds=options.seconds,
        seed=options.seed,
        emulate_cuda=options.emulate_cuda,
        compile=options.compile,
        set=_pairs(options.set),
        examples=options.examples,
    )
    if options.html is not None:
        _ready_to_draw()
    try:
        if options.compare is not None:
            checked = _compared(options, project, wanted)
        else:
            findings = None if options.report is None else _reported(options.report, project)
            checked = check(options.behind, project, wanted, findings=findings, sandbox=options.sandbox, keep=options.keep, show=sys.stderr)
    except LaunchError as error:
        raise ConfigError(str(error)) from error
    if options.html is not None:
        from mllint.commands.runs import write_page

        write_page(checked.record, options.html)
    write(lambda stream, color: render(checked, project, options.format, stream, color, time.perf_counter() - started))
    return checked.status


def _compared(options: Any, project: Project, wanted: Options) -> Checked:
    """The run on the working tree, whose record tells what became of the findings of the revision."""
    from mllint.commands.compare_runs import both, revision

    if options.report is not None:
        raise ConfigError("--compare scans both states by itself; it cannot judge a --report")
    with revision(project, options.compare) as before:
        done = both(options.behind, project, wanted, before, None, sandbox=options.sandbox, keep=options.keep, show=sys.stderr)
    return done.after


def check(
    command: Sequence[str],
    project: Project,
    options: Options,
    *,
    findings: Sequence[Finding] | None = None,
    sandbox: str | None = None,
    keep: bool = False,
    show: IO[str] | None = None,
    cwd: str | None = None,
    tree: Tree | None = None,
) -> Checked:
    """Run the command and judge the findings, or those of a scan where none are given. The record is saved with its verdicts.

    `show` gets the output of the command and a line before it. With `tree` all of this is done to another state of the project.
    Raises LaunchError for a command that cannot be started.
    """
    from mllint.runtime import launch
    from mllint.runtime.command import runnable

    runnable(command, cwd or os.getcwd())
    judged_in, files = (project, None) if tree is None else (project.at(tree.folder), tree.files)
    outcome = None if findings is not None else _scanned(judged_in)
    known = list(outcome.report.findings if outcome is not None else findings or ())
    folder, kept = _folder(project.root)
    passed = None if show is None else launch.passed_to(show)
    if passed is not None:
        passed(f"mllint: running {shlex.join(command)} for at most {options.seconds:g} s\n".encode("utf-8", "backslashreplace"))
    try:
        record = launch.run(command, project.root, options, folder, cwd=cwd, sandbox=sandbox, keep=keep, show=passed, files=files)
        path = f"{folder}.json" if kept else None
        if path is not None:
            save(record, path)  # what was seen is safe, whatever becomes of the judging
        judged, problems = judge(record, known, judged_in)
        rules = project.rules
        record = replace(record, verdicts=tuple(_row(finding, rules.get(finding.rule)) for finding in judged))
        if path is not None:
            save(record, path)
    finally:
        _removed(folder if kept else os.path.dirname(folder))
    if record.head["problem"]:
        problems = (Problem("missing", f"the run: {record.head['problem']}"), *problems)
    own = tuple(p for p in (outcome.report.problems if outcome else ()) if p.kind in ("internal", "limit"))
    findings = tuple(sorted((_hidden_if_refuted(f) for f in judged), key=Finding.sort_key))
    line_of = outcome.line_of if outcome else _line_reader(judged_in.root)
    return Checked(record, findings, (*problems, *own), outcome.files if outcome else 0, line_of, path)


def judge(record: Record, findings: Sequence[Finding], project: Project) -> tuple[list[Finding], tuple[Problem, ...]]:
    """The findings with their verdicts, and those that only the run showed."""
    from mllint.runtime import confirm
    from mllint.session import findings_of_a_run

    selection = project.selection
    rules = {name: rule for name, rule in project.rules.items() if name in selection.wanted or any(f.rule == name for f in findings)}
    asked = [finding for finding in findings if finding.hidden is None]
    judgement = confirm.judge(record, asked, rules, project.root, _knowledge(project.tables))
    verdicts = iter(judgement.findings)
    judged = [next(verdicts) if finding.hidden is None else finding for finding in findings]
    hits = [(seen.rule, seen.hit) for seen in judgement.seen]
    if not hits:
        return judged, judgement.problems
    evidence = {(seen.rule.name, seen.hit.span, seen.hit.message): seen.evidence for seen in judgement.seen}
    for finding in findings_of_a_run(project.discovered(), project.config, project.pages, hits, project.select, project.ignore):
        said = evidence[finding.rule, finding.span, finding.hit.message]
        judged.append(replace(finding, verdict=confirm.CONFIRMED, evidence=said))
    return judged, judgement.problems


def _scanned(project: Project) -> Any:
    from mllint.session import scan

    return scan(
        project.discovered(), project.config, project.pages, select=project.select, ignore=project.ignore, tables=project.tables
    )  # fmt: skip


def _knowledge(tables: Iterable[str]) -> Any:
    from mllint.read.tables import TableError, read_tables, shipped_tables

    try:
        return read_tables([*shipped_tables(), *map(Path, tables)])
    except TableError as error:
        raise ConfigError(str(error)) from error


def _hidden_if_refuted(finding: Finding) -> Finding:
    return replace(finding, hidden="run") if finding.hidden is None and finding.verdict == "refuted" else finding


# ---------------------------------------------------------------- arguments


def _pairs(given: Sequence[str]) -> dict[str, str]:
    """`name=value` as a mapping; a name may be given with its dashes."""
    pairs = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip("-"):
            raise ConfigError(f"--set takes name=value, not `{text}`")
        pairs[name.lstrip("-").replace("-", "_")] = value
    return pairs


def _reported(path: str, project: Project) -> list[Finding]:
    """The findings of a report written with `mllint scan --format json`, those of the rules that are asked for."""
    from mllint.report import json as report

    try:
        with open(path, encoding="utf-8") as stream:
            findings = report.findings(json.load(stream))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--report must name a report written with --format json: {path}: {error}") from error
    if project.select is None and not project.ignore:
        return findings
    return [finding for finding in findings if finding.rule in project.selection.selected]


# ---------------------------------------------------------------- the folder of the run


def _folder(root: str) -> tuple[str, bool]:
    """A new folder for the parts of a run, in the project where that can be written to, and whether it is."""
    from mllint.runtime import runs

    name = runs.new_id()
    folder = os.path.join(runs.folder(root), name)
    try:
        os.makedirs(folder)
        ignore = os.path.join(root, ".mllint", ".gitignore")
        if not os.path.exists(ignore):
            Path(ignore).write_text("*\n", encoding="utf-8")
        return folder, True
    except OSError:
        sys.stderr.write(f"mllint: warning: {root} cannot be written to: the record of this run is not kept\n")
        folder = os.path.join(tempfile.mkdtemp(prefix="mllint-"), name)
        os.mkdir(folder)
        return folder, False


def _removed(folder: str) -> None:
    from mllint.runtime.sandbox import discard

    discard(folder)


# ---------------------------------------------------------------- output


def render(checked: Checked, project: Project, form: str, stream: IO[str], color: bool, seconds: float) -> None:
    """Write what a run says in one of the formats of a report."""
    if form == "text":
        from mllint.runtime import summary

        summary.write(checked.record, stream, color=color)
        for problem in checked.problems:
            if problem.kind == "internal":
                stream.write(f"{where(problem)}  problem  internal  {printable(problem.message)}\n")
        return
    from mllint import report

    def help_of(name: str) -> str:
        return body_of(project.pages[name].text)

    whole = Report(checked.findings, checked.problems)
    report.render(
        form,
        whole,
        project.rules,
        checked.line_of,
        stream,
        color=color,
        files=checked.files,
        seconds=seconds,
        help_of=help_of,
        run={**checked.record.head, "record": checked.path},
    )


def _row(finding: Finding, rule: Rule | None) -> dict[str, Any]:
    from mllint.report import json as report

    return report.row(finding, rule)


def _line_reader(root: str) -> Callable[[Span], str]:
    """Lines of files that no scan has read."""

    def line_of(span: Span) -> str:
        if span.cell is not None:
            return ""
        try:
            lines = Path(root, span.path).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return lines[span.line - 1] if 0 < span.line <= len(lines) else ""

    return line_of


def _ready_to_draw() -> None:
    from mllint.runtime import html

    try:
        html.ready()
    except html.PlottingMissing as error:
        raise ConfigError(f"--html: {error}") from error
