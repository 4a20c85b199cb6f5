"""Tasks that are cancelled while they use the database: nothing stays locked, and nothing is half written."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text, update

from aurora_pool.serve import storage as storage_module
from aurora_pool.serve.storage import Storage
from aurora_pool.serve.tables import batches
from tests.serve.databases import batch


async def test_a_statement_whose_task_is_cancelled_locks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "BUSY", 100)  # what is locked fails soon
    storage = Storage(f"sqlite:///{tmp_path / 'a.db'}")
    await storage.open()
    loop, begun, go = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def gate() -> int:
        loop.call_soon_threadsafe(begun.set)
        go.wait()
        return 5

    async def create() -> None:
        async with storage.write() as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            assert raw is not None
            await raw.create_function("gate", 0, gate)
            new = insert(batches).values(batch("b") | {"total": text("gate()")}).returning(batches)
            (await connection.execute(new)).one()
        await asyncio.Event().wait()

    task = asyncio.create_task(create())
    await begun.wait()
    task.cancel()
    for _ in range(10):  # the cancellation is long heard of, wherever it would be
        await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError) as kept:  # with what its traceback refers to
        await task
    async with storage.write() as connection:
        await connection.execute(update(batches).values(completed=1))
    async with storage.read() as connection:
        rows = (await connection.execute(select(batches.c.total, batches.c.completed))).all()
    assert (rows, kept.type) == ([(5, 1)], asyncio.CancelledError)
    await storage.close()


async def test_a_task_that_is_cancelled_in_a_transaction_hears_of_it_after_that(storage: Storage) -> None:
    done: list[str] = []

    async def work() -> None:
        this = asyncio.current_task()
        assert this is not None
        async with storage.write() as connection:
            this.cancel()  # heard at what is awaited next: a statement
            await connection.execute(insert(batches).values(batch("b")))
            await connection.execute(update(batches).values(completed=1))
        done.append("first")
        async with storage.write() as connection:
            await connection.execute(update(batches).values(completed=2))
        done.append("second")

    task = asyncio.create_task(work())
    with pytest.raises(asyncio.CancelledError):
        await task
    async with storage.read() as connection:
        rows = (await connection.execute(select(batches.c.id, batches.c.completed))).all()
    assert (done, task.cancelling(), rows) == (["first"], 1, [("b", 1)])


async def test_a_task_that_is_cancelled_between_its_statements_writes_nothing(storage: Storage) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        async with storage.write() as connection:
            await connection.execute(insert(batches).values(batch("b")))
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with storage.write() as connection:
        assert (await connection.execute(select(batches.c.id))).all() == []


async def test_a_database_is_closed_after_its_last_transaction(storage: Storage) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        async with storage.write() as connection:
            begun.set()
            await go.wait()
            await connection.execute(insert(batches).values(batch("b")))

    task = asyncio.create_task(work())
    await begun.wait()
    closing = asyncio.create_task(storage.close())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not closing.done()
    go.set()
    await closing
    await task


async def test_a_task_that_is_cancelled_in_a_statement_that_fails_can_still_write(storage: Storage) -> None:
    async def work() -> None:
        this = asyncio.current_task()
        assert this is not None
        try:
            async with storage.write() as connection:
                this.cancel()  # heard at what is awaited next: a statement
                await connection.execute(text("SELECT no_such_column"))
        finally:
            async with storage.write() as connection:
                await connection.execute(insert(batches).values(batch("b")))

    task = asyncio.create_task(work())
    with pytest.raises(asyncio.CancelledError):
        await task
    async with storage.read() as connection:
        rows = (await connection.execute(select(batches.c.id))).all()
    assert (rows, task.cancelling()) == ([("b",)], 1)
