"""Fixtures of the tests of jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from aurora_pool.testing.clock import loop_factories as pytest_asyncio_loop_factories  # noqa: F401 - a hook
from tests.jobs.shared import WriteLines, write_jsonl


@pytest.fixture
def write_lines(tmp_path: Path) -> WriteLines:
    """Write a JSONL file into the test's folder."""
    return lambda name, lines: write_jsonl(tmp_path / name, lines)
