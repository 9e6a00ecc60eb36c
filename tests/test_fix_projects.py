"""Every fix of every small project with a mistake: the files parse, what was fixed is gone, nothing new is found, and it stays so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mllint.config import Config
from mllint.discover import discover
from mllint.fix.rounds import Result, fix_project
from mllint.pages import load_pages

PAGES = load_pages()
PROJECTS = Path(__file__).resolve().parent.parent / "fixtures" / "projects"
BAD = [
    path.with_name(path.name.removesuffix(".expect.yaml"))
    for path in sorted(PROJECTS.glob("*/*/*.expect.yaml"))
    if PAGES[path.parent.name].rule.fixable and "kind: bad" in path.read_text(encoding="utf-8")
]
#: Correct projects in which something is found, as their file says: nobody may change them.
OPEN = [
    path.with_name(path.name.removesuffix(".expect.yaml"))
    for path in sorted(PROJECTS.glob("*/*/*.expect.yaml"))
    if "kind: good" in (text := path.read_text(encoding="utf-8")) and "\nopen:" in text
]


def fix(folder: Path) -> Result:
    return fix_project(discover([str(folder)], str(folder)), Config(), PAGES, unsafe=True)


def name(folder: Path) -> str:
    return folder.relative_to(PROJECTS).as_posix()


@pytest.mark.parametrize("project", BAD, ids=name)
def test_fixed_project(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(project, folder)
    result = fix(folder)
    before = {f.rule for f in result.judge({}).report.shown}
    for path, data in result.new.items():
        if path.endswith(".py"):
            compile(data, path, "exec", dont_inherit=True)
        (folder / path).write_bytes(data)
    assert not [p for p in result.outcome.report.problems if p.kind != "limit"]
    left = result.outcome.report.shown
    assert {f.rule for f in left} <= before
    assert not {f.finding.key for f in result.fixed} & {f.key for f in left}
    assert not fix(folder).new, "a second time changes more"


@pytest.mark.parametrize("project", OPEN, ids=name)
def test_good_project_stays_as_it_is(project: Path) -> None:
    assert not fix(project).new
