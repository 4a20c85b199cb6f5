"""Who drives which batch: claims, signs of life, and changes that only the holder of a lease may make."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Float, RowMapping, and_, cast, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from aurora_pool.serve.queueing import Running, Waiting
from aurora_pool.serve.storage import Storage
from aurora_pool.serve.tables import batches, files
from aurora_pool.serve.webhooks import queue_event
from aurora_pool.wire.batch_states import ACTIVE, RUNNABLE, STARTED

OF_EACH_USER = 16
CANDIDATES = 4096
"""From how many batches the next is chosen."""


_ANY_ACTIVE = select(batches.c.seq).where(batches.c.status.in_(ACTIVE)).limit(1)


class LeaseLost(Exception):
    """A batch is another replica's now, or was cancelled: who held it lets go."""


class Leases:
    """The batches that this replica holds. ``owner`` names it, ``seconds`` is how long a lease lasts.

    ``released`` are those that it ends or lets go of by itself, so that they look like lost ones meanwhile.
    """

    def __init__(self, storage: Storage, owner: str, seconds: float) -> None:
        self._storage = storage
        self._owner = owner
        self._seconds = seconds
        self.released: set[str] = set()

    async def take_over_all(self) -> None:
        """End all leases: for a database that no other process uses, as the folder's lock has shown."""
        async with self._storage.write() as connection:
            await connection.execute(update(batches).values(owner=None, lease_until=None))

    async def any_active(self) -> bool:
        """Whether there is any batch that has not ended: the cheapest question, for a server that has nothing to do."""
        async with self._storage.read() as connection:
            return (await connection.execute(_ANY_ACTIVE)).first() is not None

    async def waiting(self, states: Sequence[str]) -> list[Waiting]:
        """The batches in these states that nobody drives, the most urgent first."""
        return await self._waiting(batches.c.status.in_(states) & batches.c.paused.is_(False))

    async def _waiting(self, which: ColumnElement[bool]) -> list[Waiting]:
        """The first of each user: whoever queues a thousand hides nobody else's."""
        columns = batches.c
        answered = (columns.status == "finalizing").label("answered")
        order = (answered.desc(), columns.priority.desc(), columns.seq)
        rank = func.row_number().over(partition_by=columns.user, order_by=order).label("rank")
        shown = (columns.id, columns.user, columns.priority, columns.expires_at, columns.total, columns.seq, answered)
        ranked = select(*shown, rank).where(which, self._free()).subquery()
        chosen = (
            select(*(ranked.c[column.name] for column in shown))
            .where(ranked.c.rank <= OF_EACH_USER)
            .order_by(ranked.c.priority.desc(), ranked.c.seq)
            .limit(CANDIDATES)
        )
        async with self._storage.read() as connection:
            rows = (await connection.execute(chosen)).all()
        return [Waiting(*row) for row in rows]

    async def overdue(self) -> list[Waiting]:
        """The batches that only have to be ended: cancelled ones, and those whose window has closed."""
        columns = batches.c
        over = and_(columns.status.in_(RUNNABLE), columns.expires_at <= int(time.time()))
        return await self._waiting(or_(columns.status == "cancelling", over))

    async def running(self) -> dict[str, Running]:
        """What of each user is driven now, by any replica."""
        columns = batches.c
        chosen = (
            select(columns.user, func.count(), func.max(columns.priority))
            .where(columns.status.in_(STARTED), columns.owner.is_not(None), columns.lease_until >= self._now())
            .group_by(columns.user)
        )
        async with self._storage.read() as connection:
            rows = (await connection.execute(chosen)).all()
        return {user: Running(count, priority) for user, count, priority in rows}

    async def claim(self, batch_id: str) -> RowMapping | None:
        """Take a batch that nobody drives; None if somebody was quicker."""
        columns = batches.c
        free = (
            select(columns.seq)
            .where(columns.id == batch_id, columns.status.in_(ACTIVE), self._free())
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        chosen = (
            update(batches)
            .where(columns.seq == free)
            .values(owner=self._owner, lease_until=self._until(), epoch=columns.epoch + 1)
            .returning(batches)
        )
        async with self._storage.write() as connection:
            row: RowMapping | None = (await connection.execute(chosen)).mappings().one_or_none()
        return row

    async def renew(self, progress: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[int, str, bool]]:
        """Give a sign of life, and write what was done; return the epoch, status and pause of all that is held."""
        mine = batches.c.owner == self._owner
        async with self._storage.write() as connection:
            chosen = update(batches).where(mine).values(lease_until=self._until())
            rows = await connection.execute(
                chosen.returning(batches.c.id, batches.c.epoch, batches.c.status, batches.c.paused)
            )
            held = {name: (epoch, status, paused) for name, epoch, status, paused in rows.all()}
            for batch_id, values in progress.items():
                if batch_id in held:
                    await connection.execute(update(batches).where(mine, batches.c.id == batch_id).values(values))
        return held

    async def change(self, row: Mapping[Any, Any], values: Mapping[str, Any], *, release: bool = False) -> None:
        """Change a batch that is held and whose status is still that of ``row``.

        Raises :class:`LeaseLost` where another replica has it, or its user has cancelled it meanwhile.
        """
        async with self._storage.write() as connection:
            await self._change(connection, row, values, release=release)

    async def end(
        self, row: Mapping[Any, Any], values: Mapping[str, Any], created: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        """End a batch: its row, files and webhook deliveries in one transaction. Raises :class:`LeaseLost`."""
        self.released.add(row["id"])
        async with self._storage.write() as connection:
            await self._change(connection, row, values, release=True)
            for file in created:
                await connection.execute(insert(files).values(file))
            await queue_event(connection, row["user"], f"batch.{values['status']}", row["id"])

    async def release(self, row: Mapping[Any, Any], progress: Mapping[str, Any]) -> None:
        """Let go of a batch, if it is still held, and write what was done; nothing goes on for now."""
        self.released.add(row["id"])
        values = {**progress, "eta": None, "rate": None, "owner": None, "lease_until": None}
        async with self._storage.write() as connection:
            await connection.execute(update(batches).where(self._holds(row)).values(values))

    async def _change(
        self, connection: AsyncConnection, row: Mapping[Any, Any], values: Mapping[str, Any], *, release: bool
    ) -> None:
        more = {"owner": None, "lease_until": None} if release else {}
        changed = await connection.execute(
            update(batches).where(self._holds(row), batches.c.status == row["status"]).values({**values, **more})
        )
        if changed.rowcount != 1:
            raise LeaseLost(row["id"])

    def _holds(self, row: Mapping[Any, Any]) -> ColumnElement[bool]:
        columns = batches.c
        return and_(columns.id == row["id"], columns.owner == self._owner, columns.epoch == row["epoch"])

    def _free(self) -> ColumnElement[bool]:
        return or_(batches.c.owner.is_(None), batches.c.lease_until < self._now())

    def _until(self) -> Any:
        return self._now() + self._seconds

    def _now(self) -> Any:
        """The database's time: replicas' clocks may differ."""
        if self._storage.is_sqlite:
            return time.time()
        return cast(func.extract("epoch", func.clock_timestamp()), Float)
