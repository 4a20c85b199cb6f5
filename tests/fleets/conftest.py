"""A run folder that is empty again after each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleets.shared import run_folder


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """Where a fleet's files lie; whatever a test leaves running makes it fail."""
    with run_folder(tmp_path) as run:
        yield run
