"""The command line. A plain `mllint scan PATH...` is read by hand; anything else loads argparse. Commands load what they need."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cache, partial
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    from mllint.config import Config
    from mllint.model.finding import Report
    from mllint.model.fix import Fix, Replace
    from mllint.pages import Page

FORMATS = ("text", "concise", "json", "sarif", "github")


class Options:
    """What the command line said of a command. The class holds the defaults, so that the fast path needs no parser for them."""

    command = "scan"
    paths: Sequence[str] = ()
    select: list[str] | None = None
    ignore: list[str] | None = None
    extend_select: list[str] | None = None
    format = "text"
    output: str | None = None
    config: str | None = None
    root: str | None = None
    confidence: str | None = None
    force_exclude = False
    no_cache = False
    statistics = False
    exit_zero = False
    quiet = False
    diff = False
    unsafe_fixes = False
    interactive = False
    confirm: str | None = None
    index = False
    write = False
    folder: str | None = None
    behind: Sequence[str] = ()


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line and give the exit status."""
    from mllint.config import ConfigError
    from mllint.pages import PageError

    gc.disable()
    for stream in (sys.stdout, sys.stderr):
        # Under a C locale the default would refuse what a message quotes from the user's code.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        options = _plain_scan(arguments) or _parsed(arguments)
        return _COMMANDS[options.command](options)
    except (ConfigError, PageError) as error:
        sys.stderr.write(f"mllint: error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("mllint: interrupted\n")
        return 130
    except BrokenPipeError:
        _silence_stdout()
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2


def leave(status: int) -> int:
    """End the process at once where no tracer, profiler or thread still has work to do at exit."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        _silence_stdout()
    except OSError as error:
        sys.stderr.write(f"mllint: error: cannot write the output: {error.strerror or error}\n")
        status = 2
    threading = sys.modules.get("threading")
    watched = sys.gettrace() is not None or sys.getprofile() is not None or "coverage" in sys.modules
    if not watched and (threading is None or threading.active_count() == 1):
        os._exit(status)
    return status


def _silence_stdout() -> None:
    """Nobody reads any more: what is still buffered goes nowhere instead of raising once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _plain_scan(arguments: Sequence[str]) -> Options | None:
    if len(arguments) < 2 or arguments[0] != "scan" or any(a.startswith("-") for a in arguments):
        return None
    options = Options()
    options.paths = list(arguments[1:])
    return options


# ---------------------------------------------------------------- arguments


def _parsed(arguments: Sequence[str]) -> Options:
    parser = build_parser(arguments[0] if arguments else "")
    options = Options()
    if arguments[:1] == ["runtime-check"] and "--" in arguments:
        # What stands behind is another program's: no parser of ours may look at it.
        cut = list(arguments).index("--")
        arguments, options.behind = arguments[:cut], arguments[cut + 1 :]
    parser.parse_args(arguments, namespace=options)
    if "command" not in vars(options):
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    return options


def build_parser(chosen: str) -> argparse.ArgumentParser:
    """The tree of commands. Those that live in modules of their own have arguments where they are `chosen`; a scan loads none."""
    import argparse

    from mllint import __version__
    from mllint.model.finding import CONFIDENCES

    parser = argparse.ArgumentParser(
        prog="mllint", description="Finds, across files, the mistakes that make a training run fail silently.", allow_abbrev=False
    )
    parser.add_argument("-V", "--version", action="version", version=f"mllint {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        # What is not given stays out of the namespace, where the defaults of `Options` show through.
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False, argument_default=argparse.SUPPRESS)
        sub.set_defaults(command=name)
        return sub

    scan = command("scan", "Look for mistakes in files and folders.")
    scan.add_argument("paths", nargs="*", metavar="PATH", help="files and folders (default: the current folder)")
    _selection_arguments(scan)
    scan.add_argument("--format", choices=FORMATS, help="how to report (default: text)")
    scan.add_argument("--output", metavar="FILE", help="write the report to FILE instead of standard output")
    scan.add_argument("--confidence", choices=CONFIDENCES, help="the least sure findings to show (default: medium)")
    scan.add_argument("--force-exclude", action="store_true", help="leave excluded files out even when they are named")
    scan.add_argument("--no-cache", action="store_true", help="use no results of earlier runs")
    scan.add_argument("--statistics", action="store_true", help="only count the findings of each rule")
    scan.add_argument("--exit-zero", action="store_true", help="exit with status 0 even when something was found")
    scan.add_argument("-q", "--quiet", action="store_true", help="one line a finding and nothing else")

    fix = command("fix", "Make the fixes that rules offer; each is checked by another scan before it is written.")
    if chosen == "fix":
        from mllint.fix.command import add_arguments

        add_arguments(fix)
    _selection_arguments(fix)
    fix.add_argument("--confidence", choices=CONFIDENCES, help="the least sure findings to fix (default: medium)")
    fix.add_argument("--force-exclude", action="store_true", help="leave excluded files out even when they are named")

    explain = command("explain", "Show the page of a rule.")
    explain.add_argument("rule", metavar="RULE", help="the name of a rule, or the code another tool gives it")
    _project_arguments(explain)

    rules = command("rules", "List the rules.")
    rules.add_argument("--format", choices=("text", "json"), help="how to list them (default: text)")
    rules.add_argument("--index", action="store_true", help="print the index that stands in rules/README.md")
    rules.add_argument("--write", action="store_true", help="with --index: put it into rules/README.md")
    _project_arguments(rules)

    check = command(
        "runtime-check",
        "Run a training command for a few steps and say of each finding whether it is so. The command stands behind `--`, unchanged.",
    )
    runs = command("runs", "List the recorded runs, show one, or say what tells two apart.")
    if chosen == "runtime-check":
        from mllint.commands import runtime_check

        runtime_check.add_arguments(check)
    if chosen == "runs":
        from mllint.commands import runs as records

        records.add_arguments(runs)

    new_rule = command("new-rule", "Start a rule: a page and a detector, to be filled in.")
    new_rule.add_argument("topic", metavar="TOPIC", help="the folder the rule belongs to, such as schedulers")
    new_rule.add_argument("name", metavar="NAME", help="the name of the rule: the problem, such as scheduler-never-stepped")
    new_rule.add_argument("--folder", metavar="DIR", help="a folder of rules of your own (default: the rules of mllint itself)")

    test_rules = command("test-rules", "Run the examples on rule pages as tests.")
    test_rules.add_argument("folder", nargs="?", metavar="FOLDER", help="a folder of rules of your own (default: those of mllint itself)")
    return parser


def _selection_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--select", action="append", metavar="NAMES", help="rules or topics to look for, comma separated, or ALL, DEFAULT")
    parser.add_argument("--extend-select", action="append", metavar="NAMES", help="look for these too")
    parser.add_argument("--ignore", action="append", metavar="NAMES", help="rules or topics not to look for")
    _project_arguments(parser)


def _project_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="read settings from FILE instead of the project's own")
    parser.add_argument("--root", metavar="DIR", help="the root of the project (default: found from the paths)")


