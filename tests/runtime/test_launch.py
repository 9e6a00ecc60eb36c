"""Starting commands under the probes: what they find around them, which can be watched, and what becomes of what they write."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from launching import PYTHON, Outcome, Place

import mllint
from mllint.commands.runtime_check import Checked, Project, check, render
from mllint.config import Config
from mllint.model.finding import Problem
from mllint.pages import load_pages
from mllint.runtime import failure, launch
from mllint.runtime import sandbox as boxes
from mllint.runtime.command import HOOK, LaunchError, Options, check_flags, found, interpreter_of
from mllint.runtime.failure import Raised, sentence
from mllint.runtime.sandbox import SandboxError, choose, differences, discard, snapshot

pytestmark = pytest.mark.skipif(os.name != "posix", reason="runs need Linux or macOS")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="mounts and /proc")
FIXTURES = Path(__file__).parent.parent.parent / "fixtures" / "runtime"

TRAIN = """
import torch
from torch.utils.data import DataLoader, TensorDataset

model = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)
loader = DataLoader(TensorDataset(torch.randn(64, 4), torch.randint(0, 2, (64,))), batch_size=8)
for epoch in range(50):
    for x, y in loader:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    torch.save(model.state_dict(), "model.pt")
"""
STEPPED = TRAIN + "    scheduler.step()\n"
#: The place the finding in TRAIN is reported at.
LINE = 7


def overlays() -> bool:
    if sys.platform != "linux":
        return False
    scratch = boxes._scratch()
    try:
        return not boxes._probe(scratch, user=os.geteuid() != 0) or not boxes._probe(scratch, user=True)
    finally:
        discard(scratch)


needs_overlay = pytest.mark.skipif(not overlays(), reason="no layer can be mounted here")


@pytest.fixture
def torch() -> Any:
    """Real training; without torch the test is skipped, and says so."""
    return pytest.importorskip("torch", reason="needs torch: pip install 'mllint-repo[test]'")


def refused(place: Place, *command: str, options: tuple[str, ...] = ()) -> str:
    """What is said to a command that is no use to run."""
    process = place.start(*command, options=options)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, ""), err
    return err.rpartition("mllint: error: ")[2].strip()


def record_of(done: Outcome) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(Path(done.run["record"]).read_text())
    return document


def rows(done: Outcome, kind: str) -> list[dict[str, Any]]:
    return [row for part in record_of(done)["parts"] for row in part if row["k"] == kind]


# ---------------------------------------------------------------- wrong use


def test_what_is_no_command(place: Place) -> None:
    place.write("train.py", "print(1)\n")
    place.write("tool", "print(1)\n")
    assert refused(place, "no-such-program").startswith("command not found: no-such-program")
    assert refused(place, "train.py") == "command not found: train.py; did you mean: python train.py?"
    assert refused(place, "./train.py") == "./train.py is not executable; did you mean: python ./train.py?"
    assert refused(place, "./tool") == "./tool is not executable"
    assert refused(place).startswith("there is no command")
    assert not (place.root / ".mllint").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--steps", "0"), "argument --steps"),
        (("--seconds", "-1"), "argument --seconds"),
        (("--set", "epochs"), "--set takes name=value, not `epochs`"),
        (("--select", "no-such-rule"), "there is no rule or topic `no-such-rule`"),
        (("--report", "nothing.json"), "--report must name a report written with --format json: nothing.json"),
        (("--report", "train.py"), "--report must name a report"),
        (("--sandbox", "copy", "--no-sandbox"), "not allowed with"),
        (("--root", "nowhere"), "there is no folder nowhere"),
    ],
)
def test_wrong_options(place: Place, options: tuple[str, ...], said: str) -> None:
    place.write("train.py", "print(1)\n")
    process = place.start(PYTHON, "train.py", options=options)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and said in err


def test_a_scan_loads_nothing_of_runs(place: Place) -> None:
    place.write("train.py", TRAIN)
    code = "import sys; from mllint.cli import run; run(['scan', '--format', 'json']); print([n for n in sys.modules if 'mllint' in n])"
    out = subprocess.run([PYTHON, "-c", code], cwd=place.root, capture_output=True, text=True).stdout
    assert "scheduler-never-stepped" in out and "mllint.report" in out and "mllint.runtime" not in out and "mllint.commands" not in out


def test_a_command_in_front_of_the_dashes(place: Place) -> None:
    done = subprocess.run([PYTHON, "-m", "mllint", "runtime-check", "python", "train.py"], cwd=place.root, capture_output=True, text=True)
    assert done.returncode == 2 and "the command stands behind `--`" in done.stderr


def test_a_python_without_torch(place: Place, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", str(bare)], check=True)
    place.env.pop("PYTHONPATH", None)
    place.write("train.py", "import torch\n")
    place.write("other.py", "print('nothing to learn')\n")
    script = place.write("run.sh", f"#!/bin/sh\n{bare}/bin/python train.py\n")
    script.chmod(0o755)
    said = refused(place, str(bare / "bin" / "python"), "train.py")
    assert said == (
        f"{bare}/bin/python has no torch, so there is nothing to watch: name the Python your training runs with, "
        "or install it there (pip install 'mllint-repo[runtime]')"
    )
    assert refused(place, str(bare / "bin" / "python"), "other.py").startswith(f"{bare}/bin/python has no torch")
    said = refused(place, "./run.sh")
    assert said.startswith("the Python of the command has no torch") and "mllint-repo[runtime]" in said


@pytest.mark.parametrize("flags", ["-I", "-E", "-S", "-sE", "-IB"])
def test_flags_that_keep_the_probes_out(flags: str) -> None:
    with pytest.raises(LaunchError, match=f"`python {flags}` ignores the environment.*python {flags} -m mllint.runtime train.py --lr 1"):
        check_flags(["python", flags, "train.py", "--lr", "1"], "/usr/bin/python")
    check_flags(["python", flags, "-m", "mllint.runtime", "train.py"], "/usr/bin/python")


@pytest.mark.parametrize(
    "command", [["python", "train.py", "-E"], ["python", "-u", "t.py"], ["python", "-m", "pkg", "-I"], ["python", "-W", "error", "t.py"]]
)
def test_flags_of_others_do_not_matter(command: list[str]) -> None:
    check_flags(command, "/usr/bin/python")
    check_flags(["trainer", "-I"], None)


def test_an_interpreter_is_told_by_name_or_first_line(tmp_path: Path) -> None:
    def program(name: str, first: str) -> str:
        path = tmp_path / name
        path.write_text(first + "\n")
        path.chmod(0o755)
        return str(path)

    for name in ("python", "python3", "python3.13", "python3.13t", "pypy3"):
        assert interpreter_of(program(name, "")) == str(tmp_path / name)
    assert interpreter_of(program("torchrun", f"#!{PYTHON}")) == PYTHON
    assert interpreter_of(program("tool", "#!/usr/bin/env -S python3 -u")) == shutil.which("python3")
    assert interpreter_of(program("run.sh", "#!/bin/sh")) is None
    assert interpreter_of(program("pythonista", "")) is None


def test_a_program_is_found_as_a_shell_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "trainer").write_text("#!/bin/sh\n")
    (tmp_path / "two" / "trainer").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/one{os.pathsep}{tmp_path}/two")
    assert found(["trainer"], "/") == str(tmp_path / "two" / "trainer")
    assert found(["two/trainer"], str(tmp_path)) == str(tmp_path / "two" / "trainer")


# ---------------------------------------------------------------- what a command finds around it

TELL = "import json, os, sys\nprint('told', json.dumps([dict(os.environ), sys.argv, os.getcwd(), os.getsid(0) == os.getpid()]))\n"


def told(done: Outcome) -> Any:
    return json.loads(done.shown.split("told ", 1)[1].splitlines()[0])


def test_the_environment_of_a_command(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write("sub/tell.py", TELL)
    place.env |= {"WANDB_MODE": "online", "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "3", "HOME_GROWN": "kept"}
    done = place.check(PYTHON, "sub/tell.py", "--", "a b", "*", options=("--steps", "4", "--set", "max-epochs=2"))
    env, argv, cwd, leads = told(done)
    assert argv == ["sub/tell.py", "--", "a b", "*"]
    assert leads, "a session of its own"
    assert env["PYTHONPATH"].split(os.pathsep)[0] == HOOK
    assert env["PYTHONPATH"].split(os.pathsep)[1:] == [p for p in [place.env.get("PYTHONPATH")] if p]
    assert (env["WANDB_MODE"], env["HF_HUB_OFFLINE"], env["OMP_NUM_THREADS"], env["HOME_GROWN"]) == ("offline", "0", "3", "kept")
    assert env["TORCHDYNAMO_DISABLE"] == "1" and "PYTHONHASHSEED" not in env
    asked = json.loads(env["MLLINT_RUN_JSON"])
    assert (asked["steps"], asked["set"], asked["seed"]) == (4, {"max_epochs": "2"}, None)
    assert (cwd == str(place.root)) == (done.run["sandbox"] != "copy")
    assert cwd == env["PWD"] == asked["root"]


def test_a_seed_fixes_hashes_and_threads(place: Place) -> None:
    place.write("tell.py", TELL)
    env = told(place.check(PYTHON, "tell.py", options=("--seed", "3", "--compile")))[0]
    assert (env["PYTHONHASHSEED"], env["OMP_NUM_THREADS"], env["CUBLAS_WORKSPACE_CONFIG"]) == ("3", "1", ":4096:8")
    assert "TORCHDYNAMO_DISABLE" not in env


def test_paths_below_the_root_are_those_of_the_copy(place: Place) -> None:
    script = place.write("tell.py", TELL)
    _, argv, cwd, _ = told(place.check(PYTHON, str(script), str(script), "/etc", options=("--sandbox", "copy")))
    assert argv == [f"{cwd}/tell.py", f"{cwd}/tell.py", "/etc"]
    assert not cwd.startswith(str(place.root))


# ---------------------------------------------------------------- keeping files


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "a project, with: odd=name"
    for name, text in {
        "train.py": "code",
        "data/x.bin": "data" * 100,
        "pkg/deep/m.py": "m",
        ".venv/lib/a.py": "lib",
        ".git/HEAD": "ref",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_copy_holds_the_project(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes, "BIG_FILE", 300)
    monkeypatch.setattr(boxes, "_cloned", lambda source, copy: False)
    (tree / "link.py").symlink_to("train.py")
    (tree / "out").symlink_to(tree.parent)
    (tree / "gone").symlink_to("nowhere")
    sandbox = choose(str(tree), "copy")
    try:
        copy = Path(sandbox.root)
        assert (copy / "train.py").read_text() == "code" and not (copy / "train.py").is_symlink()
        assert (copy / "pkg/deep/m.py").read_text() == "m"
        assert os.readlink(copy / "data/x.bin") == str(tree / "data/x.bin"), "what is big is a link to the real file"
        assert os.readlink(copy / ".venv") == str(tree / ".venv")
        assert sandbox.linked == (".venv", "data/x.bin")
        assert (copy / "link.py").resolve() == copy / "train.py" and (copy / "out").resolve() == tree.parent
        assert not (copy / ".git").exists() and (copy / "gone").is_symlink()
        assert sandbox.kept_out() == []
        (copy / "train.py").write_text("changed")
        (copy / "new").write_text("")
        assert sandbox.kept_out() == ["new", "train.py"]
        assert sandbox.inside(f"{tree}/pkg/deep") == f"{copy}/pkg/deep" and sandbox.inside("/etc") == "/etc"
    finally:
        sandbox.close()
    assert not os.path.exists(sandbox.scratch)


def test_data_of_many_files_are_linked_whole(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes, "MANY_FILES", 5)
    for number in range(10):
        (tree / "data" / "train").mkdir(exist_ok=True)
        (tree / "data" / "train" / f"{number}.jpg").write_text("")
        (tree / "pkg" / f"{number}.py").write_text("")
    sandbox = choose(str(tree), "copy")
    assert os.path.islink(os.path.join(sandbox.root, "data")) and not os.path.islink(os.path.join(sandbox.root, "pkg"))
    with pytest.raises(SandboxError, match="data is not copied"):
        sandbox.put({"data/train/0.jpg": str(tree / "train.py")})
    sandbox.close()
    assert (tree / "data" / "train" / "0.jpg").read_text() == ""


def test_what_is_too_large_is_not_copied(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes, "MOST_FILES", 2)
    with pytest.raises(SandboxError, match="copy: 3 files of 0 MB are too much to copy"):
        choose(str(tree), "copy")
    monkeypatch.setitem(boxes._MAKERS, "overlay", lambda root: (_ for _ in ()).throw(SandboxError("not here")))
    with pytest.raises(LaunchError) as refusal:
        launch.run([PYTHON, "train.py"], str(tree), Options(), str(tree.parent / "run"), cwd=str(tree))
    assert str(refusal.value) == (
        "nothing can keep the files of the project from what the command writes (overlay: not here; copy: 3 files of 0 MB are too much "
        "to copy); --no-sandbox runs the command on the real files"
    )


def test_a_copy_is_taken_where_no_layer_can_be_laid(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(boxes._MAKERS, "overlay", lambda root: (_ for _ in ()).throw(SandboxError("not here")))
    record = launch.run([shutil.which("sh") or "sh", "-c", "exit 3"], str(tree), Options(), str(tree.parent / "run"), cwd=str(tree))
    assert (record.head["sandbox"], record.head["exit_status"]) == ("copy", 3)
    assert any("because no layer could be laid over it (overlay: not here)" in note for note in record.head["notes"])


def test_a_copy_writes_through_none_of_its_links(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes, "BIG_FILE", 3)
    monkeypatch.setattr(boxes, "MANY_FILES", 5)
    monkeypatch.setattr(boxes, "_cloned", lambda source, copy: False)
    for number in range(10):
        (tree / "images" / "deep").mkdir(parents=True, exist_ok=True)
        (tree / "images" / "deep" / f"{number}.jpg").write_text(f"image {number}")
    for name in ("best.pt", "log.txt", "gone.pt", "old.pt", "np.npy"):
        (tree / name).write_text(f"the user's {name}")
    (tree / "train.py").write_text(
        """
