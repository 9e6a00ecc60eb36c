"""What a report looks like, byte by byte where people or programs depend on it."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest

from mllint import __version__
from mllint.model.finding import Finding, Hit, Label, Problem, Report, Span
from mllint.model.fix import Delete, Fix, Replace
from mllint.model.rule import Rule
from mllint.report import FORMATS, render
from mllint.report.frame import WIDTH, frame
from mllint.report.progress import progress

RULE = Rule(
    "scheduler-never-stepped",
    "schedulers",
    "a scheduler is made and never stepped",
    "error",
    "high",
    True,
    "0.1.0",
    "A learning-rate scheduler nobody steps.",
    libraries=("torch",),
    fixable=True,
)
CLIP = Rule("clip-after-step", "training-step", "gradients are clipped after the step", "warning", "medium", False, "0.1.0", "Too late.")
RULES = {rule.name: rule for rule in (RULE, CLIP)}
LINES = {
    ("train.py", None): ["import torch", "", "def main():", "    scheduler = CosineAnnealingLR(opt, T_max=10)", "    train(scheduler)"],
    ("optim.py", None): ["opt = AdamW(model.parameters())"],
    ("a.ipynb", 2): ["opt.step()", "clip_grad_norm_(model.parameters(), 1.0)"],
}


def line_of(span: Span) -> str:
    lines = LINES.get((span.path, span.cell), [])
    return lines[span.line - 1] if span.line <= len(lines) else ""


def finding(span: Span, message: str = "m", rule: Rule = RULE, labels: tuple[Label, ...] = (), fix: Fix | None = None, **more) -> Finding:
    held = {"severity": rule.severity, "confidence": rule.confidence, "key": "k" * 16} | more
    return Finding(rule.name, rule.topic, Hit(span, message, labels, fix), **held)


STEPPED = finding(
    Span("train.py", 4, 5, 4, 14),
    "`scheduler` is never stepped: the learning rate stays where it is",
    labels=(Label(Span("optim.py", 1, 1, 1, 4), "optimizer made here"), Label(Span("train.py", 5, 11, 5, 20), "handed on here")),
    fix=Fix("step it", "safe", (Replace(Span("train.py", 5, 21, 5, 21), "\n    scheduler.step()"),)),
)
CLIPPED = finding(Span("a.ipynb", 2, 1, 2, 41, 2), "`model` is clipped too late", CLIP)
IGNORED = finding(Span("train.py", 5, 5, 5, 10), "told to be quiet", CLIP, hidden="comment", key="h" * 16)
PROBLEMS = (
    Problem("syntax", "cannot be parsed: invalid syntax", "old.py", 3, 7),
    Problem("limit", "gave up after 100 entries"),
    Problem("syntax", "cell left out: invalid syntax", "a.ipynb", 1, 2, 0),
)
FULL = Report((CLIPPED, STEPPED, IGNORED), PROBLEMS, {"files": 7, "low_confidence": 2})


def rendered(form: str, report: Report, **more) -> str:
    stream = io.StringIO()
    render(form, report, RULES, more.pop("line_of", line_of), stream, **({"files": 7, "seconds": 0.126} | more))
    return stream.getvalue()


def reported(span: Span, lines: list[str]) -> list[str]:
    """The frame of a span in the text report, without its margin."""
    text = rendered("text", Report((finding(span),), ()), line_of=lambda s: lines[s.line - 1])
    return text.splitlines()[1:-3]


SUMMARY = "2 findings (1 error, 1 warning), 7 files checked in 0.13 s; 1 fixable with `mllint fix`; 1 suppressed; "
SUMMARY += "2 of low confidence not shown; 2 problems\n"
TEXT = """\
a.ipynb:cell 3:2:1  warning  clip-after-step  `model` is clipped too late
  2 | clip_grad_norm_(model.parameters(), 1.0)
    | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  help: mllint explain clip-after-step  (medium confidence)

train.py:4:5  error  scheduler-never-stepped  `scheduler` is never stepped: the learning rate stays where it is
  4 |     scheduler = CosineAnnealingLR(opt, T_max=10)
    |     ^^^^^^^^^
  optimizer made here  optim.py:1:1
  1 | opt = AdamW(model.parameters())
    | ^^^
  handed on here  train.py:5:11
  5 |     train(scheduler)
    |           ^^^^^^^^^
  fix: step it (safe)
  help: mllint explain scheduler-never-stepped

