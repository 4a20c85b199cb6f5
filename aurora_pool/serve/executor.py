"""Runs batches: chooses, claims, and keeps the leases of what runs.

What a kill leaves behind is simply claimed and run again: the journal knows what is done.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

from sqlalchemy import RowMapping
from sqlalchemy.exc import SQLAlchemyError

from aurora_pool.errors import PoolError, counted
from aurora_pool.serve.batch_run import BatchRun, Machinery, finish_cancelled, give_up_lost, validate_batch
from aurora_pool.serve.keys import KeyRing
from aurora_pool.serve.leases import LeaseLost, Leases
from aurora_pool.serve.options import ServerOptions
from aurora_pool.serve.queueing import FairQueue, Running, Share, Waiting
from aurora_pool.serve.storage import LONGEST
from aurora_pool.wire.batch_states import RUNNABLE

TICK = 1.0
"""Seconds between polls of the database while there is any batch that has not ended."""
IDLE_TICK = 5.0
"""Seconds between polls while there is none. What comes here wakes it; another replica may leave something behind."""
AGAIN = 10.0
"""Seconds before a batch that could not be driven (a full disk, say) is tried again."""
VALIDATIONS = 2
ENDINGS = 4
CROWD = 4
"""Of how many times the batches that run at once are begun, for users who have none running."""

Drive: TypeAlias = Callable[[RowMapping], Awaitable[None]]

logger = logging.getLogger("aurora_pool")


class Executor:
    """Drives batches in this process."""

    def __init__(self, machinery: Machinery, leases: Leases, keys: KeyRing, options: ServerOptions) -> None:
        self._machinery = machinery
        self._leases = leases
        self._keys = keys
        self._options = options
        self._queue = FairQueue()
        self._woken = asyncio.Event()
        self._validating: dict[str, asyncio.Task[None]] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._runs: dict[str, tuple[int, BatchRun]] = {}
        self._deferred: dict[str, float] = {}
        self._progress: dict[str, Mapping[str, Any]] = {}
        self._told: set[str] = set()
        self._stopping = False
        self._ticking = asyncio.Lock()

    def wake(self) -> None:
        """Say that there may be something to do."""
        self._woken.set()

    @property
    def running(self) -> int:
        """How many batches run here."""
        return len(self._running)

    async def run(self) -> None:
        """Drive batches, until :meth:`stop`."""
        while True:
            self._woken.clear()
            active = True
            try:
                async with self._ticking:
                    active = await self._tick()
            except (SQLAlchemyError, OSError) as error:
                logger.warning("the database can't be used: %s", error)
            try:
                async with asyncio.timeout(TICK if active else IDLE_TICK):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def stop(self, grace: float) -> None:
        """Begin nothing new, let what runs end within ``grace`` seconds, and let go of the rest."""
        self._stopping = True
        for _, run in self._runs.values():
            run.park("drained")
        with suppress(TimeoutError):  # a database that hangs holds up no end
            async with asyncio.timeout(LONGEST), self._ticking:
                pass  # what is being claimed is let go of, or is among the tasks now
        tasks = [*self._running.values(), *self._validating.values(), *self._ending.values()]
        if tasks and grace > 0:
            await asyncio.wait(tasks, timeout=grace)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _tick(self) -> bool:
        """Begin what may; return whether there is any batch that has not ended."""
        if self._running or self._validating or self._ending:
            await self._renew()
            await self._park_spent()
        if self._stopping or not await self._leases.any_active():
            return False
        now = asyncio.get_running_loop().time()
        self._deferred = {name: until for name, until in self._deferred.items() if until > now}
        for each in (await self._leases.overdue())[: ENDINGS - len(self._ending)]:
            if each.id not in self._deferred and not self._stopping:
                await self._claim(each, self._ending, self._run)
        await self._begin(self._validating, VALIDATIONS, ("validating",), self._validate)
        await self._begin(self._running, self._options.batches_at_once, RUNNABLE, self._run)
        return True

    async def _renew(self) -> None:
        progress, self._progress = self._progress, {}
        held = await self._leases.renew(progress)
        for name, (epoch, run) in list(self._runs.items()):
            state = held.get(name)
            if name in self._leases.released:
                continue
            if state is None or state[0] != epoch:
                logger.warning("%s is another replica's now", name)
                for tasks in (self._running, self._ending):
                    if name in tasks:
                        tasks[name].cancel()
            elif state[1] == "cancelling" or state[2]:
                run.park("stopped")

    async def _park_spent(self) -> None:
        """Park the batches of users whose tokens of the day are used up; what is in flight is finished."""
        started = [run for name, (_, run) in self._runs.items() if name in self._running]
        running = [run for run in started if not run.is_parked and not run.is_answered]
        if not running:
            return
        spent = [user for user, share in (await self._shares({run.user for run in running})).items() if share.spent]
        for run in running:
            if run.user in spent:
                run.park("drained")

    async def _begin(
        self,
        tasks: dict[str, asyncio.Task[None]],
        slots: int,
        states: tuple[str, ...],
        drive: Drive,
    ) -> None:
        runs = states == RUNNABLE
        most = slots * CROWD if runs else slots
        if len(tasks) >= most:
            return
        waiting = [each for each in await self._leases.waiting(states) if each.id not in self._deferred]
        if not waiting:
            return
        shares = await self._shares({each.user for each in waiting}) if runs else {}
        running = await self._leases.running() if runs else {}
        while waiting and len(tasks) < most and not self._stopping:
            chosen = self._queue.choose(waiting, running, shares, crowded=len(tasks) >= slots)
            if chosen is None:
                return
            waiting.remove(chosen)
            if await self._claim(chosen, tasks, drive):
                old = running.get(chosen.user, Running())
                running[chosen.user] = Running(old.count + 1, max(old.priority, chosen.priority))

    async def _shares(self, users: set[str]) -> dict[str, Share]:
        shares = {}
        for user, (weight, limits) in (await self._keys.weights(users)).items():
            spent = await self._machinery.accounts.used_up(user, limits)
            shares[user] = Share(weight, limits.batches_running, spent is not None)
            self._tell(user, spent)
        return shares

    def _tell(self, user: str, spent: str | None) -> None:
        """Say once that a user's batches wait."""
        if spent is None:
            self._told.discard(user)
        elif user not in self._told:
            self._told.add(user)
            logger.info("the batches of %s wait until the day (UTC) ends: %s", user, spent)

    async def _claim(self, chosen: Waiting, tasks: dict[str, asyncio.Task[None]], drive: Drive) -> bool:
        row = await self._leases.claim(chosen.id)
        if row is None:
            return False
        if self._stopping:
            await self._leases.release(row, {})
            return False
        task = asyncio.create_task(self._drive(row, drive))
        tasks[chosen.id] = task
        task.add_done_callback(functools.partial(self._ended, tasks, chosen.id))
        return True

    def _ended(self, tasks: dict[str, asyncio.Task[None]], name: str, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # it is logged; asyncio need not mention it
        del tasks[name]
        self._runs.pop(name, None)
        self._progress.pop(name, None)
        self._leases.released.discard(name)
        self._woken.set()

    async def _drive(self, row: RowMapping, drive: Drive) -> None:
        """Drive one batch as far as it goes, and let go of it whatever happens."""
        try:
            if await asyncio.to_thread(self._machinery.folders.has_lost, row["id"]):
                drive = self._give_up
            await drive(row)
        except LeaseLost:
            logger.info("%s was taken from here", row["id"])
        except (PoolError, OSError, SQLAlchemyError) as error:
            logger.warning("%s can't go on, and is tried again in %.0f s: %s", row["id"], AGAIN, error)
            self._defer(row["id"])
        except Exception:
            logger.exception("%s can't go on, because of a defect", row["id"])
            self._defer(row["id"])
            raise
        finally:
            try:
                await self._leases.release(row, self._progress.pop(row["id"], {}))
            except (SQLAlchemyError, OSError) as error:
                logger.warning("%s: its lease runs out by itself: %s", row["id"], error)

    def _defer(self, name: str) -> None:
        self._deferred[name] = asyncio.get_running_loop().time() + AGAIN

    async def _validate(self, row: RowMapping) -> None:
        await validate_batch(self._machinery, self._leases, row)

    async def _give_up(self, row: RowMapping) -> None:
        """End a batch whose files are gone, as after a backup was put back that was made while it ended."""
        await give_up_lost(self._machinery, self._leases, row)

    async def _run(self, row: RowMapping) -> None:
        if row["status"] == "cancelling":
            await finish_cancelled(self._machinery, self._leases, row)
            return
        if row["epoch"] > 2:  # the first lease was for its validation
            done = row["completed"] + row["failed"]
            logger.info("%s goes on: %d of %s done", row["id"], done, counted(row["total"], "request"))
        run = BatchRun(self._machinery, self._leases, row, lambda values: self._note(row["id"], values))
        self._runs[row["id"]] = row["epoch"], run
        if self._stopping:
            run.park("drained")
        await run.go()

    def _note(self, name: str, values: Mapping[str, Any]) -> None:
        self._progress[name] = values
