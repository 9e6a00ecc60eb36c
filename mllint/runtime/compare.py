"""The same command on two states of a project, with the same seeds: which findings a change has made go away, and what else it moved.

A state is a tree: a folder with its code, to be scanned and judged, and the files that must stand in the place of the user's own while
the command runs. The run itself happens at the user's path, below a layer or in a copy, because installed packages, settings and
scripts name that path; nothing of the user's is touched, neither files nor index nor the list of work trees.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mllint.runtime.record import Record
from mllint.runtime.runs import Difference, Verdict, differences, paired

#: Both runs are seeded with this where the user names no seed.
SEED = 0

#: A file of more bytes is data.
BIG = 1_000_000

#: What a file kept elsewhere leaves in a repository: a pointer of Git LFS begins so.
_POINTER = b"version https://git-lfs.github.com/spec/"

_QUIET = {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1", "LC_ALL": "C"}
_OF_HOOKS = frozenset({"GIT_DIR", "GIT_WORK_TREE", "GIT_PREFIX", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"})
#: Whatever the settings say: no watcher of the files is started, nothing is loaded from elsewhere.
_PLAIN = ("-c", "core.fsmonitor=false", "-c", "filter.lfs.smudge=", "-c", "filter.lfs.process=", "-c", "filter.lfs.required=false")


class CompareError(Exception):
    """The other state cannot be had; the message says why."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A state of a project: `folder` holds its code, `files` what differs from the user's files: by name, the file to be seen there, or
    None where none is. `name` is what a report calls it."""

    name: str
    folder: str
    files: Mapping[str, str | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one finding: its verdicts (None: not reported there) and the sentence about both."""

    finding: Verdict
    before: str | None
    after: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs side by side: `differences` of losses, rates, norms, events and times; `problem` is why the first run failed, if it did."""

    names: tuple[str, str]
    changes: tuple[Change, ...]
    differences: tuple[Difference, ...]
    problem: str | None = None

    @property
    def gone(self) -> tuple[Change, ...]:
        """What was confirmed before and is not there any more, as far as a run that got as far can tell."""
        return tuple(change for change in self.changes if change.text == GONE)

    @property
    def appeared(self) -> tuple[Change, ...]:
        """What only the second run confirms."""
        return tuple(change for change in self.changes if change.after == "confirmed" != change.before)

    @property
    def losses_equal(self) -> bool:
        """Both runs made the same steps with bit-equal losses."""
        told = [d for d in self.differences if d.name == "steps" or d.name.split(",")[0] == "loss"]
        return len(told) > 1 and all(d.same for d in told)

    def as_json(self) -> dict[str, Any]:
        """For the head of the record of the second run, and with it for every report."""
        return {
            "before": self.names[0],
            "after": self.names[1],
            "problem": self.problem,
            "losses_equal": self.losses_equal,
            "changes": [
                {**{key: change.finding.get(key) for key in ("rule", "path", "line", "column", "cell", "message", "key")},
                 "before": change.before, "after": change.after, "change": change.text}
                for change in self.changes
            ],
            "differences": [{"name": d.name, "same": d.same, "text": d.text, "step": d.step} for d in self.differences],
        }  # fmt: skip


GONE = "was confirmed, now gone"


# ---------------------------------------------------------------- the comparison


def compared(before: Record, after: Record, names: tuple[str, str] = ("before", "after")) -> Comparison:
    """What two runs of the same command say of each finding of either, and in what their numbers differ."""
    changes = []
    for one, other in paired(before.verdicts, after.verdicts):
        words = [None if finding is None else str(finding.get("verdict") or "not run") for finding in (one, other)]
        finding: Verdict = other if other is not None else one or {}
        changes.append(Change(finding, words[0], words[1], _said(words[0], words[1], _fell_short(after, before))))
    told = tuple(d for d in differences(before, after, ("before", "now")) if d.name != "verdicts")
    return Comparison(names, tuple(changes), told, before.head.get("problem"))


def _said(before: str | None, after: str | None, short: str) -> str:
    if before == "confirmed":
        if after == "confirmed":
            return "still confirmed"
        if after is None or after == "refuted":
            # Silence of a run that broke off proves nothing.
            return f"was confirmed, cannot be told now: {short}" if short else GONE
        return f"was confirmed, now {after}"
    if after == "confirmed":
        return "new" if before is None else f"was {before}, now confirmed"
    if before == after:
        return "not reached in either" if after == "not reached" else f"{after} in both"
    if before is None:
        return f"new, {after}"
    return f"was {before}, now not reported" if after is None else f"was {before}, now {after}"


def _fell_short(after: Record, before: Record) -> str:
    """Why the second run cannot speak for findings it does not show, or nothing."""
    if problem := after.head.get("problem"):
        return str(problem)
    if after.main is None:
        return "nothing trained"
    made, due = (len(record.main.of("step")) if record.main is not None else 0 for record in (after, before))
    return f"it made {made} of the {due} steps" if made < due and after.head.get("ended") not in ("steps", "passes", "exit") else ""


# ---------------------------------------------------------------- trees


def changed(root: str, name: str, contents: Mapping[str, bytes], code: Iterable[str], scratch: str) -> Tree:
    """The project with other contents in some of its files. `code` are the names of all files a scan reads; `scratch` must be empty."""
    files: dict[str, str | None] = {}
    for path in {*code, *contents}:
        target = os.path.join(scratch, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if path in contents:
            with open(target, "wb") as stream:
                stream.write(contents[path])
            if os.path.exists(os.path.join(root, path)):
                shutil.copymode(os.path.join(root, path), target)
            files[path] = target
        else:
            shutil.copy2(os.path.join(root, path), target)
    return Tree(name, scratch, files)


def revision(root: str, name: str, code: Iterable[str], scratch: str) -> Tree:
    """The project as it was in a git revision, taken from the object store into `scratch`, which must be empty.

    `code` are the names of the files of today that a scan reads: those git does not know belong to both states. Raises CompareError.
    """
    root = os.path.realpath(root)
    git = _Git(root, f"{scratch}.index")
    try:
        commit = git.commit(name)
        prefix = git.said("rev-parse", "--show-prefix", today=True).removesuffix("\n")
        git.said("read-tree", f"{commit}:{prefix.rstrip('/')}")
        old, today = git.entries(), git.entries(today=True)
        touched = set(git.names("diff-files", "-z", "--name-only", "--relative", today=True))
        # Data that git keeps and nobody has changed need not be written out once more.
        same = {path for path, entry in old.items() if today.get(path) == entry and path not in touched}
        same = {path for path in same if _is_big(os.path.join(root, path))}
        git.said("checkout-index", "-z", "--stdin", "--force", f"--prefix={scratch}{os.sep}", told="\0".join(old.keys() - same))
    finally:
        if os.path.exists(git.index):
            os.unlink(git.index)
    notes = []
    files: dict[str, str | None] = {path: None for path in today.keys() - old.keys() if os.path.lexists(os.path.join(root, path))}
    for path in sorted(old.keys() - same):
        there, here = os.path.join(scratch, path), os.path.join(root, path)
        if not os.path.lexists(there) or os.path.isdir(there):
            notes.append(f"{path} is a repository of its own: the one of the working tree was used for both")
        elif _is_pointer(there):
            notes.append(f"{path} is kept by Git LFS: the file of the working tree was used for both")
            os.unlink(there)
        elif not _same_file(there, here):
            files[path] = there
    for path in code:
        target = os.path.join(scratch, path)
        if path not in today and not os.path.lexists(target) and os.path.isfile(os.path.join(root, path)):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy2(os.path.join(root, path), target)
    short = commit[:9]
    return Tree(short if commit.startswith(name) else f"{name} ({short})", scratch, files, tuple(notes))


def _is_big(path: str) -> bool:
    try:
        known = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(known.st_mode) and known.st_size > BIG


def _is_pointer(path: str) -> bool:
    if os.path.islink(path):
        return False
    with open(path, "rb") as stream:
        return stream.read(len(_POINTER)) == _POINTER


def _same_file(a: str, b: str) -> bool:
    """Both are links to the same place, or files of the same bytes and the same right to be run."""
    if not os.path.lexists(b) or os.path.islink(a) != os.path.islink(b):
        return False
    if os.path.islink(a):
        return os.readlink(a) == os.readlink(b)
    if not os.path.isfile(b) or (os.stat(a).st_mode ^ os.stat(b).st_mode) & 0o100:
        return False
    import filecmp

    return filecmp.cmp(a, b, shallow=False)


class _Git:
    """Git, asked about the repository around `root` with an index of our own; nothing is fetched and nothing of the user's written.

    The program and not GitPython: that one cannot take a variable out of the environment, and hooks set some that lead elsewhere.
    """

    def __init__(self, root: str, index: str) -> None:
        self.root, self.index, self._top = root, index, root
        try:
            # From here, names in an index of a part of the repository are not taken for names below that part.
            self._top = self.said("rev-parse", "--show-toplevel").removesuffix("\n")
        except CompareError as error:
            raise CompareError(f"{root} is in no git repository" if "not a git repository" in str(error) else str(error)) from error

    def commit(self, name: str) -> str:
        """The full name of the commit that `name` means."""
        try:
            return self.said("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").strip()
        except CompareError:
            raise CompareError(f"`{name}` is no revision of the repository at {self.root}") from None

    def names(self, *words: str, today: bool = False) -> list[str]:
        return [name for name in self.said(*words, today=today).split("\0") if name]

    def entries(self, *, today: bool = False) -> dict[str, str]:
        """The names in an index, each with the kind and the content it stands for."""
        rows = (row.partition("\t") for row in self.names("ls-files", "-z", "--stage", today=today))
        return {path: facts for facts, _, path in rows}

    def said(self, *words: str, today: bool = False, told: str = "") -> str:
        """What git answers: of our index, from the top of the repository; with `today` of the user's, from the root of the project."""
        env = {key: value for key, value in os.environ.items() if key not in _OF_HOOKS} | _QUIET
        if not today:
            env["GIT_INDEX_FILE"] = self.index
        try:
            at = self.root if today else self._top
            done = subprocess.run(["git", *_PLAIN, *words], cwd=at, env=env, input=os.fsencode(told), capture_output=True, check=False)
        except OSError as error:
            raise CompareError("comparing with a revision needs git on the path") from error
        if done.returncode != 0:
            raise CompareError(f"git {words[0]}: {_complaint(done.stderr.decode('utf-8', 'replace'))}")
        return done.stdout.decode("utf-8", "surrogateescape")


def _complaint(text: str) -> str:
    """The line of git's own words that says what is wrong."""
    lines = text.strip().splitlines() or ["it failed"]
    return next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[0]).removeprefix("fatal: ").removeprefix("error: ")
