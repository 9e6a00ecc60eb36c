"""A run for people at a terminal: what it says of each finding first, then how it went."""

from __future__ import annotations

import io
import math
import shlex
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from mllint.report import printable
from mllint.runtime.curves import Training, memory, rate_name, steps, trainings, whole
from mllint.runtime.record import Part, Record
from mllint.runtime.sequence import TIMES, cycles

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: Every verdict, in the order of the summary, with the style of its word.
VERDICTS = {
    "confirmed": "bold red",
    "refuted": "green",
    "not reached": "yellow",
    "not observable here": "cyan",
    "failed to run": "magenta",
    "not run": "dim",
}
REASONS = {
    "steps": "stopped after the steps asked for",
    "passes": "stopped after the passes over the data asked for",
    "backwards": "stopped because many backward passes brought no optimizer step",
    "time": "stopped because its time was up",
    "exit": "the command came to its own end",
    "error": "the command failed",
    "killed": "the command was killed",
    "failed": "the command could not be started",
}
BLOCKS, ASCII = "▁▂▃▄▅▆▇█", "_.-~=+*#"
COLUMNS = 24  # of a sparkline: with its name and two values it fits into 80
ORDERS = 3  # of events in a step
LISTED = 10  # of paths and notes; more are counted

Verdict = Mapping[str, Any]


def write(record: Record, stream: IO[str], *, color: bool = False, width: int | None = None) -> None:
    """Write the summary to `stream`, `width` columns wide (default: the terminal's; 80 in a pipe)."""
    from rich.console import Console

    if width is None and stream.isatty():
        width = Console(file=stream).width
    text = io.StringIO()
    plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False, "legacy_windows": False}
    console = Console(file=text, width=width or 80, force_terminal=color, color_system="standard" if color else None, **plain)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    judged = [v for v in record.verdicts if not v.get("hidden")]
    _comparison(record.head.get("compare"), console)
    _verdicts(judged, console)
    _run(record, judged, console, BLOCKS if _can_say(BLOCKS, encoding) else ASCII)
    _total(judged, console)
    lines = "".join(line.rstrip() + "\n" for line in text.getvalue().splitlines())
    stream.write(lines.encode(encoding, "backslashreplace").decode(encoding))


def place(finding: Verdict) -> str:
    """`path:line:column` of a finding as the record holds it."""
    cell = finding.get("cell")
    parts = [finding.get("path") or "mllint", None if cell is None else f"cell {cell + 1}", finding.get("line"), finding.get("column")]
    return printable(":".join(str(part) for part in parts if part is not None))


def shown(value: float | None) -> str:
    """A number as a person reads it: four digits that count."""
    return "" if value is None else f"{value:.4g}"


