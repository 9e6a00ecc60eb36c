"""Commands that misbehave: each ends in time with a message, leaves no process and no change, and keeps what was seen."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from launching import PYTHON, Place

pytestmark = pytest.mark.skipif(os.name != "posix", reason="runs need Linux or macOS")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")

SHORT = 1.0  # seconds, for what has to be ended

# ---------------------------------------------------------------- scripts that fail

FAILING = {
    "an exception": ("import os\n\n\ndef step():\n    raise RuntimeError('boom')\n\n\nstep()\n", "RuntimeError (train.py:5): boom"),
    "a missing file": ("open('data/train.csv')\n", "a file is missing: data/train.csv (train.py:1)"),
    "a missing file, wrapped": (
        "try:\n    open('data/train.csv')\nexcept OSError as error:\n    raise SystemExit('cannot read the data') from error\n",
        "the command ended with status 1: cannot read the data",
    ),
    "a missing module": ("import json\nimport no_such_module\n", "the Python of the command has no module `no_such_module` (train.py:2)"),
    "a missing variable": ("import os\nos.environ['TRAIN_DATA']\n", "the environment variable TRAIN_DATA is not set (train.py:2)"),
    "no argument": (
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('--data', required=True)\np.parse_args()\n",
        "the command ended with status 2 (train.py:4): train.py: error: the following arguments are required: --data",
    ),
    "standard input": ("name = input('run name: ')\n", "the script reads standard input, which is empty in such a run (train.py:1)"),
    "sys.exit with a message": ("import sys\nsys.exit('no data here')\n", "the command ended with status 1 (train.py:2): no data here"),
    "sys.exit with a number": ("import sys\nprint('bye')\nsys.exit(7)\n", "the command ended with status 7 (train.py:3): bye"),
    "os._exit": ("import os\nos._exit(5)\n", "the command ended with status 5"),
    "a syntax error": ("x = 1\ny = = 2\n", "not valid Python (train.py:2): invalid syntax"),
    "an indentation error": ("if True:\nx = 1\n", "not valid Python (train.py:2): expected an indented block"),
    "a wrong breakpoint": ("import os\nbreakpoint()\nraise ValueError('after it')\n", "ValueError (train.py:3): after it"),
    "its own end by a signal": ("import os\nos.kill(os.getpid(), 9)\n", "the command was ended by SIGKILL, perhaps for want of memory"),
    "a crash of the interpreter": ("import ctypes\nctypes.string_at(0)\n", "the command was ended by SIGSEGV"),
    "the network": (
        "import urllib.request\nurllib.request.urlopen('http://localhost:9/')\n",
        "the script needs the network (train.py:2): <urlopen error [Errno 111] Connection refused>",
    ),
}


@pytest.mark.parametrize("name", FAILING)
def test_the_first_missing_thing_is_named(place: Place, name: str) -> None:
    text, problem = FAILING[name]
    done = place.script(text)
    assert done.problem.startswith(problem)
    assert done.status == 1
    assert (done.run["ended"], done.run["sandbox"]) == ("error", done.run["sandbox"])
    assert any(p["message"] == f"the run: {done.problem}" for p in done.report["problems"])


def test_output_is_passed_on_and_kept_apart_from_the_report(place: Place) -> None:
    done = place.script("import sys\nprint('to out')\nsys.stderr.write('to err\\n')\nraise KeyError(1)\n")
    assert "to out\nto err\n" in done.shown
    assert "to out\nto err\n" in json.loads(Path(done.run["record"]).read_text())["output"]


def test_a_script_that_is_not_there(place: Place) -> None:
    assert place.check(PYTHON, "trian.py").problem == "there is no file trian.py"


def test_a_script_that_trains_nothing(place: Place) -> None:
    done = place.script("print('hello')\n")
    assert done.problem == "the command ended without training: the probes saw no process of it import torch"
    assert (done.status, done.run["ended"], done.run["exit_status"]) == (1, "exit", 0)


# ---------------------------------------------------------------- commands that are no Python


def test_a_program_that_is_no_python(place: Place) -> None:
    script = place.write("train.sh", "#!/bin/sh\necho starting\nno-such-trainer --epochs 3\n")
    script.chmod(0o755)
    done = place.check("./train.sh")
    assert done.problem.startswith("the command ended with status 127:") and "train.sh: 3: no-such-trainer: not found" in done.problem


def test_a_file_that_python_cannot_read(place: Place) -> None:
    place.write("train.py", bytes(range(256)) * 40)
    done = place.check(PYTHON, "train.py")
    assert done.problem.startswith("not valid Python (train.py:1)"), done.problem


def test_a_file_that_is_no_program(place: Place) -> None:
    script = place.write("model", b"\x7fELF" + bytes(200))
    script.chmod(0o755)
    process = place.start("./model")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and err.splitlines()[-1].startswith("mllint: error: the command cannot be started: Exec format error")


def test_shell_scripts_and_modules_are_watched_as_they_are(place: Place) -> None:
    place.write("pkg/__init__.py", "")
    place.write("pkg/train.py", "import os\nprint('in module', os.environ['MLLINT_RUN_DIR'][-30:])\nraise ValueError('reached')\n")
    script = place.write("run.sh", f"#!/bin/sh\nset -e\n{PYTHON} -m pkg.train\n")
    script.chmod(0o755)
    assert place.check("sh", "run.sh").problem == "ValueError (pkg/train.py:3): reached"
    assert place.check(PYTHON, "-m", "pkg.train").problem == "ValueError (pkg/train.py:3): reached"


# ---------------------------------------------------------------- commands that do not end

ENDLESS = {
    "sleep": ("import time\n\n\ndef wait():\n    time.sleep(1000)\n\n\nwait()\n", 5),
    "a loop": ("def spin():\n    n = 0\n    while True:\n        n += 1\n\n\nspin()\n", 4),
    "signals ignored": (
        "import signal, time\nfor s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):\n    signal.signal(s, signal.SIG_IGN)\n"
        "while True:\n    time.sleep(1)\n",
        5,
    ),
    "every exception caught": (
        "import time\nwhile True:\n    try:\n        time.sleep(0.01)\n        raise ValueError\n    except:  # noqa: E722\n        pass\n",
        None,
    ),
    "abort ignored": ("import signal, time\nsignal.signal(signal.SIGABRT, signal.SIG_IGN)\nwhile True:\n    time.sleep(1)\n", None),
    "a thread that waits": (
        "import threading\n\n\ndef work():\n    threading.Event().wait()\n\n\nt = threading.Thread(target=work)\nt.start()\nt.join()\n",
        10,
    ),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_does_not_end_is_ended(place: Place, name: str) -> None:
    text, line = ENDLESS[name]
    done = place.script(text, seconds=SHORT)
    assert done.problem.startswith("took longer than 1 s and was ended before any training was seen")
    if line is not None:
        assert done.problem.endswith(f"it stood at train.py:{line}")
    assert (done.status, done.run["ended"], done.run["exit_status"]) == (1, "time", None)


def test_stopped_processes_are_ended_too(place: Place) -> None:
    done = place.script("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\n", seconds=SHORT)
    assert done.run["ended"] == "time"


# ---------------------------------------------------------------- processes that want to stay

STAYING = {
    "a child": "import subprocess\nsubprocess.Popen(['sleep', '1000'])\n",
    "a child in a session of its own": "import subprocess\nsubprocess.Popen(['sleep', '1000'], start_new_session=True)\n",
    "a child without the environment": (
        "import os, subprocess\nenv = {'MLLINT_TEST': os.environ['MLLINT_TEST']}\n"
        "subprocess.Popen(['sleep', '1000'], env=env, start_new_session=True)\n"
    ),
    "a daemon": (
        "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        os.closerange(0, 3)\n"
        "        os.execvp('sleep', ['sleep', '1000'])\n    os._exit(0)\nos.wait()\n"
    ),
    "many": "import subprocess\nfor _ in range(30):\n    subprocess.Popen(['sleep', '1000'], start_new_session=True)\n",
    "one that is born again": (
        "import subprocess\nloop = 'trap \"\" TERM INT HUP; while true; do sleep 1; done'\n"
        "subprocess.Popen(['sh', '-c', loop], start_new_session=True)\n"
    ),
}


@on_linux
@pytest.mark.parametrize("name", STAYING)
def test_nothing_stays_behind(place: Place, name: str) -> None:
    done = place.script(STAYING[name] + "print('parent ends')\n")
    assert done.seconds < 15, "nobody waits for what is no Python"
    assert any("outlived the run" in note for note in done.run["notes"])
    assert done.run["ended"] == "exit"


@on_linux
def test_a_parent_that_leaves_its_child_to_work(place: Place) -> None:
    done = place.script(
        """
        import os, sys, time
        if os.fork() > 0:
            os._exit(0)
        os.setsid()
        time.sleep(1.5)
        print('the child is done')
        """
    )
    assert "the child is done" in done.shown, "a Python process may be about to train"
    assert done.run["ended"] == "exit"


@on_linux
def test_a_process_that_leaves_group_and_session_and_goes_on(place: Place) -> None:
    done = place.script("import os, time\nif os.fork():\n    os._exit(0)\nos.setsid()\ntime.sleep(1000)\n", seconds=SHORT)
    assert done.run["ended"] == "time"
    assert done.problem.endswith("it stood at train.py:5")


@on_linux
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGHUP, 130)])
def test_interrupting_mllint_ends_the_run_and_keeps_the_record(place: Place, number: int, status: int) -> None:
    place.write("train.py", "import subprocess\nprint('up', flush=True)\nsubprocess.run(['sleep', '1000'])\n")
    process = place.start(PYTHON, "train.py")
    assert process.stderr is not None
    while "up" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == status
    assert not place.left()
    report = json.loads(out)
    assert (report["run"]["ended"], report["run"]["problem"]) == ("killed", "interrupted")
    assert Path(report["run"]["record"]).is_file()


@on_linux
def test_what_mllint_is_told_to_ignore_it_ignores(place: Place) -> None:
    place.write("train.py", "import time\nprint('up', flush=True)\ntime.sleep(1)\nraise ValueError('end')\n")
    process = place.start(PYTHON, "train.py", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert process.stderr is not None
    while "up" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGHUP)
    assert json.loads(process.communicate(timeout=30)[0])["run"]["problem"] == "ValueError (train.py:4): end"


@on_linux
@pytest.mark.parametrize("text", ["print('up', flush=True)\ntime.sleep(1000)\n", "subprocess.run(['sh', '-c', 'echo up; sleep 1000'])\n"])
def test_killing_mllint_kills_the_command_and_all_it_started(place: Place, text: str) -> None:
    place.write("train.py", f"import subprocess, time\n{text}")
    process = place.start(PYTHON, "train.py")
    assert process.stderr is not None
    while "up" not in process.stderr.readline():
        assert process.poll() is None
    process.kill()
    process.communicate(timeout=20)
    assert not place.left(5)
    assert os.listdir(place.scratch) == []


# ---------------------------------------------------------------- files

HARM = """
import os, shutil
open("notes.txt", "a").write("more")
open("new.txt", "w").write("new")
os.makedirs("runs/one")
open("runs/one/model.bin", "wb").write(b"x" * 1000)
os.remove("data/a.csv")
os.rename("data/b.csv", "data/c.csv")
os.chmod("train.py", 0o600)
os.symlink("/etc/hostname", "link")
print(sorted(os.listdir(".")), open("notes.txt").read())
shutil.rmtree("pkg")
raise SystemExit(3)
"""


def _harmed(place: Place, sandbox: str) -> None:
    for name in ("notes.txt", "data/a.csv", "data/b.csv", "pkg/__init__.py", "pkg/deep/er.py"):
        place.write(name, f"{name}\n")
    (place.root / ".gitignore").write_text("data/\n")
    done = place.script(HARM, options=("--sandbox", sandbox))
    assert done.run["exit_status"] == 3, done.shown
    assert "'new.txt', 'notes.txt', 'pkg', 'runs', 'train.py'] notes.txt\nmore" in done.shown, "it saw its own changes"
    assert done.run["sandbox"] == sandbox
    assert done.run["kept_out"] >= 7
    assert not any(str(place.root) in path or not os.path.isabs(path) for path in done.run["written"])


@on_linux
def test_a_layer_keeps_every_change(place: Place) -> None:
    try:
        _harmed(place, "overlay")
    except json.JSONDecodeError:
        pytest.skip("no overlay can be mounted here")


def test_a_copy_keeps_every_change(place: Place) -> None:
    _harmed(place, "copy")


@pytest.mark.parametrize("sandbox", ["overlay", "copy"])
def test_a_script_that_deletes_its_project(place: Place, sandbox: str) -> None:
    place.write("data/a.csv", "1")
    text = (
        "import os, shutil\nfor n in os.listdir('.'):\n    shutil.rmtree(n) if os.path.isdir(n) else os.remove(n)\nprint(os.listdir('.'))\n"
    )
    done = place.script(text, options=("--sandbox", sandbox))
    assert "[]" in done.shown
    assert done.run["exit_status"] == 0


def test_without_a_sandbox_changes_are_real_and_told(place: Place) -> None:
    done = place.script("open('out.txt', 'w').write('x')\n", options=("--no-sandbox",), untouched=False)
    assert (place.root / "out.txt").read_text() == "x"
    assert "files of the project changed during the run: out.txt" in done.run["notes"]
    assert done.run["written"] == ["out.txt"]


def test_temporary_files_and_caches_go_with_the_run(place: Place) -> None:
    text = "import os, tempfile\nf = tempfile.NamedTemporaryFile(delete=False)\nprint('made', f.name, os.environ['WANDB_MODE'])\n"
    done = place.script(text)
    name, mode = done.shown.split("made ")[1].split()[:2]
    assert mode == "offline"
    assert not os.path.exists(name) and not os.path.exists(os.path.dirname(os.path.dirname(name)))


def test_kept_files_stay_on_request(place: Place) -> None:
    done = place.script("open('out.txt', 'w').write('x')\n", options=("--keep",))
    (note,) = [note for note in done.run["notes"] if "scratch folder is kept" in note]
    folder = Path(note.rpartition(": ")[2])
    assert [path.read_text() for path in folder.rglob("out.txt")] == ["x"]
    from mllint.runtime.sandbox import discard

    discard(str(folder))


# ---------------------------------------------------------------- output


def test_binary_output(place: Place) -> None:
    done = place.script("import os\nos.write(1, bytes(range(256)) * 100)\nraise ValueError('after it')\n")
    assert done.problem == "ValueError (train.py:3): after it"


def test_huge_output(place: Place) -> None:
    done = place.script("import sys\nfor _ in range(400):\n    sys.stdout.write('x' * 100_000)\nraise ValueError('after it')\n")
    assert done.problem == "ValueError (train.py:4): after it"
    assert len(done.shown) < 9_000_000 and "the rest is not shown" in done.shown
    assert len(Path(done.run["record"]).read_text()) < 20_000


def test_closed_output(place: Place) -> None:
    done = place.script("import os\nos.close(1)\nos.close(2)\nopen('reached', 'w').write('x')\nos._exit(4)\n")
    assert done.run["exit_status"] == 4 and done.run["kept_out"] == 1


def test_output_nobody_reads(place: Place) -> None:
    place.write("train.py", "for n in range(100000):\n    print(n)\n")
    process = place.start(PYTHON, "train.py", options=("--output", "out.json"))
    assert process.stderr is not None
    process.stderr.close()
    assert process.wait(timeout=60) == 1
    assert json.loads((place.root / "out.json").read_text())["run"]["exit_status"] == 0


# ---------------------------------------------------------------- together


@on_linux
def test_two_runs_at_a_time(place: Place) -> None:
    place.write("train.py", "import time, os\nopen('mine', 'x')\ntime.sleep(1)\nraise ValueError('end')\n")
    started = time.monotonic()
    both = [place.start(PYTHON, "train.py") for _ in range(2)]
    reports = [json.loads(process.communicate(timeout=60)[0]) for process in both]
    assert time.monotonic() - started < 40
    assert {r["run"]["problem"] for r in reports} == {"ValueError (train.py:4): end"}
    assert len({r["run"]["id"] for r in reports}) == 2
