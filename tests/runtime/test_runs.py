"""`mllint runs`: the list, finding one by a part of its name, and what tells two apart; records made by code and by real training."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from recorded import finding, losses, record

from mllint.cli import run
from mllint.runtime import runs
from mllint.runtime.record import RecordError, load, save

FIRST, SECOND = "20261121T134501-3f2a1c", "20261121T134601-aaaaaa"


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A project with two records; `kept(name, record)` adds one."""
    (tmp_path / "mllint.toml").write_text("")
    monkeypatch.chdir(tmp_path)

    def keep(name, known):
        save(known, str(Path(runs.folder(str(tmp_path)), f"{name}.json")))
        return tmp_path

    keep(FIRST, record(verdicts=[finding(), finding("clip-after-step", "refuted")], head={"id": FIRST}))
    other = losses(8)
    other[3] += 1e-9
    keep(SECOND, record(other, verdicts=[finding(verdict="refuted")], head={"id": SECOND, "started": "2026-11-21T13:46:01Z"}))
    return keep


def asked(capsys, *words: str) -> tuple[int, str, str]:
    status = run(["runs", *words])
    out, err = capsys.readouterr()
    return status, out, err


# ---------------------------------------------------------------- list


def test_the_newest_stands_first(kept, capsys):
    status, out, _ = asked(capsys)
    assert status == 0
    assert out.splitlines() == [
        f"{SECOND}  2026-11-21 13:46  8 steps, ended by steps  1 refuted",
        "  python train.py --epochs 2",
        f"{FIRST}  2026-11-21 13:45  8 steps, ended by steps  1 confirmed, 1 refuted",
        "  python train.py --epochs 2",
    ]


def test_the_list_for_programs(kept, capsys):
    status, out, _ = asked(capsys, "--format", "json")
    (newest, oldest) = json.loads(out)["runs"]
    assert status == 0
    assert oldest | {"path": ""} == {
        "id": FIRST, "path": "", "started": "2026-11-21T13:45:01Z", "command": ["python", "train.py", "--epochs", "2"], "steps": 8,
        "ended": "steps", "verdicts": {"confirmed": 1, "refuted": 1}, "problem": None,
    }  # fmt: skip
    assert newest["id"] == SECOND
    assert load(oldest["path"]).id == FIRST


def test_no_runs_at_all(tmp_path, capsys):
    status, out, _ = asked(capsys, "--root", str(tmp_path))
    assert status == 0
    assert out.startswith("no runs in ")
    assert asked(capsys, "--root", str(tmp_path / "absent"))[0] == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"version": 99, "parts": []}', "was written by a newer mllint (record version 99, this one reads 1)"),
        ("[1, 2", "is not a run record"),
        ("{}", "it has no `version` and `parts`"),
        ("\x00\xff", "is not a run record"),
        ('{"version": 1, "parts": [[{"k": "site"}]]}', "is not a run record: KeyError"),
        ('{"version": 1, "parts": [["text"]]}', "is not a run record"),
    ],
)
def test_what_is_no_record_gets_one_clear_line(kept, capsys, text, said):
    path = Path(runs.folder("."), "20261121T200000-bad000.json")
    path.write_text(text, encoding="latin-1")
    status, out, err = asked(capsys)
    line = out.splitlines()[0]
    assert status == 0 and err == ""
    assert line.startswith("20261121T200000-bad000  cannot be read: ") and said in line
    assert len(out.splitlines()) == 5, "the others are still listed"
    for words in (("show", "bad000"), ("diff", FIRST, "bad000"), ("show", str(path))):
        status, out, err = asked(capsys, *words)
        assert (status, out) == (2, "")
        assert err.startswith("mllint: error: ") and said in err and len(err.splitlines()) == 1


