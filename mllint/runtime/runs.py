"""The records in `.mllint/runs`: which there are, finding one by a part of its name, and what tells two apart."""

from __future__ import annotations

import math
import os
import secrets
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mllint.runtime.curves import Curve, Training, memory, steps, trainings
from mllint.runtime.record import Record, RecordError, load
from mllint.runtime.sequence import counts
from mllint.runtime.summary import duration, size, tally

Verdict = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """A record in the list. `problem` says why it cannot be read; everything but its id and path is then empty."""

    id: str
    path: str
    started: str = ""
    command: tuple[str, ...] = ()
    steps: int = 0
    ended: str = ""
    verdicts: Mapping[str, int] | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which two runs differ, or do not: what it is, and what is said of it. `same` None is shown and does not count."""

    name: str
    same: bool | None
    text: str
    step: int | None = None


# ---------------------------------------------------------------- finding records


def folder(root: str) -> str:
    """Where the records of a project stand."""
    return os.path.join(root, ".mllint", "runs")


def new_id() -> str:
    """A name for a run that sorts by time (UTC) and is not given twice."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"


def listed(root: str) -> list[Entry]:
    """Every record of the project, the newest first. One that cannot be read is in the list with its problem."""
    entries = [_entry(path) for path in _paths(root)]
    return sorted(entries, key=lambda entry: (entry.started or _day(entry.id), entry.id), reverse=True)


def find(name: str, root: str) -> Record:
    """The record of that id, of the only id that begins or ends so, or in that file. Raises RecordError, which lists the candidates."""
    if os.path.isfile(name):
        return load(name)
    paths = {os.path.basename(path).removesuffix(".json"): path for path in _paths(root)}
    if name in paths:
        return load(paths[name])
    if os.sep in name or name.endswith(".json"):
        raise RecordError(f"there is no file {name}")
    fitting = [key for key in sorted(paths) if name and (key.startswith(name) or key.endswith(name))]
    if not fitting:
        known = "`mllint runs` lists them" if paths else f"there are none in {folder(root)}"
        raise RecordError(f"no run is called `{name}`; {known}")
    if len(fitting) > 1:
        more = f" and {len(fitting) - 4} more" if len(fitting) > 4 else ""
        raise RecordError(f"`{name}` may be {', '.join(fitting[:4])}{more}")
    return load(paths[fitting[0]])


def _paths(root: str) -> list[str]:
    try:
        with os.scandir(folder(root)) as found:
            return sorted(entry.path for entry in found if entry.name.endswith(".json") and entry.is_file())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RecordError(f"{folder(root)}: {error.strerror or error}") from error


def _entry(path: str) -> Entry:
    name = os.path.basename(path).removesuffix(".json")
    try:
        record = load(path)
        part = record.main
        done = 0 if part is None else steps(part)
        command = tuple(map(str, record.head.get("command") or ()))
        head = record.head
        return Entry(name, path, str(head.get("started") or ""), command, done, str(head.get("ended") or ""), tally(record.verdicts))
    except RecordError as error:
        return Entry(name, path, problem=str(error))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return Entry(name, path, problem=f"{path} is not a run record: {type(error).__name__}: {error}")


def _day(name: str) -> str:
    """The time in an id in the form of `started`, for a record that cannot be read."""
    digits = name[:8] + name[9:15]
    if not digits.isdigit() or len(digits) != 14:
        return ""
    return f"{name[:4]}-{name[4:6]}-{name[6:8]}T{name[9:11]}:{name[11:13]}:{name[13:15]}Z"


# ---------------------------------------------------------------- two of them


def differences(a: Record, b: Record, names: tuple[str, str] = ("in A", "in B")) -> list[Difference]:
    """What tells two runs apart, in the order of the report; `names` stand behind the values of each.

    Losses, learning rates and norms are equal when every bit is.
    """
    first, second = _trainings(a), _trainings(b)
    found = [_lengths(first, second, names)]
    pairs = list(zip(first, second, strict=False))
    for kind, curves in (("loss", _loss), ("learning rate", _rates), ("gradient norm", _norm), ("parts of the loss", _parts)):
        for x, y in pairs:
            label = f"{kind}, {x.name}" if len(pairs) > 1 else kind
            found += _courses(label, curves(x), curves(y), x.steps, names)
    return [*found, _events(a, b, names), _verdicts(a, b, names), *_costs(a, b, first, second, names)]


