"""What the tests of runs share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from launching import Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A project to run commands in, under which nothing may be left."""
    root = tmp_path / "project"
    root.mkdir()
    made = Place(root, tmp_path / "library")
    yield made
    made.clean()
