"""The command as people and scripts call it: exit statuses, streams, formats, and what becomes of mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mllint
from mllint.cli import run
from mllint.pages import load_pages

CLEAN = "x = 1\n"
# Found in any file, whatever the engine thinks of its code.
MISSPELT = "x = 1  # mllint: ignore[no-such-rule]\n"

NEVER_STEPPED = """import torch

model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=10){mark}
for epoch in range(10):
    optimizer.zero_grad()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
"""


def scan_json(capsys, *arguments: str, status: int | None = None) -> dict:
    capsys.readouterr()
    code = run(["scan", *arguments, "--format", "json"])
    out = capsys.readouterr().out
    assert status is None or code == status, out
    return json.loads(out)


def rules_of(report: dict) -> list[str]:
    return sorted(finding["rule"] for finding in report["findings"] if not finding.get("hidden"))


def command(*arguments: str, cwd: Path, **more) -> subprocess.CompletedProcess:
    more = {"capture_output": True, "text": True, "encoding": "utf-8"} | more
    return subprocess.run([sys.executable, "-m", "mllint", *arguments], cwd=cwd, **more)


# ---------------------------------------------------------------- exit statuses


@pytest.mark.parametrize(
    ("files", "arguments", "status"),
    [
        ({"a.py": CLEAN}, ["."], 0),
        ({"a.py": CLEAN}, [], 0),
        ({"a.py": MISSPELT}, ["."], 1),
        ({"a.py": MISSPELT}, [".", "--exit-zero"], 0),
        ({"a.py": "import torch\nloss.backward(\n"}, ["."], 1),
        ({"a.py": CLEAN}, ["a.py", "missing.py"], 1),
        ({"a.py": CLEAN}, ["missing.py"], 2),
        ({"a.txt": "x"}, ["."], 2),
        ({"a.txt": "x"}, [], 0),
        ({"a.txt": "x"}, ["a.txt"], 2),
        ({"a.py": CLEAN}, [".", "--select", "no-such"], 2),
        ({"a.py": CLEAN}, [".", "--format", "xml"], 2),
        ({"a.py": CLEAN}, [".", "--no-such-option"], 2),
        ({"a.py": CLEAN, "mllint.toml": "selct = []"}, ["."], 2),
        ({"a.py": CLEAN, "mllint.toml": "rules = ['nowhere']"}, ["."], 2),
        ({"a.py": CLEAN}, [".", "--root", "nowhere"], 2),
        ({"a.py": CLEAN}, [".", "--config", "nowhere.toml"], 2),
        ({"a.py": CLEAN}, [".", "--output", "no/such/folder/out.txt"], 2),
    ],
)
def test_exit_status(project, capsys, files, arguments, status):
    project(files)
    code = run(["scan", *arguments])
    said = capsys.readouterr()
    assert code == status, said
    assert status != 2 or said.err, "wrong use is explained on standard error"


def test_no_command_is_wrong_use(capsys):
    assert run([]) == 2
    assert "scan" in capsys.readouterr().err


def test_unknown_command_is_wrong_use(capsys):
    assert run(["scna", "."]) == 2


def test_help_is_not(capsys):
    assert run(["scan", "--help"]) == 0
    assert "--force-exclude" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version(flag, tmp_path):
    done = command(flag, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"mllint {mllint.__version__}\n")


def test_nothing_to_check_is_said_loudly(project, capsys):
    project({"a.txt": "x"})
    run(["scan", "."])
    assert "0 files checked" in capsys.readouterr().err


def test_the_two_ways_of_reading_arguments_agree(project, capsys):
    project({"a.py": MISSPELT})
    assert run(["scan", "."]) == 1
    plain = capsys.readouterr().out
    assert run(["scan", "--no-cache", "."]) == 1
    parsed = capsys.readouterr().out
    assert "unknown-ignore" in plain
    assert [line for line in plain.splitlines() if " in " not in line] == [line for line in parsed.splitlines() if " in " not in line]


# ---------------------------------------------------------------- what is found


def test_finding_and_its_way_through_selection(project, capsys):
    project({"a.py": NEVER_STEPPED.format(mark="")})
    assert rules_of(scan_json(capsys, ".", status=1)) == ["scheduler-never-stepped"]
    assert rules_of(scan_json(capsys, ".", "--select", "mixed-precision", status=0)) == []
    assert rules_of(scan_json(capsys, ".", "--select", "mixed-precision,schedulers", status=1)) == ["scheduler-never-stepped"]
    assert rules_of(scan_json(capsys, ".", "--ignore", "scheduler-never-stepped", status=0)) == []
    assert rules_of(scan_json(capsys, ".", "--select", "suppressions", "--extend-select", "schedulers", status=1)) != []


def test_json_says_where(project, capsys):
    project({"pkg/a.py": NEVER_STEPPED.format(mark="")})
    (found,) = scan_json(capsys, "pkg")["findings"]
    assert (found["path"], found["line"], found["topic"], found["severity"]) == ("pkg/a.py", 5, "schedulers", "error")
    assert found["url"].endswith("rules/schedulers/scheduler-never-stepped.md")
    assert len(found["key"]) == 16


def test_comment_hides_and_unused_comment_is_found(project, capsys):
    mark = "  # mllint: ignore[scheduler-never-stepped] a plugin steps it"
    project({"a.py": NEVER_STEPPED.format(mark=mark), "b.py": f"x = 1{mark}\n"})
    report = scan_json(capsys, ".", status=1)
    assert [(f["rule"], f["path"], f["line"]) for f in report["findings"] if not f.get("hidden")] == [("unused-ignore", "b.py", 1)]
    assert report["counts"]["suppressed"] == 1
    assert rules_of(scan_json(capsys, ".", "--select", "mixed-precision,suppressions", status=0)) == [], "it was not looked for"


def test_unused_comment_in_a_file_that_could_not_be_read_whole_is_not_judged(project, capsys):
    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    cells = [{**cell, "source": "x = (\n"}, {**cell, "source": "y = 1  # mllint: ignore[schedulers]\n"}]
    project({"n.ipynb": json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})})
    report = scan_json(capsys, ".", status=1)
    assert rules_of(report) == [] and len(report["problems"]) == 1


def test_settings_for_paths(project, capsys):
    bad = NEVER_STEPPED.format(mark="")
    settings = "[per-path]\n'old/' = { ignore = ['schedulers'] }\n'new/*' = { severity = 'info' }\n"
    project({"old/a.py": bad, "new/b.py": bad, "mllint.toml": settings})
    report = scan_json(capsys, ".")
    shown = [(f["path"], f["severity"]) for f in report["findings"] if not f.get("hidden")]
    assert shown == [("new/b.py", "info")]
    assert report["counts"]["suppressed"] == 1


def test_key_stays_when_lines_move(project, capsys):
    bad = NEVER_STEPPED.format(mark="")
    root = project({"a.py": bad})
    (before,) = scan_json(capsys, ".")["findings"]
    (root / "a.py").write_text("# moved\n\n" + bad)
    (after,) = scan_json(capsys, ".")["findings"]
    assert after["line"] == before["line"] + 2 and after["key"] == before["key"]


def test_keys_of_equal_lines_differ(project, capsys):
    project({"a.py": MISSPELT + MISSPELT})
    keys = [f["key"] for f in scan_json(capsys, ".")["findings"]]
    assert len(keys) == len(set(keys)) == 2


def test_baseline_hides_what_is_known(project, capsys):
    root = project({"a.py": MISSPELT})
    assert run(["scan", ".", "--format", "json", "--output", "known.json"]) == 1
    (root / "mllint.toml").write_text("baseline = 'known.json'\n")
    assert run(["scan", "."]) == 0
    (root / "a.py").write_text(CLEAN + MISSPELT + "y = 2  # mllint: ignore[another]\n")
    assert [f["line"] for f in scan_json(capsys, ".", status=1)["findings"] if not f.get("hidden")] == [3]


def test_baseline_that_is_none_stops(project, capsys):
    project({"a.py": CLEAN, "mllint.toml": "baseline = 'a.py'\n"})
    assert run(["scan", "."]) == 2
    assert "baseline" in capsys.readouterr().err


def test_named_file_is_judged_within_its_project(project, capsys):
    factory = "import torch\n\ndef make(optimizer):\n    return torch.optim.lr_scheduler.StepLR(optimizer, 10)\n"
    train = (
        "import torch\nfrom factory import make\n\nmodel = torch.nn.Linear(2, 2)\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\nscheduler = make(optimizer)\n"
        "for epoch in range(10):\n    optimizer.zero_grad()\n    model(torch.ones(1, 2)).sum().backward()\n    optimizer.step()\n"
    )
    project({"factory.py": factory, "train.py": train, "other.py": MISSPELT})
    report = scan_json(capsys, "factory.py", status=1)
    assert rules_of(report) == ["scheduler-never-stepped"], "what is found elsewhere stays out"
    assert report["counts"]["files"] == 1


def test_problem_elsewhere_does_not_fail_a_named_file(project, capsys):
    project({"a.py": CLEAN, "broken.py": "import torch\nloss.backward(\n"})
    assert run(["scan", "a.py"]) == 0


def test_quiet_is_nothing_but_findings(project, capsys):
    project({"a.py": MISSPELT, "b.py": CLEAN})
    assert run(["scan", ".", "-q"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("a.py:1:8: unknown-ignore")
    assert run(["scan", "b.py", "-q"]) == 0
    assert capsys.readouterr().out == ""


def test_sarif_carries_the_pages(project, capsys):
    project({"a.py": MISSPELT})
    run(["scan", ".", "--format", "sarif"])
    (described,) = [r for r in json.loads(capsys.readouterr().out)["runs"][0]["tool"]["driver"]["rules"] if r["id"] == "unknown-ignore"]
    assert "A misspelt comment hides nothing" in json.dumps(described)


def test_statistics(project, capsys):
    project({"a.py": MISSPELT * 3})
    assert run(["scan", ".", "--statistics"]) == 1
    assert capsys.readouterr().out.split()[:2] == ["3", "unknown-ignore"]


def test_output_file_is_replaced_whole(project, capsys):
    root = project({"a.py": MISSPELT, "out.json": "old"})
    assert run(["scan", ".", "--format", "json", "--output", "out.json"]) == 1
    assert capsys.readouterr().out == ""
    assert json.loads((root / "out.json").read_text())["findings"]
    assert sorted(p.name for p in root.iterdir()) == [".git", "a.py", "out.json"], "nothing is left over"


# ---------------------------------------------------------------- rules of one's own

OWN_PAGE = """---
severity: warning
confidence: high
default: on
since: 0.1.0
mentions: torch
---
# a linear layer is made

