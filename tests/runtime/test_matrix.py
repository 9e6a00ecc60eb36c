"""Every bug of every shape of training script: read, run with the probes, and judged; and nothing said of the correct scripts.

The runs of all selected cases are done at once, by `warm.py`.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import warm
from mutation import CLEAN, DISTRIBUTED, UNSEEN, Mutation, script, source
from mutations import MUTATIONS, NEEDS, OPEN, SHAPES

from mllint.commands import runtime_check
from mllint.commands.runtime_check import Project, _scanned, judge
from mllint.config import Config
from mllint.model.finding import Finding
from mllint.pages import load_pages
from mllint.runtime import structure

pytest.importorskip("torch")
PAGES = load_pages()
#: Rules that are opt-in are asked for, where a run can show them.
SELECTED = ("DEFAULT", *sorted(name for name, page in PAGES.items() if not page.rule.default and "run" in page.rule.seen))


@pytest.fixture(scope="module", autouse=True)
def _read_once() -> Iterator[None]:
    """The files of the frameworks and the tables are the same in every case."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structure, "read_code", functools.cache(structure.read_code))
        patch.setattr(runtime_check, "_knowledge", functools.cache(runtime_check._knowledge))
        yield


@dataclass(frozen=True, slots=True)
class Judged:
    """What is said of a script: the findings with their verdicts, and what could not be done."""

    findings: list[Finding]
    problems: tuple[Any, ...]
    record: Any

    @property
    def proven(self) -> list[Finding]:
        """The findings the run confirms, or shows by itself."""
        return [f for f in self.findings if f.hidden is None and f.verdict == "confirmed"]

    def __str__(self) -> str:
        lines = [f"{f.verdict:12} {f.rule} {f.span.path}:{f.span.line} {f.hit.message} | {' '.join(f.evidence)}" for f in self.findings]
        return "\n".join([*lines, *(p.message for p in self.problems), str(self.record.head["problem"])])


NAN = '        if loss.item() == float("nan"):\n            break\n'
CASES: dict[str, Callable[[], tuple[str, str]]] = {
    **{name: (lambda name=name: (name, source(name))) for name in CLEAN},
    **{m.id: (lambda m=m: (m.shape, m.text())) for m in MUTATIONS},
    "text": lambda: ("plain", source("plain").replace("        loss.backward()\n", NAN + "        loss.backward()\n")),
}


def _marked(case: str) -> Any:
    """The case; one that is open must fail."""
    return pytest.param(case, marks=pytest.mark.xfail(strict=True, reason=OPEN[case])) if case in OPEN else case


def _installed(shape: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in NEEDS.get(shape, ()))


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, int | None]]:
    """The folder and the exit status of each case that is selected, all of them run."""
    names = [
        item.callspec.params["case"] for item in request.session.items if "case" in getattr(getattr(item, "callspec", None), "params", {})
    ]
    names = [name for name in dict.fromkeys(names) if name in CASES and _installed(CASES[name]()[0])]
    top = tmp_path_factory.mktemp("matrix")
    jobs = []
    for name in names:
        shape, text = CASES[name]()
        folder = top / name
        folder.mkdir()
        (folder / ".git").mkdir()
        (folder / script(shape)).write_text(text, encoding="utf-8")
        jobs.append(warm.job(folder, script(shape), 2 if shape in DISTRIBUTED else 1))
    return {name: (top / name, status) for name, status in zip(names, warm.run(jobs, top), strict=True)}


@pytest.fixture
def judged(case: str, runs: dict[str, tuple[Path, int | None]]) -> Judged:
    """What is said of the case."""
    shape, _ = CASES[case]()
    if not _installed(shape):
        pytest.skip(f"needs {' and '.join(NEEDS[shape])}")
    folder, status = runs[case]
    project = Project(str(folder), Config(), PAGES, (str(folder),), select=SELECTED)
    record = warm.record(folder, status)
    found, problems = judge(record, _scanned(project).report.findings, project)
    return Judged(found, problems, record)


@pytest.mark.parametrize("case", CLEAN)
def test_nothing_is_said_of_a_correct_script(case: str, judged: Judged) -> None:
    assert judged.record.head["problem"] is None, judged.record.head["output"]
    assert judged.record.head["ended"] in ("steps", "passes", "exit"), str(judged)
    assert len(judged.record.main.of("step")) >= 6, str(judged)
    assert judged.findings == [] and judged.problems == (), str(judged)
    assert all(not part.of("fault") for part in judged.record.parts), [part.of("fault") for part in judged.record.parts]


@pytest.mark.parametrize("case", [_marked(m.id) for m in MUTATIONS])
def test_a_bug_is_proven_where_it_stands(case: str, judged: Judged) -> None:
    mutation = next(m for m in MUTATIONS if m.id == case)
    assert [f for f in judged.proven if f.rule == mutation.rule and _stands(f, mutation)], str(judged)
    others = {f.rule for f in judged.proven} - {mutation.rule} - mutation.also
    assert not others, str(judged)
    assert judged.problems == (), str(judged)
    assert all(not part.of("fault") for part in judged.record.parts), [part.of("fault") for part in judged.record.parts]


@pytest.mark.parametrize("case", ["text"])
def test_what_the_text_alone_tells_is_not_refuted(case: str, judged: Judged) -> None:
    assert [(f.rule, f.verdict) for f in judged.findings] == [("nan-comparison", "not observable here")], str(judged)


def _stands(finding: Finding, mutation: Mutation) -> bool:
    spans = [finding.span, *(label.span for label in finding.hit.labels)]
    lines = mutation.lines()
    return any(not lines.isdisjoint(range(span.line, span.end_line + 1)) for span in spans if span.path == script(mutation.shape))


def test_every_rule_is_broken_in_every_shape_or_it_is_said_why_not() -> None:
    asked = {name: page.rule for name, page in PAGES.items() if page.rule.topic != "suppressions"}
    rules = {name for name, rule in asked.items() if rule.subject == "program" or "run" in rule.seen}
    for shape in SHAPES:
        broken = {m.rule for m in shape.mutations}
        assert broken.isdisjoint(shape.absent), shape.name
        known = broken | set(shape.absent) | set(UNSEEN)
        assert rules <= known, shape.name
        assert all(any(m.rule == rule and m.id in OPEN for m in MUTATIONS) for rule in known - rules), shape.name


def test_what_is_open_is_a_case() -> None:
    assert set(OPEN) <= {m.id for m in MUTATIONS}


def test_every_script_is_a_shape() -> None:
    assert {shape.name for shape in SHAPES} == set(CLEAN)
