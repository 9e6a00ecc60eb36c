"""A run as one page that needs nothing else: no server, no network. Everything that comes from the user's code is escaped."""

from __future__ import annotations

import base64
import gzip
import json
import math
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mllint import __version__
from mllint.runtime.charts import Chart, charts
from mllint.runtime.curves import Examples, Training, examples, rate_name, trainings
from mllint.runtime.record import Part, Record
from mllint.runtime.sequence import cycles
from mllint.runtime.summary import VERDICTS, failure, headline, place, remarks, shown, tally, written

#: Nothing may be loaded, from nowhere, whatever a name or a message in the record tries.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
MISSING = "the page needs plotly to draw curves: pip install 'mllint-repo[runtime]'"
PAGE = Path(__file__).parent / "page"
COLUMNS = 25  # of the table of predictions: more steps are thinned out
ROWS = 64  # of that table
STEPS = 500  # rows of the table of numbers


class PlottingMissing(Exception):
    """The plotting library is not installed; the message says how to get it."""


def write(record: Record, path: str) -> None:
    """Write the page, whole or not at all. Raises PlottingMissing, and OSError where the file cannot be written."""
    text = page(record)
    target = f"{path}.{os.getpid()}"
    try:
        with open(target, "w", encoding="utf-8", errors="replace", newline="\n") as stream:
            stream.write(text)
        os.replace(target, path)
    finally:
        if os.path.exists(target):
            os.unlink(target)


def ready() -> None:
    """Raises PlottingMissing where a page could not be drawn: better said before a run than after it."""
    from importlib.util import find_spec

    if find_spec("plotly") is None:
        raise PlottingMissing(MISSING)


