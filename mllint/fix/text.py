"""Edits of anything that is no Python: exact places and whole lines of configurations, prose and scripts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mllint.fix.patch import Declined, Lines, Patch, Plan
from mllint.model.finding import Span
from mllint.model.fix import Delete, Edit, Insert, Move, Replace


def plan(lines: Lines, edits: Sequence[Edit], cell: int | None = None) -> Plan:
    """The patches of all edits of one text. `Insert`, `Delete` and `Move` speak of whole lines here."""
    patches: list[Patch] = []
    claims: list[tuple[int | None, int, int]] = []
    for edit in edits:
        match edit:
            case Replace(span, text):
                patches.append(Patch(lines.offset(span.line, span.column), lines.offset(span.end_line, span.end_column), text))
            case Insert(anchor, where, text):
                patches.append(_inserted(lines, anchor, where, text.rstrip("\n").split("\n")))
            case Delete(span):
                patches.append(Patch(*_rows(lines, span), ""))
            case Move(span, anchor, where):
                start, end = _rows(lines, span)
                moved = [lines.text[at : lines.line_end(at)] for at in lines.starts if start <= at < end]
                patches += (Patch(start, end, ""), _inserted(lines, anchor, where, moved, keep=True))
                claims.append((cell, start, end))
            case _:
                raise Declined(f"{type(edit).__name__} is no edit of a text")
    return Plan(tuple(Patch(p.start, p.end, p.text, p.rank, cell, p.joins) for p in patches), tuple(claims))


def _rows(lines: Lines, span: Span) -> tuple[int, int]:
    start = lines.offset(span.line, 1)
    end = lines.next_line(lines.offset(span.end_line, 1))
    if end == len(lines.text) and start and (end == start or lines.text[end - 1] not in "\r\n"):
        start = lines.line_end(start - 1)
    return start, end


def _inserted(lines: Lines, anchor: Span, where: str, text: list[str], keep: bool = False) -> Patch:
    start = lines.offset(anchor.line, 1)
    indent = "" if keep else lines.indent(start)
    rows = [indent + line if line else "" for line in text]
    if where == "before":
        return lines.as_lines(start, rows)
    if where == "after":
        return lines.as_lines(lines.next_line(lines.offset(anchor.end_line, 1)), rows)
    raise Declined("a line of a text opens no block")


def check(path: str, text: str) -> None:
    """Decline what a parser of its kind no longer reads."""
    suffix = path.rpartition(".")[2].lower()
    try:
        if suffix in ("json", "ipynb"):
            import json

            json.loads(text)
        elif suffix == "jsonl":
            import json

            for line in filter(str.strip, re.split("\r\n|\r|\n", text)):
                json.loads(line)
        elif suffix in ("yaml", "yml"):
            import yaml

            for _ in yaml.compose_all(text, Loader=yaml.SafeLoader):
                pass
        elif suffix == "toml":
            import tomllib

            tomllib.loads(text)
    except ValueError as error:
        raise Declined(f"the file would no longer be read: {error}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "yaml":
            raise
        raise Declined(f"the file would no longer be read: {' '.join(str(error).split())}") from error