old.py:3:7  problem  syntax  cannot be parsed: invalid syntax
mllint  note  limit  gave up after 100 entries
a.ipynb:cell 1:1:2  problem  syntax  cell left out: invalid syntax

"""
TEXT += SUMMARY

CONCISE = """\
a.ipynb:cell 3:2:1: clip-after-step warning `model` is clipped too late
train.py:4:5: scheduler-never-stepped error `scheduler` is never stepped: the learning rate stays where it is
old.py:3:7: syntax problem cannot be parsed: invalid syntax
mllint: limit note gave up after 100 entries
a.ipynb:cell 1:1:2: syntax problem cell left out: invalid syntax
"""

GITHUB = """\
::warning title=mllint (clip-after-step),file=a.ipynb::a.ipynb:cell 3:2:1: clip-after-step: `model` is clipped too late%0A\
mllint explain clip-after-step
::error title=mllint (scheduler-never-stepped),file=train.py,line=4,col=5,endLine=4,endColumn=14::train.py:4:5: scheduler-never-stepped: \
`scheduler` is never stepped: the learning rate stays where it is%0Aoptimizer made here: optim.py:1:1%0Ahanded on here: train.py:5:11%0A\
mllint explain scheduler-never-stepped
::error title=mllint (syntax),file=old.py,line=3,col=7::old.py:3:7: cannot be parsed: invalid syntax
::notice title=mllint (limit)::mllint: gave up after 100 entries
::error title=mllint (syntax),file=a.ipynb::a.ipynb:cell 1:1:2: cell left out: invalid syntax
"""


@pytest.mark.parametrize(("form", "golden"), [("text", TEXT), ("concise", CONCISE), ("github", GITHUB)])
def test_golden(form, golden):
    assert rendered(form, FULL) == golden


def test_color_changes_nothing_but_color():
    colored = rendered("text", FULL, color=True)
    assert "\x1b[1;31merror\x1b[0m" in colored and f";{RULE.url}\x1b\\" in colored
    assert re.sub(r"\x1b\]8;[^\x1b]*\x1b\\|\x1b\[[\d;]*m", "", colored) == TEXT


def test_nothing_found():
    empty = Report((), ())
    assert rendered("text", empty) == "no findings, 7 files checked in 0.13 s\n"
    assert rendered("text", empty, files=1) == "no findings, 1 file checked in 0.13 s\n"
    assert rendered("concise", empty) == rendered("github", empty) == ""
    assert json.loads(rendered("json", empty))["findings"] == []
    assert json.loads(rendered("sarif", empty))["runs"][0]["results"] == []


def test_no_files_is_loud():
    assert rendered("text", Report((), ()), files=0) == "no findings, 0 FILES CHECKED in 0.13 s\n"


def test_only_hidden_findings():
    report = Report((IGNORED,), ())
    assert rendered("text", report) == "no findings, 7 files checked in 0.13 s; 1 suppressed\n"
    assert rendered("concise", report) == rendered("github", report) == ""


def test_one_of_each_is_singular():
    text = rendered("text", Report((finding(Span("x.py", 1, 1, 1, 2), severity="info"),), (PROBLEMS[0],)))
    assert text.splitlines()[-1] == "1 finding (1 info), 7 files checked in 0.13 s; 1 problem"


def test_verdict_of_a_run_is_said():
    assert "  run: confirmed\n" in rendered("text", Report((finding(Span("train.py", 4, 5, 4, 14), verdict="confirmed"),), ()))


def test_fix_that_is_only_shown_is_not_counted():
    shown = finding(Span("train.py", 4, 5, 4, 14), fix=Fix("think", "shown", ()))
    text = rendered("text", Report((shown,), ()))
    assert "fix: think (shown)" in text and "fixable" not in text


# ---------------------------------------------------------------- frames


def test_line_that_is_gone_leaves_no_frame():
    text = rendered("text", Report((finding(Span("gone.py", 40, 1, 40, 3)),), ()))
    assert text.splitlines()[:2] == ["gone.py:40:1  error  scheduler-never-stepped  m", "  help: mllint explain scheduler-never-stepped"]


@pytest.mark.parametrize(
    ("line", "column", "end", "shown", "carets"),
    [
        ("x = größe", 5, 10, "x = größe", "    ^^^^^"),
        ("漢字 = f(x)", 1, 3, "漢字 = f(x)", "^^^^"),
        ("'漢字', x", 7, 8, "'漢字', x", "        ^"),
        ("e\u0301 = x", 6, 7, "e\u0301 = x", "    ^"),
        ("\t\tx = 1", 3, 4, "        x = 1", "        ^"),
        ("a\tb", 3, 4, "a    b", "     ^"),
        ("x = 1\x0c", 1, 2, "x = 1", "^"),
        ("x = '\x1b[31m'", 1, 2, "x = '\ufffd[31m'", "^"),
        ("x = 1", 4, 4, "x = 1", "   ^"),
        ("x = 1", 90, 99, "x = 1", "     ^"),
        ("x = 1", 5, 99, "x = 1", "    ^"),
    ],
)
def test_carets_stand_below_the_code(line, column, end, shown, carets):
    rows = reported(Span("x.py", 1, column, 1, end), [line])
    assert rows == [f"  1 | {shown}", f"    | {carets}"]


def test_span_of_several_lines():
    lines = ["x = f(", "    a,", "", ") + g"]
    assert reported(Span("x.py", 1, 5, 4, 2), lines) == [
        "  1 | x = f(",
        "    |     ^^",
        "  2 |     a,",
        "    |     ^^",
        "  3 |",
        "  4 | ) + g",
        "    | ^",
    ]


def test_long_span_is_cut():
    lines = ["f("] + ["    a,"] * 40 + [")"]
    rows = reported(Span("x.py", 1, 1, 42, 2), lines)
    assert rows[:2] == ["  1 | f(", "    | ^^"] and rows[-1] == "    | ..." and len(rows) == 9


def test_line_numbers_of_different_width_are_aligned():
    lines = [""] * 8 + ["f(a,", "  b)"]
    assert reported(Span("x.py", 9, 1, 10, 5), lines) == ["   9 | f(a,", "     | ^^^^", "  10 |   b)", "     |   ^^"]


@pytest.mark.parametrize(("column", "width"), [(1, 5), (200_000, 4), (399_990, 10), (50, 300_000), (300_000, 90_000)])
def test_huge_line_is_cut_around_the_span(column, width):
    line = "".join(str(n % 10) for n in range(400_000))
    [(_, shown, carets)] = list(frame(Span("x.py", 1, column, 1, column + width), lambda span: line))
    assert len(shown) <= WIDTH + 6 and 0 < carets.count("^") <= min(width, WIDTH)
    at = carets.index("^")
    assert shown[at : at + 5] == line[column - 1 : column + 4]
    assert len(carets) <= len(shown)


# ---------------------------------------------------------------- escaping


def test_names_and_messages_do_not_steer_the_terminal():
    wild = finding(Span("a\nb\x1b[2J.py", 1, 1, 1, 2), "x\r\n::error::y\x1b[0m")
    report = Report((wild,), (Problem("missing", "no\nsuch", "c\rd"),))
    for form in ("text", "concise"):
        text = rendered(form, report)
        assert not set("\r\x1b") & set(text)
        assert "a\\nb\\x1b[2J.py:1:1" in text and "x\\r\\n::error::y" in text and "c\\rd" in text and "no\\nsuch" in text


def test_github_escapes():
    wild = finding(Span("a,b:c%d\n.py", 1, 1, 2, 2), "50% of\r\n`a`, b: c")
    line = rendered("github", Report((wild,), ()))
    assert line.count("\n") == 1
    assert line.startswith("::error title=mllint (scheduler-never-stepped),file=a%2Cb%3Ac%25d%0A.py,line=1,endLine=2::")
    assert "50%25 of%0D%0A`a`, b: c" in line


def test_stream_that_cannot_say_everything():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    render("concise", Report((finding(Span("é\udc80.py", 1, 1, 1, 2), "größe"),), ()), RULES, line_of, stream)
    stream.flush()
    assert b"\\xe9" in raw.getvalue() and b"gr\\xf6\\xdfe" in raw.getvalue()


# ---------------------------------------------------------------- json


def test_json_keeps_its_contract():
    document = json.loads(rendered("json", FULL))
    schema = json.loads((Path(sys.modules["mllint"].__file__).parent / "report" / "schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(document)
    assert document["tool"] == {"name": "mllint", "version": __version__}
    assert document["findings"][1] == {
        "rule": "scheduler-never-stepped",
        "topic": "schedulers",
        "severity": "error",
        "confidence": "high",
        "message": "`scheduler` is never stepped: the learning rate stays where it is",
        "path": "train.py",
        "line": 4,
        "column": 5,
        "end_line": 4,
        "end_column": 14,
        "cell": None,
        "labels": [
            {"path": "optim.py", "line": 1, "column": 1, "text": "optimizer made here", "cell": None},
            {"path": "train.py", "line": 5, "column": 11, "text": "handed on here", "cell": None},
        ],
        "fix": {"title": "step it", "safety": "safe"},
        "key": "k" * 16,
        "verdict": "not run",
        "evidence": [],
        "url": RULE.url,
        "hidden": None,
    }
    assert (document["findings"][0]["cell"], document["findings"][2]["hidden"]) == (2, "comment")
    assert document["problems"][2] == {
        "kind": "syntax",
        "message": "cell left out: invalid syntax",
        "path": "a.ipynb",
        "line": 1,
        "column": 2,
        "cell": 0,
    }
    counts = document["counts"]
    assert counts == {
        "files": 7,
        "findings": 2,
        "suppressed": 1,
        "fixable": 1,
        "error": 1,
        "warning": 1,
        "info": 0,
        "problems": 3,
        "low_confidence": 2,
    }


def test_schema_refuses_what_is_not_in_the_contract():
    schema = json.loads((Path(sys.modules["mllint"].__file__).parent / "report" / "schema.json").read_text())
    for change in ({"line": 0}, {"severity": "fatal"}, {"path": "a\\b.py"}, {"extra": 1}, {"hidden": "magic"}, {"cell": -1}):
        document = json.loads(rendered("json", FULL))
        document["findings"][0] |= change
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document, schema)


def test_json_is_the_same_each_time_and_plain_ascii():
    wild = Report((finding(Span("é/漢.py", 1, 1, 1, 2), "größe \udc80"),), ())
    assert rendered("json", wild, seconds=1.0) == rendered("json", wild, seconds=2.0)
    assert rendered("json", wild).isascii() and json.loads(rendered("json", wild))["findings"][0]["path"] == "é/漢.py"


# ---------------------------------------------------------------- sarif

# What of the standard mllint writes, and what code scanning insists on; everything else is refused.
SARIF = json.loads((Path(__file__).parent / "sarif_subset.json").read_text())


def sarif(report: Report, **more) -> dict:
    document = json.loads(rendered("sarif", report, **more))
    jsonschema.validate(document, SARIF)
    [run] = document["runs"]
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    return run


def test_sarif_of_a_full_report():
    run = sarif(FULL, help_of=lambda name: f"# page of {name}\n")
    clip, step, ignored = run["results"]
    rules = {rule["id"]: rule for rule in run["tool"]["driver"]["rules"]}
    assert rules["clip-after-step"]["defaultConfiguration"] == {"enabled": False, "level": "warning"}
    assert rules["scheduler-never-stepped"]["help"]["markdown"] == "# page of scheduler-never-stepped\n"
    assert rules["scheduler-never-stepped"]["fullDescription"]["text"] == RULE.summary
    assert rules["scheduler-never-stepped"]["properties"] == {
        "tags": ["schedulers", "torch"],
        "precision": "high",
        "problem.severity": "error",
    }
    assert step["level"] == "error" and step["partialFingerprints"] == {"mllintKey/v1": "k" * 16}
    assert step["locations"][0]["physicalLocation"]["region"] == {"startLine": 4, "startColumn": 5, "endLine": 4, "endColumn": 14}
    assert [related["message"]["text"] for related in step["relatedLocations"]] == ["optimizer made here", "handed on here"]
    [change] = step["fixes"][0]["artifactChanges"]
    assert change["artifactLocation"]["uri"] == "train.py"
    assert change["replacements"][0]["insertedContent"]["text"] == "\n    scheduler.step()"
    assert ignored["suppressions"][0]["kind"] == "inSource" and "suppressions" not in step
    assert run["columnKind"] == "unicodeCodePoints"
    invocation = run["invocations"][0]
    assert invocation["executionSuccessful"] and invocation["exitCode"] == 1
    assert [said["level"] for said in invocation["toolExecutionNotifications"]] == ["error", "note", "error"]
    assert clip["message"]["text"] == "cell 3, line 2: `model` is clipped too late"


def test_sarif_in_a_notebook_names_the_cell_and_tells_findings_apart():
    other = finding(Span("a.ipynb", 1, 1, 1, 4, 2), "other", CLIP, key="o" * 16)
    first, second = sarif(Report((CLIPPED, other), ()))["results"]
    assert first["locations"][0]["physicalLocation"]["region"] == {"startLine": 1}
    assert first["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == "cell 3:2:1"
    hashes = [result["partialFingerprints"]["primaryLocationLineHash"] for result in (first, second)]
    assert len(set(hashes)) == 2


def test_sarif_says_when_mllint_itself_failed():
    run = sarif(Report((), (Problem("internal", "a detector raised"),)))
    assert run["invocations"][0]["executionSuccessful"] is False and run["invocations"][0]["exitCode"] == 2


def test_sarif_hidden_elsewhere_is_external():
    hidden = finding(Span("x.py", 1, 1, 1, 2), hidden="baseline")
    assert sarif(Report((hidden,), ()))["results"][0]["suppressions"][0]["kind"] == "external"


def test_sarif_paths_are_uris():
    result = sarif(Report((finding(Span("a b/ü#?%.py", 1, 1, 1, 2)),), ()))["results"][0]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "a%20b/%C3%BC%23%3F%25.py"


def test_summary_counts_what_can_be_fixed():
    def offered(*safeties: str) -> str:
        found = [finding(Span("x.py", n, 1, n, 2), fix=Fix("t", safety, ()), key=str(n)) for n, safety in enumerate(safeties, 1)]
        return rendered("text", Report(tuple(found), ())).splitlines()[-1]

    assert "2 fixable with `mllint fix`, 1 more with --unsafe-fixes" in offered("safe", "unsafe", "safe", "shown")
    assert "; 1 fixable with `mllint fix --unsafe-fixes`" in offered("unsafe")


def test_sarif_asks_for_exact_replacements():
    fix = Fix("t", "unsafe", (Delete(Span("a.ipynb", 1, 1, 1, 2, 0)),))
    report = Report((finding(Span("a.ipynb", 1, 1, 1, 2, 0), fix=fix),), ())
    result = sarif(report, exact=lambda asked: [Replace(Span("a.ipynb", 7, 3, 8, 1), "")] if asked is fix else [])["results"][0]
    (change,) = result["fixes"][0]["artifactChanges"]
    region = {"startLine": 7, "startColumn": 3, "endLine": 8, "endColumn": 1}
    assert change["replacements"] == [{"deletedRegion": region, "insertedContent": {"text": ""}}]
    assert "fixes" not in sarif(report, exact=lambda asked: [])["results"][0]


def test_sarif_leaves_out_fixes_it_cannot_say():
    fix = Fix("t", "safe", (Replace(Span("a.ipynb", 1, 1, 1, 2, 0), "x"),))
    assert "fixes" not in sarif(Report((finding(Span("a.ipynb", 1, 1, 1, 2, 0), fix=fix),), ()))["results"][0]


def test_rule_without_a_page_is_still_reported():
    stray = Finding("stray", "odd", Hit(Span("x.py", 1, 1, 1, 2), "m"), "error", "high", "s")
    report = Report((stray,), ())
    assert sarif(report)["results"][0]["ruleId"] == "stray"
    for form in FORMATS:
        assert "stray" in rendered(form, report)


# ---------------------------------------------------------------- what is loaded, and the bar


@pytest.mark.parametrize("form", FORMATS)
def test_no_format_loads_a_library(form):
    code = (
        "import sys, io\nfrom mllint.report import render\nfrom mllint.model.finding import *\n"
        "f = Finding('a', 'b', Hit(Span('x.py', 1, 1, 1, 2), 'm'), 'error', 'high', 'k')\n"
        f"render({form!r}, Report((f,), ()), {{}}, lambda s: 'x = 1', io.StringIO())\n"
        "heavy = {'rich', 'libcst', 'nbformat', 'ruamel', 'git', 'torch', 'pygments'} & {m.split('.')[0] for m in sys.modules}\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bar_on_a_terminal_once_it_takes_long(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with progress(3, stream, patience=0.0) as advance:
        advance(1, "[red]a.py")
        time.sleep(0.15)
        advance(doing="b.py")
    assert "1/3" in stream.getvalue() and "[red]a.py" in stream.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_no_bar_where_nobody_waits(stream, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    with progress(100, stream) as advance:
        for _ in range(100):
            advance()
    assert stream.getvalue() == ""


def test_bar_goes_away_when_the_scan_fails(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with pytest.raises(ZeroDivisionError), progress(3, stream, patience=0.0) as advance:
        advance()
        _ = 1 / 0
    shown = stream.getvalue()
    assert shown.index("\x1b[?25l") < shown.rindex("\x1b[?25h"), "the cursor is shown again"
