"""Rule pages: where they are, what their headers say, and the projects their examples are.

A page is the only place a rule is described: the explanation, the index, the default severity, the gate and the tests come from it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from mllint.model.finding import CONFIDENCES, SEVERITIES
from mllint.model.rule import Rule

HEADER_KEYS = ("severity", "confidence", "default", "since", "formerly", "libraries", "mentions", "also", "seen", "observable", "subject")
SUBJECTS = ("program", "file")
OBSERVABLE = ("always", "active", "never")
HEADINGS = ("What it finds", "Why it matters", "Bad", "Good", "Fix safety", "Limits", "References")


class PageError(Exception):
    """A page that is not written as pages are. The message names the file and the line."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page as it stands. `also` are the codes other tools give the same rule; `folder` is set for pages of the user's own."""

    rule: Rule
    path: str
    text: str
    also: tuple[str, ...] = ()
    own: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """A marked line of an example."""

    path: str
    line: int
    cell: int | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One project a page shows. `role` is "bad", "good" or "miss" (a documented limit: the rule is expected to stay silent).

    `marked` are the lines the rule must point at; `line` is where the example starts in the page. `fixed` are the files that follow
    in `fixed` blocks, as they are after the fixes of this rule; None where there are none.
    """

    rule: str
    number: int
    role: str
    line: int
    files: dict[str, str] = field(default_factory=dict)
    marked: frozenset[Place] = frozenset()
    fixed: dict[str, str] | None = None

    @property
    def name(self) -> str:
        return f"{self.rule}-{self.number}-{self.role}"


def find_rules_folder() -> str:
    """Where the pages are: inside an installed package, or beside the package in a checkout."""
    package = os.path.dirname(os.path.abspath(__file__))
    installed = os.path.join(package, "_rules")
    return installed if os.path.isdir(installed) else os.path.join(os.path.dirname(package), "rules")


def load_pages(own: Sequence[str] = ()) -> dict[str, Page]:
    """Every page by the name of its rule: ours, then those in the user's folders."""
    pages: dict[str, Page] = {}
    for folder, is_own in ((find_rules_folder(), False), *((f, True) for f in own)):
        for path, topic in _page_files(folder):
            page = read_page(path, topic, own=is_own)
            twin = pages.get(page.rule.name)
            if twin is not None:
                raise PageError(f"{path}: the rule {page.rule.name} already has a page, {twin.path}")
            pages[page.rule.name] = page
    return pages


def load_rules(own: Sequence[str] = ()) -> dict[str, Rule]:
    """Every rule by name."""
    return {name: page.rule for name, page in load_pages(own).items()}


def page_text(name: str) -> str:
    """A page of ours as it was written."""
    return load_pages()[name].text