def same(found: Sequence[Difference]) -> bool:
    """Nothing that counts differs."""
    return all(difference.same is not False for difference in found)


def first_difference(a: Record, b: Record) -> tuple[int, float | None, float | None] | None:
    """The first step at which the losses differ, over all optimizers, with both values; None where those both runs have are equal."""
    places = []
    for x, y in zip(_trainings(a), _trainings(b), strict=False):
        at = differing(x.loss, y.loss)
        if at is not None:
            places.append((x.steps[at], x.loss.values[at], y.loss.values[at]))
    return min(places, key=lambda place: place[0], default=None)


def differing(x: Curve, y: Curve) -> int | None:
    """The first index at which two series differ, as far as both go; two values that are no numbers are the same."""
    return next((k for k, (u, v) in enumerate(zip(x.values, y.values, strict=False)) if not _equal(u, v)), None)


def paired(a: Sequence[Verdict], b: Sequence[Verdict]) -> list[tuple[Verdict | None, Verdict | None]]:
    """The findings of two runs side by side: by their keys; those left by rule and file, the nearest lines first."""
    left, right = [v for v in a if not v.get("hidden")], [v for v in b if not v.get("hidden")]
    pairs: list[tuple[Verdict | None, Verdict | None]] = []
    for one in list(left):
        other = next((v for v in right if one.get("key") and v.get("key") == one.get("key") and v.get("rule") == one.get("rule")), None)
        if other is not None:
            pairs.append((one, other))
            left.remove(one)
            right.remove(other)
    near = [(abs(_line(x) - _line(y)), i, j) for i, x in enumerate(left) for j, y in enumerate(right) if _home(x) == _home(y)]
    taken: tuple[set[int], set[int]] = (set(), set())
    for _, i, j in sorted(near):
        if i not in taken[0] and j not in taken[1]:
            pairs.append((left[i], right[j]))
            taken[0].add(i)
            taken[1].add(j)
    pairs += [(x, None) for i, x in enumerate(left) if i not in taken[0]]
    pairs += [(None, y) for j, y in enumerate(right) if j not in taken[1]]
    return sorted(pairs, key=_order)


def _order(pair: tuple[Verdict | None, Verdict | None]) -> tuple[str, int, str]:
    finding = pair[0] or pair[1] or {}
    return (str(finding.get("path") or ""), _line(finding), str(finding.get("rule")))


def _home(finding: Verdict) -> tuple[Any, Any]:
    return finding.get("rule"), finding.get("path")


def _line(finding: Verdict) -> int:
    return finding["line"] if isinstance(finding.get("line"), int) else 0


def _equal(u: float | None, v: float | None) -> bool:
    return u == v or (u is not None and v is not None and math.isnan(u) and math.isnan(v))


def _trainings(record: Record) -> list[Training]:
    return [] if record.main is None else trainings(record.main)


def _loss(training: Training) -> tuple[Curve, ...]:
    return (training.loss,)


def _norm(training: Training) -> tuple[Curve, ...]:
    return (training.norm,)


def _rates(training: Training) -> tuple[Curve, ...]:
    return training.rates


def _parts(training: Training) -> tuple[Curve, ...]:
    return training.components


# ---------------------------------------------------------------- each comparison


def _lengths(a: Sequence[Training], b: Sequence[Training], names: tuple[str, str]) -> Difference:
    x, y = [len(t.steps) for t in a], [len(t.steps) for t in b]
    if x == y:
        return Difference("steps", True, f"{sum(x)} in both")
    said = [" and ".join(map(str, counts)) or "none" for counts in (x, y)]
    return Difference("steps", False, f"{said[0]} {names[0]}, {said[1]} {names[1]}")


