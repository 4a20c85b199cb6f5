"""Which batches a server holds, and lets go of."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from aurora_pool.serve.batch_run import Machinery
from aurora_pool.serve.blobs import open_blobs
from aurora_pool.serve.executor import Executor
from aurora_pool.serve.fleet import ServedFleet
from aurora_pool.serve.folders import BatchFolders
from aurora_pool.serve.keys import KeyRing
from aurora_pool.serve.leases import Leases
from aurora_pool.serve.limits import TokenAccounts
from aurora_pool.serve.options import ServerOptions
from aurora_pool.serve.storage import Storage
from aurora_pool.serve.tables import batches
from tests.serve.databases import PausedStorage, batch


def executor_of(storage: Storage, data: Path, options: ServerOptions) -> Executor:
    """An executor over a fleet without agents."""
    blobs = open_blobs(None, data / "files")
    keys = KeyRing(storage, b"s" * 32, options.limits)
    accounts = TokenAccounts(storage)
    folders = BatchFolders(data / "batches", blobs)
    machinery = Machinery(ServedFleet(()), folders, blobs, accounts, keys, options, lambda: None)
    return Executor(machinery, Leases(storage, "here", 30.0), keys, options)


@pytest.mark.parametrize("status", ["in_progress", "validating", "cancelling"])
async def test_a_batch_that_is_claimed_while_the_server_stops_is_let_go(
    paused: PausedStorage, tmp_path: Path, status: str
) -> None:
    async with paused.write() as connection:
        await connection.execute(insert(batches), [batch(name, status=status) for name in "ab"])
    executor = executor_of(paused, tmp_path, ServerOptions(data=tmp_path))
    paused.may_write.clear()
    running = asyncio.create_task(executor.run())
    await paused.reached.wait()  # the first claim is not committed yet
    stopping = asyncio.create_task(executor.stop(0.0))
    for _ in range(10):  # it has done what it does without the claim
        await asyncio.sleep(0)
    paused.may_write.set()
    await stopping
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    async with paused.read() as connection:
        rows = (await connection.execute(select(batches.c.owner, batches.c.epoch).order_by(batches.c.seq))).all()
    assert rows == [(None, 1), (None, 0)]
    assert executor.running == 0