def _page_files(folder: str) -> Iterator[tuple[str, str]]:
    """Every page below a folder with its topic, the name of the folder it lies in; README pages describe the folder itself."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise PageError(f"cannot read the rules in {folder}: {error.strerror or error}") from error
    for name in names:
        path = os.path.join(folder, name)
        if name.endswith(".md") and name != "README.md":
            yield path, os.path.basename(os.path.abspath(folder)).replace("_", "-")
        elif "." not in name and name != "__pycache__" and os.path.isdir(path):
            yield from _page_files(path)


def read_page(path: str, topic: str, *, own: bool = False) -> Page:
    """One page; a header that is wrong is a PageError."""
    with open(path, encoding="utf-8") as stream:
        text = stream.read()
    header, body = _split(path, text)
    name = os.path.splitext(os.path.basename(path))[0]
    severity = _one_of(path, header, "severity", SEVERITIES)
    confidence = _one_of(path, header, "confidence", CONFIDENCES)
    default = _one_of(path, header, "default", ("on", "opt-in"))
    # Every scan reads every page: no line is looked at that need not be.
    title = body.lstrip("\n").partition("\n")[0]
    if not title.startswith("# "):
        raise PageError(f"{path}: no `# title` below the header")
    rule = Rule(
        name=name,
        topic=topic,
        title=title[2:].strip(),
        severity=severity,
        confidence=confidence,
        default=default == "on",
        since=header.get("since", ""),
        summary=_summary(body),
        mentions=_mentions(path, header.get("mentions", "")),
        formerly=_words(header.get("formerly", "")),
        libraries=_words(header.get("libraries", "")),
        fixable=" fixed" in body and re.search(r"^```+\w+ fixed\b", body, re.MULTILINE) is not None,
        seen=_seen(path, header.get("seen", "code")),
        observable=_one_of(path, {"observable": "always"} | header, "observable", OBSERVABLE),
        subject=_one_of(path, {"subject": "program"} | header, "subject", SUBJECTS),
    )
    return Page(rule, path, text, _words(header.get("also", "")), own)


def _split(path: str, text: str) -> tuple[dict[str, str], str]:
    if not text.startswith("---\n"):
        raise PageError(f"{path}:1: a page starts with a header between two `---` lines")
    end = text.find("\n---\n", 3)
    if end < 0:
        raise PageError(f"{path}:1: the header is not closed by a `---` line")
    header: dict[str, str] = {}
    for number, line in enumerate(text[4:end].splitlines(), 2):
        key, colon, value = line.partition(":")
        key = key.strip()
        if not colon or key not in HEADER_KEYS:
            raise PageError(f"{path}:{number}: unknown header line `{line.strip()}`; known keys are {', '.join(HEADER_KEYS)}")
        if key in header:
            raise PageError(f"{path}:{number}: `{key}` stands twice")
        header[key] = value.strip()
    return header, text[end + 5 :]


def body_of(text: str) -> str:
    """A page without its header."""
    return _split("page", text)[1]


def _one_of(path: str, header: dict[str, str], key: str, allowed: Sequence[str]) -> str:
    value = header.get(key, "")
    if value not in allowed:
        raise PageError(f"{path}: `{key}` must be one of {', '.join(allowed)}, not {value!r}")
    return value


def _seen(path: str, value: str) -> tuple[str, ...]:
    words = _words(value)
    if not words or not set(words) <= {"code", "run"}:
        raise PageError(f"{path}: `seen` names code, run, or both, not {value!r}")
    return words


def _words(value: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in value.split(",") if word.strip())


def _mentions(path: str, value: str) -> tuple[tuple[str, ...], ...]:
    """`a | b & c`: groups that must all hold, each held by any of its expressions."""
    if not value:
        return ()
    groups = tuple(tuple(word.strip() for word in group.split(" | ")) for group in value.split(" & "))
    if any(not word for group in groups for word in group):
        raise PageError(f"{path}: `mentions` has an empty alternative")
    return groups


def _summary(body: str) -> str:
    """The first paragraph of "What it finds", in one line."""
    _, _, rest = body.partition("\n## What it finds\n")
    paragraph = rest.strip("\n").split("\n\n", 1)[0]
    return "" if paragraph.startswith(("#", "```")) else " ".join(paragraph.split())


# ---------------------------------------------------------------- examples

_FENCE = re.compile(r"^(?P<ticks>```+)(?P<info>[^`\n]*)$")
_FILE_LINE = re.compile(r"^`?[\w./-]+\.\w+`?\b")
_MARK = re.compile(r"[ \t]*(?:# <-|<!-- <- -->)[ \t]*$")
_CELL = re.compile(r"^# %%(?P<kind> \[markdown\])?[ \t]*$")


@dataclass(slots=True)
class _Fence:
    language: str
    words: list[str]
    path: str | None
    miss: bool
    line: int
    lines: list[str]

    @property
    def role(self) -> str | None:
        return next((word for word in self.words if word in ("bad", "good", "fixed")), None)


def examples(name: str, pages: dict[str, Page] | None = None) -> list[Example]:
    """The projects the page of that rule shows, in order, numbered from 1."""
    page = (load_pages() if pages is None else pages)[name]
    found: list[Example] = []
    for group in _groups(page):
        roles = {fence.role for fence in group}
        if roles == {"fixed"}:
            _attach(page, group, found)
            continue
        if not roles & {"bad", "good"}:
            continue
        role = "miss" if any(f.miss for f in group) else "bad" if "bad" in roles else "good"
        files: dict[str, str] = {}
        marked: set[Place] = set()
        for fence in group:
            path = _path_of(page, fence)
            files[path], places = _content(fence, path)
            marked |= places
        where = f"{page.path}:{group[0].line}"
        if role == "bad" and not marked:
            raise PageError(f"{where}: a bad example marks at least one line with `# <-`")
        if role != "bad" and marked:
            raise PageError(f"{where}: only bad examples mark lines with `# <-`")
        found.append(Example(name, len(found) + 1, role, group[0].line, files, frozenset(marked)))
    return found


def _attach(page: Page, group: list[_Fence], found: list[Example]) -> None:
    """`fixed` blocks belong to the bad example before them and show those of its files that change."""
    where = f"{page.path}:{group[0].line}"
    if not found or found[-1].role != "bad" or found[-1].fixed is not None:
        raise PageError(f"{where}: a fixed block follows the bad example it is the outcome of")
    fixed = {_path_of(page, fence): _content(fence, _path_of(page, fence)) for fence in group}
    strange = next((path for path in fixed if path not in found[-1].files), None)
    if strange is not None:
        raise PageError(f"{where}: the example before has no file {strange}")
    if any(marked for _, marked in fixed.values()):
        raise PageError(f"{where}: only bad examples mark lines with `# <-`")
    found[-1] = replace(found[-1], fixed={path: text for path, (text, _) in fixed.items()})


def _path_of(page: Page, fence: _Fence) -> str:
    return fence.path or ("example.ipynb" if fence.language == "notebook" else _only_name(page, fence))


def _only_name(page: Page, fence: _Fence) -> str:
    suffix = {"python": ".py", "yaml": ".yaml", "markdown": ".md", "shell": ".sh", "json": ".json", "toml": ".toml"}.get(fence.language)
    if suffix is None:
        raise PageError(f"{page.path}:{fence.line}: an example in `{fence.language}` needs `file=`")
    return "example" + suffix


def _groups(page: Page) -> Iterator[list[_Fence]]:
    """Fences with `file=` that follow each other are one project; so is each fence without."""
    group: list[_Fence] = []
    for fence, follows in _fences(page):
        joins = follows and fence.path is not None and group and all(f.path not in (None, fence.path) for f in group)
        joins = joins and (fence.role == "fixed") == (group[0].role == "fixed")
        if group and not joins:
            yield group
            group = []
        group.append(fence)
    if group:
        yield group


def _fences(page: Page) -> Iterator[tuple[_Fence, bool]]:
    """Every fence, and whether only blank lines or one line about a file stand between it and the one before."""
    lines = page.text.split("\n")
    at, between, miss = 0, ["start"], False
    while at < len(lines):
        opening = _FENCE.match(lines[at])
        if opening is None:
            if lines[at].strip() == "<!-- miss -->":
                miss = True
            elif lines[at].strip():
                between.append(lines[at])
                miss = False
            at += 1
            continue
        ticks = opening["ticks"]
        language, *words = opening["info"].split() or [""]
        end = next((n for n in range(at + 1, len(lines)) if lines[n].rstrip() == ticks), None)
        if end is None:
            raise PageError(f"{page.path}:{at + 1}: this fence is never closed")
        path = next((word[5:] for word in words if word.startswith("file=")), None)
        follows = not between or (len(between) == 1 and _FILE_LINE.match(between[0]) is not None)
        yield _Fence(language, words, path, miss, at + 1, lines[at + 1 : end]), follows and not miss
        at, between, miss = end + 1, [], False


def _content(fence: _Fence, path: str) -> tuple[str, set[Place]]:
    """What stands in the file, without the marks, and the places they marked."""
    if fence.language == "notebook":
        return _notebook(fence, path)
    lines, places = _unmarked(fence.lines, path, None)
    return "\n".join(lines) + "\n", places


def _unmarked(lines: list[str], path: str, cell: int | None) -> tuple[list[str], set[Place]]:
    places = {Place(path, number, cell) for number, line in enumerate(lines, 1) if _MARK.search(line)}
    return [_MARK.sub("", line) for line in lines], places


def _notebook(fence: _Fence, path: str) -> tuple[str, set[Place]]:
    """A notebook whose cells are what stands between `# %%` lines."""
    import json

    parts: list[tuple[str, list[str]]] = []
    for line in fence.lines:
        start = _CELL.match(line)
        if start is not None:
            parts.append(("markdown" if start["kind"] else "code", []))
        else:
            if not parts:
                parts.append(("code", []))
            parts[-1][1].append(line)
    cells = []
    places: set[Place] = set()
    for number, (kind, body) in enumerate(parts):
        while body and not body[-1].strip():
            body.pop()
        lines, marked = _unmarked(body, path, number)
        places |= marked
        cell: dict[str, object] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
        cell["source"] = [line + "\n" for line in lines[:-1]] + lines[-1:]
        if kind == "code":
            cell |= {"execution_count": None, "outputs": []}
        cells.append(cell)
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1) + "\n", places