import os, pathlib
assert all(os.path.islink(n) for n in ("best.pt", "log.txt", "images"))
open("best.pt", "w").write("new")
open("log.txt", "a").write(" and more")
os.remove("gone.pt")
os.rename("old.pt", "older.pt")
pathlib.Path("np.npy").write_bytes(b"2")
open("images/deep/0.jpg", "r+").write("I")
open("images/new.jpg", "w").write("new")
os.remove("images/deep/1.jpg")
os.truncate("images/deep/2.jpg", 1)
os.chmod("images/deep/3.jpg", 0o600)
print("seen", open("best.pt").read(), open("log.txt").read(), open("images/deep/0.jpg").read(), sorted(os.listdir("images/deep"))[:2],
      open("images/deep/2.jpg").read(), open("images/deep/9.jpg").read(), sep="|")
"""
    )
    before = snapshot(str(tree))
    seen: list[bytes] = []
    folder = tree.parent / "run"
    try:
        launch.run([PYTHON, "train.py"], str(tree), Options(), str(folder), cwd=str(tree), sandbox="copy", show=seen.append)
    except LaunchError as error:
        assert "has no torch" in str(error)
    said = b"".join(seen).decode()
    assert "seen|new|the user's log.txt and more|Image 0|['0.jpg', '2.jpg']|i|image 9" in said, said
    assert differences(before, snapshot(str(tree))) == []


def test_torch_saves_through_none_of_its_links(tmp_path: Path, torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes, "BIG_FILE", 2000)
    monkeypatch.setattr(boxes, "_cloned", lambda source, copy: False)
    root = tmp_path / "project"
    root.mkdir()
    (root / "train.py").write_text(STEPPED)
    (root / "model.pt").write_bytes(b"x" * 3000)
    record = launch.run([PYTHON, "train.py"], str(root), Options(), str(tmp_path / "run"), cwd=str(root), sandbox="copy")
    assert record.head["problem"] is None and (root / "model.pt").read_bytes() == b"x" * 3000
    assert record.head["kept_out"] == 1


@needs_overlay
def test_a_layer_over_a_folder_with_any_name(tree: Path) -> None:
    sandbox = choose(str(tree), "overlay")
    (tree / ".mllint").mkdir()
    done = subprocess.Popen(
        **boxes.entering(
            ["sh", "-c", "echo new > pkg/new; rm -r data; mkdir data; rm train.py; pwd"],
            str(tree),
            sandbox.overlay(str(tree / ".mllint")),
            os.environ,
            2,
        ),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.communicate()[0] == f"{tree}\n" and done.returncode == 0
    assert (tree / "data/x.bin").exists() and not (tree / "pkg/new").exists()
    assert (tree / "train.py").exists() and sandbox.kept_out() == ["pkg/new", "train.py"]
    sandbox.close()
    assert not os.path.exists(sandbox.scratch)


@needs_overlay
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a folder, for which it must be root")
def test_data_mounted_inside_the_project_can_be_read_and_not_written(place: Place, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.csv").write_text("1,2")
    place.write("data/.keep", "")
    place.write("train.py", "print(open('data/a.csv').read())\nopen('data/b.csv', 'w')\n")
    mounted = (
        f"mount --bind {tmp_path}/store data && exec {PYTHON} -m mllint runtime-check --format json --sandbox overlay -- {PYTHON} train.py"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mounted], cwd=place.root, env=place.env, capture_output=True, text=True, timeout=120
    )
    assert "1,2\n" in done.stderr
    assert json.loads(done.stdout)["run"]["problem"] == "OSError (train.py:2): [Errno 30] Read-only file system: 'data/b.csv'"
    assert sorted(os.listdir(tmp_path / "store")) == ["a.csv"]


def test_the_folder_for_temporary_files_has_a_short_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 60)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    sandbox = choose(str(tmp_path), "none")
    # What multiprocessing puts below it, and the limit of macOS.
    assert len(os.path.join(sandbox.temporary, "pymp-12345678", "listener-12345678")) < 104
    sandbox.close()
    assert not os.path.exists(sandbox.scratch)


def test_what_was_changed_is_told_by_size_time_and_kind(tree: Path) -> None:
    before = snapshot(str(tree))
    assert ".git/HEAD" not in before and "train.py" in before
    (tree / "train.py").write_text("cold")
    (tree / "data/x.bin").unlink()
    (tree / "pkg/deep/m.py").chmod(0o700)
    (tree / "new").symlink_to("train.py")
    assert differences(before, snapshot(str(tree))) == ["data/x.bin", "new", "pkg/deep/m.py", "train.py"]


def test_a_folder_without_rights_is_removed(tmp_path: Path) -> None:
    (tmp_path / "scratch/layer/inner").mkdir(parents=True)
    (tmp_path / "scratch/layer/inner/file").write_text("")
    (tmp_path / "scratch/layer/inner").chmod(0)
    (tmp_path / "scratch/layer").chmod(0o500)
    discard(str(tmp_path / "scratch"))
    assert not (tmp_path / "scratch").exists()


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (
            Raised("AssertionError", "Torch not compiled with CUDA enabled", "t.py:3"),
            "the script needs a GPU, and there is none here (t.py:3): --emulate-cuda",
        ),
        (
            Raised("RuntimeError", "Found no NVIDIA driver on your system. Please", ""),
            "the script needs a GPU, and there is none here: --emulate-cuda",
        ),
        (Raised("RuntimeError", "x", "t.py:3", missing="a CUDA device"), "the script needs a GPU"),
        (
            Raised("RuntimeError", "ProcessGroupNCCL is only supported with GPUs, no GPUs found!", "t.py:9"),
            "the script asks for NCCL, which needs GPUs",
        ),
        (Raised("huggingface_hub.errors.LocalEntryNotFoundError", "Cannot find it"), "something from a hub is not in the local cache"),
        (
            Raised("OSError", "We couldn't connect to 'https://huggingface.co' to load gpt2"),
            "something from a hub is not in the local cache",
        ),
        (Raised("requests.exceptions.ConnectionError", "Max retries"), "the script needs the network: Max retries"),
        (Raised("FileNotFoundError", "[Errno 2] No such file or directory: 'a b.csv'", "t.py:1"), "a file is missing: a b.csv (t.py:1)"),
        (Raised("torch.OutOfMemoryError", "CUDA out of memory. Tried"), "out of memory: CUDA out of memory. Tried"),
        (Raised("ValueError", "first\nsecond\x1b[31m", "t.py:1"), "ValueError (t.py:1): first"),
        (Raised("ValueError", "x" * 500), "ValueError: " + "x" * 197 + "..."),
        (Raised("KeyError", "'lr'", "t.py:2", ("t.py",)), "KeyError (t.py:2): 'lr'"),
    ],
)
def test_an_exception_in_words(raised: Raised, said: str) -> None:
    assert sentence(raised).startswith(said)


def test_the_exception_of_the_program_and_not_of_its_launcher() -> None:
    output = """