def test_rows_that_are_not_what_they_should_be_get_one_clear_line(kept, capsys):
    path = Path(runs.folder("."), "odd.json")
    path.write_text('{"version": 1, "parts": [[{"k": "event", "action": "step"}, {"k": "step", "optimizer": []}]]}')
    for words in (("show", "odd"), ("diff", "odd", FIRST), ("show", "odd", "--html", "x.html")):
        status, out, err = asked(capsys, *words)
        assert (status, out) == (2, "")
        (line,) = err.splitlines()
        assert line.startswith("mllint: error: the record of ") and line.endswith(" is damaged: TypeError: unhashable type: 'list'")


# ---------------------------------------------------------------- finding


@pytest.mark.parametrize("name", [FIRST, "20261121T1345", "3f2a1c", f".mllint/runs/{FIRST}.json"])
def test_a_part_of_the_name_is_enough(kept, name):
    assert runs.find(name, ".").id == FIRST


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("2026", f"`2026` may be {FIRST}, {SECOND}"),
        ("zzz", "no run is called `zzz`; `mllint runs` lists them"),
        ("", "no run is called ``"),
        ("absent/x.json", "there is no file absent/x.json"),
    ],
)
def test_a_name_that_is_not_enough(kept, name, said):
    with pytest.raises(RecordError) as raised:
        runs.find(name, ".")
    assert str(raised.value).startswith(said)


def test_ids_sort_by_time_and_differ():
    ids = [runs.new_id() for _ in range(50)]
    assert len(set(ids)) == 50
    assert [name[:15] for name in ids] == sorted(name[:15] for name in ids)


# ---------------------------------------------------------------- show


def test_a_run_is_shown_once_more(kept, capsys):
    status, out, _ = asked(capsys, "show", "3f2a1c")
    assert status == 0
    assert out.startswith("confirmed  train.py:20:16  scheduler-never-stepped\n")
    assert asked(capsys, "show", "3f2a1c", "--html", "run.html") == (0, "", "")
    assert "scheduler-never-stepped" in Path("run.html").read_text(encoding="utf-8")
    status, _, err = asked(capsys, "show", "3f2a1c", "--html", "absent/run.html")
    assert status == 2 and err.startswith("mllint: error: cannot write absent/run.html: ")


# ---------------------------------------------------------------- diff


def test_what_tells_two_runs_apart(kept, capsys):
    status, out, _ = asked(capsys, "diff", FIRST, SECOND)
    rows = [line for line in out.splitlines() if line[1:2] == " " and line[0] in "=! "]
    said = {line[2:].split("  ")[0]: (line[0], line[2:].split("  ", 1)[1].strip()) for line in rows}
    assert status == 1
    assert said["steps"] == ("=", "8 in both")
    assert said["loss"] == ("!", "differs first at step 3: 1.466545 in A, 1.466545001 in B (6.8e-10 apart)")
    assert said["learning rate, group 0"] == ("=", "equal in all 8 steps")
    assert said["events"] == ("=", "the same 40 in both")
    verdicts = ["clip-after-step refuted in A, not reported in B", "scheduler-never-stepped confirmed in A, refuted in B"]
    assert said["verdicts"] == ("!", "; ".join(f"train.py:20 {text}" for text in verdicts))
    assert said["time a step"][0] == " "
    assert out.endswith("\nthe runs differ\n")


def test_a_run_is_the_same_as_itself(kept, capsys):
    status, out, _ = asked(capsys, "diff", FIRST, FIRST)
    assert status == 0
    assert "!" not in [line[:1] for line in out.splitlines()]
    assert out.endswith("\nthe runs are the same\n")


def test_the_difference_for_programs(kept, capsys):
    status, out, _ = asked(capsys, "diff", FIRST, SECOND, "--format", "json")
    told = json.loads(out)
    assert status == 1 and told["same"] is False
    assert next(row for row in told["comparisons"] if row["name"] == "loss")["step"] == 3
    assert {row["same"] for row in told["comparisons"] if row["name"] in ("time a step", "device memory")} == {None}


