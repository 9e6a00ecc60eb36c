"""The option `--set name=value`: other values for options the program reads with argparse, each change written down."""

import argparse
import functools
from typing import Any, Dict

from . import patching, state, writer

_told: Dict[str, Any] = {}


def install() -> None:
    """Attach to every way argparse is asked, all of which end in parse_known_args."""
    kind = argparse.ArgumentParser
    original = kind.parse_known_args

    def parse_known_args(self: Any, args: Any = None, namespace: Any = None) -> Any:
        result = original(self, args, namespace)
        try:
            if not state.run.off:
                _apply(self, result[0])
        except Exception as error:
            state.fault("arguments", error)
        return result

    functools.update_wrapper(parse_known_args, original)
    setattr(kind, "parse_known_args", patching.disguised(parse_known_args, original))  # noqa: B010


def _apply(parser: argparse.ArgumentParser, namespace: Any) -> None:
    for action in parser._actions:
        name = next((n for n in _names(action) if n in state.run.options["set"]), None)
        if name is None or not hasattr(namespace, action.dest):
            continue
        before = getattr(namespace, action.dest)
        after = _converted(parser, action, str(state.run.options["set"][name]))
        if after != before:
            setattr(namespace, action.dest, after)
        if action.dest not in _told:
            _told[action.dest] = after
            writer.line({"k": "set", "name": name, "before": repr(before)[:200], "after": repr(after)[:200]})


def _names(action: argparse.Action) -> Any:
    yield action.dest
    for option in action.option_strings:
        yield option.lstrip("-")
        yield option.lstrip("-").replace("-", "_")


def _converted(parser: argparse.ArgumentParser, action: argparse.Action, text: str) -> Any:
    """The text as the option itself would read it; a switch takes true and false."""
    if action.nargs == 0:
        return text.lower() in ("1", "true", "yes", "on")
    value = parser._get_value(action, text)
    return [value] if action.nargs not in (None, "?") else value