[rank1]: Traceback (most recent call last):
[rank1]:   File "/p/train.py", line 9, in <module>
[rank1]:     main()
[rank1]:   File "/env/lib/python3.12/site-packages/torch/x.py", line 70, in forward
[rank1]:     raise ValueError("bad shape")
[rank1]: ValueError: bad shape
Traceback (most recent call last):
  File "/env/bin/torchrun", line 8, in <module>
    sys.exit(main())
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
"""
    raised = failure.last_raised(output, {"/p": ""})
    assert raised is not None and (raised.type, raised.message, raised.place) == ("ValueError", "bad shape", "train.py:9")
    assert failure.last_raised("nothing of that kind\nError: but no traceback\n", {}) is None


# ---------------------------------------------------------------- real training


def checked(place: Place, *command: str, **more: Any) -> Outcome:
    done = place.check(*command, seconds=90, **more)
    schema = json.loads((Path(mllint.__file__).parent / "report" / "schema.json").read_text())
    jsonschema.validate(done.report, schema)
    return done


def verdicts(done: Outcome) -> dict[str, str]:
    return {finding["rule"]: finding["verdict"] for finding in done.report["findings"]}


def test_a_finding_is_confirmed_with_numbers(place: Place, torch: Any) -> None:
    place.write("train.py", TRAIN)
    done = checked(place, PYTHON, "train.py")
    (finding,) = done.report["findings"]
    assert (finding["rule"], finding["verdict"], finding["line"]) == ("scheduler-never-stepped", "confirmed", LINE)
    assert any("0.1" in sentence for sentence in finding["evidence"])
    assert (done.status, done.run["ended"], done.run["problem"]) == (1, "steps", None)
    assert done.run["kept_out"] == 1 and done.run["written"] == []


def test_nothing_found_and_nothing_left_is_0(place: Place, torch: Any) -> None:
    place.write("train.py", STEPPED)
    done = checked(place, PYTHON, "train.py")
    assert (done.status, done.report["findings"], done.run["problem"]) == (0, [], None)


@pytest.fixture
def refutable(place: Place) -> str:
    """A report that blames correct code."""
    place.write("train.py", TRAIN)
    subprocess.run([PYTHON, "-m", "mllint", "scan", "--format", "json", "--output", "found.json"], cwd=place.root, env=place.env)
    assert json.loads((place.root / "found.json").read_text())["findings"][0]["line"] == LINE
    place.write("train.py", STEPPED)
    return "found.json"


def test_what_a_run_refutes_is_not_left(place: Place, torch: Any, refutable: str) -> None:
    done = checked(place, PYTHON, "train.py", options=("--report", refutable))
    (finding,) = done.report["findings"]
    assert (finding["verdict"], finding["hidden"], done.status) == ("refuted", "run", 0)
    assert finding["key"] == json.loads((place.root / refutable).read_text())["findings"][0]["key"]
    assert finding["evidence"]
    assert record_of(done)["verdicts"][0]["hidden"] is None


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checked, Project]:
    """One run within this process, to be shown in many ways."""
    pytest.importorskip("torch", reason="needs torch: pip install 'mllint-repo[test]'")
    root = tmp_path_factory.mktemp("confirmed")
    (root / "train.py").write_text(TRAIN)
    project = Project(str(root), Config(), load_pages(), (str(root),))
    return check([PYTHON, "train.py"], project, Options(), cwd=str(root)), project


@pytest.mark.parametrize("form", ["text", "concise", "json", "sarif", "github"])
def test_every_format_says_the_verdict(confirmed: tuple[Checked, Project], form: str) -> None:
    checked, project = confirmed
    stream = io.StringIO()
    render(checked, project, form, stream, False, 1.0)
    out = stream.getvalue()
    assert checked.status == 1 and "confirmed" in out and "scheduler-never-stepped" in out
    if form == "sarif":
        properties = json.loads(out)["runs"][0]["results"][0]["properties"]
        assert properties["verdict"] == "confirmed" and properties["evidence"]
    if form == "github":
        assert f"%0Arun: confirmed%0A{checked.findings[0].evidence[0]}" in out


@pytest.mark.parametrize("form", ["text", "concise", "json", "sarif", "github"])
def test_a_detector_that_fails_is_said(confirmed: tuple[Checked, Project], form: str) -> None:
    checked, project = confirmed
    failed = replace(checked, problems=(Problem("internal", "the rule x failed on the run: KeyError: 1"),))
    render(failed, project, form, stream := io.StringIO(), False, 1.0)
    assert failed.status == 2 and "the rule x failed on the run: KeyError: 1" in stream.getvalue()


def test_what_is_refuted_is_suppressed_in_every_format(confirmed: tuple[Checked, Project]) -> None:
    checked, project = confirmed
    finding = replace(checked.findings[0], verdict="refuted", hidden="run")
    refuted = replace(checked, findings=(finding,))
    assert refuted.status == 0 and refuted.left == []
    out = {}
    for form in ("concise", "sarif", "github"):
        render(refuted, project, form, stream := io.StringIO(), False, 1.0)
        out[form] = stream.getvalue()
    assert out["concise"] == out["github"] == ""
    (result,) = json.loads(out["sarif"])["runs"][0]["results"]
    assert result["suppressions"] == [{"kind": "external", "justification": "refuted by a run"}]


def test_a_run_that_cannot_be_judged_is_recorded_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="needs torch: pip install 'mllint-repo[test]'")
    (tmp_path / "train.py").write_text("raise ValueError\n")
    project = Project(str(tmp_path), Config(), load_pages(), (str(tmp_path),))
    monkeypatch.setattr("mllint.commands.runtime_check.judge", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        check([PYTHON, "train.py"], project, Options(), findings=[], cwd=str(tmp_path))
    (record,) = (tmp_path / ".mllint" / "runs").iterdir()
    assert json.loads(record.read_text())["problem"] == "ValueError (train.py:1)"
    assert (tmp_path / ".mllint" / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize("sandbox", [pytest.param("overlay", marks=needs_overlay), "copy", "none"])
def test_places_are_the_users_in_every_sandbox(place: Place, torch: Any, sandbox: str) -> None:
    place.write("src/train.py", TRAIN)
    done = checked(place, PYTHON, "src/train.py", options=("--sandbox", sandbox), untouched=sandbox != "none")
    (finding,) = done.report["findings"]
    assert (finding["path"], finding["verdict"]) == ("src/train.py", "confirmed")
    assert (place.root / "model.pt").exists() == (sandbox == "none")


def test_modules_and_shell_scripts_train_too(place: Place, torch: Any) -> None:
    place.write("pkg/__init__.py", "")
    place.write("pkg/train.py", TRAIN)
    place.write("run.sh", f"#!/bin/sh\n{PYTHON} -m pkg.train &\nwait\n").chmod(0o755)
    place.write("later.sh", f"#!/bin/sh\n{PYTHON} -m pkg.train &\n").chmod(0o755)
    for command in ([PYTHON, "-m", "pkg.train"], ["./run.sh"], ["sh", "later.sh"]):
        assert verdicts(checked(place, *command)) == {"scheduler-never-stepped": "confirmed"}, command


def test_python_that_ignores_its_environment(place: Place, torch: Any) -> None:
    place.write("train.py", TRAIN)
    assert verdicts(checked(place, PYTHON, "-I", "-m", "mllint.runtime", "train.py")) == {"scheduler-never-stepped": "confirmed"}


def test_processes_of_torchrun(place: Place, torch: Any) -> None:
    shutil.copy(FIXTURES / "ddp.py", place.root / "train.py")
    done = checked(place, PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train.py")
    trained = [part for part in record_of(done)["parts"] if any(row["k"] == "step" for row in part)]
    assert sorted(part[0]["rank"] for part in trained) == [0, 1]
    assert (done.run["problem"], done.report["findings"], done.status) == (None, [], 0)


def test_accelerate_launch(place: Place, torch: Any) -> None:
    pytest.importorskip("accelerate")
    shutil.copy(FIXTURES / "hf_accelerate.py", place.root / "train.py")
    done = checked(place, PYTHON, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=1", "train.py")
    assert rows(done, "step") and (done.run["problem"], done.report["findings"], done.status) == (None, [], 0)


# ---------------------------------------------------------------- real training that goes wrong

LOOP = TRAIN.partition("for epoch")[0]


def test_what_is_real_is_told(place: Place, torch: Any, tmp_path: Path) -> None:
    body = f"""
