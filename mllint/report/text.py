"""For people: each finding with its code and the path that led there, then a line that sums up.

The layout is the same everywhere; colours and links come from rich, which is loaded only where they are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mllint.model.finding import SEVERITIES, Finding, Problem, Span
from mllint.report import View, printable, where
from mllint.report.frame import frame

Paint = Callable[..., str]
STYLES = {
    "error": "bold red",
    "warning": "bold yellow",
    "info": "bold blue",
    "place": "bold",
    "number": "dim",
    "label": "cyan",
    "good": "green",
}


def pieces(view: View) -> Iterator[str]:
    """The findings, the problems, the summary."""
    paint = _painter() if view.color else _plain
    for finding in view.report.shown:
        yield from _finding(finding, view, paint)
    for problem in view.report.problems:
        yield _problem(problem, paint)
    if view.report.problems:
        yield "\n"
    yield _summary(view, paint)


def _plain(text: str, style: str, link: str | None = None) -> str:
    return text


def _painter() -> Paint:
    from rich.color import ColorSystem
    from rich.style import Style

    styles = {name: Style.parse(definition) for name, definition in STYLES.items()}

    def paint(text: str, style: str, link: str | None = None) -> str:
        known = styles[style]
        return (known.update_link(link) if link else known).render(text, color_system=ColorSystem.STANDARD)

    return paint


def _finding(finding: Finding, view: View, paint: Paint) -> Iterator[str]:
    rule = view.rules.get(finding.rule)
    name = paint(finding.rule, "place", rule.url if rule else None)
    severity = paint(finding.severity, finding.severity)
    yield f"{paint(where(finding.span), 'place')}  {severity}  {name}  {printable(finding.hit.message)}\n"
    yield from _frame(finding.span, view, paint, finding.severity)
    for label in finding.hit.labels:
        yield f"  {paint(printable(label.text), 'label')}  {where(label.span)}\n"
        yield from _frame(label.span, view, paint, "label")
    fix = finding.hit.fix
    if fix is not None:
        yield f"  {paint('fix', 'good')}: {printable(fix.title)} ({fix.safety})\n"
    if finding.verdict != "not run":
        yield f"  run: {printable(finding.verdict)}\n"
        yield from (f"    {printable(sentence)}\n" for sentence in finding.evidence)
    sure = "" if finding.confidence == "high" else f"  ({finding.confidence} confidence)"
    yield f"  help: mllint explain {finding.rule}{sure}\n\n"


def _frame(span: Span, view: View, paint: Paint, style: str) -> Iterator[str]:
    rows = list(frame(span, view.line_of))
    width = max((len(number) for number, _, _ in rows), default=0)
    for number, text, carets in rows:
        yield f"  {paint(f'{number:>{width}} |', 'number')} {text}".rstrip() + "\n"
        if carets:
            lead = len(carets) - len(carets.lstrip())
            yield f"  {paint(' ' * width + ' |', 'number')} {' ' * lead}{paint(carets[lead:], style)}\n"


def _problem(problem: Problem, paint: Paint) -> str:
    note = problem.kind == "limit"
    kind = paint("note" if note else "problem", "info" if note else "error")
    return f"{paint(where(problem), 'place')}  {kind}  {problem.kind}  {printable(problem.message)}\n"


def _summary(view: View, paint: Paint) -> str:
    shown = len(view.report.shown)
    counts = [paint(_number(n, level) if level != "info" else f"{n} info", level) for level in SEVERITIES if (n := view.count(level))]
    found = f"{_number(shown, 'finding')} ({', '.join(counts)})" if shown else paint("no findings", "good")
    checked = f"{_number(view.files, 'file')} checked" if view.files else paint("0 FILES CHECKED", "error")
    parts = [f"{found}, {checked} in {view.seconds:.2f} s"]
    safe, unsafe = view.fixable_as("safe"), view.fixable_as("unsafe")
    if safe:
        parts.append(f"{safe} fixable with `mllint fix`" + (f", {unsafe} more with --unsafe-fixes" if unsafe else ""))
    elif unsafe:
        parts.append(f"{unsafe} fixable with `mllint fix --unsafe-fixes`")
    if view.hidden:
        parts.append(f"{view.hidden} suppressed")
    if low := view.report.counts.get("low_confidence", 0):
        parts.append(f"{low} of low confidence not shown")
    if bad := sum(problem.kind != "limit" for problem in view.report.problems):
        parts.append(paint(_number(bad, "problem"), "error"))
    return "; ".join(parts) + "\n"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
