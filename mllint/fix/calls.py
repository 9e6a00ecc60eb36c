"""Edits of expressions: calls and their arguments, names, number formats."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import libcst

from mllint.fix.patch import Declined, Patch
from mllint.fix.tree import Tree

_PART = re.compile(r"\$(\$|[A-Za-z_]\w*|\d+)")
_NO_ARGUMENTS = re.compile(r",[ \t]*\$arguments\b|\$arguments\b[ \t]*,[ \t]*|\$arguments\b")
#: Expressions that bind as tight as can be: nothing that stands beside them takes a part of them away.
_TIGHT = (
    libcst.Name, libcst.Attribute, libcst.Call, libcst.Subscript, libcst.SimpleString, libcst.FormattedString, libcst.List, libcst.Dict,
    libcst.Set, libcst.ListComp, libcst.DictComp, libcst.SetComp,
)  # fmt: skip
_PERCENT = re.compile(r"%(?:%|(?:\(\w*\))?[#0\- +]*(?:\*|\d+)?(?P<precision>(?:\.(?:\*|\d+))?[a-zA-Z]))")
_FIELD = re.compile(r"\{\{|\}\}|\{(?P<name>[^{}:!]*)(?:![rsa])?(?P<spec>:[^{}]*)?\}")
_PRECISION = re.compile(r"(?:\.\d+)?[a-zA-Z%]$")


def expression_at(tree: Tree, start: int, end: int) -> libcst.BaseExpression:
    """The expression that reaches exactly from here to there."""
    for node in tree.nodes_at(start, end):
        if isinstance(node, libcst.BaseExpression):
            return node
    raise Declined("no expression stands at the place to change")


def call_at(tree: Tree, start: int, end: int) -> libcst.Call:
    """The call that reaches exactly from here to there."""
    for node in tree.nodes_at(start, end):
        if isinstance(node, libcst.Call):
            return node
    raise Declined("no call stands at the place to change")


# ------------------------------------------------------------------ rewriting


def rewrite(tree: Tree, start: int, end: int, template: str) -> list[Patch]:
    """The patches that write an expression anew; see `Rewrite`."""
    node = expression_at(tree, start, end)
    if isinstance(node, libcst.Call) and not node.args:
        template = _NO_ARGUMENTS.sub("", template)
    pieces: list[str | tuple[int, int]] = []
    at = 0
    for found in _PART.finditer(template):
        pieces.append(template[at : found.start()])
        at = found.end()
        if found[1] == "$":
            pieces.append("$")
            continue
        begin, stop, tight = _part(tree, node, found[1])
        bare = tight or (_is_open(template, found.start(), found.end()) and not ("\n" in tree.text[begin:stop] and at == len(template)))
        pieces += ["", (begin, stop)] if bare else ["(", (begin, stop), ")"]
    pieces.append(template[at:])
    alone = _PART.fullmatch(template)
    binds = _part(tree, node, alone[1])[2] if alone and alone[1] != "$" else _is_tight(template)
    if not binds and not _is_open(tree.text, start, end):
        pieces = ["(", *pieces, ")"]
    return _between(tree, start, end, pieces)


def _between(tree: Tree, start: int, end: int, pieces: Sequence[str | tuple[int, int]]) -> list[Patch]:
    """Patches of the text around the parts that stay, where these keep their order; else one of the whole."""
    kept = [piece for piece in pieces if not isinstance(piece, str)]
    if any(b[0] < a[1] for a, b in pairwise(kept)):
        text = "".join(piece if isinstance(piece, str) else tree.text[piece[0] : piece[1]] for piece in pieces)
        return [Patch(start, end, text)]
    patches, at, text = [], start, ""
    for piece in pieces:
        if isinstance(piece, str):
            text += piece
        else:
            patches.append(Patch(at, piece[0], text))
            at, text = piece[1], ""
    patches.append(Patch(at, end, text))
    return [p for p in patches if tree.text[p.start : p.end] != p.text]


def _part(tree: Tree, node: libcst.BaseExpression, name: str) -> tuple[int, int, bool]:
    """Where a part of an expression stands, and whether it binds tightly."""
    if name == "whole":
        return _outer(tree, node)
    if not isinstance(node, libcst.Call):
        raise Declined("the expression to write anew is no call")
    if name == "function":
        return _outer(tree, node.func)
    if name == "receiver":
        if not isinstance(node.func, libcst.Attribute):
            raise Declined("the call to write anew is no method call")
        return _outer(tree, node.func.value)
    if name == "arguments":
        if not node.args:
            raise Declined("the call to write anew has no arguments")
        return tree.start(node.args[0]), tree.end(node.args[-1]), True
    if name.isdigit():
        at = int(name)
        before = node.args[: at + 1]
        if len(before) <= at or any(arg.star or arg.keyword for arg in before):
            raise Declined(f"the call to write anew has no argument number {at + 1}")
        return _outer(tree, before[-1].value)
    found = next((arg for arg in node.args if arg.keyword is not None and arg.keyword.value == name), None)
    if found is None:
        raise Declined(f"the call to write anew has no argument `{name}`")
    return _outer(tree, found.value)


def _outer(tree: Tree, node: libcst.BaseExpression) -> tuple[int, int, bool]:
    """Where an expression stands with its parentheses, and whether it binds tightly."""
    start, end = tree.start(node), tree.end(node)
    if node.lpar:
        start -= sum(len(tree.node.code_for_node(paren)) for paren in node.lpar)
        end += sum(len(tree.node.code_for_node(paren)) for paren in node.rpar)
        if tree.text[start : start + 1] != "(" or tree.text[end - 1 : end] != ")":
            raise Declined("the parentheses around a part could not be told apart")
    return start, end, bool(node.lpar) or isinstance(node, _TIGHT)


def _is_open(text: str, start: int, end: int) -> bool:
    """What stands here has room for any expression: between brackets and commas, or as a whole side of an assignment."""
    before, after = text[:start].rstrip(" \t\f"), text[end:].lstrip(" \t\f")
    assigned = before.endswith("=") and not before.endswith(("==", "!=", "<=", ">=", ":="))
    left = not before or before[-1] in "([{,\r\n;" or assigned or re.search(r"(?:^|[\r\n;])[ \t\f]*return$", before) is not None
    return left and (not after or after[0] in ")]},\r\n;#")


def _is_tight(template: str) -> bool:
    text = _PART.sub("part", template)
    try:
        node = libcst.parse_expression(text)
    except libcst.ParserSyntaxError as error:
        raise Declined(f"`{template}` is no expression") from error
    return bool(node.lpar) or isinstance(node, _TIGHT)


def rename(tree: Tree, start: int, end: int, name: str) -> Patch:
    """Another name for the one that stands here."""
    if not tree.text[start:end].isidentifier() or not name.isidentifier():
        raise Declined("the place to rename is no name")
    return Patch(start, end, name)


# ------------------------------------------------------------------ arguments


def set_argument(tree: Tree, start: int, end: int, name: str, text: str, position: int | None) -> list[Patch]:
    """The patches that give a call an argument; see `SetArgument`."""
    call = call_at(tree, start, end)
    given = next((arg for arg in call.args if arg.keyword is not None and arg.keyword.value == name), None)
    if given is None and position is not None:
        before = call.args[: position + 1]
        if any(arg.star == "*" for arg in before):
            raise Declined("the argument may be among those that are unpacked")
        if len(before) > position and before[-1].keyword is None and not before[-1].star:
            given = before[-1]
    if given is not None:
        begin, stop, _ = _outer(tree, given.value)
        return [Patch(begin, stop, text)] if tree.text[begin:stop] != text else []
    if any(arg.star == "**" for arg in call.args):
        raise Declined("the argument may be among those that are unpacked")
    if call.args and isinstance(call.args[0].value, libcst.GeneratorExp) and len(call.args) == 1 and not call.args[0].value.lpar:
        raise Declined("a generator without parentheses leaves no room for an argument")
    if not call.args:
        return [Patch(end - 1, end - 1, f"{name}={text}")]
    return append_item(tree, [(tree.start(a), tree.end(a)) for a in call.args], f"{name}={text}")


def append_item(tree: Tree, items: Sequence[tuple[int, int]], text: str, joins: bool = False) -> list[Patch]:
    """One more item behind the last of a list with commas, on a line of its own where the last has one."""
    begin, stop = items[-1]
    comma = comma_behind(tree, stop)
    line = tree.text[tree.lines.line_start(begin) : begin]
    behind = stop if comma is None else comma
    rest = tree.text[behind : tree.lines.line_end(behind)].strip()
    if not line.strip() and (not rest or rest.startswith("#")):
        at = tree.lines.line_end(behind)
        lead = tree.lines.newline + line + text
        if comma is not None:
            return [Patch(at, at, lead + ",", joins=joins)]
        return (
            [Patch(stop, stop, ",", joins=joins), Patch(at, at, lead, joins=joins)]
            if rest
            else [Patch(stop, stop, "," + lead, joins=joins)]
        )
    if comma is not None:
        return [Patch(comma, comma, f" {text},", joins=joins)]
    return [Patch(stop, stop, f", {text}", joins=joins)]


def comma_behind(tree: Tree, at: int) -> int | None:
    """Right behind the comma that follows, or None."""
    found = re.compile(r"\s*,").match(tree.text, at)
    return None if found is None else found.end()


def drop_argument(tree: Tree, start: int, end: int, argument: str | int) -> list[Patch]:
    """The patch that takes an argument out of a call; see `DropArgument`."""
    call = call_at(tree, start, end)
    at: int | None
    if isinstance(argument, str):
        at = next((n for n, arg in enumerate(call.args) if arg.keyword is not None and arg.keyword.value == argument), None)
    else:
        before = call.args[: argument + 1]
        at = argument if len(before) > argument and not any(arg.star or arg.keyword for arg in before) else None
    if at is None:
        raise Declined("the call has no such argument")
    arg = call.args[at]
    begin, stop = tree.start(arg), tree.end(arg)
    comma = comma_behind(tree, stop)
    behind = stop if comma is None else comma
    first = tree.lines.line_start(begin)
    if comma is not None and not tree.text[first:begin].strip() and not tree.text[behind : tree.lines.line_end(behind)].strip():
        return [Patch(first, tree.lines.next_line(behind), "")]
    if at + 1 < len(call.args):
        return [Patch(begin, tree.start(call.args[at + 1]), "")]
    if at:
        return [Patch(tree.end(call.args[at - 1]), stop, "")]
    return [Patch(begin, behind, "")]


# -------------------------------------------------------------------- formats


def set_format(tree: Tree, start: int, end: int, text: str, index: int) -> Patch:
    """The patch of one number format; see `SetFormat`."""
    nodes = tree.nodes_at(start, end)
    for field in tree.formatted:
        if field.expression in nodes:
            return _field_spec(tree, field, text)
    for node in nodes:
        if isinstance(node, libcst.BinaryOperation) and isinstance(node.operator, libcst.Modulo):
            return _conversion(tree, node.left, text, index)
        if isinstance(node, libcst.Call):
            function = node.func
            if isinstance(function, libcst.Attribute) and function.attr.value == "format":
                return _replacement_field(tree, function.value, text, index)
            strings = [arg.value for arg in node.args if isinstance(arg.value, (libcst.SimpleString, libcst.ConcatenatedString))]
            if isinstance(function, libcst.Name) and function.value == "format" and len(strings) == 1:
                return _whole_spec(tree, strings[0], text)
            if strings:
                return _conversion(tree, strings[0], text, index)
    raise Declined("no format stands at the place to change")


def _field_spec(tree: Tree, field: Any, text: str) -> Patch:
    parts: Sequence[libcst.BaseFormattedStringContent] = field.format_spec or ()
    if len(parts) != 1 or not isinstance(parts[0], libcst.FormattedStringText):
        raise Declined("the format is put together when the program runs")
    return _spec(tree.start(parts[0]), parts[0].value, text)


def _spec(start: int, old: str, text: str) -> Patch:
    found = _PRECISION.search(old)
    if found is None:
        raise Declined("the format has no precision to change")
    return Patch(start + found.start(), start + found.end(), text)


def _conversion(tree: Tree, template: libcst.BaseExpression, text: str, index: int) -> Patch:
    start = _literal(tree, template)
    found = [m for m in _PERCENT.finditer(tree.code(template)) if m["precision"]]
    if index >= len(found):
        raise Declined("the template has fewer conversions")
    return Patch(start + found[index].start("precision"), start + found[index].end("precision"), text)


def _replacement_field(tree: Tree, template: libcst.BaseExpression, text: str, index: int) -> Patch:
    start = _literal(tree, template)
    found = [m for m in _FIELD.finditer(tree.code(template)) if m["name"] is not None]
    if index >= len(found) or not found[index]["spec"]:
        raise Declined("the template has no such format")
    return _spec(start + found[index].start("spec"), found[index]["spec"], text)


def _whole_spec(tree: Tree, node: libcst.BaseExpression, text: str) -> Patch:
    if not isinstance(node, libcst.SimpleString):
        raise Declined("the format is put together of several strings")
    quote = len(node.prefix) + len(node.quote)
    return _spec(tree.start(node) + quote, node.value[quote : -len(node.quote)], text)


def _literal(tree: Tree, node: libcst.BaseExpression) -> int:
    if not isinstance(node, (libcst.SimpleString, libcst.ConcatenatedString)):
        raise Declined("the template is no literal")
    return tree.start(node)