import socket, subprocess
subprocess.run(["true"])
open({str(tmp_path / "elsewhere.txt")!r}, "w").write("x")
open("here.txt", "w").write("x")
for address in ("203.0.113.1", 9), ("127.0.0.1", 9):
    with socket.socket() as asking:
        asking.settimeout(0.01)
        asking.connect_ex(address)
"""
    place.write("train.py", TRAIN.replace("for epoch", body + "for epoch", 1))
    done = checked(place, PYTHON, "train.py")
    assert done.run["written"] == [str(tmp_path / "elsewhere.txt")]
    assert done.run["network"] == ["203.0.113.1:9"]
    assert "asked for connections to 203.0.113.1:9" in done.run["notes"]
    assert done.run["kept_out"] == 2


def test_a_loop_that_catches_everything(place: Place, torch: Any) -> None:
    line = "            "
    once = f"        for x, y in loader:\n{line}optimizer.zero_grad()\n{line}model(x).sum().backward()\n{line}optimizer.step()\n"
    place.write("train.py", f"{LOOP}while True:\n    try:\n{once}    except:\n        pass\n")
    done = checked(place, PYTHON, "train.py")
    assert done.run["ended"] in ("steps", "passes") and done.run["problem"] is None
    assert verdicts(done) == {"scheduler-never-stepped": "confirmed"}


@pytest.mark.parametrize(
    ("after", "ended", "problem"),
    [
        ("open('labels.csv')", "error", "a file is missing: labels.csv (train.py:{line})"),
        ("raise RuntimeError('boom')", "error", "RuntimeError (train.py:{line}): boom"),
        ("import sys; sys.exit('enough')", "error", "the command ended with status 1 (train.py:{line}): enough"),
        ("import os; os._exit(3)", "exit", "the command ended with status 3"),
        ("import os; os.kill(os.getpid(), 9)", "exit", "the command was ended by SIGKILL, perhaps for want of memory"),
    ],
)
def test_what_was_seen_before_the_end_is_kept(place: Place, torch: Any, after: str, ended: str, problem: str) -> None:
    body = "for x, y in loader:\n    optimizer.zero_grad()\n    model(x).sum().backward()\n    optimizer.step()\n"
    text = LOOP + "import itertools\n" + body.replace("in loader", "in itertools.islice(loader, 2)") + f"{after}\n"
    place.write("train.py", text)
    done = checked(place, PYTHON, "train.py")
    assert len(rows(done, "step")) == 2
    assert done.problem == problem.format(line=len(text.splitlines()))
    assert (done.run["ended"], done.status) == (ended, 1)


def test_training_that_hangs(place: Place, torch: Any) -> None:
    body = "for x, y in loader:\n    optimizer.zero_grad()\n    model(x).sum().backward()\n    optimizer.step()\n"
    place.write("train.py", f"import time\n{LOOP}epoch = 0\n{body}    if epoch == 1:\n        time.sleep(1000)\n    epoch = 1\n")
    done = place.check(PYTHON, "train.py", seconds=15)
    assert done.run["ended"] == "time" and len(rows(done, "step")) == 2


@pytest.mark.parametrize("line", ["model.cuda()", "torch.zeros(2, device=torch.device('cuda'))"])
def test_a_script_that_needs_a_gpu(place: Place, torch: Any, line: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one here")
    place.write("train.py", TRAIN.replace("optimizer =", f"{line}\noptimizer =", 1))
    done = checked(place, PYTHON, "train.py")
    assert done.problem == "the script needs a GPU, and there is none here (train.py:6): --emulate-cuda runs it on the CPU"
    assert verdicts(done) == {"scheduler-never-stepped": "not observable here"}
    assert done.status == 1


def test_a_gpu_that_is_emulated(place: Place, torch: Any) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one here")
    text = TRAIN.replace("optimizer =", "model.cuda()\noptimizer =", 1).replace("model(x), y)", "model(x.cuda()), y.to('cuda'))")
    place.write("train.py", text)
    done = checked(place, PYTHON, "train.py", options=("--emulate-cuda",))
    assert done.run["mode"] == "emulated cuda"
    assert any("emulated" in note for note in done.run["notes"])
    assert verdicts(done) == {"scheduler-never-stepped": "confirmed"}


def test_workers_do_not_outlive_the_run(place: Place, torch: Any) -> None:
    place.write("train.py", TRAIN.replace("batch_size=8)", "batch_size=8, num_workers=2, persistent_workers=True)"))
    assert verdicts(checked(place, PYTHON, "train.py")) == {"scheduler-never-stepped": "confirmed"}
