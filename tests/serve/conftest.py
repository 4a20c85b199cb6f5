"""Fixtures of the tests of the server."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from aurora_pool.serve import batch_run, delivery, executor
from aurora_pool.serve.storage import Storage
from aurora_pool.testing.clock import loop_factories as pytest_asyncio_loop_factories  # noqa: F401 - a hook
from tests.serve.databases import PausedStorage, emptied, needs_postgres
from tests.serve.postgres import postgres

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


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Run a PostgreSQL; gives the URL of its database."""
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=needs_postgres)])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Storage]:
    """Open a new database, of either kind."""
    is_sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'a.db'}" if is_sqlite else request.getfixturevalue("postgres_url")
    if not is_sqlite:
        await emptied(url)
    created = Storage(url)
    await created.open()
    yield created
    await created.close()
