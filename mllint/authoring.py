"""For people who write rules: a page to start from, its examples run as tests, and the index of all pages."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import unified_diff
from typing import IO, TYPE_CHECKING

from mllint.checks import function_name
from mllint.config import Config, ConfigError
from mllint.model.finding import CONFIDENCES, Finding, Report, Span
from mllint.pages import Example, Page, PageError, Place, examples, find_rules_folder, load_pages

if TYPE_CHECKING:
    from mllint.discover import Discovery

INDEX_START = "<!-- index: written by `mllint rules --index --write` -->"
INDEX_END = "<!-- end of index -->"

_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")


# ---------------------------------------------------------------- examples as tests


def run_example(example: Example, pages: Mapping[str, Page]) -> Report:
    """Scan the project an example shows: a good one under every default rule and its own, any other under its own alone."""
    from mllint.session import scan

    if "code" not in pages[example.rule].rule.seen:
        return _watched(example, pages)
    with _written(example, pages) as (found, config):
        # What a comment hides shows only next to the rules it names.
        alone = example.role != "good" and pages[example.rule].rule.topic != "suppressions"
        outcome = scan(found, config, pages, select=[example.rule] if alone else None, extend_select=[example.rule])
    return outcome.report


def fix_example(example: Example, pages: Mapping[str, Page]) -> dict[str, str]:
    """The files of an example after every fix of its rule, unsafe ones too, was made."""
    from mllint.fix.rounds import fix_project

    with _written(example, pages) as (found, config):
        result = fix_project(found, config, pages, unsafe=True, select=[example.rule])
    return example.files | {path: data.decode("utf-8") for path, data in result.new.items()}


@contextmanager
def _written(example: Example, pages: Mapping[str, Page]) -> Iterator[tuple[Discovery, Config]]:
    """The project an example shows, on disk for a while, and the settings under which its rule is judged."""
    from mllint.discover import discover

    rule = pages[example.rule].rule
    # A rule that is never more than a guess is hidden by default; its page still shows what it finds.
    confidence = CONFIDENCES[min(CONFIDENCES.index("medium"), CONFIDENCES.index(rule.confidence))]
    with tempfile.TemporaryDirectory(prefix="mllint-example-") as folder:
        _write_files(folder, example.files)
        yield discover([folder], folder), Config(confidence=confidence)


def _watched(example: Example, pages: Mapping[str, Page]) -> Report:
    """Run the first file of an example of a rule that only a run can judge; this interpreter must have torch."""
    from mllint.commands.runtime_check import Project, check
    from mllint.runtime.command import Options

    select = ["DEFAULT", example.rule] if example.role == "good" else [example.rule]
    with tempfile.TemporaryDirectory(prefix="mllint-example-") as folder:
        _write_files(folder, example.files)
        project = Project(folder, Config(), pages, [folder], select=select)
        checked = check([sys.executable, next(iter(example.files))], project, Options(), findings=[], cwd=folder, sandbox="none")
    return Report(checked.findings, checked.problems)


def _write_files(folder: str, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        target = os.path.join(folder, *path.split("/"))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)


def failures(example: Example, report: Report) -> list[str]:
    """What the report of an example says that its page does not, and the other way round."""
    wrong = [f"problem: {p.path or ''}:{p.line or ''} {p.message}" for p in report.problems if p.kind != "limit"]
    shown = [finding for finding in report.shown if example.role == "good" or finding.rule == example.rule]
    if example.role in ("good", "miss"):
        return wrong + [f"must stay silent, but: {_described(finding)}" for finding in shown]
    touched: set[Place] = set()
    for finding in shown:
        places = _places(finding) & example.marked
        touched |= places
        if not places:
            wrong.append(f"points at no marked line: {_described(finding)}")
    for place in sorted(example.marked - touched, key=lambda p: (p.path, p.cell or 0, p.line)):
        cell = "" if place.cell is None else f" cell {place.cell}"
        wrong.append(f"{place.path}{cell}:{place.line} is marked `# <-`, but {example.rule} does not point there")
    return wrong


def fix_failures(example: Example, report: Report, pages: Mapping[str, Page]) -> list[str]:
    """What the fixes of an example's rule make of it that its page does not say, and the other way round."""
    offered = any(f.rule == example.rule and f.hit.fix is not None and f.hit.fix.safety != "shown" for f in report.shown)
    if example.fixed is None:
        if offered and not pages[example.rule].rule.fixable:
            return [f"{example.rule} offers a fix, and its page has no `fixed` block"]
        return []
    if not offered:
        return [f"the page shows a fixed block, and {example.rule} offers no fix"]
    wrong = []
    for path, text in fix_example(example, pages).items():
        expected = example.fixed.get(path, example.files[path])
        if text != expected:
            lines = unified_diff(expected.splitlines(), text.splitlines(), f"{path} on the page", f"{path} after the fix", n=1, lineterm="")
            wrong += list(lines)
    return wrong


def _places(finding: Finding) -> set[Place]:
    span = finding.span
    places = {Place(span.path, line, span.cell) for line in range(span.line, span.end_line + 1)}
    return places | {Place(label.span.path, label.span.line, label.span.cell) for label in finding.hit.labels}