def _names(given: Sequence[str] | None) -> list[str] | None:
    """`a,b` given twice is one list; None when the option was not given."""
    return None if given is None else [name.strip() for part in given for name in part.split(",") if name.strip()]


# ---------------------------------------------------------------- commands


def _project(options: Options, paths: Sequence[str]) -> tuple[str, bool, Config, dict[str, Page]]:
    """The root, whether anything marks it, its settings, and the pages of every rule known there."""
    from mllint.config import Config, ConfigError, holds_settings, read_config
    from mllint.discover import find_root
    from mllint.pages import load_pages

    if options.root is None:
        root, marked = find_root(paths)
    else:
        root, marked = os.path.abspath(options.root), True
        if not os.path.isdir(root):
            raise ConfigError(f"--root: there is no folder {options.root}")
    source = options.config or holds_settings(root)
    config = (read_config(source) if source else Config()).with_command_line(confidence=options.confidence)
    return root, marked, config, load_pages([beside(config, root, name, folder=True) for name in config.rules])


def beside(config: Config, root: str, name: str, *, folder: bool = False) -> str:
    """A path the settings name, as seen from the file they stand in."""
    from mllint.config import ConfigError

    path = os.path.join(os.path.dirname(config.source) if config.source else root, name)
    if not (os.path.isdir(path) if folder else os.path.isfile(path)):
        raise ConfigError(f"{config.source}: there is no {'folder' if folder else 'file'} {name}")
    return path


