"""Two states of a project side by side: taken from real repositories, run for real, and what is said of each finding."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from recorded import finding, losses, record

import mllint
from mllint.commands.compare_runs import both, changed
from mllint.commands.runtime_check import Project
from mllint.config import Config
from mllint.pages import load_pages
from mllint.runtime import compare
from mllint.runtime.command import Options
from mllint.runtime.compare import CompareError
from mllint.runtime.record import load
from mllint.runtime.runs import listed


class Repository:
    """A real repository in which nothing may change."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(exist_ok=True)
        self.git("init", "-q")

    def git(self, *words: str) -> str:
        known = ["-c", "user.email=a@example.org", "-c", "user.name=a", "-c", "protocol.file.allow=always", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *known, *words], cwd=self.root, capture_output=True, text=True, check=True)
        return done.stdout

    def write(self, name: str, data: str | bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    def commit(self, files: dict[str, str | bytes]) -> str:
        for name, data in files.items():
            self.write(name, data)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "x")
        return self.git("rev-parse", "HEAD").strip()

    def state(self) -> dict[str, Any]:
        """Every file with its time and bytes, those of git too."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            if ".mllint" not in path.parts and not path.is_dir():
                known = path.lstat()
                data = os.readlink(path) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
                found[str(path.relative_to(self.root))] = (known.st_mtime_ns, known.st_mode, data)
        return found


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path / "project")


def taken(root: Path, name: str, tmp_path: Path, code: tuple[str, ...] = ()) -> compare.Tree:
    folder = tmp_path / f"tree{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    return compare.revision(str(root), name, code, str(folder))


def files(tree: compare.Tree) -> dict[str, str | None]:
    return {name: None if source is None else Path(source).read_text() for name, source in tree.files.items()}


# ---------------------------------------------------------------- revisions


def test_a_revision_is_what_differs_from_the_working_tree(repository, tmp_path):
    first = repository.commit({"train.py": "old", "gone.py": "g", "same.py": "s", "we ird\nnäme.py": "1", "pkg/a.py": "a"})
    repository.commit({"added.py": "1"})
    repository.git("rm", "-q", "gone.py")
    repository.write("train.py", "new")
    repository.write("staged.py", "2")
    repository.git("add", "staged.py")
    repository.write("untracked.py", "3")
    repository.write("data.bin", b"4")
    before = repository.state()
    tree = taken(repository.root, first[:8], tmp_path, ("train.py", "untracked.py", "staged.py"))
    assert files(tree) == {"train.py": "old", "gone.py": "g", "added.py": None, "staged.py": None}
    assert tree.name == first[:9]
    there = {str(path.relative_to(tree.folder)): path.read_text() for path in Path(tree.folder).rglob("*") if path.is_file()}
    code = {"train.py": "old", "gone.py": "g", "same.py": "s", "we ird\nnäme.py": "1", "pkg/a.py": "a", "untracked.py": "3"}
    assert there == code
    assert repository.state() == before, "neither a file, nor the index, nor anything of git's has changed"
    assert repository.git("worktree", "list").count("\n") == 1
    assert taken(repository.root, "HEAD~1", tmp_path).name == f"HEAD~1 ({first[:9]})"


def test_big_files_that_did_not_change_are_not_written_out(repository, tmp_path):
    big = b"x" * 2_000_000
    repository.commit({"same.bin": big, "touched.bin": big + b"1", "other.bin": big + b"2", "gone.bin": big + b"3"})
    os.utime(repository.root / "touched.bin", (1, 1))
    repository.write("other.bin", b"new")
    (repository.root / "gone.bin").unlink()
    before = repository.state()
    tree = taken(repository.root, "HEAD", tmp_path)
    assert set(tree.files) == {"other.bin", "gone.bin"}
    assert sorted(os.listdir(tree.folder)) == ["gone.bin", "other.bin", "touched.bin"]
    assert Path(tree.files["other.bin"]).read_bytes() == big + b"2"
    assert repository.state() == before


def test_links_and_the_right_to_be_run_are_part_of_a_revision(repository, tmp_path):
    os.symlink("a.py", repository.write("a.py", "1").parent / "link.py")
    repository.write("run.sh", "x").chmod(0o755)
    repository.commit({})
    (repository.root / "link.py").unlink()
    os.symlink("b.py", repository.root / "link.py")
    (repository.root / "run.sh").chmod(0o644)
    tree = taken(repository.root, "HEAD", tmp_path)
    assert os.readlink(tree.files["link.py"]) == "a.py"
    assert os.stat(tree.files["run.sh"]).st_mode & 0o100
    assert set(tree.files) == {"link.py", "run.sh"}


def test_a_project_may_be_a_part_of_its_repository(repository, tmp_path):
    repository.commit({"train.py": "other", "part/train.py": "old", "part/sub/a.py": "1"})
    repository.write("part/train.py", "new")
    repository.write("train.py", "new too")
    tree = taken(repository.root / "part", "HEAD", tmp_path)
    assert files(tree) == {"train.py": "old"}
    assert sorted(os.listdir(tree.folder)) == ["sub", "train.py"]


def test_a_part_that_was_not_there_is_said(repository, tmp_path):
    repository.commit({"a.py": "1"})
    repository.write("part/train.py", "new")
    with pytest.raises(CompareError, match="git read-tree: "):
        taken(repository.root / "part", "HEAD", tmp_path)


def test_what_stands_elsewhere_is_left_as_it_is(repository, tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"
    inner = Repository(tmp_path / "inner")
    inner.commit({"lib.py": "1"})
    repository.git("submodule", "-q", "add", str(inner.root), "inner")
    repository.commit({"weights.bin": pointer})
    repository.write("weights.bin", b"\x00\x01\x02")
    before = repository.state()
    tree = taken(repository.root, "HEAD", tmp_path)
    assert tree.files == {}
    assert [note.split(" is ")[0] for note in tree.notes] == ["inner", "weights.bin"]
    assert repository.state() == before


def test_no_filter_of_git_lfs_is_started(repository, tmp_path):
    repository.commit({".gitattributes": "*.bin filter=lfs -text\n", "a.bin": "raw"})
    for name in ("smudge", "process"):
        repository.git("config", f"filter.lfs.{name}", f"touch {tmp_path}/started")
    repository.git("config", "filter.lfs.required", "true")
    repository.write("a.bin", "other")
    assert files(taken(repository.root, "HEAD", tmp_path)) == {"a.bin": "raw"}
    assert not (tmp_path / "started").exists()


def test_what_a_hook_of_git_sets_leads_nowhere_else(repository, tmp_path, monkeypatch):
    other = Repository(tmp_path / "other")
    other.commit({"train.py": "of another repository"})
    repository.commit({"train.py": "old"})
    repository.write("train.py", "new")
    monkeypatch.setenv("GIT_DIR", str(other.root / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other.root / ".git" / "index"))
    assert files(taken(repository.root, "HEAD", tmp_path)) == {"train.py": "old"}


@pytest.mark.parametrize("name", ["nope", "--help", "-q", "HEAD:train.py", "", "HEAD~5"])
def test_what_names_no_commit_is_said(repository, tmp_path, name):
    repository.commit({"train.py": "1"})
    with pytest.raises(CompareError, match="is no revision of the repository at"):
        taken(repository.root, name, tmp_path)


def test_no_repository_and_no_git_are_said(tmp_path, monkeypatch):
    alone = tmp_path / "alone"
    alone.mkdir()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with pytest.raises(CompareError, match="alone is in no git repository"):
        taken(alone, "HEAD", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompareError, match="needs git on the path"):
        taken(alone, "HEAD", tmp_path)


def test_other_contents_make_a_tree_too(tmp_path):
    root, folder = tmp_path / "project", tmp_path / "tree"
    (root / "pkg").mkdir(parents=True)
    folder.mkdir()
    (root / "pkg" / "a.py").write_text("old")
    (root / "pkg" / "a.py").chmod(0o755)
    (root / "b.py").write_text("b")
    tree = compare.changed(str(root), "fixed", {"pkg/a.py": b"new", "c.py": b"c"}, ["pkg/a.py", "b.py"], str(folder))
    assert files(tree) == {"pkg/a.py": "new", "c.py": "c"}
    assert (folder / "b.py").read_text() == "b"
    assert os.stat(tree.files["pkg/a.py"]).st_mode & 0o100
    assert (root / "pkg" / "a.py").read_text() == "old"


# ---------------------------------------------------------------- what is said


SAID = {
    ("confirmed", "confirmed"): "still confirmed",
    ("confirmed", None): "was confirmed, now gone",
    ("confirmed", "refuted"): "was confirmed, now gone",
    ("confirmed", "not reached"): "was confirmed, now not reached",
    ("confirmed", "not observable here"): "was confirmed, now not observable here",
    ("confirmed", "failed to run"): "was confirmed, now failed to run",
    (None, "confirmed"): "new",
    (None, "not reached"): "new, not reached",
    ("refuted", "confirmed"): "was refuted, now confirmed",
    ("not reached", "confirmed"): "was not reached, now confirmed",
    ("not reached", "not reached"): "not reached in either",
    ("refuted", "refuted"): "refuted in both",
    ("not reached", None): "was not reached, now not reported",
    ("refuted", "not reached"): "was refuted, now not reached",
}


@pytest.mark.parametrize(("before", "after"), SAID)
def test_what_became_of_a_finding(before, after):
    verdicts = [[] if word is None else [finding(verdict=word)] for word in (before, after)]
    told = compare.compared(record(verdicts=verdicts[0]), record(verdicts=verdicts[1]))
    (change,) = told.changes
    assert (change.before, change.after, change.text) == (before, after, SAID[before, after])
    assert bool(told.gone) == (SAID[before, after] == "was confirmed, now gone")
    assert bool(told.appeared) == (after == "confirmed" != before)


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ({"head": {"problem": "there is no file data.pt", "ended": "error"}}, "there is no file data.pt"),
        ({"values": losses(3), "head": {"ended": "time"}}, "it made 3 of the 8 steps"),
        ({"values": [], "head": {"ended": "killed"}}, "nothing trained"),
    ],
)
def test_a_run_that_broke_off_proves_nothing(after, said):
    known = record(after.get("values"), head=after["head"])
    told = compare.compared(record(verdicts=[finding()]), known)
    assert told.changes[0].text == f"was confirmed, cannot be told now: {said}"
    assert not told.gone


def test_losses_are_equal_to_the_last_bit_or_not():
    assert compare.compared(record(), record()).losses_equal
    other = losses(8)
    other[7] += 1e-12
    told = compare.compared(record(), record(other))
    assert not told.losses_equal
    assert next(d.text for d in told.differences if d.name == "loss").startswith("differs first at step 7: ")
    assert not compare.compared(record(), record(losses(6))).losses_equal, "fewer steps are not the same losses"
    assert not compare.compared(record([]), record([])).losses_equal, "no loss at all proves nothing"


# ---------------------------------------------------------------- real runs

TRAIN = """
import os
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from parts.model import make


