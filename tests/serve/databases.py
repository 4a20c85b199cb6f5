"""Rows of batches, databases of both kinds, and one whose transactions can be made to pause."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from aurora_pool.serve.storage import Storage
from tests.serve.postgres import binaries

needs_postgres = pytest.mark.skipif(binaries() is None, reason="PostgreSQL is not installed")


async def emptied(url: str) -> None:
    """Delete all that is in a PostgreSQL database."""
    created = Storage(url)
    async with created.write() as connection:
        await connection.execute(text("DROP SCHEMA public CASCADE"))
        await connection.execute(text("CREATE SCHEMA public"))
    await created.close()


class PausedStorage(Storage):
    """Its transactions pause before they end, and where one has written, each until its event is set."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.may_read, self.may_write, self.reached = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.may_go_on = asyncio.Event()
        for event in (self.may_read, self.may_write, self.may_go_on):
            event.set()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        async with super().write() as connection:
            yield connection
            await self._pause(self.may_write)
        await self._pause(self.may_go_on)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        async with super().read() as connection:
            yield connection
            await self._pause(self.may_read)

    async def _pause(self, until: asyncio.Event) -> None:
        if not until.is_set():
            self.reached.set()
            await until.wait()


def batch(name: str, **values: Any) -> dict[str, Any]:
    """The row of a batch that could go on."""
    return {
        "id": name, "user": "ann", "endpoint": "/v1/completions", "input_file_id": "f", "completion_window": "24h",
        "plain": True, "priority": 0, "paused": False, "status": "in_progress", "created_at": 1,
        "expires_at": int(time.time()) + 1000, "total": 1, "completed": 0, "failed": 0, "epoch": 0, **values,
    }  # fmt: skip
