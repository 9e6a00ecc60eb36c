"""The library tables: what known libraries do with the objects given to them, as rows in `rules/tables/*.yaml`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

#: section -> may its names end in `.*`
SECTIONS = ("aliases", "objects", "functions", "methods", "contexts", "bases", "harmless")


class TableError(ValueError):
    """A table that does not keep the form; the message names the file and the row."""


class Knowledge:
    """All tables joined. Names are dotted paths; a row whose name ends in `.*` speaks for everything below that has no row itself."""

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
        """The row of a canonical name: its own, else the longest `x.*` above it."""
        question = (section, name)
        if question in self._found:
            return self._found[question]
        rows: Mapping[str, dict[str, Any]] = getattr(self, section)
        found = rows.get(name)
        end = len(name)
        while found is None and (end := name.rfind(".", 0, end)) > 0:
            found = rows.get(name[:end] + ".*")
        self._found[question] = found
        return found

    def method(self, kind: str, name: str) -> dict[str, Any] | None:
        """What calling this method does on a followed object of that kind."""
        return self.methods.get(kind, {}).get(name)

    def add(self, table: Mapping[str, Any], origin: str) -> None:
        """Join one table in; a later row replaces an earlier one of the same name."""
        for section, rows in table.items():
            if section == "library":
                continue
            if section not in SECTIONS:
                raise TableError(f"{origin}: unknown section `{section}`; known ones are {', '.join(SECTIONS)}")
            if section == "harmless":
                self.harmless.update({str(name): {} for name in rows or ()})
            elif section == "methods":
                for kind, methods in rows.items():
                    self.methods.setdefault(kind, {}).update({m: r or {} for m, r in methods.items()})
            else:
                getattr(self, section).update({n: r if r is not None else {} for n, r in (rows or {}).items()})
        self._canonical.clear()
        self._found.clear()


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
