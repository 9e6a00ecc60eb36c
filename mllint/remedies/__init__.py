"""The fixes of rules, made where a finding is shown: one module a topic, one function a rule, named like its detector.

A remedy is given the code and the clues its detector left in the hit, and answers with a Fix made of the user's own names, or with None
where anything about it is not certain.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from mllint.checks import function_name
from mllint.model.fix import Fix

Remedy = Callable[..., Fix | None]


def remedy(topic: str, rule: str) -> Remedy:
    """The remedy of a rule, by its name."""
    found: Any = getattr(importlib.import_module(f"mllint.remedies.{function_name(topic)}"), function_name(rule))
    remedy_of: Remedy = found
    return remedy_of