def _scan(options: Options) -> int:
    started = time.perf_counter()
    from mllint.discover import discover
    from mllint.pages import body_of
    from mllint.session import scan

    paths = options.paths or ["."]
    root, marked, config, pages = _project(options, paths)
    found = discover(paths, root, exclude=config.exclude, force_exclude=options.force_exclude, marked=marked)
    with _shown_progress(len(found.files)) as advance:
        outcome = scan(
            found,
            config,
            pages,
            select=_names(options.select),
            ignore=_names(options.ignore) or (),
            extend_select=_names(options.extend_select) or (),
            tables=[beside(config, root, name) for name in config.tables],
            advance=advance,
        )
    report = outcome.report

    def help_of(name: str) -> str:
        return body_of(pages[name].text)

    @cache
    def exact() -> Callable[[Fix], Sequence[Replace]]:
        from mllint.fix.exact import Exact

        return Exact(outcome.bytes_of, {file.path: file.kind for file in found.files})

    def write(stream: IO[str], color: bool) -> None:
        if options.statistics:
            _write_statistics(report, outcome.rules, options.format, stream)
            return
        from mllint.report import render

        form = "concise" if options.quiet and options.format == "text" else options.format
        seconds = time.perf_counter() - started
        files, lines = outcome.files, outcome.line_of
        render(
            form,
            report,
            outcome.rules,
            lines,
            stream,
            color=color,
            files=files,
            seconds=seconds,
            help_of=help_of,
            exact=lambda fix: exact()(fix),
        )

    status = report.exit_status
    if options.exit_zero and status == 1:
        status = 0
    _written(options.output, write)
    if outcome.files == 0:
        status = _nothing_checked(options, paths, status)
    return status


def _fix(options: Options) -> int:
    from mllint.discover import discover
    from mllint.fix.command import run as run_fix

    paths = options.paths or ["."]
    root, marked, config, pages = _project(options, paths)
    found = discover(paths, root, exclude=config.exclude, force_exclude=options.force_exclude, marked=marked)
    chosen = {
        "select": _names(options.select),
        "ignore": _names(options.ignore) or (),
        "extend_select": _names(options.extend_select) or (),
        "tables": [beside(config, root, name) for name in config.tables],
    }
    status = run_fix(options, found, config, pages, chosen, _confirming(options, root, config, pages, marked, chosen))
    return _nothing_checked(options, paths, status) if found.checked == 0 else status


def _confirming(options: Options, root: str, config: Config, pages: dict[str, Page], marked: bool, chosen: Mapping[str, Any]) -> Any:
    """What lets a run decide which fixes stay; None where no run is wanted."""
    if options.confirm is None:
        return None
    from mllint.commands.confirm_fixes import confirmed
    from mllint.commands.runtime_check import Project

    project = Project(root, config, pages, [root], marked, chosen["tables"])
    return partial(confirmed, options.confirm, project)


def _nothing_checked(options: Options, paths: Sequence[str], status: int) -> int:
    """Said loudly, and wrong use where paths were named; excluded files that a hook names are no mistake of whoever called it."""
    sys.stderr.write(f"mllint: warning: 0 files checked: no Python file or notebook in {' '.join(paths)}\n")
    return 2 if options.paths and not options.force_exclude else status


def _shown_progress(files: int) -> Any:
    """A bar on standard error where somebody watches it; elsewhere nothing is loaded for it."""
    if not sys.stderr.isatty():
        return nullcontext()
    from mllint.report.progress import progress

    return progress(files, sys.stderr)


def _written(output: str | None, write: Callable[[IO[str], bool], None]) -> None:
    """Let `write` write to standard output, or to a file that is either the old one or the whole new one."""
    from mllint.config import ConfigError

    if output is None:
        try:
            write(sys.stdout, _wants_color(sys.stdout))
            sys.stdout.flush()
        except BrokenPipeError:
            _silence_stdout()
        return
    whole = os.path.isfile(output) or not os.path.exists(output)
    target = os.path.join(os.path.dirname(os.path.realpath(output)), f".{os.path.basename(output)}.{os.getpid()}") if whole else output
    try:
        with open(target, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
            write(stream, False)
        if whole:
            os.replace(target, os.path.realpath(output))
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror or error}") from error
    finally:
        if whole and os.path.exists(target):
            os.unlink(target)


def _wants_color(stream: IO[str]) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (stream.isatty() and os.environ.get("TERM") != "dumb")