def test_runs_of_other_lengths_and_rates_differ():
    a, b = record(losses(8)), record(losses(6), lr=(0.1, 0.02))
    found = {difference.name: difference for difference in runs.differences(a, b)}
    assert found["steps"].text == "8 in A, 6 in B" and found["steps"].same is False
    assert found["loss"].same is True, "as far as both go"
    assert found["learning rate, group 1"].text == "differs first at step 0: 0.01 in A, 0.02 in B (0.5 apart)"
    assert found["events"].text.startswith("zero_grad 8 in A, 6 in B; ")
    assert not runs.same(list(found.values()))


def test_values_that_are_no_numbers_are_the_same_as_each_other():
    same = runs.differences(record([1.0, math.nan, math.inf]), record([1.0, math.nan, math.inf]))
    assert runs.same(same)
    apart = {d.name: d for d in runs.differences(record([1.0, math.nan]), record([1.0, 2.0]))}
    assert apart["loss"].text == "differs first at step 1: nan in A, 2 in B"


def test_other_parts_of_the_loss_are_named():
    a, b = record(), record(components=False)
    found = {difference.name: difference for difference in runs.differences(a, b)}
    assert found["parts of the loss"].text == "reconstruction, kl in A, none in B"


def test_findings_are_paired_by_key_then_by_the_nearest_line():
    a = [finding("r", key="1", line=5), finding("r", key="2", line=50), finding("other", key="9", line=5)]
    b = [finding("r", key="x", line=52), finding("r", key="1", line=90)]
    pairs = {(one and one["line"], other and other["line"], (one or other)["rule"]) for one, other in runs.paired(a, b)}
    assert pairs == {(5, 90, "r"), (50, 52, "r"), (5, None, "other")}


# ---------------------------------------------------------------- real runs

TRAIN = """
import sys
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

data = TensorDataset(torch.randn(64, 4), torch.randn(64, 1))
model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=float(sys.argv[1]))
for epoch in range(3):
    for x, y in DataLoader(data, batch_size=8, shuffle=True):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    schedule.step()
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three real runs with the same seed: twice the same, then with another schedule; and what each printed."""
    pytest.importorskip("torch")
    root = tmp_path_factory.mktemp("trained")
    (root / "mllint.toml").write_text("")
    (root / "train.py").write_text(TRAIN)
    printed = []
    for gamma in ("0.5", "0.5", "0.1"):
        command = [sys.executable, "-m", "mllint", "runtime-check", "--seed", "3", "--", sys.executable, "train.py", gamma]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        printed.append(done.stdout)
    return root, printed


def test_real_runs_with_one_seed_are_the_same_to_the_last_bit(trained):
    root, _ = trained
    newest, middle, oldest = (load(entry.path) for entry in runs.listed(str(root)))
    assert runs.same(runs.differences(oldest, middle)), runs.differences(oldest, middle)
    found = {difference.name: difference for difference in runs.differences(middle, newest)}
    assert found["learning rate"].step == 3, "the schedule is stepped after the first pass of three batches"
    assert found["loss"].step == 4, "the first loss after a step with another rate"
    assert found["events"].same and found["steps"].same
    assert runs.first_difference(middle, newest)[0] == 4


def test_the_summary_of_a_real_run(trained):
    _, printed = trained
    said = " ".join(printed[0].split())
    # Six, and one more where the next pass is waited for.
    assert re.search(r"[67] optimizer steps, \d passes over the data, on the CPU", said)
    assert "optimizer.step → scheduler.step" in said
    for name in ("loss", "lr", "gradient norm", "backward", "process"):
        assert name in said
    assert max(map(len, printed[0].splitlines())) <= 80 or str(sys.executable) in printed[0]
    assert "\x1b" not in printed[0]


@pytest.mark.parametrize("words", [("runs",), ("runs", "--format", "json"), ("runs", "diff", FIRST, FIRST)])
def test_only_the_summary_loads_rich(kept, words):
    command = [sys.executable, "-X", "importtime", "-m", "mllint", *words]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
    names = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "mllint" in names
    assert not names & {"rich", "plotly", "torch", "git", "libcst"}
