"""Every fenced example of every page, run as a test."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mllint.authoring import failures, fix_failures, run_example
from mllint.pages import Example, PageError, Place, examples, load_pages, read_page

PAGES = load_pages()
EXAMPLES = [example for name in PAGES for example in examples(name, PAGES)]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.name)
def test_example(example: Example, report_of) -> None:
    wrong = failures(example, report_of(example))
    assert not wrong, f"{PAGES[example.rule].path}:{example.line}\n  " + "\n  ".join(wrong)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.name)
def test_fix_of_example(example: Example, report_of) -> None:
    wrong = fix_failures(example, report_of(example), PAGES)
    assert not wrong, f"{PAGES[example.rule].path}:{example.line}\n  " + "\n  ".join(wrong)


HEADER = "---\nseverity: error\nconfidence: high\ndefault: on\nsince: 0.1.0\n---\n"
HEADER += "# something is wrong\n\n## What it finds\n\nOne\nthing.\n\n"


def _page(tmp_path, body: str, header: str = HEADER):
    path = tmp_path / "some-rule.md"
    path.write_text(header + body, encoding="utf-8")
    page = read_page(str(path), "topic")
    return {page.rule.name: page}


def _examples(tmp_path, body: str) -> list[Example]:
    return examples("some-rule", _page(tmp_path, body))


def test_header_becomes_the_rule(tmp_path):
    header = HEADER.replace(
        "since: 0.1.0\n", "since: 0.1.0\nformerly: old-name, older\nalso: TOR102, TG3\nmentions: a | b\\s*c & \\.step\\b\n"
    )
    page = _page(tmp_path, "```python fixed\nx = 1\n```\n", header)["some-rule"]
    assert page.rule.mentions == (("a", "b\\s*c"), ("\\.step\\b",))
    assert page.rule.formerly == ("old-name", "older")
    assert page.also == ("TOR102", "TG3")
    assert page.rule.title == "something is wrong"
    assert page.rule.summary == "One thing."
    assert page.rule.fixable


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("severity: error", "severity: fatal", "severity"),
        ("default: on", "default: yes", "default"),
        ("since: 0.1.0", "sincee: 0.1.0", "sincee"),
        ("since: 0.1.0", "since: 1\nsince: 2", "twice"),
        ("# something is wrong\n", "", "title"),
        ("---\n# some", "# some", "not closed"),
    ],
)
def test_wrong_header_is_refused(tmp_path, old, new, said):
    with pytest.raises(PageError, match=said):
        _page(tmp_path, "", HEADER.replace(old, new))


def test_blocks_with_files_in_a_row_are_one_project(tmp_path):
    found = _examples(
        tmp_path,
        "```python bad file=a.py\nx = 1  # <-\n```\n\n`b.py` uses it:\n\n```python bad file=lib/b.py\ny = 2\n```\n\n"
        "Now it is right.\n\n```python good file=a.py\nx = 2\n```\n```python good\nz = 1\n```\n",
    )
    assert [(e.role, list(e.files)) for e in found] == [("bad", ["a.py", "lib/b.py"]), ("good", ["a.py"]), ("good", ["example.py"])]
    assert found[0].marked == {Place("a.py", 1)}
    assert found[0].files["a.py"] == "x = 1\n", "the mark is taken out"


def test_the_same_file_again_starts_another_project(tmp_path):
    found = _examples(tmp_path, "```python bad file=a.py\nx = 1  # <-\n```\n```python good file=a.py\nx = 2\n```\n")
    assert [e.role for e in found] == ["bad", "good"]


def test_miss_is_a_bad_block_that_is_known_to_stay_silent(tmp_path):
    found = _examples(tmp_path, "<!-- miss -->\n```python bad\nx = 1\n```\n")
    assert [e.role for e in found] == ["miss"]


def test_notebook_cells(tmp_path):
    (found,) = _examples(tmp_path, "```notebook bad\n# %% [markdown]\n# Title\n\n# %%\nx = 1\ny = 2  # <-\n```\n")
    cells = json.loads(found.files["example.ipynb"])["cells"]
    assert [(c["cell_type"], "".join(c["source"])) for c in cells] == [("markdown", "# Title"), ("code", "x = 1\ny = 2")]
    assert found.marked == {Place("example.ipynb", 2, 1)}


def test_bad_example_without_a_mark_is_refused(tmp_path):
    with pytest.raises(PageError, match="marks at least one"):
        _examples(tmp_path, "```python bad\nx = 1\n```\n")


def test_good_example_with_a_mark_is_refused(tmp_path):
    with pytest.raises(PageError, match="only bad"):
        _examples(tmp_path, "```python good\nx = 1  # <-\n```\n")


def test_open_fence_is_refused(tmp_path):
    with pytest.raises(PageError, match="never closed"):
        _examples(tmp_path, "```python good\nx = 1\n")


def _bad(files: dict[str, str], marked: set[Place], role: str = "bad", rule: str = "unknown-ignore") -> list[str]:
    example = Example(rule, 1, role, 1, files, frozenset(marked))
    return failures(example, run_example(example, PAGES))


MISSPELT = {"example.py": "x = 1\ny = 2  # mllint: ignore[no-such]\n"}


def test_marked_line_that_is_not_found_fails():
    assert _bad(MISSPELT, {Place("example.py", 2)}) == []
    assert len(_bad(MISSPELT, {Place("example.py", 2), Place("example.py", 1)})) == 1


def test_finding_on_an_unmarked_line_fails():
    wrong = _bad(MISSPELT, {Place("example.py", 1)})
    assert any("points at no marked line" in line for line in wrong)


def test_miss_that_is_found_fails():
    assert "must stay silent" in _bad(MISSPELT, set(), "miss")[0]


def test_good_example_must_be_silent_under_other_rules():
    assert "unknown-ignore" in _bad(MISSPELT, set(), "good", "unused-ignore")[0]


def test_example_that_does_not_parse_fails():
    assert any("problem" in line for line in _bad({"example.py": "import torch\nloss.backward(\n"}, set(), "good"))


def test_fixed_block_belongs_to_the_bad_example_before_it(tmp_path):
    (found,) = _examples(
        tmp_path,
        "```python bad file=a.py\nx = 1  # <-\n```\n\n```python bad file=b.py\ny = 1\n```\n\n```python fixed file=b.py\ny = 2\n```\n",
    )
    assert found.role == "bad"
    assert found.files == {"a.py": "x = 1\n", "b.py": "y = 1\n"}
    assert found.fixed == {"b.py": "y = 2\n"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("```python good\nx = 1\n```\n\n```python fixed\nx = 2\n```\n", "follows the bad example"),
        ("```python fixed\nx = 2\n```\n", "follows the bad example"),
        ("```python bad\nx = 1  # <-\n```\n\n```python fixed file=other.py\nx = 2\n```\n", "no file other.py"),
        ("```python bad\nx = 1  # <-\n```\n\n```python fixed\nx = 2  # <-\n```\n", "only bad examples mark"),
    ],
)
def test_fixed_block_in_a_wrong_place_is_refused(tmp_path, body, said):
    with pytest.raises(PageError, match=said):
        _examples(tmp_path, body)


ROUNDED = "import torch\n\noptimizer = torch.optim.SGD([torch.zeros(1)], lr=1e-4)\nprint(f\"{optimizer.param_groups[0]['lr']:.4f}\")\n"


def _fixed(fixed: dict[str, str] | None, fixable: bool) -> list[str]:
    pages = dict(PAGES)
    page = pages["lr-display-precision"]
    pages["lr-display-precision"] = replace(page, rule=replace(page.rule, fixable=fixable))
    example = Example("lr-display-precision", 1, "bad", 1, {"example.py": ROUNDED}, frozenset({Place("example.py", 4)}), fixed)
    return fix_failures(example, run_example(example, pages), pages)


def test_fixed_block_must_be_what_the_fix_makes():
    assert _fixed({"example.py": ROUNDED.replace(".4f", ".3e")}, True) == []
    assert any(line.startswith("+") for line in _fixed({"example.py": ROUNDED.replace(".4f", ".9f")}, True))


def test_fix_without_a_fixed_block_fails():
    assert "no `fixed` block" in _fixed(None, False)[0]


def test_fixed_block_without_a_fix_fails():
    example = Example("unknown-ignore", 1, "bad", 1, MISSPELT, frozenset({Place("example.py", 2)}), {"example.py": "x = 1\n"})
    assert "offers no fix" in fix_failures(example, run_example(example, PAGES), PAGES)[0]
