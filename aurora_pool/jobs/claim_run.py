"""One driver's run of a claimed job: pieces to the pool, as many at a time as its agents can hold."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from aurora_pool.errors import BadRecord, PoolError, counted
from aurora_pool.jobs.claims import Claims, Lease, LeaseLost
from aurora_pool.jobs.deadline import RESERVE
from aurora_pool.jobs.job import Job
from aurora_pool.jobs.meter import OnProgress, Progress, Standstill
from aurora_pool.jobs.options import Ending, JobOptions, JobSummary
from aurora_pool.jobs.pace import Pace
from aurora_pool.jobs.pieces import PieceFile, Plan
from aurora_pool.jobs.standing import standstill_of
from aurora_pool.jobs.totals import Totals
from aurora_pool.sharing.roster import Roster
from aurora_pool.statistics import PoolStatistics

if TYPE_CHECKING:
    from aurora_pool.jobs.run import JobPool

POLL_EVERY = 15.0
"""Seconds between two reads of what the other drivers have done."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Piece:
    """A piece that is being answered: ``due`` is how many of its lines have no record yet."""

    lease: Lease
    due: int
    job: Job | None = None


class ClaimRun:
    """Everything between the first piece and the summary."""

    def __init__(
        self,
        pool: JobPool,
        plan: Plan,
        claims: Claims,
        roster: Roster,
        output: Path,
        options: JobOptions,
        on_progress: OnProgress | None,
    ) -> None:
        self._plan = plan
        self._pool = pool
        self._claims = claims
        self._roster = roster
        self._on_progress = on_progress
        self._output = output
        self._options = options
        # By the pool's model, a line for another one is found before anything of its piece is sent.
        self._piece_options = replace(options, model=pool.model, run_log=False, allow_empty=True, before_resume=None)
        self._now = asyncio.get_running_loop().time
        self._files = ThreadPoolExecutor(1, "claims")  # one thread: the claims are used by one at a time
        self._ending: Ending = "finished"
        self._reason = ""
        self._error: BaseException | None = None
        self._pieces: dict[asyncio.Task[None], _Piece] = {}
        self._totals = Totals()
        self._own: set[int] = set()
        self._told: dict[str, object] = {}
        self._claimed = 0
        self._wanted = self._plan.piece_lines
        self._nothing_free_until = 0.0
        self._news = asyncio.Event()
        self._more = asyncio.Event()
        self._began = self._now()
        self._pace = Pace(now=self._began)

    def end(self, ending: Ending, reason: str) -> None:
        """End early; ``"stopped"`` is at once, and may follow another ending."""
        if self._ending == "finished" or ending == "stopped":
            self._ending, self._reason = ending, reason
        for piece in self._pieces.values():
            if piece.job is not None:
                piece.job.end(ending, reason)
        self._news.set()

    async def go(self) -> JobSummary:
        """Run to the end, whichever it is."""
        helpers = [asyncio.create_task(work) for work in (self._beat(), self._watch(), self._announce_more())]
        try:
            await self._in_thread(self._claims.refresh)
            while not self._over():
                if not await self._take_piece():
                    await self._news.wait()
                    self._news.clear()
                for helper in helpers:
                    if helper.done() and not helper.cancelled() and (error := helper.exception()) is not None:
                        raise error
            await self._in_thread(self._claims.refresh)
        finally:
            for task in (*helpers, *self._pieces):
                task.cancel()
            await asyncio.gather(*helpers, *self._pieces, return_exceptions=True)
            self._files.shutdown(wait=False, cancel_futures=True)
        if self._error is not None:
            raise self._error
        refusals = self._claims.refusals()
        if refusals and self._ending == "finished":
            raise BadRecord(f"{counted(len(refusals), 'piece')} can't be answered; {refusals[0]}", path=self._output)
        return self._summary()

    def _over(self) -> bool:
        if self._pieces:
            return False
        return self._ending != "finished" or self._error is not None or not self._claims.open_pieces

    # -- pieces -------------------------------------------------------------------------------------------------

    async def _take_piece(self) -> bool:
        """Take a piece if the agents' windows have capacity for one, and tell whether they had."""
        ends = self._ending != "finished" or self._error is not None
        if ends or self._claimed >= self._wanted or self._now() < self._nothing_free_until:
            return False
        lease = await self._in_thread(self._claims.take, self._recorded)
        if lease is None:
            self._nothing_free_until = self._now() + self._roster.every
            self._more.set()
            return False
        self._nothing_free_until = 0.0
        piece = _Piece(lease, self._plan.piece(lease.number).lines)
        self._claimed += piece.due
        task = asyncio.create_task(self._answer(piece))
        self._pieces[task] = piece
        task.add_done_callback(self._ended)
        return True

    async def _answer(self, piece: _Piece) -> None:
        lease = piece.lease
        source = PieceFile(self._plan, self._plan.piece(lease.number))
        try:
            job = await asyncio.to_thread(Job, source, lease.output, self._piece_options, lock=lease, told=self._told)
            with job:
                self._check_kind(job)
                piece.job = job
                if self._ending != "finished":
                    job.end(self._ending, self._reason)
                summary = await job.run(self._pool, on_resumed=lambda _: self._set_due(piece, job.survey.remaining))
        except LeaseLost as error:
            logger.warning("%s", error)
            self._claims.give_up(lease)
            return
        except BadRecord as error:
            logger.warning("%s; the lines about it are left out for now", error)
            await self._in_thread(self._claims.refuse, lease, str(error))
            return
        if summary.remaining:
            self.end(summary.ending, summary.reason)
        elif not await self._in_thread(self._claims.finish, lease):
            return  # another driver was quicker: its answers count
        self._totals.add(summary)
        self._own.add(lease.number)

    def _check_kind(self, job: Job) -> None:
        if job.survey.embedding not in {None, self._pool.gives_vectors}:
            other = "answers" if self._pool.gives_vectors else "embeddings"
            raise BadRecord(f"its lines ask for {other}, and those of other pieces don't", path=job.survey.name)

    def _set_due(self, piece: _Piece, due: int) -> None:
        self._claimed += due - piece.due
        piece.due = due

    def _ended(self, task: asyncio.Task[None]) -> None:
        piece = self._pieces.pop(task)
        self._claimed -= piece.due - piece.lease.records
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = self._error or error
            self.end("stopped", str(error))
        self._news.set()

    def _recorded(self) -> None:
        now = self._now()
        self._pace.recorded(now=now)
        self._claimed -= 1
        if self._claimed < self._wanted and now >= self._nothing_free_until:
            self._news.set()

    async def _announce_more(self) -> None:
        """Keep a call without prompts open while there are pieces to take: the fleet is not to prepare for the end."""

        async def nothing() -> AsyncGenerator[str]:
            await self._more.wait()
            for prompt in list[str]():
                yield prompt

        async for _ in self._pool.iter_responses(nothing()):
            pass

    # -- the clock ----------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._roster.every)
            try:
                await asyncio.to_thread(self._claims.renew)
            except PoolError as error:
                logger.warning("%s", error)  # it is an error when there is something to write
            self._news.set()  # pieces of a driver that died may be free now

    async def _watch(self) -> None:
        refreshed = self._now()
        while True:
            statistics = self._pool.statistics()
            windows = sum(agent.window for agent in statistics.agents if agent.state == "in service")
            self._wanted = 2 * windows + self._plan.piece_lines // 2
            now = self._now()
            self._pace.sample(now=now, tokens=statistics.tokens_done)
            if self._on_progress is not None:
                self._on_progress(self._progress(now, statistics))
            if self._options.deadline is not None and self._options.deadline - time.time() <= RESERVE:
                self.end("out of time", "the allocation ends")
            if now - refreshed >= POLL_EVERY:
                await self._in_thread(self._claims.refresh)
                refreshed = now
            self._news.set()
            await asyncio.sleep(self._options.interval)

    def _progress(self, now: float, statistics: PoolStatistics) -> Progress:
        rate, tokens_rate = self._pace.rates()
        total = self._plan.lines
        done = self._totals.done + sum(piece.lease.records for piece in self._pieces.values())
        others = self._plan.lines_of(self._claims.finished - self._own)
        ending = None if self._ending == "finished" else self._reason
        if ending is None and not self._pieces and self._pace.records:
            ending = f"waiting for {counted(len(self._claims.open_pieces), 'piece')} that other drivers have"
        return Progress(
            total=total,
            earlier=others,
            done=done,
            failed=self._totals.failed_now,
            in_flight=statistics.in_flight + statistics.queued,
            seconds=now - self._began,
            tokens=statistics.tokens_done,
            prompts_per_second=rate,
            tokens_per_second=tokens_rate,
            eta=(total - others - done) / rate if rate > 0 else None,
            agents=sum(agent.state != "removed" for agent in statistics.agents),
            agents_in_service=statistics.agents_in_service,
            statistics=statistics,
            moved=statistics.moved,
            hedged=statistics.hedged,
            standstill=self._standstill(now, statistics),
            ending=ending,
            drain=(statistics.in_flight + statistics.queued) / rate if rate > 0 else None,
            exhausted=self._more.is_set() and self._claimed <= statistics.in_flight + statistics.queued,
        )

    def _standstill(self, now: float, statistics: PoolStatistics) -> Standstill | None:
        gap = self._pace.gap(now=now, at_least=self._options.warn_after)
        if gap is None or not self._pieces:
            return None
        return standstill_of(gap, statistics)

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._files, function, *arguments)

    # -- the end ------------------------------------------------------------------------------------------------

    def _summary(self) -> JobSummary:
        statistics = self._pool.statistics()
        return self._totals.summary(
            ending=self._ending,
            reason=self._reason,
            output=str(self._output),
            model=self._pool.model or "",
            elsewhere=self._plan.lines_of(self._claims.finished - self._own),
            left=self._plan.lines_of(set(self._claims.open_pieces) - self._own),
            seconds=self._now() - self._began,
            moved=statistics.moved,
            hedged=statistics.hedged,
        )
