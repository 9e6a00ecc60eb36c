"""What the project asks for: `[tool.mllint]` or mllint.toml, and which rules a run therefore looks for.

Everything unknown stops the run with the nearest known name, because a misspelt key that is skipped looks like a clean project.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mllint.model.finding import CONFIDENCES, SEVERITIES
from mllint.model.rule import Rule
from mllint.patterns import Patterns

KEYS = (
    "select",
    "ignore",
    "severity",
    "exclude",
    "per-path",
    "tables",
    "rules",
    "baseline",
    "confidence",
    "legacy",
    "data",
    "generations",
)
PER_PATH_KEYS = ("select", "ignore", "severity")
GROUPS = ("ALL", "DEFAULT")


class ConfigError(Exception):
    """Wrong use: the run stops before it starts, with exit status 2."""


@dataclass(frozen=True, slots=True)
class PathSettings:
    """What holds for the files one glob names. `select` None means: as everywhere."""

    glob: str
    select: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    severity: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of a project as they were written. `source` is the file they stand in, for messages.

    `legacy`, `data` and `generations` are kept as they stand: the rules that read them check them.
    """

    select: tuple[str, ...] = ("DEFAULT",)
    ignore: tuple[str, ...] = ()
    severity: Mapping[str, str] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    per_path: tuple[PathSettings, ...] = ()
    tables: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    baseline: str | None = None
    confidence: str = "medium"
    legacy: tuple[Mapping[str, Any], ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    generations: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None

    def with_command_line(self, *, confidence: str | None = None) -> Config:
        """These settings under what the command line says."""
        return replace(self, confidence=confidence) if confidence is not None else self


def holds_settings(folder: str) -> str | None:
    """The file in `folder` that configures mllint, or None. mllint.toml comes before pyproject.toml."""
    own = os.path.join(folder, "mllint.toml")
    if os.path.isfile(own):
        return own
    project = os.path.join(folder, "pyproject.toml")
    try:
        with open(project, "rb") as stream:
            data = stream.read()
    except OSError:
        return None
    # tomllib is not loaded for projects that never heard of mllint.
    if b"mllint" not in data:
        return None
    return project if _table(project, data) is not None else None


def read_config(path: str) -> Config:
    """The settings in a file named by the user or found by `holds_settings`."""
    try:
        with open(path, "rb") as stream:
            data = stream.read()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    table = _table(path, data)
    return parse_config({} if table is None else table, path)


def _table(path: str, data: bytes) -> Mapping[str, Any] | None:
    """The mllint settings of a TOML file: the `tool.mllint` table of a pyproject.toml, else the whole file."""
    import tomllib

    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    tool = document.get("tool")
    own = tool.get("mllint") if isinstance(tool, dict) else None
    if os.path.basename(path) == "pyproject.toml" or own is not None:
        if own is not None and not isinstance(own, dict):
            raise ConfigError(f"{path}: [tool.mllint] must be a table")
        return own
    return document


def parse_config(table: Mapping[str, Any], source: str) -> Config:
    """Settings from a parsed table; every wrong key or type is a ConfigError that names it."""
    _known(table, KEYS, source, "setting")
    per_path = table.get("per-path", {})
    _is(per_path, dict, f"{source}: `per-path` must be a table from glob to settings")
    confidence = table.get("confidence", "medium")
    check_level(confidence, CONFIDENCES, f"{source}: `confidence`")
    baseline = table.get("baseline")
    if baseline is not None:
        _is(baseline, str, f"{source}: `baseline` must be the path of a report")
    legacy = table.get("legacy", [])
    if not (isinstance(legacy, list) and all(isinstance(item, dict) for item in legacy)):
        raise ConfigError(f"{source}: `legacy` must be written as [[tool.mllint.legacy]] tables")
    for key in ("data", "generations"):
        _is(table.get(key, {}), dict, f"{source}: `{key}` must be a table")
    return Config(
        select=_strings(table, "select", source, ("DEFAULT",)),
        ignore=_strings(table, "ignore", source),
        severity=_severities(table.get("severity", {}), f"{source}: `severity`"),
        exclude=_strings(table, "exclude", source),
        per_path=tuple(_path_settings(glob, settings, source) for glob, settings in per_path.items()),
        tables=_strings(table, "tables", source),
        rules=_strings(table, "rules", source),
        baseline=baseline,
        confidence=confidence,
        legacy=tuple(legacy),
        data=table.get("data", {}),
        generations=table.get("generations", {}),
        source=source,
    )


def _path_settings(glob: str, settings: Any, source: str) -> PathSettings:
    where = f'{source}: `per-path."{glob}"`'
    _is(settings, dict, f"{where} must be a table such as {{ ignore = [...] }}")
    _known(settings, PER_PATH_KEYS, where, "setting")
    severity = settings.get("severity", {})
    return PathSettings(
        glob=glob,
        select=_strings(settings, "select", where) if "select" in settings else None,
        ignore=_strings(settings, "ignore", where),
        # One word means: whatever is found there.
        severity=_severities({"ALL": severity} if isinstance(severity, str) else severity, f"{where} `severity`"),
    )


def _strings(table: Mapping[str, Any], key: str, source: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
    value = table.get(key)
    if value is None:
        return default
    if not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        raise ConfigError(f"{source}: `{key}` must be a list of strings")
    return tuple(value)


def _severities(table: Any, where: str) -> dict[str, str]:
    _is(table, dict, f"{where} must be a table from rule or topic to one of {', '.join(SEVERITIES)}")
    for name, level in table.items():
        check_level(level, SEVERITIES, f"{where} of {name}")
    return dict(table)


def check_level(value: Any, levels: Sequence[str], where: str) -> None:
    """Refuse a level that does not exist."""
    if value not in levels:
        raise ConfigError(f"{where} must be one of {', '.join(levels)}, not {value!r}{nearest(str(value), levels)}")


def _is(value: Any, kind: type, message: str) -> None:
    if not isinstance(value, kind):
        raise ConfigError(message)


def _known(table: Mapping[str, Any], keys: Sequence[str], where: str, what: str) -> None:
    for key in table:
        if key not in keys:
            raise ConfigError(f"{where}: unknown {what} `{key}`{nearest(key, keys) or '; known are ' + ', '.join(keys)}")


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` where one of the known words is close, else nothing."""
    import difflib

    lowered = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(word.lower().replace("_", "-"), lowered, n=1, cutoff=0.6)
    return f"; did you mean `{lowered[matches[0]]}`?" if matches else ""


class Selection:
    """Which rules a run looks for, and how severe a finding of each is.

    The more exact a selector, the more it weighs (rule over topic over DEFAULT over ALL); at the same exactness the command line
    weighs more than the file, and `ignore` more than `select`.
    """

    def __init__(
        self,
        config: Config,
        rules: Mapping[str, Rule],
        select: Sequence[str] | None = None,
        ignore: Sequence[str] = (),
        extend_select: Sequence[str] = (),
    ) -> None:
        self.config = config
        self.rules = rules
        self._former = {old: rule.name for rule in rules.values() for old in rule.formerly}
        self._topics = {rule.topic for rule in rules.values()}
        source = config.source or "command line"
        steps: list[tuple[int, int, bool, str]] = []
        for layer, chosen, names, where in (
            (0, True, config.select if select is None else (), f"{source}: `select`"),
            (0, False, config.ignore, f"{source}: `ignore`"),
            (1, True, select or (), "--select"),
            (1, True, extend_select, "--extend-select"),
            (1, False, ignore, "--ignore"),
        ):
            for name in names:
                steps.append((self.exactness(name, where), layer, chosen, name))
        self.selected = self._chosen(steps)
        for settings in config.per_path:
            where = f'{source}: `per-path."{settings.glob}"`'
            for name in (*(settings.select or ()), *settings.ignore, *settings.severity):
                self.exactness(name, where)
        for name in config.severity:
            self.exactness(name, f"{source}: `severity`")
        self._steps = steps
        self._by_path: dict[str, tuple[list[PathSettings], frozenset[str]]] = {}
        self._globs = [(settings, Patterns([settings.glob]).hides) for settings in config.per_path]

    @property
    def wanted(self) -> frozenset[str]:
        """Every rule that must run: selected everywhere, or for some path."""
        more = [self._chosen([(self.exactness(n, ""), 0, True, n) for n in s.select]) for s in self.config.per_path if s.select is not None]
        return self.selected.union(*more)

    def exactness(self, name: str, where: str) -> int:
        """How exact a selector is; one that names nothing is a ConfigError with the nearest name."""
        if name in GROUPS:
            return GROUPS.index(name)
        if name in self._topics:
            return 2
        if name in self.rules or name in self._former:
            return 3
        raise ConfigError(f"{where}: there is no rule or topic `{name}`{nearest(name, [*self.rules, *self._topics, *GROUPS])}")

    def members(self, name: str) -> frozenset[str]:
        """The rules a selector stands for; nothing for a name nobody knows."""
        if name == "ALL":
            return frozenset(self.rules)
        if name == "DEFAULT":
            return frozenset(rule.name for rule in self.rules.values() if rule.default)
        if name in self.rules:
            return frozenset((name,))
        if name in self._former:
            return frozenset((self._former[name],))
        return frozenset(rule.name for rule in self.rules.values() if rule.topic == name)

    def at(self, path: str) -> frozenset[str]:
        """The rules looked for in one file: those selected, under what `per-path` says of it."""
        return self._at(path)[1]

    def severity(self, rule: Rule, path: str) -> str:
        """The level of a finding of that rule in that file."""
        level = _level(rule, self.config.severity) or rule.severity
        for settings in self._at(path)[0]:
            level = _level(rule, settings.severity) or level
        return level

    def _at(self, path: str) -> tuple[list[PathSettings], frozenset[str]]:
        known = self._by_path.get(path)
        if known is None:
            matching = [settings for settings, matches in self._globs if matches(path)]
            chosen = self.selected
            for settings in matching:
                if settings.select is not None:
                    chosen = self._chosen([(self.exactness(n, ""), 0, True, n) for n in settings.select])
            for settings in matching:
                for name in settings.ignore:
                    chosen -= self.members(name)
            known = self._by_path[path] = (matching, chosen)
        return known

    def _chosen(self, steps: Iterable[tuple[int, int, bool, str]]) -> frozenset[str]:
        chosen: set[str] = set()
        # False sorts before True, so the ignores of a layer must come after its selects.
        for _, _, wanted, name in sorted(steps, key=lambda step: (step[0], step[1], not step[2])):
            if wanted:
                chosen |= self.members(name)
            else:
                chosen -= self.members(name)
        return frozenset(chosen)


def _level(rule: Rule, severities: Mapping[str, str]) -> str | None:
    for name in (rule.name, *rule.formerly, rule.topic, "DEFAULT" if rule.default else "ALL", "ALL"):
        if name in severities:
            return severities[name]
    return None
