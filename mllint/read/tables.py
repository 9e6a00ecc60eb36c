"""The library tables: what known libraries do with the objects given to them, as rows in `rules/tables/*.yaml`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SECTIONS = ("aliases", "objects", "functions", "methods", "contexts", "bases", "harmless")

#: What a row of a section may say; rules/tables/README.md tells what each key does.
KEYS: dict[str, frozenset[str]] = {
    "objects": frozenset((
        "kind", "parameters", "gives", "factory", "manages", "hands_over", "attributes", "runs",
        "cadence", "argument", "horizon", "period", "children", "advances", "before", "warmup",
        "empty", "autograd", "whole", "clears", "half", "modal",
    )),
    "functions": frozenset((
        "effect", "parameters", "loss", "unscales", "returns", "gives", "manages", "calls", "arguments", "rank",
    )),
    "methods": frozenset((
        "effect", "parameters", "loss", "unscales", "of", "hook", "does", "to", "manages", "context", "replaces", "value",
        "returns", "gives", "configured", "registers",
    )),
    "contexts": frozenset(("name", "parameters", "device", "gives")),
    "bases": frozenset(("kind", "row", "hooks", "per_batch", "per_epoch", "configures", "manual", "manages", "attributes")),
}  # fmt: skip


class TableError(ValueError):
    """A table that does not keep the form; the message names the file and the row."""


class Knowledge:
    """All tables joined. Names are dotted paths; a row whose name ends in `.*` speaks for everything below that has no row itself,
    and a star elsewhere stands for any letters between two dots (`transformers.*Model`)."""

    def __init__(self) -> None:
        self.aliases: dict[str, str] = {}
        self.objects: dict[str, dict[str, Any]] = {}
        self.functions: dict[str, dict[str, Any]] = {}
        self.methods: dict[str, dict[str, dict[str, Any]]] = {}
        self.contexts: dict[str, dict[str, Any]] = {}
        self.bases: dict[str, dict[str, Any]] = {}
        self.harmless: dict[str, dict[str, Any]] = {}
        self._canonical: dict[str, str] = {}
        self._found: dict[tuple[str, str], dict[str, Any] | None] = {}
        self._patterns: dict[tuple[str, str], list[tuple[re.Pattern[str], dict[str, Any]]]] | None = None

    def canonical(self, name: str) -> str:
        """The one spelling of a name that several paths reach (`pytorch_lightning.Trainer` is `lightning.pytorch.Trainer`)."""
        known = self._canonical.get(name)
        if known is None:
            known = name
            for _ in range(4):
                renamed = self._rename(known)
                if renamed == known:
                    break
                known = renamed
            self._canonical[name] = known
        return known

    def _rename(self, name: str) -> str:
        end = len(name)
        while end > 0:
            target = self.aliases.get(name[:end])
            if target is not None:
                return target + name[end:]
            end = name.rfind(".", 0, end)
        return name

    def row(self, section: str, name: str) -> dict[str, Any] | None:
        """The row of a canonical name: its own, else the pattern with the most letters before its star, else the longest `x.*` above it."""
        question = (section, name)
        if question in self._found:
            return self._found[question]
        rows: Mapping[str, dict[str, Any]] = getattr(self, section)
        found = rows.get(name)
        if found is None:
            found = self._by_pattern(section, name)
        end = len(name)
        while found is None and (end := name.rfind(".", 0, end)) > 0:
            found = rows.get(name[:end] + ".*")
        self._found[question] = found
        return found

    def _by_pattern(self, section: str, name: str) -> dict[str, Any] | None:
        if self._patterns is None:
            self._patterns = {}
            for place in ("objects", "functions", "bases", "harmless"):
                starred: list[str] = [n for n in getattr(self, place) if is_pattern(n)]
                for row in sorted(starred, key=lambda n: (-n.index("*"), -len(n), n)):
                    key = (place, row.partition(".")[0])
                    self._patterns.setdefault(key, []).append((pattern_of(row), getattr(self, place)[row]))
        candidates = self._patterns.get((section, name.partition(".")[0]), ())
        return next((row for pattern, row in candidates if pattern.fullmatch(name)), None)

    def method(self, kind: str, name: str, classes: Iterable[str] = ()) -> dict[str, Any] | None:
        """What calling this method does on a followed object: of one of these classes, else of that kind."""
        for owner in classes:
            found = self.methods.get(owner, {}).get(name)
            if found is not None:
                return found
        return self.methods.get(kind, {}).get(name)

    def add(self, table: Mapping[str, Any], origin: str) -> None:
        """Join one table in; a later row replaces an earlier one of the same name."""
        for section, rows in table.items():
            if section == "library":
                continue
            if section not in SECTIONS:
                raise TableError(f"{origin}: unknown section `{section}`; known ones are {', '.join(SECTIONS)}")
            check_rows(section, rows, origin)
            if section == "harmless":
                self.harmless.update({str(name): {} for name in rows or ()})
            elif section == "methods":
                for kind, methods in (rows or {}).items():
                    self.methods.setdefault(kind, {}).update({m: r or {} for m, r in (methods or {}).items()})
            else:
                getattr(self, section).update({n: r if r is not None else {} for n, r in (rows or {}).items()})
        self._canonical.clear()
        self._found.clear()
        self._patterns = None


def is_pattern(name: str) -> bool:
    """A star stands elsewhere than alone at the end."""
    return "*" in name.removesuffix(".*")


def pattern_of(name: str) -> re.Pattern[str]:
    """`a.*b` is any letters between two dots; `.*` at the end is everything below."""
    below = name.endswith(".*")
    inner = re.escape(name.removesuffix(".*")).replace(r"\*", "[^.]*")
    return re.compile(inner + (r"\..+" if below else ""))


def check_rows(section: str, rows: Any, origin: str) -> None:
    """Refuse rows of another form, naming the file, the section and the row."""
    where = f"{origin}: {section}"
    if section == "harmless":
        if not isinstance(rows, (list, type(None))) or not all(isinstance(r, str) for r in rows or ()):
            raise TableError(f"{where}: is a list of dotted names")
        return
    if not isinstance(rows, (dict, type(None))):
        raise TableError(f"{where}: is a mapping of names to rows")
    inner_names = [m for r in rows.values() if isinstance(r, dict) for m in r] if section == "methods" and rows else []
    for name in (*(rows or ()), *inner_names):
        if not isinstance(name, str):
            raise TableError(f"{where}: row `{name}`: is no text; YAML reads on, off, yes, no and null as values, quote them")
    for name, row in (rows or {}).items():
        if section == "aliases":
            if not isinstance(row, str):
                raise TableError(f"{where}: row `{name}`: an alias gives the other name, as text")
        elif section == "methods":
            if not isinstance(row, (dict, type(None))):
                raise TableError(f"{where}: row `{name}`: is a mapping of method names to rows")
            for method, inner in (row or {}).items():
                check_keys(section, f"{name}.{method}", inner, where)
        else:
            check_keys(section, name, row, where)


def check_keys(section: str, name: str, row: Any, where: str) -> None:
    if not isinstance(row, (dict, type(None))):
        raise TableError(f"{where}: row `{name}`: is a mapping such as {{kind: optimizer}}")
    for key in row or ():
        if key not in KEYS[section]:
            raise TableError(f"{where}: row `{name}`: unknown key `{key}`; known ones are {', '.join(sorted(KEYS[section]))}")


def shipped_tables() -> list[Path]:
    """The tables that come with mllint: in the checkout, or in the installed package."""
    package = Path(__file__).parent.parent
    folder = package / "_rules" / "tables"
    if not folder.is_dir():
        folder = package.parent / "rules" / "tables"
    return sorted(folder.glob("*.yaml"))


def read_tables(files: Iterable[Path]) -> Knowledge:
    """Read the tables in this order; raises TableError with file and line for one that is not valid."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    knowledge = Knowledge()
    for file in files:
        try:
            table = yaml.load(file.read_bytes(), Loader=loader)
        except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
            raise TableError(f"{file}: cannot be read as a table: {error}") from None
        if not isinstance(table, dict):
            raise TableError(f"{file}: a table is a mapping of sections ({', '.join(SECTIONS)})")
        knowledge.add(table, str(file))
    return knowledge
