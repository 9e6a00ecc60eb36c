"""`mllint runs`: the records of runs, one of them in full, or what tells two apart."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from mllint.config import ConfigError
from mllint.report import printable

if TYPE_CHECKING:
    from mllint.runtime.record import Record
    from mllint.runtime.runs import Difference, Entry

VERSION = 1  # of the JSON forms


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What may follow `mllint runs`."""
    parser.add_argument("--format", choices=("text", "json"), help="how to list or compare them (default: text)")
    parser.add_argument("--root", metavar="DIR", help="the root of the project (default: found from the current folder)")
    what = parser.add_subparsers(metavar="WHAT")

    def part(name: str, text: str) -> argparse.ArgumentParser:
        sub = what.add_parser(name, help=text, description=text, allow_abbrev=False, argument_default=argparse.SUPPRESS)
        sub.set_defaults(what=name)
        return sub

    show = part("show", "Show a run once more.")
    show.add_argument("run", metavar="RUN", help="its id, the beginning or end of it, or the file")
    show.add_argument("--html", metavar="FILE", help="write it as one page to FILE instead")
    diff = part("diff", "Say what tells two runs apart. Exit status: 0 when they are the same, 1 when they differ.")
    diff.add_argument("run", metavar="A", help="a run: its id, the beginning or end of it, or the file")
    diff.add_argument("other", metavar="B", help="another one")
    diff.add_argument("--format", choices=("text", "json"), help="how to compare them (default: text)")


def run(options: Any, color: Callable[[IO[str]], bool]) -> int:
    """Carry the command out. Raises ConfigError for runs that are not there or cannot be read."""
    from mllint.runtime.record import RecordError

    root = _root(options.root)
    try:
        what = getattr(options, "what", "list")
        if what == "show":
            return _show(options, root, color)
        return _diff(options, root) if what == "diff" else _list(options, root)
    except RecordError as error:
        raise ConfigError(str(error)) from error


def _root(given: str | None) -> str:
    if given is None:
        from mllint.discover import find_root

        return find_root(["."])[0]
    if not os.path.isdir(given):
        raise ConfigError(f"--root: there is no folder {given}")
    return os.path.abspath(given)


# ---------------------------------------------------------------- list


def _list(options: Any, root: str) -> int:
    from mllint.runtime.runs import folder, listed

    entries = listed(root)
    if options.format == "json":
        _json({"version": VERSION, "runs": [_as_json(entry) for entry in entries]})
        return 0
    if not entries:
        sys.stdout.write(f"no runs in {printable(folder(root))}; `mllint runtime-check -- python train.py` makes one\n")
        return 0
    for entry in entries:
        sys.stdout.write(_line(entry) + "\n")
    return 0


def _line(entry: Entry) -> str:
    if entry.problem:
        return f"{printable(entry.id)}  cannot be read: {printable(entry.problem)}"
    date = entry.started.replace("T", " ").removesuffix("Z")[:16]
    verdicts = ", ".join(f"{count} {'not judged' if word == 'not run' else word}" for word, count in (entry.verdicts or {}).items())
    steps = f"{entry.steps} step{'' if entry.steps == 1 else 's'}"
    ended = f"ended by {entry.ended}" if entry.ended else "no end recorded"
    facts = "  ".join(word for word in (printable(entry.id), date, f"{steps}, {ended}", verdicts or "no findings") if word)
    return f"{facts}\n  {printable(shlex.join(entry.command))}"


def _as_json(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "path": entry.path,
        "started": entry.started or None,
        "command": list(entry.command),
        "steps": entry.steps,
        "ended": entry.ended or None,
        "verdicts": dict(entry.verdicts or {}),
        "problem": entry.problem or None,
    }


# ---------------------------------------------------------------- show


def _show(options: Any, root: str, color: Callable[[IO[str]], bool]) -> int:
    from mllint.runtime.runs import find

    record = find(options.run, root)
    target = getattr(options, "html", None)
    if target is not None:
        write_page(record, target)
        return 0
    from mllint.runtime.summary import write

    with _readable(options.run):
        write(record, sys.stdout, color=color(sys.stdout))
    return 0


def write_page(record: Record, target: str) -> None:
    """Write the page of a run. Raises ConfigError where plotly is missing or the file cannot be written."""
    from mllint.runtime import html

    try:
        with _readable(record.id):
            html.write(record, target)
    except html.PlottingMissing as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror or error}") from error


# ---------------------------------------------------------------- diff


def _diff(options: Any, root: str) -> int:
    from mllint.runtime.runs import differences, find, same

    records = find(options.run, root), find(options.other, root)
    with _readable(f"{options.run} or {options.other}"):
        found = differences(*records)
    equal = same(found)
    if options.format == "json":
        runs = [{"id": record.id, "command": record.head.get("command")} for record in records]
        _json({"version": VERSION, "runs": runs, "same": equal, "comparisons": [_comparison(one) for one in found]})
        return 0 if equal else 1
    for name, record in zip("AB", records, strict=True):
        sys.stdout.write(f"{name}  {printable(record.id)}  {printable(shlex.join(map(str, record.head.get('command') or ())))}\n")
    sys.stdout.write("\n")
    width = max(len(difference.name) for difference in found)
    for difference in found:
        mark = {True: "=", False: "!", None: " "}[difference.same]
        sys.stdout.write(f"{mark} {printable(difference.name):{width}}  {printable(difference.text)}\n")
    sys.stdout.write("\nthe runs are the same\n" if equal else "\nthe runs differ\n")
    return 0 if equal else 1


def _comparison(difference: Difference) -> dict[str, Any]:
    return {"name": difference.name, "same": difference.same, "text": difference.text, "step": difference.step}


# ---------------------------------------------------------------- both


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Rows of a foreign or damaged record may lack what is asked of them: one message instead of a trace."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ConfigError(f"the record of {name} is damaged: {type(error).__name__}: {error}") from error


def _json(document: dict[str, Any]) -> None:
    import json

    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")
