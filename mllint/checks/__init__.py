"""The detectors, one module a topic, and how they are found: by the name of the rule, without registration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from mllint.model.finding import Hit
from mllint.model.rule import Rule


class Detector(Protocol):
    """The function of a rule: what it is asked about, and the hits it finds there."""

    subject: type
    conditions: Mapping[str, Any]

    def __call__(self, *subject: Any) -> Iterable[Hit]: ...


class MissingDetector(Exception):
    """A page has no function of its name, or the function does not say what it looks at."""


def each(subject: type, **conditions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Say what a detector is asked about: every `subject` whose attributes are those of `conditions`."""

    def name_subject(function: Callable[..., Any]) -> Callable[..., Any]:
        function.subject = subject  # type: ignore[attr-defined]
        function.conditions = conditions  # type: ignore[attr-defined]
        return function

    return name_subject


def function_name(rule: str) -> str:
    """The function of a rule is called like it."""
    return rule.replace("-", "_")


def detector(rule: Rule, page: str | None = None) -> Detector:
    """The function of a rule: in the module of its topic or, for a rule of the user's own, in the file beside its page."""
    if page is None:
        module, where = _topic(rule.topic), f"mllint/checks/{function_name(rule.topic)}.py"
    else:
        module, where = _beside(page)
    function: Detector | None = getattr(module, function_name(rule.name), None)
    if function is None:
        raise MissingDetector(f"{where} has no function `{function_name(rule.name)}` for the rule {rule.name}")
    if not hasattr(function, "subject"):
        raise MissingDetector(f"{where}: `{function_name(rule.name)}` does not name its subject with @each(...)")
    return function


def _topic(topic: str) -> Any:
    import importlib

    name = f"mllint.checks.{function_name(topic)}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return None
        raise


def _beside(page: str) -> tuple[Any, str]:
    """The module in the file beside a page, under a name of its own: two folders may hold files of one name."""
    import importlib.util
    import os
    import sys

    stem = os.path.splitext(page)[0]
    folder, name = os.path.split(stem)
    path = next((p for p in (stem + ".py", os.path.join(folder, function_name(name) + ".py")) if os.path.isfile(p)), None)
    if path is None:
        return None, os.path.join(folder, function_name(name) + ".py")
    key = f"mllint_own_rules_{abs(hash(os.path.abspath(path))):x}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, path)
        if spec is None or spec.loader is None:
            raise MissingDetector(f"{path} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[key]
            raise
    return sys.modules[key], path