def _write_statistics(report: Report, rules: Mapping[str, Any], form: str, stream: IO[str]) -> None:
    counts: dict[str, int] = {}
    for finding in report.shown:
        counts[finding.rule] = counts.get(finding.rule, 0) + 1
    rows = sorted(counts.items(), key=lambda row: (-row[1], row[0]))
    if form == "json":
        import json

        json.dump([{"rule": name, "count": count, "title": rules[name].title} for name, count in rows], stream, indent=2)
        stream.write("\n")
        return
    width = max((len(name) for name, _ in rows), default=0)
    for name, count in rows:
        stream.write(f"{count:6}  {name:{width}}  {rules[name].title}\n")
    for problem in report.problems:
        where = f"{problem.path}: " if problem.path else ""
        stream.write(f"{problem.kind}: {where}{problem.message}\n")


def _runtime_check(options: Any) -> int:
    from mllint.commands.runtime_check import Project, main

    paths = [options.root or "."]
    root, marked, config, pages = _project(options, paths)
    tables = [beside(config, root, name) for name in config.tables]
    project = Project(root, config, pages, paths, marked, tables, _names(options.select), _names(options.ignore) or ())
    return main(options, project, lambda write: _written(options.output, write))


def _explain(options: Any) -> int:
    from mllint.config import ConfigError, nearest
    from mllint.pages import body_of

    pages = _project(options, ["."])[3]
    asked = options.rule
    names = {asked} | {name for name, page in pages.items() if asked in page.rule.formerly or asked.upper() in map(str.upper, page.also)}
    known = [pages[name] for name in sorted(names) if name in pages]
    if not known:
        raise ConfigError(f"there is no rule `{asked}`{nearest(asked, pages)}; `mllint rules` lists them all")
    for page in known:
        rule = page.rule
        facts = [rule.topic, rule.severity, f"{rule.confidence} confidence", "on by default" if rule.default else "opt-in"]
        facts += ["has a fix"] if rule.fixable else []
        facts += [f"also known as {', '.join(page.also)}"] if page.also else []
        text = f"{rule.name}: {', '.join(facts)}\n\n{body_of(page.text).strip()}\n"
        if _wants_color(sys.stdout) and sys.stdout.isatty():
            from rich.console import Console
            from rich.markdown import Markdown

            Console().print(Markdown(text))
        else:
            sys.stdout.write(text)
    return 0


def _rules(options: Any) -> int:
    if options.index:
        from mllint.authoring import index, write_index
        from mllint.pages import load_pages

        if options.write:
            write_index()
        else:
            sys.stdout.write(index(load_pages()))
        return 0
    rules = [page.rule for page in _project(options, ["."])[3].values()]
    rules.sort(key=lambda rule: (rule.topic, rule.name))
    if options.format == "json":
        import json

        keys = ("name", "topic", "title", "severity", "confidence", "default", "fixable", "since", "summary", "url")
        json.dump([{key: getattr(rule, key) for key in keys} for rule in rules], sys.stdout, indent=2)
        sys.stdout.write("\n")
        return 0
    width = max((len(rule.name) for rule in rules), default=0)
    topic = None
    for rule in rules:
        if rule.topic != topic:
            sys.stdout.write(("" if topic is None else "\n") + rule.topic + "\n")
            topic = rule.topic
        default = "on" if rule.default else "opt-in"
        fixable = "fix" if rule.fixable else ""
        sys.stdout.write(f"  {rule.name:{width}}  {rule.severity:7}  {default:6}  {fixable:3}  {rule.title}\n")
    return 0


def _runs(options: Any) -> int:
    from mllint.commands import runs

    return runs.run(options, _wants_color)


def _new_rule(options: Any) -> int:
    from mllint.authoring import scaffold

    for path in scaffold(options.topic, options.name, options.folder):
        sys.stdout.write(f"wrote {path}\n")
    sys.stdout.write("fill in the page and the function, then run `mllint test-rules`\n")
    return 0


def _test_rules(options: Any) -> int:
    from mllint.authoring import test_pages

    return test_pages(options.folder, sys.stdout)


_COMMANDS: dict[str, Callable[[Any], int]] = {
    "scan": _scan,
    "fix": _fix,
    "explain": _explain,
    "rules": _rules,
    "runtime-check": _runtime_check,
    "runs": _runs,
    "new-rule": _new_rule,
    "test-rules": _test_rules,
}
