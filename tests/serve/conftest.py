"""Fixtures of the tests of the server."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aurora_pool.serve import batch_run, delivery, executor
from aurora_pool.testing.clock import loop_factories as pytest_asyncio_loop_factories  # noqa: F401 - a hook
from tests.serve.databases import PausedStorage

logging.getLogger("alembic").setLevel(logging.WARNING)


@pytest.fixture(autouse=True)
def _no_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AURORA_POOL_SECRET", "AURORA_POOL_KEY", "AURORA_POOL_DATA", "AURORA_POOL_DATABASE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers of this process look twenty times a second at what they look at every second or more otherwise."""
    monkeypatch.setattr(executor, "TICK", 0.05)
    monkeypatch.setattr(executor, "IDLE_TICK", 0.05)
    monkeypatch.setattr(batch_run, "POLL_EVERY", 0.05)
    monkeypatch.setattr(delivery, "POLL_EVERY", 0.05)


@pytest.fixture
async def paused(tmp_path: Path) -> AsyncIterator[PausedStorage]:
    storage = PausedStorage(f"sqlite:///{tmp_path / 'a.db'}")
    await storage.open()
    yield storage
    await storage.close()
