"""What a run looks like at a terminal, in a pipe, on a narrow screen and in a poor encoding."""

from __future__ import annotations

import io
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import finding, record, rows_of, steps

from mllint.runtime import summary
from mllint.runtime.record import Record, part

ESCAPE = re.compile(r"\x1b\[")


def shown(known: Record, **how: Any) -> str:
    stream = io.StringIO()
    summary.write(known, stream, **how)
    return stream.getvalue()


def many() -> list[dict[str, Any]]:
    """Findings of every verdict, in no order."""
    words = ["refuted", "failed to run", "confirmed", "not observable here", "not reached"]
    return [finding(f"rule-{k}", word, line=k + 1, evidence=[f"sentence {k}"]) for k, word in enumerate(words)]


def test_verdicts_come_first_in_their_order_and_everything_is_said_once():
    text = shown(record(verdicts=many()))
    heads = [line.split("  ")[0] for line in text.splitlines() if "rule-" in line]
    assert heads == ["confirmed", "refuted", "not reached", "not observable here", "failed to run"]
    for k in range(5):
        assert text.count(f"sentence {k}\n") == 1
        assert text.count(f"train.py:{k + 1}:16") == 1
    assert text.index("failed to run") < text.index("run 20261121T134501-3f2a1c")
    assert text.splitlines()[-1] == "1 confirmed, 1 refuted, 1 not reached, 1 not observable here, 1 failed to run"


def test_how_the_run_went():
    text = shown(record(verdicts=[finding()]))
    said = " ".join(text.split())
    assert "8 optimizer steps, 2 passes over the data, on the CPU, 3.2 s; stopped after the steps asked for" in said
    assert "steps 0-7: zero_grad → forward → loss → backward → optimizer.step" in said
    assert re.search(r"loss +2\.3 +█.*▁ +0\.8049\n", text)
    assert re.search(r"reconstruction +1\.725 +█.*▁ +0\.6036 +75% of it\n", text)
    assert re.search(r"lr, group 1 +0\.01 +(.)\1{7} +0\.01 +constant\n", text)
    assert re.search(r"gradient norm +1\.15 ", text)
    assert re.search(r"step +52 ms +median of 7, without the first\n", text)
    assert re.search(r"backward +20\.8 ms +40%\n", text)
    assert re.search(r"between +2\.6 ms +5%\n", text)
    assert re.search(r"device +300\.0 MiB +▁.*█ +307\.0 MiB +307\.0 MiB at most\n", text)


def test_parts_of_a_weighted_sum_get_no_share():
    rows = steps([1.0, 0.9])
    for row in rows:
        row["components"]["kl"] *= 10
    known = record([])
    known = Record(known.head, (part([*rows_of([1.0, 0.9])[:4], *rows_of([1.0])[4:9], *rows]),))
    text = shown(known)
    assert "kl " in text and "of it" not in text


@pytest.mark.parametrize("width", [80, 40, 200])
def test_lines_keep_to_the_width_but_for_what_is_copied(width):
    long = "src/" + "deep/" * 20 + "model.py"
    said = finding(path=long, evidence=["a sentence that is long " * 12])
    text = shown(record(verdicts=[said], head={"notes": ["a note " * 40]}), width=width)
    whole = (long, "python train.py")
    assert f"{long}:20:16" in text, "a place is never broken"
    assert not [line for line in text.splitlines() if len(line) > width and not any(word in line for word in whole)]
    assert not [line for line in text.splitlines() if line != line.rstrip()]


def test_colour_is_there_when_asked_for_and_only_then():
    known = record(verdicts=many())
    assert not ESCAPE.search(shown(known))
    painted = shown(known, color=True)
    assert ESCAPE.search(painted)
    bare = re.sub(r"\x1b\[[0-9;]*m", "", painted)
    assert [line.rstrip() for line in bare.splitlines()] == shown(known).splitlines()


def test_a_poor_encoding_gets_what_it_can_say():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    summary.write(record(verdicts=[finding(path="trän.py")]), stream)
    stream.seek(0)
    text = stream.read()
    assert "tr\\xe4n.py:20:16" in text
    assert "\\u25" not in text and "\\u219" not in text
    assert "zero_grad > forward" in text
    assert re.search(r"loss +2\.3 +#[#*+=~.\-_]+_ +0\.8049", text)


def test_names_and_messages_do_not_steer_the_terminal():
    evil = "\x1b[2J\x1b]0;title\x07\r\n"
    known = record(
        verdicts=[finding(path=f"a{evil}.py", message=evil, evidence=[evil], rule=evil)],
        head={"command": ["python", evil], "notes": [evil], "written": [evil], "ended": evil, "problem": evil, "id": evil},
    )
    text = shown(known)
    assert "\x1b" not in text and "\x07" not in text and "\r" not in text


