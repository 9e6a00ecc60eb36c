"""`mllint fix`: its options, and what happens in which order. The parser is built for other commands too: nothing is loaded for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    from mllint.config import Config
    from mllint.discover import Discovery
    from mllint.fix.rounds import Result
    from mllint.model.finding import Finding, Report
    from mllint.pages import Page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command, without those of selection and project, which it shares."""
    parser.add_argument("paths", nargs="*", metavar="PATH", help="files and folders (default: the current folder)")
    parser.add_argument("--diff", action="store_true", help="show what would change and write nothing")
    parser.add_argument("--unsafe-fixes", action="store_true", help="make fixes, too, that change what the program does")
    parser.add_argument("--interactive", action="store_true", help="show each fix and ask")
    parser.add_argument(
        "--confirm", metavar="COMMAND", help="run this training command without and with the fixes, and keep those it confirms"
    )


def run(
    options: Any,
    found: Discovery,
    config: Config,
    pages: Mapping[str, Page],
    chosen: Mapping[str, Any],
    confirm: Callable[[Result, Callable[[frozenset[str]], Result]], Result] | None = None,
) -> int:
    """Fix what can be fixed in the files that were found, and give the exit status. `chosen` are the arguments of the selection.

    `confirm` gets all fixes and what makes some of them, and gives those that are to stay.
    """
    from mllint.config import Selection
    from mllint.fix import write
    from mllint.fix.rounds import fix_project
    from mllint.fix.summary import Asking, diff, tell

    def refusal(path: str, data: bytes) -> str | None:
        if found.selected is not None and path not in found.selected:
            return "would change too, and was not named"
        return write.refusal(found.root, path, data, named=path in found.named)

    kinds = {file.path: file.kind for file in found.files}
    ask = Asking(kinds).ask if options.interactive else None
    make = partial(fix_project, found, config, pages, unsafe=options.unsafe_fixes, refusal=refusal, **chosen)
    result = make(ask=ask)
    if confirm is not None and result.new:
        result = confirm(result, lambda keys: make(only=keys))
    if options.diff:
        for path in sorted(result.new):
            sys.stdout.write(diff(path, result.old[path], result.new[path], kinds.get(path)))
    elif not _written(result, found.root):
        # What is left can only be known from what lies there now.
        result.outcome = result.judge({})
    rules = {name: page.rule for name, page in pages.items()}
    selection = Selection(config, rules, chosen["select"], chosen["ignore"], chosen["extend_select"])
    left = [finding for finding in result.outcome.report.shown if finding.rule in selection.at(finding.span.path)]
    would = "would fix" if options.diff else "fixed"
    tell(result, left, sys.stderr if options.diff else sys.stdout, would=would, unsafe=options.unsafe_fixes)
    return _status(result.outcome.report, left, would_change=bool(options.diff and result.new))


def _status(report: Report, left: list[Finding], would_change: bool) -> int:
    """As of a scan of what is left; a diff that shows changes counts as something left."""
    if any(problem.kind == "internal" for problem in report.problems):
        return 2
    return 1 if left or would_change or any(problem.kind != "limit" for problem in report.problems) else 0


def _written(result: Result, root: str) -> bool:
    """Write group by group; the findings of a group that cannot be written count as skipped. False where there was one."""
    from mllint.fix import write
    from mllint.fix.patch import Declined
    from mllint.fix.rounds import Skipped, groups

    whole = True
    for group in groups(result):
        try:
            write.replace_all(root, {p: result.old[p] for p in group}, {p: result.new[p] for p in group})
        except Declined as error:
            whole = False
            lost = [fixed for fixed in result.fixed if set(fixed.paths) & set(group)]
            result.fixed = [fixed for fixed in result.fixed if fixed not in lost]
            result.skipped += [Skipped(fixed.finding, f"{', '.join(fixed.paths)} {error}") for fixed in lost]
    return whole