## What it finds

A linear layer.

## Why it matters

It shows that a rule of one's own runs.

## Bad

```python bad
import torch

layer = torch.nn.Linear(2, 2)  # <-
optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
optimizer.zero_grad()
```

## Good

```python good
import torch
```

```python good
layer = 1
```

## Limits

Many.

## References

- None.
"""

OWN_CHECK = """from mllint.checks import each
from mllint.model.finding import Hit
from mllint.model.history import Thing


@each(Thing, kind="module")
def layer_made(module, history):
    {body}
    yield Hit(module.made_at, f"`{{module.name}}` is made, and everybody may know")
"""


def test_own_rules_are_found_shown_and_tested(project, capsys):
    files = {
        "ml_rules/layers/layer-made.md": OWN_PAGE,
        "ml_rules/layers/layer_made.py": OWN_CHECK.format(body="pass"),
        "mllint.toml": "rules = ['ml_rules']\n",
        "train.py": "import torch\n\nlayer = torch.nn.Linear(2, 2)\noptim = torch.optim.SGD(layer.parameters())\noptim.zero_grad()\n",
    }
    root = project(files)
    assert rules_of(scan_json(capsys, "train.py", status=1)) == ["layer-made"]
    assert rules_of(scan_json(capsys, "train.py", "--ignore", "layers", status=0)) == []
    assert run(["explain", "layer-made"]) == 0
    assert "It shows that" in capsys.readouterr().out
    assert run(["test-rules", "ml_rules"]) == 0
    assert capsys.readouterr().out == "1 rules, 3 examples, 0 failed\n"
    (root / "ml_rules/layers/layer_made.py").write_text(OWN_CHECK.format(body="return"))
    sys.modules.pop(next(name for name in sys.modules if name.startswith("mllint_own_rules")))
    assert run(["test-rules", "ml_rules"]) == 1
    assert "is marked `# <-`" in capsys.readouterr().out


def test_detector_that_raises_is_a_problem_and_the_rest_goes_on(project, capsys):
    project(
        {
            "ml_rules/layers/layer-made.md": OWN_PAGE,
            "ml_rules/layers/layer_made.py": OWN_CHECK.format(body="raise ValueError('broken here')"),
            "mllint.toml": "rules = ['ml_rules']\n",
            "train.py": NEVER_STEPPED.format(mark=""),
        }
    )
    report = scan_json(capsys, "train.py", status=2)
    assert rules_of(report) == ["scheduler-never-stepped"]
    (problem,) = report["problems"]
    assert problem["kind"] == "internal" and problem["path"] == "train.py"
    assert "layer-made" in problem["message"] and "broken here" in problem["message"]


def test_own_rule_without_detector_is_a_problem(project, capsys):
    project({"ml_rules/layers/layer-made.md": OWN_PAGE, "mllint.toml": "rules = ['ml_rules']\n", "train.py": NEVER_STEPPED.format(mark="")})
    report = scan_json(capsys, "train.py", status=2)
    assert "layer_made" in report["problems"][0]["message"]


def test_own_rule_with_a_name_that_is_taken_stops(project, capsys):
    project({"ml_rules/layers/unused-ignore.md": OWN_PAGE, "mllint.toml": "rules = ['ml_rules']\n", "train.py": CLEAN})
    assert run(["scan", "."]) == 2
    assert "already has a page" in capsys.readouterr().err


def test_new_rule_is_a_valid_page_that_fails_until_it_is_written(project, capsys):
    root = project({})
    assert run(["new-rule", "layers", "layer-made", "--folder", "mine"]) == 0
    page, check = root / "mine/layers/layer-made.md", root / "mine/layers/layer_made.py"
    assert page.is_file() and check.is_file()
    assert run(["test-rules", "mine"]) == 1
    assert "1 failed" in capsys.readouterr().out
    page.write_text(OWN_PAGE)
    check.write_text(OWN_CHECK.format(body="pass"))
    assert run(["test-rules", "mine"]) == 1, "the module that was loaded is the one that counts"
    for name in [name for name in sys.modules if name.startswith("mllint_own_rules")]:
        del sys.modules[name]
    assert run(["test-rules", "mine"]) == 0


@pytest.mark.parametrize(
    ("topic", "name", "said"),
    [
        ("layers", "scheduler-never-stepped", "taken"),
        ("layers", "schedulers", "taken"),
        ("layers", "Layer_Made", "lower-case"),
        ("../x", "layer-made", "lower-case"),
    ],
)
def test_new_rule_refuses(project, capsys, topic, name, said):
    root = project({})
    assert run(["new-rule", topic, name, "--folder", "mine"]) == 2
    assert said in capsys.readouterr().err
    assert not (root / "mine").exists()


def test_new_rule_twice_is_refused(project, capsys):
    root = project({})
    assert run(["new-rule", "layers", "layer-made", "--folder", "mine"]) == 0
    (root / "mine/layers/layer-made.md").write_text(OWN_PAGE)
    assert run(["new-rule", "layers", "layer-made", "--folder", "mine"]) == 2
    assert (root / "mine/layers/layer-made.md").read_text() == OWN_PAGE


# ---------------------------------------------------------------- tables of one's own

OWN_SCHEDULER = NEVER_STEPPED.format(mark="").replace("import torch\n", "import torch\nimport inhouse\n")
OWN_SCHEDULER = OWN_SCHEDULER.replace("torch.optim.lr_scheduler.StepLR", "inhouse.Steps")


def test_own_tables_teach_own_names(project, capsys):
    root = project({"a.py": OWN_SCHEDULER})
    assert rules_of(scan_json(capsys, ".", status=0)) == []
    (root / "inhouse.yaml").write_text("aliases:\n  inhouse.Steps: torch.optim.lr_scheduler.StepLR\n")
    (root / "mllint.toml").write_text("tables = ['inhouse.yaml']\n")
    assert rules_of(scan_json(capsys, ".", status=1)) == ["scheduler-never-stepped"]


@pytest.mark.parametrize(("text", "said"), [("alises: {}\n", "alises"), ("[1, 2\n", "cannot be read"), (None, "there is no file")])
def test_table_that_is_wrong_stops(project, capsys, text, said):
    root = project({"a.py": OWN_SCHEDULER, "mllint.toml": "tables = ['inhouse.yaml']\n"})
    if text is not None:
        (root / "inhouse.yaml").write_text(text)
    assert run(["scan", "."]) == 2
    err = capsys.readouterr().err
    assert said in err and "inhouse.yaml" in err


# ---------------------------------------------------------------- explain and rules


def test_explain_shows_the_page(project, capsys):
    project({})
    assert run(["explain", "scheduler-never-stepped"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("scheduler-never-stepped: schedulers, error")
    assert "## Why it matters" in out and "mentions:" not in out


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
def test_explain_is_dressed_for_a_terminal(tmp_path):
    import pty

    ours, theirs = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {"TERM": "xterm-256color", "COLUMNS": "100"}
    process = subprocess.Popen([sys.executable, "-m", "mllint", "explain", "unused-ignore"], cwd=tmp_path, stdout=theirs, env=environment)
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    assert process.wait(30) == 0
    assert b"\x1b[" in seen and b"an ignore comment hides nothing" in seen and b"```" not in seen


def test_explain_offers_the_nearest(project, capsys):
    project({})
    assert run(["explain", "scheduler-never-steped"]) == 2
    assert "did you mean `scheduler-never-stepped`" in capsys.readouterr().err


def test_explain_knows_the_codes_of_other_tools(project, capsys):
    project(
        {
            "ml_rules/layers/layer-made.md": OWN_PAGE.replace("mentions: torch", "mentions: torch\nalso: TOR999"),
            "mllint.toml": "rules = ['ml_rules']\n",
        }
    )
    assert run(["explain", "tor999"]) == 0
    assert capsys.readouterr().out.startswith("layer-made: layers")


def test_rules_lists_every_rule(project, capsys):
    project({})
    assert run(["rules"]) == 0
    listed = capsys.readouterr().out
    assert run(["rules", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} == set(load_pages())
    assert all(f"  {row['name']} " in listed and row["title"] in listed for row in rows)
    assert all(row["severity"] in ("error", "warning", "info") and isinstance(row["default"], bool) for row in rows)


# ---------------------------------------------------------------- streams


def test_output_is_utf8_whatever_the_locale(tmp_path):
    (tmp_path / "ä.py").write_text("größe = 1  # mllint: ignore[größe]\n", encoding="utf-8")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = command("scan", ".", cwd=tmp_path, env=environment)
    assert done.returncode == 1, done.stderr
    assert "größe" in done.stdout


def test_file_name_that_is_no_text(tmp_path):
    with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9.py"), "w") as stream:
        stream.write(MISSPELT)
    for form in ("text", "json", "sarif", "github", "concise"):
        done = command("scan", ".", "--format", form, cwd=tmp_path)
        assert done.returncode == 1, done.stderr
        assert "unknown-ignore" in done.stdout


def test_reader_that_leaves_early_is_no_error(tmp_path):
    (tmp_path / "a.py").write_text(MISSPELT * 3000)
    process = subprocess.Popen(
        [sys.executable, "-m", "mllint", "scan", "."], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 1
    assert process.stderr.read() == ""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a named pipe to hold the scan")
def test_interrupt_is_one_line(tmp_path):
    (tmp_path / "a.py").write_text(CLEAN)
    os.mkfifo(tmp_path / "wait.toml")
    process = subprocess.Popen(
        [sys.executable, "-m", "mllint", "scan", ".", "--config", "wait.toml"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    time.sleep(1.5)  # it now waits for somebody to write its settings
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert process.stderr is not None and process.stderr.read() == "mllint: interrupted\n"


def test_color_only_where_somebody_looks(project, capsys, monkeypatch):
    project({"a.py": MISSPELT})
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    run(["scan", "."])
    assert "\x1b[" not in capsys.readouterr().out
    monkeypatch.setenv("FORCE_COLOR", "1")
    run(["scan", "."])
    assert "\x1b[" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    run(["scan", "."])
    assert "\x1b[" not in capsys.readouterr().out
