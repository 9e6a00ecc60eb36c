"""Which files a scan knows, which of them it was asked about, and what becomes of the odd ones."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mllint.discover
from mllint.config import ConfigError
from mllint.discover import discover, find_root
from mllint.patterns import Patterns


def _write(root, *paths: str) -> None:
    for path in paths:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("x = 1\n")


def _found(root, *paths: str, **more):
    return discover([str(root / p) for p in paths] or [str(root)], str(root), **more)


def _paths(discovery) -> list[str]:
    return [file.path for file in discovery.files]


def test_python_and_notebooks_are_found_and_the_rest_is_not(tmp_path):
    _write(tmp_path, "a.py", "b/c.ipynb", "b/d.txt", "e.pyi", ".venv/x.py", "node_modules/x.py", "b/__pycache__/x.py", "build/x.py")
    found = _found(tmp_path)
    assert [(f.path, f.kind) for f in found.files] == [("a.py", "python"), ("b/c.ipynb", "notebook")]
    assert found.selected is None and found.checked == 2 and not found.problems


def test_one_named_file_is_selected_and_the_others_are_known(tmp_path):
    _write(tmp_path, "a.py", "b/c.py")
    found = _found(tmp_path, "b/c.py")
    assert _paths(found) == ["a.py", "b/c.py"]
    assert found.selected == {"b/c.py"} and found.checked == 1


def test_folder_called_like_a_file_is_a_folder(tmp_path):
    _write(tmp_path, "x.py/inner.py")
    assert _paths(_found(tmp_path)) == ["x.py/inner.py"]
    assert _found(tmp_path, "x.py").selected == {"x.py/inner.py"}


def test_missing_path_is_a_problem_and_the_rest_is_found(tmp_path):
    _write(tmp_path, "a.py")
    found = _found(tmp_path, "nope.py", "a.py")
    assert [(p.kind, p.path) for p in found.problems] == [("missing", "nope.py")]
    assert found.selected == {"a.py"}


def test_link_loops_end(tmp_path):
    _write(tmp_path, "a/b.py")
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self.py").symlink_to("self.py")
    found = _found(tmp_path)
    assert _paths(found) == ["a/b.py"]
    assert [(p.kind, p.path) for p in found.problems] == [("unreadable", "self.py")]
    named = _found(tmp_path, "self.py")
    assert [(p.kind, p.path) for p in named.problems] == [("unreadable", "self.py")], "one problem, not two"


def test_linked_file_counts_once(tmp_path):
    root = tmp_path / "root"
    _write(tmp_path, "root/a.py", "outside.py")
    (root / "again.py").symlink_to("a.py")
    (root / "other.py").symlink_to(tmp_path / "outside.py")
    assert _paths(_found(root)) == ["a.py", "other.py"]


def test_lock_of_an_editor_is_no_problem(tmp_path):
    (tmp_path / ".#a.py").symlink_to("nobody@nowhere")
    assert not _found(tmp_path).problems


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipe_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "x.py")
    assert not _found(tmp_path).files
    assert [p.kind for p in _found(tmp_path, "x.py").problems] == ["unreadable"]


def test_named_path_wins_over_exclusion_unless_forced(tmp_path):
    _write(tmp_path, "a.py", "build/gen.py", "build/lib.py", "old/b.py")
    assert _found(tmp_path, "build/gen.py").selected == {"build/gen.py"}
    assert "build/lib.py" in _paths(_found(tmp_path, "build/gen.py")), "what it may import is known"
    assert _found(tmp_path, "build").selected == {"build/gen.py", "build/lib.py"}
    assert _found(tmp_path, "build/gen.py", force_exclude=True).selected == set()
    assert _found(tmp_path, "build", force_exclude=True).selected == set()
    assert _paths(_found(tmp_path, exclude=["old"])) == ["a.py"]
    assert _found(tmp_path, "old/b.py", exclude=["old"]).selected == {"old/b.py"}
    assert _found(tmp_path, "old/b.py", exclude=["old"], force_exclude=True).selected == set()


def test_named_file_that_is_nothing_we_read_is_a_note(tmp_path):
    _write(tmp_path, "notes.txt")
    found = _found(tmp_path, "notes.txt")
    assert found.checked == 0 and [p.kind for p in found.problems] == ["limit"]


def test_named_script_without_suffix(tmp_path):
    (tmp_path / "train").write_text("#!/usr/bin/env python3\nx = 1\n")
    assert _found(tmp_path, "train").selected == {"train"}


def test_path_outside_the_root_stops(tmp_path):
    _write(tmp_path, "a/x.py", "b/y.py")
    with pytest.raises(ConfigError, match="outside"):
        discover([str(tmp_path / "b" / "y.py")], str(tmp_path / "a"))


def test_root_is_the_nearest_marked_folder(tmp_path):
    _write(tmp_path, "repo/pkg/a.py", "repo/pkg/sub/b.py")
    repo = tmp_path / "repo"
    assert find_root([str(repo / "pkg" / "a.py")]) == (str(repo / "pkg"), False)
    assert find_root([str(repo / "pkg/a.py"), str(repo / "pkg/sub/b.py")]) == (str(repo / "pkg"), False)
    (repo / ".git").mkdir()
    assert find_root([str(repo / "pkg" / "sub")]) == (str(repo), True)
    (repo / "pkg" / "pyproject.toml").write_text("[tool.mllint]\n")
    assert find_root([str(repo / "pkg" / "sub" / "b.py")]) == (str(repo / "pkg"), True)


def test_unmarked_root_of_a_single_file_is_not_searched_forever(tmp_path, monkeypatch):
    monkeypatch.setattr(mllint.discover, "MOST_ENTRIES_WITHOUT_ROOT", 5)
    _write(tmp_path, "a.py", *(f"home/{n}.py" for n in range(10)))
    found = _found(tmp_path, "a.py", marked=False)
    assert found.selected == {"a.py"}
    assert [p.kind for p in found.problems] == ["limit"]
    assert not _found(tmp_path, marked=False).problems, "a folder that was named is searched whole"


# ---------------------------------------------------------------- ignore files, judged by git

IGNORED = {
    ".gitignore": "*.tmp.py\n/top.py\nlogs/\n!keep.py\ndata/**/raw.py\n**/cache\n"
    "exp[0-9].py\nsrc/*.py\n# comment.py\n\\#odd.py\ntrailing.py   \n",
    "src/.gitignore": "!allowed.py\nlocal/\n/only_here.py\n",
    "logs/.gitignore": "!x.py\n",
}
TREE = (
    "a.tmp.py",
    "top.py",
    "sub/top.py",
    "logs/x.py",
    "sub/logs/y.py",
    "keep.py",
    "data/raw.py",
    "data/a/b/raw.py",
    "data/a/b/other.py",
    "deep/cache/z.py",
    "cache/z.py",
    "exp1.py",
    "expx.py",
    "src/one.py",
    "src/allowed.py",
    "src/pkg/two.py",
    "src/local/three.py",
    "src/only_here.py",
    "src/pkg/only_here.py",
    "comment.py",
    "#odd.py",
    "trailing.py",
)


def _git_says(root) -> list[str]:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "ls-files", "-z", "--others", "--exclude-standard", "--", "*.py"]
    out = subprocess.run(command, cwd=root, capture_output=True, check=True, env=environment).stdout
    return sorted(path for path in out.decode().split("\0") if path)


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git judges these")


@needs_git
def test_ignore_files_mean_what_git_means(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    _write(tmp_path, *TREE)
    for path, text in IGNORED.items():
        (tmp_path / path).write_text(text)
    expected = _git_says(tmp_path)
    assert 5 < len(expected) < len(TREE), "the example must hide some and keep some"
    assert _paths(_found(tmp_path)) == expected


@needs_git
def test_ignore_file_of_the_repository_holds_below_a_root_inside_it(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    _write(tmp_path, "pkg/a.py", "pkg/gen.py", "pkg/sub/gen.py", "gen.py")
    (tmp_path / ".gitignore").write_text("/pkg/gen.py\n")
    assert _paths(discover([str(tmp_path / "pkg")], str(tmp_path / "pkg"))) == ["a.py", "sub/gen.py"]


def test_own_ignore_file(tmp_path):
    _write(tmp_path, "a.py", "b.py")
    (tmp_path / ".mllintignore").write_text("b.py\n")
    assert _paths(_found(tmp_path)) == ["a.py"]
    assert _found(tmp_path, "b.py", force_exclude=True).selected == set()


PIECES = st.sampled_from(["a", "b", "ab", "*", "**", "?", "a*", "*b", "[ab]", "[!a]", "a.py", "*.py", "!"])
LINES = st.lists(
    st.tuples(st.sampled_from(["", "!", "/"]), st.lists(PIECES, min_size=1, max_size=3), st.sampled_from(["", "/"])),
    min_size=1,
    max_size=4,
)


@needs_git
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES)
def test_any_ignore_file_means_what_git_means(tmp_path_factory, lines):
    root = tmp_path_factory.mktemp("ignore")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    _write(root, "a.py", "b.py", "ab.py", "a/a.py", "a/b/a.py", "b/ab/b.py", "ab/a.py", "b/a/b/ab.py")
    (root / ".gitignore").write_text("".join(f"{start}{'/'.join(parts)}{end}\n" for start, parts, end in lines))
    assert _paths(_found(root)) == _git_says(root)


def test_patterns_on_paths_alone():
    patterns = Patterns(["docs/", "/a/*.py", "*.gen.py"])
    assert patterns.hides("docs/x.py") and patterns.hides("x/docs/y/z.py")
    assert not patterns.hides("docs"), "a file is no folder"
    assert patterns.hides("a/b.py") and not patterns.hides("c/a/b.py")
    assert patterns.hides("x/y.gen.py")
