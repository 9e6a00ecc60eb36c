"""The same command on two states of a project: both are scanned, run with the same seeds and judged, then laid side by side."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO

from mllint.commands.runtime_check import Checked, Project, check
from mllint.config import ConfigError
from mllint.runtime import compare
from mllint.runtime.command import Options
from mllint.runtime.compare import Comparison, Tree
from mllint.runtime.record import save


@dataclass(frozen=True, slots=True)
class Both:
    """Two runs and what became of each finding. The record of the second run holds the comparison."""

    before: Checked
    after: Checked
    comparison: Comparison


def both(
    command: Sequence[str],
    project: Project,
    options: Options,
    before: Tree | None,
    after: Tree | None,
    *,
    sandbox: str | None = None,
    keep: bool = False,
    show: IO[str] | None = None,
    cwd: str | None = None,
) -> Both:
    """Run the command on two states; None is the project as it lies there. Where the options name no seed, both get the same.

    Raises LaunchError for a command that cannot be started.
    """
    if options.seed is None:
        options = replace(options, seed=compare.SEED)
    checked = []
    for tree in (before, after):
        done = check(command, project, options, sandbox=sandbox, keep=keep, show=show, cwd=cwd, tree=tree)
        checked.append(done)
        if done.record.head["ended"] == "killed":
            raise KeyboardInterrupt
    names = (before.name if before else "working tree", after.name if after else "working tree")
    first, second = checked
    comparison = compare.compared(first.record, second.record, names)
    notes = [*second.record.head.get("notes", ()), *(note for tree in (before, after) if tree is not None for note in tree.notes)]
    record = replace(second.record, head={**second.record.head, "compare": comparison.as_json(), "notes": notes})
    if second.path is not None:
        save(record, second.path)
    return Both(first, replace(second, record=record), comparison)


@contextmanager
def revision(project: Project, name: str) -> Iterator[Tree]:
    """The project as it was in a git revision, for as long as the context lasts. Raises ConfigError where it cannot be had."""
    code = [file.path for file in project.discovered().files]
    with _scratch() as folder:
        try:
            yield compare.revision(project.root, name, code, folder)
        except compare.CompareError as error:
            raise ConfigError(f"--compare: {error}") from error


@contextmanager
def changed(project: Project, name: str, contents: dict[str, bytes]) -> Iterator[Tree]:
    """The project with other contents in some of its files, for as long as the context lasts."""
    code = [file.path for file in project.discovered().files]
    with _scratch() as folder:
        yield compare.changed(project.root, name, contents, code, folder)


@contextmanager
def _scratch() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="mllint-", ignore_cleanup_errors=True) as outer:
        folder = os.path.join(outer, "tree")
        os.mkdir(folder)
        yield folder
