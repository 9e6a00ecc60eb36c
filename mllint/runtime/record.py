"""The record of a run: what the probes inside each process wrote, and what the launcher knows of the whole.

A process writes its part line by line, so that one that is killed keeps its evidence. The record joins the parts and is saved as
one JSON file, `.mllint/runs/<id>.json`, whose `version` says how to read it. Times are in seconds, memory in bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

#: The contract of the file. A reader refuses what is newer.
VERSION = 1

Row = Mapping[str, Any]


class RecordError(Exception):
    """A record that cannot be read; the message names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One place on a stack: the call in progress there, as a person counts; columns are 0 where the interpreter cannot tell.

    `file` is relative to the project root with `/` for the project's own files, absolute for all others.
    """

    file: str
    line: int
    column: int
    end_line: int
    end_column: int
    function: str
    first_line: int

    @property
    def own(self) -> bool:
        """The file is one of the project's; code that was made while running (`<string>`) is nobody's."""
        return not os.path.isabs(self.file) and not self.file.startswith("<")


@dataclass(frozen=True)
class Part:
    """What one process did. Rows are as the probes wrote them; `stacks` are the sites by id, innermost step first."""

    rows: tuple[Row, ...]
    stacks: Mapping[int, tuple[Step, ...]] = field(default_factory=dict)

    def of(self, kind: str) -> list[Row]:
        """The rows of one kind ("event", "step", "pass", ...), in the order they were written."""
        return self._kinds.get(kind, [])

    @cached_property
    def _kinds(self) -> dict[str, list[Row]]:
        kinds: dict[str, list[Row]] = {}
        for row in self.rows:
            kinds.setdefault(str(row.get("k")), []).append(row)
        return kinds

    @cached_property
    def things(self) -> dict[int, Row]:
        return {row["id"]: row for row in self.of("thing")}

    @cached_property
    def params(self) -> dict[int, Row]:
        return {row["id"]: row for row in self.of("param")}

    @cached_property
    def contexts(self) -> dict[int, Row]:
        return {row["id"]: row for row in self.of("context")}

    @property
    def start(self) -> Row:
        return next(iter(self.of("start")), {})

    @property
    def end(self) -> Row:
        return next(reversed(self.of("end")), {})

    @property
    def rank(self) -> int:
        return int(self.start.get("rank") or 0)

    @property
    def trained(self) -> bool:
        """The process did something the probes watch."""
        return any(row.get("action") not in ("make", "iter") for row in self.of("event"))

    def failed_at(self) -> Step | None:
        """The innermost place of the project at which the process ended with an error."""
        frames = next((row.get("frames") or () for row in self.of("error")), ())
        steps = (Step(str(f[0]), int(f[1]), 0, int(f[1]), 0, str(f[2]) if len(f) > 2 else "", 0) for f in frames)
        return next((step for step in steps if step.own), None)

    def own_step(self, site: int | None) -> Step | None:
        """The innermost place of the stack in a file of the project; else the innermost of all; None for an unknown site."""
        stack = self.stacks.get(site) if site is not None else None
        if not stack:
            return None
        return next((step for step in stack if step.own), stack[0])


@dataclass(frozen=True)
class Record:
    """A whole run. `head` is what the launcher knows: id, command, cwd, started (UTC, ISO 8601), seconds, options, mode, ended ...

    `verdicts` are the findings with what the run says of them, in the form of `--format json`.
    """

    head: Mapping[str, Any]
    parts: tuple[Part, ...]
    verdicts: tuple[Mapping[str, Any], ...] = ()

    @property
    def id(self) -> str:
        return str(self.head.get("id", ""))

    @property
    def main(self) -> Part | None:
        """The part of the first process that trained, by rank; None when none did."""
        return min((p for p in self.parts if p.trained), key=lambda p: p.rank, default=None)

    @property
    def trained(self) -> list[Part]:
        return sorted((p for p in self.parts if p.trained), key=lambda p: p.rank)

    @property
    def error(self) -> Row | None:
        """The uncaught exception that ended the run, of the lowest rank that has one."""
        rows = [(p.rank, row) for p in self.parts for row in p.of("error")]
        return min(rows, key=lambda pair: pair[0])[1] if rows else None


# ---------------------------------------------------------------- reading parts


def read_parts(folder: str, roots: Mapping[str, str]) -> tuple[Part, ...]:
    """Every part the processes of a run left in `folder`.

    `roots` maps folders as the processes saw them to "" (the project root) or another folder: names of files below them are made
    relative to the project, or absolute as the user knows them. A line that was cut by a kill is left out.
    """
    parts = []
    for name in sorted(os.listdir(folder)):
        if name.startswith("part-") and name.endswith(".jsonl"):
            with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as stream:
                rows = list(_rows(stream))
            if any(row.get("k") == "event" for row in rows) or any(row.get("k") == "error" for row in rows):
                parts.append(part(rows, roots))
    return tuple(parts)


def part(rows: Iterable[Row], roots: Mapping[str, str] | None = None) -> Part:
    """A part from its rows."""
    kept: list[Row] = []
    stacks: dict[int, tuple[Step, ...]] = {}
    for row in rows:
        if row.get("k") == "site":
            frames = [[_known_as(str(f[0]), roots or {}), *f[1:]] for f in row["frames"]]
            stacks[row["id"]] = tuple(Step(*frame) for frame in frames)
            row = {**row, "frames": frames}
        elif row.get("k") in ("error", "loop", "write"):
            row = _with_known_files(row, roots or {})
        kept.append(row)
    return Part(tuple(kept), stacks)


def _rows(lines: Iterable[str]) -> Iterable[Row]:
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


def _known_as(file: str, roots: Mapping[str, str]) -> str:
    for seen, known in roots.items():
        if file.startswith(seen.rstrip(os.sep) + os.sep):
            rest = file[len(seen.rstrip(os.sep)) + 1 :]
            return os.path.join(known, rest) if known else rest.replace(os.sep, "/")
    return file


def _with_known_files(row: Row, roots: Mapping[str, str]) -> Row:
    changed = dict(row)
    for key in ("file", "path"):
        if isinstance(changed.get(key), str):
            changed[key] = _known_as(changed[key], roots)
    if "frames" in changed:
        changed["frames"] = [[_known_as(str(f[0]), roots), *f[1:]] for f in changed["frames"]]
    return changed


# ---------------------------------------------------------------- files


def save(record: Record, path: str) -> None:
    """Write the record as JSON, whole or not at all."""
    document = {
        "version": VERSION,
        **record.head,
        "verdicts": list(record.verdicts),
        "parts": [list(p.rows) for p in record.parts],
    }
    target = f"{path}.{os.getpid()}"
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    try:
        with open(target, "w", encoding="utf-8") as stream:
            json.dump(document, stream, separators=(",", ":"))
        os.replace(target, path)
    finally:
        if os.path.exists(target):
            os.unlink(target)


def load(path: str) -> Record:
    """Read a record. Raises RecordError for a file that is none, or of a newer version."""
    try:
        with open(path, encoding="utf-8") as stream:
            document = json.load(stream)
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise RecordError(f"{path} is not a run record: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("version"), int) or not isinstance(document.get("parts"), list):
        raise RecordError(f"{path} is not a run record: it has no `version` and `parts`")
    if document["version"] > VERSION:
        raise RecordError(f"{path} was written by a newer mllint (record version {document['version']}, this one reads {VERSION})")
    head = {key: value for key, value in document.items() if key not in ("version", "verdicts", "parts")}
    parts: Sequence[Sequence[Row]] = document["parts"]
    try:
        return Record(head, tuple(part(rows) for rows in parts), tuple(document.get("verdicts", ())))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordError(f"{path} is not a run record: {type(error).__name__}: {error}") from error