def main():
    x = torch.load("data/train.pt")
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    for epoch in range(3):
        for (batch,) in DataLoader(TensorDataset(x), batch_size=8, shuffle=True):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(batch), batch).backward()
            optimizer.step()
        # end of the epoch
        torch.save(model.state_dict(), "data/last.pt")


if __name__ == "__main__":
    main()
"""
FIXED = TRAIN.replace("        # end of the epoch\n", "        schedule.step()\n")
MODEL = "from torch import nn\n\n\ndef make():\n    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 4))\n"
COMMAND = [sys.executable, "train.py"]


@pytest.fixture
def training(repository):
    """A repository whose training forgets to step the schedule; the data lie beside it and git does not know them."""
    torch = pytest.importorskip("torch")
    repository.commit({".gitignore": "data/\n.mllint/\n", "train.py": TRAIN, "parts/__init__.py": "", "parts/model.py": MODEL})
    (repository.root / "data").mkdir()
    torch.save(torch.randn(64, 4), repository.root / "data" / "train.pt")
    repository.write("data/last.pt", b"precious")
    return repository


def compared(repository: Repository, *options: str, revision: str = "HEAD") -> subprocess.CompletedProcess[str]:
    """`runtime-check --compare`, after which nothing in the repository may be other than before."""
    before = repository.state()
    command = [sys.executable, "-m", "mllint", "runtime-check", "--compare", revision, *options, "--", *COMMAND]
    done = subprocess.run(command, cwd=repository.root, capture_output=True, text=True, encoding="utf-8", check=False)
    assert repository.state() == before, done.stdout + done.stderr
    return done


@pytest.mark.parametrize("sandbox", ["overlay", "copy"])
def test_a_mistake_that_was_mended_is_gone(training, sandbox):
    if sandbox == "overlay" and not _overlays(training.root):
        pytest.skip("no overlay can be mounted here")
    training.write("train.py", FIXED)
    done = compared(training, "--sandbox", sandbox)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines[0].startswith("compared with HEAD (")
    assert lines[1].split("  ") == ["", "was confirmed, now gone", "train.py:14:16", "scheduler-never-stepped"]
    said = " ".join(done.stdout.split())
    assert "learning rate: differs first at step 3: 0.1 before, 0.05 now (0.5 apart)" in said
    assert "loss: differs first at step 4: " in said, "up to the first step with another rate both runs are the same"
    assert "events: scheduler.step 0 before, 2 now" in said
    newest, oldest = (load(entry.path) for entry in listed(str(training.root)))
    made = [len(known.main.of("step")) for known in (oldest, newest)]
    assert made[0] == made[1] >= 6
    assert newest.head["compare"]["changes"][0]["change"] == "was confirmed, now gone"
    assert [v["verdict"] for v in oldest.verdicts] == ["confirmed"]
    assert oldest.head["sandbox"] == sandbox


def test_a_mistake_that_was_made_is_new(training):
    training.commit({"train.py": FIXED})
    training.write("train.py", TRAIN)
    done = compared(training)
    assert done.returncode == 1
    assert done.stdout.splitlines()[1].split("  ")[1] == "new"


def test_the_comparison_for_programs(training):
    from jsonschema import Draft202012Validator

    training.write("train.py", FIXED)
    done = compared(training, "--format", "json")
    report = json.loads(done.stdout)
    schema = json.loads((Path(mllint.__file__).parent / "report" / "schema.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(report)
    told = report["run"]["compare"]
    assert (told["after"], told["losses_equal"], told["problem"]) == ("working tree", False, None)
    (change,) = told["changes"]
    assert (change["before"], change["after"], change["change"]) == ("confirmed", None, "was confirmed, now gone")
    assert next(row for row in told["differences"] if row["name"] == "loss")["step"] == 4


def test_a_change_of_words_leaves_the_losses_equal(training):
    training.write("train.py", TRAIN.replace("# end of the epoch", "# the end of an epoch"))
    done = compared(training)
    assert done.returncode == 1
    assert done.stdout.splitlines()[1].split("  ")[1] == "still confirmed"
    assert "the losses are equal, to the last bit" in done.stdout
    assert "differs first" not in done.stdout


def test_the_code_of_the_revision_is_imported_wherever_it_is_found(training, monkeypatch):
    """An installed package of the project is found by the path of the working tree, and must be that of the revision all the same."""
    if not _overlays(training.root):
        pytest.skip("no overlay can be mounted here")
    monkeypatch.setenv("PYTHONPATH", str(training.root / "src"))
    broken = MODEL.replace("nn.Dropout(0.5)", "nn.Dropout(0.0)")
    train = FIXED.replace("from parts.model", "from installed.model")
    training.commit({"train.py": train, "src/installed/__init__.py": "", "src/installed/model.py": broken})
    training.write("src/installed/model.py", MODEL)
    done = compared(training)
    assert "loss: differs first at step 0" in " ".join(done.stdout.split())


def test_a_revision_that_cannot_run_says_why(training):
    training.commit({"train.py": FIXED.replace("import os", "import nowhere_to_be_found")})
    training.write("train.py", FIXED)
    done = compared(training)
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stdout.split("run 2")[0].split())
    assert re.search(r"the run before failed: .*nowhere_to_be_found", said)
    assert "before, " not in said, "numbers of a run that failed compare to nothing"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--no-sandbox",), "another state of the project can only be shown in a sandbox"),
        (("--report", "x.json"), "--compare scans both states by itself"),
    ],
)
def test_what_cannot_be_compared(training, options, said):
    training.write("train.py", FIXED)
    done = compared(training, *options)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""


def test_a_revision_that_is_none(training):
    done = compared(training, revision="nope")
    assert done.returncode == 2
    assert done.stderr.startswith("mllint: error: --compare: `nope` is no revision of the repository at ")


def test_a_fix_can_be_tried_without_writing_it(training, monkeypatch):
    monkeypatch.chdir(training.root)
    project = Project(str(training.root), Config(), load_pages())
    before = training.state()
    with changed(project, "fixed", {"train.py": FIXED.encode()}) as fixed:
        done = both(COMMAND, project, Options(), None, fixed)
    assert [change.finding["rule"] for change in done.comparison.gone] == ["scheduler-never-stepped"]
    assert not done.comparison.appeared
    assert done.after.status == 0 and done.before.status == 1
    assert training.state() == before
    assert not os.path.exists(fixed.folder)


def _overlays(root: Path) -> bool:
    from mllint.runtime.sandbox import SandboxError, choose

    try:
        choose(str(root), "overlay").close()
    except SandboxError:
        return False
    return True
