"""Walking syntax trees: which attributes of a node lead further down. Asking the node itself for its fields takes four times as long."""

from __future__ import annotations

import ast

#: Attributes that hold words, numbers or operators, which nobody looks for.
WORDS = frozenset((
    "id", "attr", "arg", "name", "names", "asname", "module", "level", "kind", "type_comment", "conversion", "is_async", "simple", "rest",
    "kwd_attrs", "tag", "str", "lineno", "type_ignores", "ctx", "op", "ops",
))  # fmt: skip

#: For each class of nodes the attributes that hold nodes, or lists of nodes (with None where a dict is unpacked or a default is missing).
CHILDREN: dict[type, tuple[str, ...]] = {
    kind: tuple(name for name in kind._fields if name not in WORDS)
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
} | {ast.Constant: (), ast.MatchSingleton: (), type(None): ()}
