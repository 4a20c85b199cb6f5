"""The database: both kinds, migrations, and places that are refused."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, insert, select, text, update

from aurora_pool import ConfigError
from aurora_pool.serve import storage as storage_module
from aurora_pool.serve.leases import LeaseLost, Leases
from aurora_pool.serve.migrate import upgrade
from aurora_pool.serve.storage import Storage, file_system_of
from aurora_pool.serve.tables import batches, metadata
from aurora_pool.wire.batch_states import RUNNABLE
from tests.serve.databases import batch
from tests.serve.killing import run
from tests.serve.postgres import binaries, postgres
from tests.serve.running import ended, line, records, running, submit

needs_postgres = pytest.mark.skipif(binaries() is None, reason="PostgreSQL is not installed")


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with postgres() as url:
        yield url


async def emptied(url: str) -> None:
    """Delete all that is in a PostgreSQL database."""
    created = Storage(url)
    async with created.write() as connection:
        await connection.execute(text("DROP SCHEMA public CASCADE"))
        await connection.execute(text("CREATE SCHEMA public"))
    await created.close()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=needs_postgres)])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Storage]:
    is_sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'a.db'}" if is_sqlite else request.getfixturevalue("postgres_url")
    if not is_sqlite:
        await emptied(url)
    created = Storage(url)
    await created.open()
    yield created
    await created.close()


async def test_migrations_make_what_the_tables_say(storage: Storage) -> None:
    def differences(connection: Connection) -> Any:
        return compare_metadata(MigrationContext.configure(connection), metadata)

    async with storage.read() as connection:
        assert await connection.run_sync(differences) == []
    await storage.open()  # a second start finds nothing to do


async def test_an_older_database_is_brought_up(tmp_path: Path) -> None:
    created = Storage(f"sqlite:///{tmp_path / 'old.db'}")
    async with created.write() as connection:
        await connection.run_sync(upgrade, "0001")
        values = batch("b")
        names, places = ", ".join(f'"{name}"' for name in values), ", ".join(f":{name}" for name in values)
        await connection.execute(text(f"INSERT INTO batches ({names}) VALUES ({places})"), values)  # noqa: S608 - ours
    await created.open()
    async with created.read() as connection:
        assert (await connection.execute(select(batches.c.id, batches.c.charged))).all() == [("b", 0)]
    await created.close()


async def test_a_database_of_a_newer_version_is_refused(storage: Storage) -> None:
    async with storage.write() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match="another version"):
        await storage.open()


async def test_a_batch_has_one_holder(storage: Storage) -> None:
    async with storage.write() as connection:
        await connection.execute(insert(batches), [batch(f"b{i}") for i in range(20)])
    holders = [Leases(storage, f"replica-{i}", 30.0) for i in range(4)]
    claims = await asyncio.gather(*(holder.claim(f"b{i}") for i in range(20) for holder in holders))
    taken = [row["id"] for row in claims if row is not None]
    assert sorted(taken) == sorted(f"b{i}" for i in range(20))
    assert await holders[0].waiting(("in_progress",)) == []
    assert sum(each.count for each in (await holders[0].running()).values()) == 20


async def test_a_lease_that_ran_out_is_worth_nothing(storage: Storage) -> None:
    async with storage.write() as connection:
        await connection.execute(insert(batches).values(batch("b")))
    first, second = Leases(storage, "first", 30.0), Leases(storage, "second", 30.0)
    held = await first.claim("b")
    assert held is not None
    assert await second.claim("b") is None
    assert await first.renew({"b": {"completed": 1}}) == {"b": (1, "in_progress", False)}
    async with storage.write() as connection:
        await connection.execute(update(batches).values(lease_until=0.0))
    taken = await second.claim("b")
    assert taken is not None
    assert (taken["epoch"], taken["completed"]) == (2, 1)
    assert await first.renew({"b": {"completed": 9}}) == {}
    for late in (first.change(held, {"status": "finalizing"}), first.end(held, {"status": "completed"})):
        with pytest.raises(LeaseLost):
            await late
    await first.release(held, {"completed": 9})  # changes nothing
    async with storage.read() as connection:
        row = (await connection.execute(select(batches))).mappings().one()
    assert (row["status"], row["owner"], row["completed"]) == ("in_progress", "second", 1)
    await second.change(taken, {"status": "finalizing"})


async def test_a_batch_that_is_cancelled_meanwhile_is_let_go(storage: Storage) -> None:
    async with storage.write() as connection:
        await connection.execute(insert(batches).values(batch("b")))
    leases = Leases(storage, "first", 30.0)
    held = await leases.claim("b")
    assert held is not None
    async with storage.write() as connection:
        await connection.execute(update(batches).values(status="cancelling"))
    with pytest.raises(LeaseLost):
        await leases.change(held, {"status": "finalizing"})


async def test_what_waits_and_what_is_overdue(storage: Storage) -> None:
    rows = [
        batch("plain"),
        batch("urgent", priority=5),
        batch("paused", paused=True),
        batch("late", expires_at=5),
        batch("late and paused", expires_at=5, paused=True),
        batch("cancelling", status="cancelling", paused=True),
        batch("new", status="validating"),
        batch("done", status="completed"),
        batch("held", owner="x", lease_until=time.time() + 60),
    ]
    async with storage.write() as connection:
        await connection.execute(insert(batches), [{"owner": None, "lease_until": None, **row} for row in rows])
    leases = Leases(storage, "me", 30.0)
    assert [each.id for each in await leases.waiting(("in_progress",))] == ["urgent", "plain", "late"]
    assert {each.id for each in await leases.overdue()} == {"late", "late and paused", "cancelling"}


async def test_a_user_with_many_batches_hides_nobody(storage: Storage) -> None:
    rows = [batch(f"ann-{i}", priority=1) for i in range(600)] + [batch("bob", user="bob")]
    async with storage.write() as connection:
        await connection.execute(insert(batches), rows)
    leases = Leases(storage, "me", 30.0)
    waiting = await leases.waiting(RUNNABLE)
    assert [each.id for each in waiting] == [*(f"ann-{i}" for i in range(16)), "bob"]
    async with storage.write() as connection:
        await connection.execute(update(batches).where(batches.c.id == "ann-599").values(status="finalizing"))
    waiting = await leases.waiting(RUNNABLE)
    assert [each.id for each in waiting if each.answered] == ["ann-599"]  # nor do those that wait for tokens
    assert len(waiting) == 17


async def test_writers_wait_for_each_other(storage: Storage) -> None:
    async with storage.write() as connection:
        await connection.execute(insert(batches).values(batch("b")))

    async def add() -> None:
        async with storage.write() as connection:
            done = (await connection.execute(select(batches.c.completed).with_for_update())).scalar_one()
            await asyncio.sleep(0)
            await connection.execute(update(batches).values(completed=done + 1))

    await asyncio.gather(*(add() for _ in range(30)))
    async with storage.read() as connection:
        assert (await connection.execute(select(batches.c.completed))).scalar_one() == 30


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://", "expected a file"),
        ("sqlite:////no/such/folder/a.db", "not there"),
        ("mysql://host/name", "expected sqlite"),
        ("nonsense", "can't be used"),
    ],
)
def test_bad_urls_are_refused(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Storage(url)


async def test_a_database_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"notes of mine" * 1000)
    created = Storage(f"sqlite:///{tmp_path / 'a.db'}")
    with pytest.raises(ConfigError, match="not a database"):
        await created.open()
    await created.close()


@pytest.mark.parametrize("kind", ["nfs4", "fuse.glusterfs", "wekafs", "panfs", "virtiofs", "ocfs2", "gfs2"])
def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    assert file_system_of(Path("/proc")) == "proc"
    monkeypatch.setattr(storage_module, "file_system_of", lambda _: kind)
    with pytest.raises(ConfigError, match="network file system"):
        Storage(f"sqlite:///{tmp_path / 'a.db'}")


@pytest.mark.parametrize("kind", ["ext4", "fuseblk"])  # the latter: NTFS and exFAT
async def test_a_local_file_system_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(storage_module, "file_system_of", lambda _: kind)
    storage = Storage(f"sqlite:///{tmp_path / 'a.db'}")
    await storage.open()
    await storage.close()


async def test_two_servers_do_not_share_a_sqlite_database(tmp_path: Path) -> None:
    async with running(tmp_path):
        with pytest.raises(ConfigError, match="another server"):
            async with running(tmp_path):
                pass


@needs_postgres
async def test_a_server_on_postgres(postgres_url: str, tmp_path: Path) -> None:
    await emptied(postgres_url)
    async with running(tmp_path, database=postgres_url) as here:
        done = await ended(here.client, await submit(here.client, [line(f"r{i}") for i in range(20)]))
        assert len(await records(here.client, done.output_file_id)) == 20
        assert [each.id for each in (await here.client.batches.list()).data] == [done.id]


async def test_a_server_that_is_killed_loses_and_doubles_nothing() -> None:
    outcome = await run(kills=2, batches=2, requests=60, seed=1)
    assert outcome.problems == []


@needs_postgres
async def test_a_replica_that_is_killed_leaves_its_batches_to_the_other(postgres_url: str) -> None:
    await emptied(postgres_url)
    outcome = await run(kills=1, batches=2, requests=60, replicas=2, database=postgres_url, seed=2)
    assert outcome.problems == []


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
