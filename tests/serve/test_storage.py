"""The database: both kinds, migrations, and places that are refused."""

from __future__ import annotations

import asyncio
import time
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
from tests.serve.databases import batch, emptied, needs_postgres
from tests.serve.killing import run
from tests.serve.running import ended, line, records, running, submit


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
