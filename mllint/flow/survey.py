"""What a project's bytes tell before anything is interpreted: the files of interest, and the programs that reach one."""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mllint.flow import gate, processes

if TYPE_CHECKING:
    from mllint.flow.project import Project
    from mllint.model.rule import Rule

#: file -> the files of the project it imports
Imported = dict[str, tuple[str, ...]]

#: Bytes of Python in the files asked about up to which each of them is parsed, so that every syntax error is told: under half a
#: second of work. In a larger scan only files of interest are parsed.
MOST_PARSED = 8_000_000


#: Files from which on a second process looks at half of them.
MANY = 600


@dataclass(slots=True)
class Seen:
    """What the bytes of some files told. Plain values throughout, so that another process can hand them over."""

    interesting: list[str] = field(default_factory=list)
    programs: list[str] = field(default_factory=list)
    marked: list[str] = field(default_factory=list)
    imports: dict[str, list[str]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    closed: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    matched: dict[str, list[str]] = field(default_factory=dict)


def survey(project: Project, rules: Iterable[Rule] | None = None) -> tuple[set[str], list[str], set[str]]:
    """(files of interest, files a program starts in that reach one, all files these can enter).

    All are empty where none of the rules can fire."""
    words = gate.words(project.own_tables)
    # Names of one's own stand for names of libraries, so that what a rule mentions says nothing any more.
    known = list(rules or ())
    file_gate = gate.FileGate([rule for rule in known if rule.subject == "file"])
    about_programs = [rule for rule in known if rule.subject != "file"]
    rule_gate = None if rules is None or project.own_tables else gate.RuleGate(about_programs)
    interesting: set[str] = set()
    imports: dict[str, list[str]] = {}
    programs: set[str] = set()
    project.marked = set()
    size = 0
    for seen in look_at_all(project, words, rule_gate, file_gate):
        project.matched.update({path: frozenset(names) for path, names in seen.matched.items()})
        interesting.update(seen.interesting)
        programs.update(seen.programs)
        project.marked.update(seen.marked)
        imports.update(seen.imports)
        for path, length in seen.sizes.items():
            size += length
            # Notebooks and files named one by one are read whatever is in them.
            if project.files[path] == "notebook" or path in project.named:
                project.check(path)
        if rule_gate is not None:
            rule_gate.join(seen.closed)
    if size <= MOST_PARSED:
        for path in project.files:
            if path not in interesting and project.asked_about(path):
                project.check(path)
    if rule_gate is not None and not rule_gate.open:
        for path in interesting:
            if project.asked_about(path):
                project.check(path)
        return set(), [], set()
    imported = imported_files(project, imports)
    near = None if project.selected is None else neighbourhood(imported, project.selected)
    if near is not None:
        interesting &= near
    if not interesting:
        return set(), [], set()
    reach = reaching(imported, interesting)
    starting = sorted(path for path in reach & programs if near is None or path in near)
    return interesting, starting, with_imported(imported, {*interesting, *starting})


def look_at_all(project: Project, words: tuple[bytes, ...], rule_gate: gate.RuleGate | None, file_gate: gate.FileGate) -> list[Seen]:
    """Look at every file; many are shared with a second process."""
    paths = list(project.files)
    if len(paths) < MANY or not processes.available():
        return [look(project, paths, words, rule_gate, file_gate)]
    own, other = processes.beside(
        lambda: look(project, paths[::2], words, rule_gate, file_gate),
        lambda: look(project, paths[1::2], words, rule_gate, file_gate),
        lambda found: marshal.dumps([getattr(found, name) for name in Seen.__slots__]),
        lambda data: Seen(*marshal.loads(data)),
    )
    if other is None:
        return [own, look(project, paths[1::2], words, rule_gate, file_gate)]
    for path in other.unreadable:
        project.bytes_of(path)  # once more, so that this process has the problem too
    project.advance(len(other.imports))
    return [own, other]


def look(project: Project, paths: list[str], words: tuple[bytes, ...], rule_gate: gate.RuleGate | None, file_gate: gate.FileGate) -> Seen:
    """What the bytes of these files tell."""
    seen = Seen()
    for path in paths:
        kind = project.files[path]
        project.advance(1, path)
        problems = len(project.problems)
        data = project.bytes_of(path)
        if len(project.problems) > problems:
            seen.unreadable.append(path)
        if rule_gate is not None and not rule_gate.open:
            rule_gate.see(data)
        if gate.MARK in data:
            seen.marked.append(path)
        if kind == "notebook" or gate.starts_program(data):
            seen.programs.append(path)
        if project.asked_about(path) and (names := file_gate.open_in(data)):
            seen.matched[path] = sorted(names)
        if gate.of_interest(data, words):
            seen.interesting.append(path)
        elif project.asked_about(path):
            seen.sizes[path] = len(data)
        seen.imports[path] = gate.imported(as_code(data) if kind == "notebook" else data)
    if rule_gate is not None:
        seen.closed = rule_gate.closed()
    return seen


def as_code(data: bytes) -> bytes:
    """The bytes of a notebook with its import statements at the start of lines."""
    return data.replace(b'\\n",', b"\n").replace(b'"from ', b"\nfrom ").replace(b'"import ', b"\nimport ")


def imported_files(project: Project, imports: dict[str, list[str]]) -> Imported:
    """Which files of the project each file imports; files of one folder see the same modules."""
    graph: Imported = {}
    known: dict[tuple[str, str], tuple[str, ...]] = {}
    for path, names in imports.items():
        folder = path.rpartition("/")[0]
        targets: list[str] = []
        for name in names:
            found = known.get((folder, name))
            if found is None:
                found = known[folder, name] = tuple(files_of(project, folder, name))
            targets.extend(found)
        graph[path] = tuple(dict.fromkeys(target for target in targets if target != path))
    return graph


def files_of(project: Project, folder: str, name: str) -> Iterator[str]:
    """The file of an imported module and those of the packages around it, which run first."""
    level = len(name) - len(name.lstrip("."))
    module = project.absolute_from(folder, name[level:] or None, level)
    while module:
        target = project.path_of_module(module)
        if target is not None:
            yield target
        module = module.rpartition(".")[0]


def reaching(imported: Imported, targets: set[str]) -> set[str]:
    """The files that import one of the targets, directly or not, and the targets."""
    importers: dict[str, set[str]] = {}
    for path, files in imported.items():
        for target in files:
            importers.setdefault(target, set()).add(path)
    found, fresh = set(targets), list(targets)
    while fresh:
        for importer in importers.get(fresh.pop(), ()):
            if importer not in found:
                found.add(importer)
                fresh.append(importer)
    return found


def neighbourhood(imported: Imported, selected: Iterable[str]) -> set[str]:
    """With some files named: those, what they import, and what imports them."""
    return with_imported(imported, reaching(imported, set(selected)))


def with_imported(imported: Imported, paths: set[str]) -> set[str]:
    """The files and what they import, directly or not."""
    found, fresh = set(paths), list(paths)
    while fresh:
        for target in imported.get(fresh.pop(), ()):
            if target not in found:
                found.add(target)
                fresh.append(target)
    return found