def _described(finding: Finding) -> str:
    return f"{_shown(finding.span)} {finding.rule}: {finding.hit.message}"


def _shown(span: Span) -> str:
    cell = "" if span.cell is None else f" cell {span.cell}"
    return f"{span.path}{cell}:{span.line}:{span.column}"


def test_pages(folder: str | None, stream: IO[str]) -> int:
    """Run every example in a folder of rules, ours where none is named; 1 when any fails."""
    pages = load_pages([] if folder is None else [_existing(folder)])
    tested = {name: page for name, page in pages.items() if page.own == (folder is not None)}
    if not tested:
        raise ConfigError(f"no rule page in {folder or find_rules_folder()}")
    ran = failed = 0
    for name in tested:
        for example in examples(name, pages):
            ran += 1
            report = run_example(example, pages)
            wrong = failures(example, report) + fix_failures(example, report, pages)
            if wrong:
                failed += 1
                stream.write(f"{tested[name].path}:{example.line}: {example.role} example {example.number}\n")
                stream.writelines(f"    {line}\n" for line in wrong)
    stream.write(f"{len(tested)} rules, {ran} examples, {failed} failed\n")
    return 1 if failed else 0


def _existing(folder: str) -> str:
    if not os.path.isdir(folder):
        raise ConfigError(f"there is no folder {folder}")
    return folder


# ---------------------------------------------------------------- index


def index(pages: Mapping[str, Page]) -> str:
    """One table a topic, one row a rule."""
    topics: dict[str, list[Page]] = {}
    for page in pages.values():
        topics.setdefault(page.rule.topic, []).append(page)
    parts = []
    for topic in sorted(topics):
        rows = [f"### {topic}", "", "| rule | finds | severity | default | fix |", "| --- | --- | --- | --- | --- |"]
        for page in sorted(topics[topic], key=lambda page: page.rule.name):
            rule = page.rule
            link = f"[{rule.name}]({topic}/{rule.name}.md)"
            title = rule.title.replace("|", "\\|")
            rows.append(f"| {link} | {title} | {rule.severity} | {'on' if rule.default else 'opt-in'} | {'yes' if rule.fixable else ''} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def write_index() -> None:
    """Put the index between its markers in rules/README.md."""
    path = os.path.join(find_rules_folder(), "README.md")
    with open(path, encoding="utf-8") as stream:
        text = stream.read()
    before, start, rest = text.partition(INDEX_START)
    _, end, after = rest.partition(INDEX_END)
    if not start or not end:
        raise PageError(f"{path}: the markers around the index are gone")
    with open(path, "w", encoding="utf-8", newline="\n") as stream:
        stream.write(f"{before}{start}\n\n{index(load_pages())}\n{end}{after}")


# ---------------------------------------------------------------- a new rule

_PAGE = """---
severity: warning
confidence: medium
default: opt-in
since: {version}
libraries: torch
mentions: REPLACE_ME
---
# an object is made and REPLACE_ME is never called

## What it finds

Say what is found, in one paragraph.

## Why it matters

Say what it costs a run, and how little of it can be seen.

## Bad

```python bad
import torch

model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # <-
optimizer.REPLACE_ME()
```

## Good

```python good
import torch

model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
```

```python good
import torch
```

## Limits

Say what is not found, and why.

## References

- A link to the documentation that says so.
"""

_MODULE = '''"""Detectors of the topic {topic}."""

from __future__ import annotations

from collections.abc import Iterator

from mllint.checks import each
from mllint.model.finding import Hit
from mllint.model.history import History
'''

_FUNCTION = '''

@each(History)
def {function}(history: History) -> Iterator[Hit]:
    """Say why this is worth a finding."""
    for event in history.events(None, "replace-me"):
        yield Hit(event.span, "say what is wrong with `...`, and what follows")
'''


def scaffold(topic: str, name: str, folder: str | None = None) -> Sequence[str]:
    """Write the page and the detector of a new rule; both are to be filled in, and its bad example fails until they are."""
    from mllint import __version__

    for word in (topic, name):
        if not _NAME.fullmatch(word):
            raise ConfigError(f"`{word}` is not a name: use lower-case words joined by `-`")
    pages = load_pages([folder] if folder is not None and os.path.isdir(folder) else [])
    taken = {*pages, *(old for page in pages.values() for old in page.rule.formerly), *(page.rule.topic for page in pages.values())}
    if name in taken:
        raise ConfigError(f"the name {name} is taken")
    page = os.path.join(folder or find_rules_folder(), topic, f"{name}.md")
    if folder is None:
        module = os.path.join(os.path.dirname(os.path.abspath(__file__)), "checks", f"{function_name(topic)}.py")
    else:
        module = os.path.join(folder, topic, f"{function_name(name)}.py")
    os.makedirs(os.path.dirname(page), exist_ok=True)
    with open(page, "x", encoding="utf-8", newline="\n") as stream:
        stream.write(_PAGE.format(version=__version__))
    fresh = not os.path.exists(module)
    with open(module, "a", encoding="utf-8", newline="\n") as stream:
        stream.write((_MODULE.format(topic=topic) if fresh else "") + _FUNCTION.format(function=function_name(name)))
    return page, module