def _courses(label: str, a: Sequence[Curve], b: Sequence[Curve], at: Sequence[int], names: tuple[str, str]) -> list[Difference]:
    a, b = [curve for curve in a if curve.known], [curve for curve in b if curve.known]
    if not a and not b:
        return []
    if [curve.name for curve in a] != [curve.name for curve in b]:
        return [Difference(label, False, f"{_named(a)} {names[0]}, {_named(b)} {names[1]}")]
    found = []
    for x, y in zip(a, b, strict=True):
        name = f"{label}, {x.name}" if len(a) > 1 else label
        common = min(len(x.values), len(y.values))
        place = differing(x, y)
        if place is None:
            found.append(Difference(name, True, f"equal in {_all(common)}"))
        else:
            u, v = x.values[place], y.values[place]
            told = _told(u, v)
            text = f"differs first at step {at[place]}: {told[0]} {names[0]}, {told[1]} {names[1]}{_apart(u, v)}"
            found.append(Difference(name, False, text, at[place]))
    return found


def _events(a: Record, b: Record, names: tuple[str, str]) -> Difference:
    x, y = (counts(record.main) if record.main is not None else {} for record in (a, b))
    differ = [key for key in {**x, **y} if x.get(key, 0) != y.get(key, 0)]
    if not differ:
        return Difference("events", True, f"the same {sum(x.values())} in both")
    return Difference("events", False, "; ".join(f"{key} {x.get(key, 0)} {names[0]}, {y.get(key, 0)} {names[1]}" for key in differ))


def _verdicts(a: Record, b: Record, names: tuple[str, str]) -> Difference:
    pairs = paired(a.verdicts, b.verdicts)
    differ = []
    for one, other in pairs:
        x, y = (str(finding.get("verdict") or "not run") if finding is not None else "not reported" for finding in (one, other))
        if x != y:
            finding = other or one or {}
            differ.append(f"{finding.get('path')}:{finding.get('line')} {finding.get('rule')} {x} {names[0]}, {y} {names[1]}")
    if differ:
        return Difference("verdicts", False, "; ".join(differ))
    count = f"the same of {len(pairs)} finding{'' if len(pairs) == 1 else 's'}"
    return Difference("verdicts", True, count if pairs else "no findings in either")


def _costs(a: Record, b: Record, first: Sequence[Training], second: Sequence[Training], names: tuple[str, str]) -> list[Difference]:
    """Time and memory: never the same twice, so they are shown and do not count."""
    found = []
    times = _median(first), _median(second)
    if times[0] is not None and times[1] is not None:
        text = f"{duration(times[0])} {names[0]}, {duration(times[1])} {names[1]} (medians without the first step)"
        found.append(Difference("time a step", None, text))
    curves = [{curve.name: curve for curve in memory(record.main)} if record.main is not None else {} for record in (a, b)]
    if "device" in curves[0] and "device" in curves[1]:
        x, y = (size(max(known["device"].known)) for known in curves)
        found.append(Difference("device memory", None, f"at most {x} {names[0]}, {y} {names[1]}"))
    return found


def _median(several: Sequence[Training]) -> float | None:
    values = [v for training in several for v in training.total.values[1:] if v is not None]
    return statistics.median(values) if values else None


def _named(curves: Sequence[Curve]) -> str:
    return ", ".join(curve.name for curve in curves) or "none"


def _all(count: int) -> str:
    return f"all {count} steps" if count > 1 else "the only step"


def _told(u: float | None, v: float | None) -> list[str]:
    """Both values with as many digits as it takes to see how far they are apart."""
    apart = _distance(u, v)
    digits = 6 if not apart else min(max(6, 2 - math.floor(math.log10(apart))), 17)
    return ["none" if value is None else f"{value:.{digits}g}" for value in (u, v)]


def _apart(u: float | None, v: float | None) -> str:
    apart = _distance(u, v)
    return f" ({apart:.2g} apart)" if apart else ""


def _distance(u: float | None, v: float | None) -> float | None:
    """The difference in relation to the larger; None where there is none to speak of."""
    if u is None or v is None or not math.isfinite(u) or not math.isfinite(v) or u == v:
        return None
    larger = max(abs(u), abs(v))
    return max(abs(u / larger - v / larger), 1e-16)