def test_what_is_said_of_several_findings_alike_stands_once():
    same = ["the run failed: there is no file data/train.pt"]
    text = shown(record(verdicts=[finding(f"rule-{k}", "failed to run", line=k, evidence=same) for k in range(3)]))
    assert text.count(same[0]) == 1
    assert text.count("failed to run  train.py") == 3
    assert text.index("rule-2") < text.index(same[0])


def test_why_a_run_failed_stands_once():
    problem = "there is no file data/train.pt (FileNotFoundError at train.py:7)"
    judged = finding(verdict="failed to run", evidence=[f"the run failed: {problem}"])
    assert shown(record([], verdicts=[judged], head={"problem": problem, "ended": "error"}), width=200).count(problem) == 1
    assert shown(record([], head={"problem": problem, "ended": "error"}), width=200).count(problem) == 1


def test_an_exception_is_told_where_the_launcher_says_nothing():
    row = {"k": "error", "type": "ValueError", "message": "no\nmore", "frames": [["/lib/x.py", 1, "f"], ["train.py", 7, "main"]], "n": 3}
    assert "ValueError: no at train.py:7" in shown(record(None, row, head={"ended": "error"}))


def test_suppressed_findings_are_left_out():
    text = shown(record(verdicts=[finding("hidden-one", hidden="comment")]))
    assert "hidden-one" not in text
    assert text.splitlines()[-1] == "no findings to judge"


def test_long_lists_are_counted():
    text = shown(record(head={"written": [f"/data/file{k}" for k in range(14)]}))
    assert text.count("/data/file") == 10
    assert "and 4 more" in text


def test_a_file_that_a_note_names_is_not_listed_again():
    known = record(head={"written": ["out.txt", "/data/other"], "notes": ["files of the project changed during the run: a.txt, out.txt"]})
    assert shown(known).count("out.txt") == 1
    assert "/data/other" in shown(known)


def test_every_optimizer_has_its_own_figures():
    things = [{"k": "thing", "id": n, "kind": "optimizer", "type": "torch.optim.adam.Adam", "site": n} for n in (5, 6)]
    sites = [{"k": "site", "id": n, "frames": [["gan.py", 10 * n, 1, 10 * n, 9, "main", 1]]} for n in (5, 6)]
    rows = [row for pair in zip(steps([1.0, 2.0], optimizer=5), steps([3.0, 4.0], optimizer=6), strict=True) for row in pair]
    known = Record({"id": "x"}, (part([*rows_of([1.0])[:1], *sites, *things, *[r for r in rows_of([1.0]) if r["k"] == "event"], *rows]),))
    text = shown(known)
    assert text.index("Adam gan.py:50\n") < text.index("Adam gan.py:60\n")
    assert text.count("memory ") == 1


def test_a_run_without_optimizer_shows_its_backward_passes():
    losses = [{"arguments": {"loss": {"value": 3.0 - k}}, "n": k} for k in range(3)]
    events = [{"k": "event", "action": "backward", "thing": None, "site": 1, **row} for row in losses]
    text = shown(Record({"id": "x", "ended": "backwards"}, (part([{"k": "start"}, *events]),)))
    assert "0 optimizer steps, 3 backward passes" in " ".join(text.split())
    assert re.search(r"loss +3 +█.▁ +1\n", text)


def test_a_record_with_nothing_in_it():
    assert "0 optimizer steps; how it ended is not recorded" in " ".join(shown(Record({}, ())).split())


def test_a_loss_that_is_not_finite_is_marked():
    assert re.search(r"loss +2 +█x▁ +1\n", shown(record([2.0, math.nan, 1.0])))


@given(st.lists(st.none() | st.floats(), max_size=90))
def test_sparklines_of_anything(values):
    line = summary.sparkline(values)
    assert len(line) == min(len(values), summary.COLUMNS)
    assert set(line) <= set(summary.BLOCKS + "x ")
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if len(values) <= summary.COLUMNS and finite and min(finite) < max(finite) and max(finite) / 2 - min(finite) / 2 > 0:
        assert line[values.index(max(finite))] == summary.BLOCKS[-1]
        assert line[values.index(min(finite))] == summary.BLOCKS[0]


def test_a_comparison_stands_before_the_rest():
    change = {"rule": "scheduler-never-stepped", "path": "train.py", "line": 20, "column": 16, "before": "confirmed", "after": None,
              "change": "was confirmed, now gone"}  # fmt: skip
    told = {"before": "HEAD (abc)", "after": "working tree", "losses_equal": False, "changes": [change],
            "differences": [{"name": "loss", "same": False, "text": "differs first at step 4: 1 before, 2 now", "step": 4},
                            {"name": "events", "same": True, "text": "the same", "step": None}]}  # fmt: skip
    lines = shown(record(head={"compare": told})).splitlines()
    assert lines[0] == "compared with HEAD (abc)"
    assert lines[1].strip() == "was confirmed, now gone  train.py:20:16  scheduler-never-stepped"
    assert lines[2].strip() == "loss: differs first at step 4: 1 before, 2 now"
    assert "the same" not in "\n".join(lines)
