"""What holds for every rule: one page, one detector, and the way both are written."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from mllint.authoring import INDEX_END, INDEX_START, index
from mllint.checks import detector, function_name
from mllint.flow.lexical import CodeFile
from mllint.model.finding import Hit
from mllint.model.history import History, Thing
from mllint.model.mark import Mark
from mllint.pages import HEADINGS, Example, Page, examples, find_rules_folder, load_pages
from mllint.runtime.confirm import observed

PAGES = load_pages()
CHECKS = Path(__file__).parent.parent / "mllint" / "checks"
BAD = [example for name in PAGES for example in examples(name, PAGES) if example.role == "bad"]

each_page = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)


@each_page
def test_page_has_its_detector(page: Page) -> None:
    if "code" in page.rule.seen:
        # The session takes it that without a history nothing of ours has anything to ask but of single files.
        wanted = (CodeFile,) if page.rule.subject == "file" else (History, Thing, Mark)
        assert detector(page.rule).subject in wanted
    else:
        assert observed(page.rule) is not None


def test_each_detector_has_its_page() -> None:
    pages = {(function_name(p.rule.topic), function_name(p.rule.name)) for p in PAGES.values()}
    for path in sorted(CHECKS.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any(_is_each(d) for d in node.decorator_list):
                assert (path.stem, node.name) in pages, f"{path}:{node.lineno} has no page rules/{path.stem}/{node.name}.md"


def _is_each(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id == "each"


@each_page
def test_names_and_title(page: Page) -> None:
    for word in (page.rule.name, page.rule.topic, *page.rule.formerly):
        assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", word)
    assert page.rule.name not in {p.rule.topic for p in PAGES.values()}, "a rule and a topic share a name"
    title = page.rule.title
    assert not re.match(r"[A-Z][a-z]", title) and not title.endswith("."), title
    assert page.rule.summary, "`What it finds` starts with a paragraph"


def test_former_names_are_free() -> None:
    formerly = [old for page in PAGES.values() for old in page.rule.formerly]
    assert len(formerly) == len(set(formerly)) and not set(formerly) & set(PAGES)


@each_page
def test_headings_in_order(page: Page) -> None:
    inside = False
    found = []
    for line in page.text.splitlines():
        if line.startswith("```"):
            inside = not inside
        elif line.startswith("## ") and not inside:
            found.append(line[3:])
    assert [h for h in found if h not in HEADINGS] == []
    needed = [h for h in HEADINGS if h != "Fix safety" or h in found]
    assert found == needed


@each_page
def test_header(page: Page) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", page.rule.since), "`since` is a version"
    assert page.rule.mentions or "code" not in page.rule.seen, "a rule says what a file must mention"
    for group in page.rule.mentions:
        for expression in group:
            re.compile(expression.encode())


@each_page
def test_enough_examples(page: Page) -> None:
    roles = [example.role for example in examples(page.rule.name, PAGES)]
    assert roles.count("bad") >= 1 and roles.count("good") >= 2, roles


@pytest.mark.parametrize("example", BAD, ids=lambda e: e.name)
def test_bad_example_holds_what_its_rule_mentions(example: Example) -> None:
    data = b"\n".join(text.encode() for text in example.files.values())
    for group in PAGES[example.rule].rule.mentions:
        assert any(re.search(expression.encode(), data) for expression in group), f"nothing matches {' | '.join(group)}"


@pytest.mark.parametrize("example", BAD, ids=lambda e: e.name)
def test_messages(example: Example, report_of) -> None:
    hits: list[Hit] = [f.hit for f in report_of(example).findings if f.rule == example.rule]
    for hit in hits:
        for text in (hit.message, *(label.text for label in hit.labels)):
            assert not re.match(r"[A-Z][a-z]", text), f"starts in lower case: {text}"
            assert not text.endswith("."), f"ends without a full stop: {text}"
            assert "\n" not in text and len(text) <= 240, text
        assert "`" in hit.message, f"names the user's identifier in backticks: {hit.message}"


def test_index_is_true() -> None:
    readme = (Path(find_rules_folder()) / "README.md").read_text(encoding="utf-8")
    inside = readme.partition(INDEX_START)[2].partition(INDEX_END)[0]
    assert inside.strip() == index(PAGES).strip(), "run `mllint rules --index --write`"