def size(value: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def duration(seconds: float) -> str:
    """Seconds as a person reads them."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"


def tally(findings: Iterable[Verdict]) -> dict[str, int]:
    """How many findings have each verdict, without those that have none of it."""
    words = [str(finding.get("verdict") or "not run") for finding in findings if not finding.get("hidden")]
    return {word: words.count(word) for word in dict.fromkeys((*VERDICTS, *words)) if word in words}


def headline(record: Record) -> str:
    """Steps, passes, device, seconds and why it ended, in one line."""
    part = record.main
    done = 0 if part is None else steps(part)
    parts = [_count(done, "optimizer step")]
    if part is not None and done == 0 and (backward := sum(row.get("action") == "backward" for row in part.of("event"))):
        parts.append(_count(backward, "backward pass", "backward passes"))
    if part is not None and (passes := sum(row.get("grad") == "train" for row in part.of("pass"))):
        parts.append(_count(passes, "pass over the data", "passes over the data"))
    if part is not None and (device := part.start.get("device_name") or part.start.get("device")):
        emulated = " (emulated CUDA)" if "emulated" in str(record.head.get("mode")) else ""
        parts.append(f"on {'the CPU' if device == 'cpu' else device}{emulated}")
    if len(record.trained) > 1:
        parts.append(f"in {len(record.trained)} processes, of which the first is shown")
    if isinstance(seconds := record.head.get("seconds"), int | float):
        parts.append(duration(seconds))
    return f"{', '.join(parts)}; {reason(record)}"


def reason(record: Record) -> str:
    """Why the run ended."""
    word = str(record.head.get("ended") or (record.main.end.get("reason") if record.main else "") or "")
    return REASONS.get(word, word or "how it ended is not recorded")


def failure(record: Record) -> str | None:
    """Why the run did not get as far as it should, in a line; None where it did."""
    if problem := record.head.get("problem"):
        return str(problem)
    error = record.error
    if error is None:
        return None
    lines = str(error.get("message") or "").strip().splitlines()
    text = f"{error.get('type')}: {lines[0]}" if lines else str(error.get("type"))
    frames = error.get("frames") or []
    here = next((frame for frame in frames if not str(frame[0]).startswith("/")), frames[0] if frames else None)
    return text + (f" at {here[0]}:{here[1]}" if here else "")


def remarks(record: Record) -> Iterator[str]:
    """What the reader should know of the run: what was switched, what could not be watched."""
    yield from map(str, record.head.get("notes") or ())
    if kept := record.head.get("kept_out"):
        yield f"{_count(kept, 'file')} it wrote in the project stayed in the scratch folder"
    for name, values in (record.head.get("set") or {}).items():
        yield f"--set changed `{name}` from {values[0]} to {values[1]}" if isinstance(values, list | tuple) else f"--set changed `{name}`"
    for part in record.trained:
        if off := part.end.get("disabled"):
            yield f"{' and '.join(map(str, off))} switched off for lack of CUDA"
        if missing := part.start.get("unavailable"):
            yield f"could not be watched with torch {part.start.get('torch')}: {', '.join(map(str, missing))}"


def written(record: Record) -> list[str]:
    """Files that were written for real, without those a note already names."""
    notes = " ".join(map(str, record.head.get("notes") or ())).split()
    named = {word.strip(",") for word in notes}
    return [path for path in map(str, record.head.get("written") or ()) if path not in named]


def sparkline(values: Sequence[float | None], levels: str = BLOCKS, columns: int = COLUMNS) -> str:
    """The course of a series in a few characters; "x" stands where a value is not finite, a blank where there is none."""
    buckets = [values[len(values) * k // columns : len(values) * (k + 1) // columns] for k in range(columns)]
    if len(values) <= columns:
        buckets = [[value] for value in values]
    finite = [v for v in values if v is not None and math.isfinite(v)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    drawn = []
    for bucket in buckets:
        known = [v for v in bucket if v is not None]
        if not known:
            drawn.append(" ")
        elif not all(map(math.isfinite, known)):
            drawn.append("x")
        elif high == low:
            drawn.append(levels[len(levels) // 2 - 1])
        else:
            drawn.append(levels[round((statistics.fmean(known) / 2 - low / 2) / (high / 2 - low / 2) * (len(levels) - 1))])
    return "".join(drawn)


# ---------------------------------------------------------------- verdicts


def _verdicts(findings: Sequence[Verdict], console: Console) -> None:
    order = list(VERDICTS)
    by_evidence: dict[tuple[str, tuple[str, ...]], list[Verdict]] = {}
    for finding in findings:
        word, evidence = str(finding.get("verdict") or "not run"), tuple(map(str, finding.get("evidence") or ()))
        by_evidence.setdefault((word, evidence), []).append(finding)
    for (word, evidence), group in sorted(by_evidence.items(), key=lambda item: order.index(item[0][0]) if item[0][0] in order else 9):
        for finding in group:
            _line(console, (word, VERDICTS.get(word, "bold")), (place(finding), "bold"), (str(finding.get("rule")), ""))
            _sentence(console, str(finding.get("message")))
        # What is said of several findings alike, such as that the run failed, is said once below the last.
        for sentence in evidence:
            _sentence(console, sentence, "dim")
        console.print()


def _comparison(known: Any, console: Console) -> None:
    """What the run says beside that of another state of the project, where there was one."""
    if not isinstance(known, dict) or "changes" not in known:
        return
    _line(console, (f"compared with {known.get('before')}", "bold"))
    for change in known["changes"]:
        text = str(change.get("change"))
        style = "bold red" if change.get("after") == "confirmed" else "bold green" if change.get("before") == "confirmed" else ""
        _line(console, ("", ""), (text, style), (place(change), "bold"), (str(change.get("rule")), ""))
    if known.get("problem"):
        _sentence(console, f"the run before failed: {known['problem']}", "magenta")
    for row in () if known.get("problem") else known.get("differences") or ():
        # Where the losses differ, so do their parts and the gradients.
        if row.get("same") is not True and not str(row.get("name")).startswith(("parts of the loss", "gradient norm")):
            _sentence(console, f"{row.get('name')}: {row.get('text')}")
    if known.get("losses_equal"):
        _sentence(console, "the losses are equal, to the last bit")
    console.print()


def _line(console: Console, *words: tuple[str, str]) -> None:
    """A line that is never broken: places are copied and clicked."""
    from rich.text import Text

    parts = [(printable(word), style) for word, style in words]
    console.print(Text("  ").join(Text(word, style) for word, style in parts), soft_wrap=True)


def _sentence(console: Console, text: str, style: str = "", *, indent: int = 2) -> None:
    from rich.padding import Padding
    from rich.text import Text

    console.print(Padding(Text(printable(text), style=style), (0, 0, 0, indent)))


def _total(findings: Sequence[Verdict], console: Console) -> None:
    from rich.text import Text

    if counts := tally(findings):
        parts = [Text(f"{count} {'not judged' if word == 'not run' else word}", VERDICTS.get(word, "")) for word, count in counts.items()]
        console.print(Text(", ").join(parts))
    else:
        console.print("no findings to judge")


# ---------------------------------------------------------------- the run


def _run(record: Record, findings: Sequence[Verdict], console: Console, levels: str) -> None:
    command = shlex.join(map(str, record.head.get("command") or ()))
    _line(console, (f"run {record.id}", "bold"), (command, ""))
    _sentence(console, headline(record))
    said = [str(sentence) for finding in findings for sentence in finding.get("evidence") or ()]
    problem = failure(record)
    if problem and not any(problem in sentence for sentence in said):
        _sentence(console, problem, "magenta")
    if record.main is not None:
        _order(record.main, console, levels)
        _figures(record.main, console, levels)
    _listing(console, "written for real, outside of the scratch copy", written(record))
    _listing(console, "to know", list(dict.fromkeys(remarks(record))), wrap=True)
    console.print()


def _order(part: Part, console: Console, levels: str) -> None:
    """What a step is made of; the rarest of many orders are only counted."""
    known = cycles(part)
    arrow = " → " if levels == BLOCKS else " > "
    if known:
        console.print()
    for cycle in sorted(known, key=lambda cycle: -len(cycle.steps))[:ORDERS]:
        events = arrow.join(cycle.events).replace(" → ", arrow).replace(TIMES, TIMES if levels == BLOCKS else "x")
        _sentence(console, f"{'step' if len(cycle.steps) == 1 else 'steps'} {cycle.when}: {events}")
    if len(known) > ORDERS:
        _sentence(console, f"and {_count(len(known) - ORDERS, 'other order')} of events")


def _figures(part: Part, console: Console, levels: str) -> None:
    several = trainings(part)
    for training in several:
        console.print()
        if len(several) > 1 or training.optimizer is None:
            _sentence(console, training.name, "bold")
        _tabulate(console, _courses(training, levels))
        if training.skipped:
            _sentence(console, f"{_count(training.skipped, 'step')} skipped by the gradient scaler")
    times = [row for training in several for row in _times(training, training.name if len(several) > 1 else "")]
    if times:
        console.print()
        _tabulate(console, _table(times, "time a step", "", ""))
    if known := memory(part):
        console.print()
        rows = [(c.name, size(c.known[0]), sparkline(c.values, levels), size(c.known[-1]), f"{size(max(c.known))} at most") for c in known]
        _tabulate(console, _table(rows, "memory", "first", "", "last", ""))


def _courses(training: Training, levels: str) -> Table:
    rows = []
    total = whole(training)
    for curve in (training.loss, *training.components, *training.rates, training.norm):
        if not curve.known:
            continue
        # A part of the loss stands indented below it, with its share of the last total.
        part = curve in training.components
        last = curve.values[-1]
        share = _share(last / total) + " of it" if part and total and last is not None else ""
        remark = "constant" if curve.constant and curve in training.rates else share
        name = f"  {printable(curve.name)}" if part else rate_name(curve) if curve in training.rates else curve.name
        rows.append((name, shown(curve.known[0]), sparkline(curve.values, levels), shown(curve.known[-1]), remark))
    return _table(rows, "", "first", "", "last", "")


def _share(part: float) -> str:
    return "<1%" if 0 < part < 0.005 else f"{part:.0%}"


def _times(training: Training, name: str) -> Iterator[tuple[str, str, str]]:
    """Rows of the time table: the phases of a step and what is left of it. The first step warms up, so it does not count."""
    skip = 1 if len(training.total.known) > 1 else 0
    known = [value for value in training.total.values[skip:] if value is not None]
    if not known:
        return
    total = statistics.median(known)
    yield printable(name) or "step", duration(total), f"median of {len(known)}, without the first" if skip else "the only one"
    rest = total
    for curve in training.times:
        values = [value for value in curve.values[skip:] if value is not None]
        if values:
            value = statistics.median(values)
            rest -= value
            yield f"  {'optimizer' if curve.name == 'step' else curve.name}", duration(value), _share(value / total) if total else ""
    if training.times and total and rest / total > 0.005:
        yield "  between", duration(rest), _share(rest / total)


def _table(rows: Iterable[Sequence[str]], *names: str) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number in (1, 3) else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _tabulate(console: Console, table: Table) -> None:
    from rich.padding import Padding

    console.print(Padding(table, (0, 0, 0, 2)))


def _listing(console: Console, title: str, lines: Sequence[str], *, wrap: bool = False) -> None:
    if not lines:
        return
    console.print()
    _sentence(console, title, "bold")
    for line in lines[:LISTED]:
        if wrap:
            _sentence(console, line, indent=4)
        else:
            _line(console, (f"    {line}", ""))
    if len(lines) > LISTED:
        _sentence(console, f"and {len(lines) - LISTED} more", indent=4)


def _count(count: int, noun: str, plural: str = "") -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"


def _can_say(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
