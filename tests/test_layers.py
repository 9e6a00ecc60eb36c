"""Who may import whom. A line that reaches across is named; so is a file that has grown a second room."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mllint"

# A layer is a folder or a module beside it. `mllint` itself holds the version and may be read by all.
ALLOWED = {
    "model": set(),
    "patterns": set(),
    "read": {"model"},
    "flow": {"read", "model"},
    "checks": {"flow", "read", "model"},
    "remedies": {"checks", "flow", "read", "model"},
    "pages": {"model"},
    "config": {"model", "patterns"},
    "discover": {"config", "model", "patterns"},
    "suppress": {"config", "read", "model"},
    "report": {"model"},
    "runtime": {"report", "checks", "flow", "read", "model"},
    "session": {"discover", "read", "flow", "checks", "remedies", "suppress", "pages", "config", "model"},
    "fix": {"session", "discover", "report", "pages", "config", "read", "model"},
    "authoring": {"commands", "runtime", "fix", "session", "discover", "checks", "pages", "config", "model"},
    "commands": {"fix", "session", "discover", "config", "pages", "report", "runtime", "flow", "read", "model"},
    "cli": {"commands", "authoring", "fix", "session", "discover", "pages", "config", "report", "model"},
    "__main__": {"cli"},
}
LONGEST = 600

FILES = sorted(PACKAGE.rglob("*.py"))


def layer(path: Path) -> str:
    """The layer a file of the package belongs to."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    """Every module a tree imports, relative ones resolved, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")[: -node.level]
                base = ".".join([*package, *base.split(".")] if base else package)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def reaches(source: str, module: str) -> list[str]:
    """What is wrong with the imports of one module."""
    own = module.split(".")[1]
    wrong = []
    for line, name in imports(ast.parse(source), module):
        parts = name.split(".")
        if parts[0] != "mllint" or len(parts) < 2 or parts[1].startswith("__version"):
            continue
        other = parts[1]
        if other == own:
            is_check = own == "checks" and len(parts) > 2 and (PACKAGE / "checks" / f"{parts[2]}.py").exists()
            if is_check and module != f"mllint.checks.{parts[2]}":
                wrong.append(f"{module}:{line} a check imports another: {name}")
        elif other not in ALLOWED[own]:
            wrong.append(f"{module}:{line} {own} imports {name}; it may import {', '.join(sorted(ALLOWED[own])) or 'nothing'}")
    return wrong


def _module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


@pytest.mark.parametrize("path", [p for p in FILES if p.parent != PACKAGE or p.name != "__init__.py"], ids=_module)
def test_imports_stay_in_their_layers(path: Path) -> None:
    assert layer(path) in ALLOWED, f"{path}: say in ALLOWED what {layer(path)} may import"
    assert not (wrong := reaches(path.read_text(encoding="utf-8"), _module(path))), "\n".join(wrong)


@pytest.mark.parametrize("path", FILES, ids=_module)
def test_files_have_one_room(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{path} has {lines} lines; {LONGEST} are the most"


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("import mllint.flow.project", "mllint.model.finding"),
        ("from mllint import flow", "mllint.read.source"),
        ("from mllint.checks import schedulers", "mllint.checks.suppressions"),
        ("from ..flow import project", "mllint.report.text"),
        ("def f():\n    from mllint.session import scan", "mllint.flow.project"),
    ],
)
def test_a_line_that_reaches_across_is_named(source, module, monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda self: True)
    (wrong,) = reaches(source, module)
    assert wrong.startswith(f"{module}:{source.count(chr(10)) + 1} ")


def test_lines_that_may_be_written():
    assert not reaches("from mllint.checks import each\nfrom mllint import __version__\nimport os", "mllint.checks.suppressions")
