"""One more import, where a person would put it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import libcst

from mllint.fix.calls import append_item
from mllint.fix.patch import Declined, Patch
from mllint.fix.tree import Statement, Tree
from mllint.model.fix import AddImport


def add_import(tree: Tree, edit: AddImport) -> list[Patch]:
    """The patches that make a name known; none where it is known already. See `AddImport`."""
    module, name, asname = edit.module, edit.name, edit.asname
    for statement in _top_imports(tree):
        if (module, name, asname) in _imported(statement.node):
            return []
    bound = asname or name or module.partition(".")[0]
    taken = _meanings(tree)
    if name is None and asname is None:
        taken = [m for m in taken if m != (bound, "import")]
    if any(m[0] == bound for m in taken):
        raise Declined(f"`{bound}` already means something else here")
    spelt = (name or module) + (f" as {asname}" if asname else "")
    if name is not None:
        for statement in _top_imports(tree):
            node = statement.node
            if (
                isinstance(node, libcst.ImportFrom)
                and not node.relative
                and _dotted(node.module) == module
                and not isinstance(node.names, libcst.ImportStar)
            ):
                return _extended(tree, node, spelt)
    line = f"from {module} import {spelt}" if name is not None else f"import {spelt}"
    return [_new_line(tree, module, line)]


def _top_imports(tree: Tree) -> Iterator[Statement]:
    for statement in tree.top.statements:
        if isinstance(statement.node, (libcst.Import, libcst.ImportFrom)):
            yield statement


def _imported(node: libcst.CSTNode) -> set[tuple[str, str | None, str | None]]:
    """(module, name, asname) of everything one statement imports."""
    if isinstance(node, libcst.Import):
        return {(_dotted(alias.name), None, _asname(alias)) for alias in node.names}
    if isinstance(node, libcst.ImportFrom) and not node.relative and not isinstance(node.names, libcst.ImportStar):
        return {(_dotted(node.module), _dotted(alias.name), _asname(alias)) for alias in node.names}
    return set()


def _dotted(node: libcst.CSTNode | None) -> str:
    if isinstance(node, libcst.Attribute):
        return f"{_dotted(node.value)}.{node.attr.value}"
    return node.value if isinstance(node, libcst.Name) else ""


def _asname(alias: libcst.ImportAlias) -> str | None:
    return None if alias.asname is None else _dotted(alias.asname.name)


def _meanings(tree: Tree) -> list[tuple[str, str]]:
    """(name, how) of every name the text gives a meaning to, wherever in it."""
    found: list[tuple[str, str]] = []
    for node in ast.walk(ast.parse(tree.node.code)):
        if isinstance(node, ast.Import):
            found += [(a.asname, "as") if a.asname else (a.name.partition(".")[0], "import") for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(a.asname or a.name, "from") for a in node.names]
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.append((node.id, "name"))
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.append((node.name, "definition"))
        elif isinstance(node, ast.arg):
            found.append((node.arg, "parameter"))
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.append((node.name, "except"))
    return found


def _extended(tree: Tree, node: libcst.ImportFrom, spelt: str) -> list[Patch]:
    """One more name in an import that is there, in its order where it has one."""
    assert not isinstance(node.names, libcst.ImportStar)
    items = [(tree.start(alias), tree.end(alias)) for alias in node.names]
    names = [tree.text[start:end] for start, end in items]
    for fold in (str, str.casefold):
        if names == sorted(names, key=fold):
            following = next((n for n, name in enumerate(names) if fold(name) > fold(spelt)), None)
            if following is None:
                break
            at = items[following][0]
            line = tree.text[tree.lines.line_start(at) : at]
            lead = tree.lines.newline + line if not line.strip() else " "
            return [Patch(at, at, f"{spelt},{lead}", joins=True)]
    return append_item(tree, items, spelt, joins=True)


def _new_line(tree: Tree, module: str, line: str) -> Patch:
    """A line of its own: behind the last import of the same package, else the last of those at the top."""
    package = module.partition(".")[0]
    leading: list[Statement] = []
    for statement in tree.top.statements:
        if isinstance(statement.node, (libcst.Import, libcst.ImportFrom)):
            leading.append(statement)
        elif leading and not isinstance(statement.node, (libcst.If, libcst.Try)):
            break
    related = [s for s in leading if any(m.partition(".")[0] == package for m, _, _ in _imported(s.node))]
    if leading:
        last = (related or leading)[-1]
        return tree.lines.as_lines(tree.behind(last.mates[-1]), [line], joins=True)
    first = next((s for s in tree.top.statements if not _is_text(s)), None)
    if first is None:
        raise Declined("the file has no code to import for")
    return tree.lines.as_lines(tree.lines.line_start(first.start), [line], joins=True)


def _is_text(statement: Statement) -> bool:
    node = statement.node
    return isinstance(node, libcst.Expr) and isinstance(node.value, (libcst.SimpleString, libcst.ConcatenatedString))