def page(record: Record) -> str:
    """The whole page. Raises PlottingMissing where there are curves to draw and nothing to draw them with."""
    drawn = charts(record)
    title = f"mllint run {record.id}"
    figures = {chart.name: chart.figure() for chart in drawn}
    said = (*_header(record), *_comparison(record.head.get("compare")), *_findings(record))
    body = "\n".join((*said, *_charts(drawn), *_numbers(record), *_remarks(record)))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="mllint {__version__}">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>
{(PAGE / "page.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
{body}
<footer>Written by mllint {__version__}. This file needs no network.</footer>
</main>
<script type="application/json" id="figures">{_data(figures)}</script>
<script type="application/gzip" id="plotly">{_library() if figures else ""}</script>
<script>
{(PAGE / "page.js").read_text(encoding="utf-8")}</script>
</body>
</html>
"""


def _data(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")


def _library() -> str:
    """Plotly, compressed: a third of its size in the page."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise PlottingMissing(MISSING) from error
    return base64.b64encode(gzip.compress(get_plotlyjs().encode("utf-8"), 9, mtime=0)).decode("ascii")


# ---------------------------------------------------------------- parts of the page


def _header(record: Record) -> Iterator[str]:
    command = shlex.join(map(str, record.head.get("command") or ()))
    yield f"<header>\n<h1>Run of <code>{escape(command or record.id)}</code></h1>"
    yield f"<p>{escape(headline(record))}</p>"
    part = record.main
    facts = [record.id, str(record.head.get("started") or "")]
    facts += [] if part is None else [f"{word} {part.start[word]}" for word in ("python", "torch") if part.start.get(word)]
    yield f'<p class="quiet">{escape(" · ".join(fact for fact in facts if fact))}</p>'
    if problem := failure(record):
        yield f"<p><strong>{escape(problem)}</strong></p>"
    counts = tally(record.verdicts)
    pills = "".join(f"<li>{_pill(word, f'{count} ')}</li>" for word, count in counts.items())
    yield f'<ul class="tally">{pills}</ul>\n</header>' if pills else "</header>"


def _pill(word: str, lead: str = "") -> str:
    text = "not judged" if word == "not run" else word
    return f'<span class="verdict" data-verdict="{escape(word)}">{lead}{escape(text)}</span>'


def _comparison(known: Any) -> Iterator[str]:
    """What the run says beside that of another state of the project, where there was one."""
    if not isinstance(known, dict) or "changes" not in known:
        return
    yield f'<h2>Compared with {escape(str(known.get("before")))}</h2>\n<div class="panel"><ul class="plain">'
    for change in known["changes"]:
        words = f"<strong>{escape(str(change.get('change')))}</strong>"
        yield f'<li>{words} <span class="place">{escape(place(change))}</span> {escape(str(change.get("rule")))}</li>'
    if known.get("problem"):
        yield f"<li>the run before failed: {_prose(known['problem'])}</li>"
    for row in () if known.get("problem") else known.get("differences") or ():
        if row.get("same") is not True:
            yield f"<li>{escape(str(row.get('name')))}: {escape(str(row.get('text')))}</li>"
    if known.get("losses_equal"):
        yield "<li>the losses are equal, to the last bit</li>"
    yield "</ul></div>"


def _findings(record: Record) -> Iterator[str]:
    order = [*VERDICTS]
    findings = [finding for finding in record.verdicts if not finding.get("hidden")]
    if not findings:
        yield "<h2>Findings</h2><p>There were no findings to judge.</p>"
        return
    yield "<h2>Findings</h2>"
    for finding in sorted(findings, key=lambda f: order.index(f["verdict"]) if f.get("verdict") in order else len(order)):
        yield _finding(finding)


def _finding(finding: Mapping[str, Any]) -> str:
    evidence = "".join(f"<li>{_prose(sentence)}</li>" for sentence in finding.get("evidence") or ())
    rule, url = escape(str(finding.get("rule"))), str(finding.get("url") or "")
    name = f'<a class="rule" href="{escape(url)}">{rule}</a>' if url.startswith("https://") else f'<span class="rule">{rule}</span>'
    return (
        f'<article class="finding"><div class="head">{_pill(str(finding.get("verdict") or "not run"))}'
        f'<span class="place">{escape(place(finding))}</span>{name}</div>\n'
        f"<p>{_prose(finding.get('message'))}</p>" + (f"<ul>{evidence}</ul>" if evidence else "") + "</article>"
    )


def _prose(text: Any) -> str:
    """A sentence; what stands in backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(str(text)))


def _charts(drawn: Sequence[Chart]) -> Iterator[str]:
    if not drawn:
        return
    yield '<h2>Curves</h2>\n<div class="grid">'
    for chart in drawn:
        name = escape(chart.name)
        note = f'<p class="note">{escape(chart.note)}</p>' if chart.note else ""
        yield f'<section class="chart"><h3>{escape(chart.title)}</h3><div class="plot" id="plot-{name}"></div>{note}</section>'
    yield "</div>"


def _numbers(record: Record) -> Iterator[str]:
    part = record.main
    if part is None:
        return
    yield from _order(part)
    for known in examples(part):
        yield from _predictions(known)
    several = trainings(part)
    if several:
        yield "<details><summary>Numbers of every step</summary>"
        for training in several:
            yield from _steps(training, len(several) > 1)
        yield "</details>"


def _order(part: Part) -> Iterator[str]:
    known = cycles(part)
    if not known:
        return
    yield '<h2>Order of events in a step</h2>\n<div class="panel"><ol class="order">'
    for cycle in known[:12]:
        word = "step" if len(cycle.steps) == 1 else "steps"
        yield f'<li><span class="quiet">{word} {cycle.when}:</span> {escape(" → ".join(cycle.events))}</li>'
    if len(known) > 12:
        yield f'<li class="quiet">and {len(known) - 12} more orders</li>'
    yield "</ol></div>"


def _predictions(known: Examples) -> Iterator[str]:
    """One row an example: what was predicted for it at each step, on a ground that is stronger the higher its loss."""
    count = max(map(len, (*known.predictions, *known.losses)), default=0)
    if not any(known.predictions):
        return
    chosen = range(len(known.steps))
    if len(chosen) > COLUMNS:
        chosen = range(0, len(known.steps), -(-len(known.steps) // COLUMNS))
    finite = [value for row in known.losses for value in row if value is not None and math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    title = f"Predictions for the first {'batch' if known.followed else 'examples of each batch'}{', ' if known.name else ''}{known.name}"
    yield f"<h2>{escape(title)}</h2>"
    yield '<p class="quiet">The stronger the ground, the higher the loss at that step. Right predictions are underlined.</p>'
    yield '<div class="panel scroll"><table class="values"><thead><tr><th>example</th>' + ("<th>target</th>" if known.followed else "")
    yield "".join(f"<th>{'step ' if k == 0 else ''}{known.steps[k]}</th>" for k in chosen) + "</tr></thead><tbody>"
    for i in range(min(count, ROWS)):
        cells = [] if not known.followed else [f"<td>{_value(_at(known.targets[0], i))}</td>"]
        for k in chosen:
            loss, target, prediction = _at(known.losses[k], i), _at(known.targets[k], i), _at(known.predictions[k], i)
            of = (loss - low) / (high - low) if loss is not None and math.isfinite(loss) and high > low else 0
            right = " right" if target is not None and prediction == target else ""
            title = f"loss {shown(loss) or 'not recorded'}" + ("" if target is None else f", target {_value(target)}")
            cells.append(f'<td class="heat{right}" style="--of:{of:.3f}" title="{title}">{_value(prediction)}</td>')
        yield f"<tr><td>{i}</td>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"
    if count > ROWS:
        yield f'<p class="quiet">and {count - ROWS} more examples in the record</p>'


def _at(values: Sequence[Any], index: int) -> Any:
    return values[index] if index < len(values) else None


def _value(value: Any) -> str:
    if value is None:
        return ""
    text = shown(value) if isinstance(value, float) else str(value)
    return escape(text if len(text) <= 24 else text[:23] + "…")


def _steps(training: Training, named: bool) -> Iterator[str]:
    columns = [training.loss, *training.components, *training.rates, training.norm]
    columns = [curve for curve in columns if curve.known]
    if named:
        yield f"<h3>{escape(training.name)}</h3>"
    yield '<div class="panel scroll"><table class="values"><thead><tr><th>step</th>'
    yield "".join(f"<th>{escape(rate_name(curve) if curve in training.rates else curve.name)}</th>" for curve in columns)
    yield "".join(f"<th>{escape(name)}, ms</th>" for name in _phases(training)) + "</tr></thead><tbody>"
    for k, step in enumerate(training.steps[:STEPS]):
        times = [*training.times, training.total] if training.total.known else []
        cells = [f"{curve.values[k]:.6g}" if curve.values[k] is not None else "" for curve in columns]
        cells += [f"{value * 1000:.1f}" if (value := curve.values[k]) is not None else "" for curve in times]
        yield f"<tr><td>{step}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    yield "</tbody></table></div>"
    if len(training.steps) > STEPS:
        yield f'<p class="quiet">and {len(training.steps) - STEPS} more steps in the record</p>'


def _phases(training: Training) -> list[str]:
    names = ["optimizer" if curve.name == "step" else curve.name for curve in training.times]
    return [*names, "whole step"] if training.total.known else []


def _remarks(record: Record) -> Iterator[str]:
    yield from _list("Written for real, outside of the scratch copy", written(record))
    yield from _list("To know", dict.fromkeys(remarks(record)))
    if failure(record) is not None and (output := str(record.head.get("output") or "").strip()):
        yield f'<h2>Last lines of its output</h2>\n<div class="panel"><pre>{escape(output)}</pre></div>'


def _list(title: str, lines: Iterable[str]) -> Iterator[str]:
    items = "".join(f"<li>{_prose(line)}</li>" for line in lines)
    if items:
        yield f'<h2>{escape(title)}</h2>\n<div class="panel"><ul class="plain">{items}</ul></div>'
