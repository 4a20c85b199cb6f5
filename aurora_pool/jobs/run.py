"""One run of a job: prompts to the pool, records to the journal, and an eye on the clock."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from aurora_pool.errors import BadRecord
from aurora_pool.jobs.again import Again, Taken
from aurora_pool.jobs.agent_counts import AgentCounts
from aurora_pool.jobs.cache import ResponseCache
from aurora_pool.jobs.deadline import Deadline
from aurora_pool.jobs.guardrails import Guard
from aurora_pool.jobs.journal import Journal
from aurora_pool.jobs.meter import Meter, OnProgress, Progress
from aurora_pool.jobs.options import Ending, JobOptions, JobSummary
from aurora_pool.jobs.prompt_maker import PromptMaker, asked
from aurora_pool.jobs.records import encode_record
from aurora_pool.jobs.requests import Request
from aurora_pool.jobs.resume import Resumed
from aurora_pool.jobs.runlog import RunLog
from aurora_pool.jobs.standing import progress_of, standstill_of
from aurora_pool.jobs.survey import Survey
from aurora_pool.jobs.validation import Problem
from aurora_pool.messages import AnyPrompt, Prompt, Response
from aurora_pool.statistics import PoolStatistics

if TYPE_CHECKING:
    from aurora_pool.embeddings import EmbeddingPool
    from aurora_pool.engines import EnginePool
    from aurora_pool.pool import VLLMPool

    JobPool: TypeAlias = VLLMPool | EmbeddingPool | EnginePool
    """A pool that answers jobs."""

logger = logging.getLogger(__name__)
_TURN = 256
"""Cached answers after which other tasks get their turn."""


class Run:
    """Everything between the first prompt and the summary. Made and used once, in a running event loop."""

    def __init__(
        self,
        pool: JobPool,
        model: str,
        survey: Survey,
        journal: Journal,
        log: RunLog,
        options: JobOptions,
        resumed: Resumed,
        on_progress: OnProgress | None,
        cache: ResponseCache | None = None,
    ) -> None:
        self._pool = pool
        self._model = model
        self._survey = survey
        self._journal = journal
        self._log = log
        self._due = survey.remaining
        self._options = options
        self._resumed = resumed
        self._on_progress = on_progress
        self._now = asyncio.get_running_loop().time
        self._meter = Meter(now=self._now())
        self._deadline = Deadline(options.deadline and self._now() + options.deadline - time.time())
        self._maker = PromptMaker()
        # By their place among the input's prompts; those that are asked again count down from -1.
        self._taken: dict[int, Taken] = {}
        self._again: Again[Taken] = Again()
        self._cache = cache
        self._cached = 0
        self._guard = Guard(options.guardrails)
        self._keeps = bool(options.columns.keep)
        self._agents = AgentCounts(pool)
        self._first_failure: str | None = None
        self._ending: Ending = "finished"
        self._reason = ""
        self._input_error: BadRecord | None = None
        self._work: asyncio.Task[None] | None = None

    def end(self, ending: Ending, reason: str) -> None:
        """End early; ``"stopped"`` is at once, and may follow another ending."""
        if self._ending == "finished" or ending == "stopped":
            self._ending, self._reason = ending, reason
        if ending == "stopped" and self._work is not None:
            self._work.cancel()

    async def go(self) -> JobSummary:
        """Run to the end, whichever it is.

        Raises :class:`~aurora_pool.errors.JobError` if the output fails or the input changes on the way.
        """
        self._log.event(
            "start",
            time=round(time.time(), 3),
            model=self._model,
            total=self._survey.requests,
            earlier=self._survey.requests - self._due,
            names=[str(endpoint) for endpoint in self._pool.endpoints],
        )
        self._work = asyncio.create_task(self._answer())
        watch = asyncio.create_task(self._watch())
        try:
            if self._ending == "stopped":
                self._work.cancel()
            self._check_deadline(self._now())
            await asyncio.wait({self._work, watch}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (self._work, watch):
                task.cancel()
            results = await asyncio.gather(self._work, watch, return_exceptions=True)
            self._note_end()
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result
        if self._input_error is not None:
            raise self._input_error
        return self._summary()

    # -- prompts ------------------------------------------------------------------------------------------------

    async def _answer(self) -> None:
        if self._options.expect.check is None:
            await self._answer_input()
            return
        again = asyncio.create_task(self._answer_again())
        try:
            await self._answer_input()
            self._again.close()
            await again
        finally:
            again.cancel()
            await asyncio.wait({again})

    async def _answer_input(self) -> None:
        prompts = self._prompts() if self._cache is None else self._uncached()
        async with aclosing(self._pool.iter_responses(prompts, total=self._due)) as responses:
            async for index, response in responses:
                self._record(index, response)

    async def _answer_again(self) -> None:
        async with aclosing(self._pool.iter_responses(self._prompts_again())) as responses:
            async for index, response in responses:
                self._record(-1 - index, response)
                self._again.done()

    def _requests(self) -> Iterator[Request]:
        try:
            for request in self._survey.pending():
                if self._ending != "finished":
                    return
                yield request
        except BadRecord as error:
            # What is in flight is saved first.
            self._input_error = error

    def _prompts(self) -> Iterator[AnyPrompt]:
        for pulled, request in enumerate(self._requests()):
            self._taken[pulled] = taken = Taken(request, self._now(), self._maker.prompt(request), 0)
            yield asked(request, taken.prompt)

    async def _uncached(self) -> AsyncIterator[AnyPrompt]:
        assert self._cache is not None
        pulled = 0
        for number, request in enumerate(self._requests()):
            response = self._cache.get(request, self._model)
            problem = None if response is None else self._options.expect.why_not(request.id, response)
            if response is None or problem is not None:
                taken = Taken(request, self._now(), self._maker.prompt(request), 0)
                if response is not None and problem is not None:
                    # What is shared has a seed or no temperature: asked as it was, the answer would be the same.
                    again = self._again_of(taken, response, problem)
                    self._again.total += again is not None
                    taken = again or taken
                self._taken[pulled] = taken
                pulled += 1
                yield asked(request, taken.prompt)
                continue
            self._cached += 1
            self._write(request, response, tokens=0, prompt_tokens=0)
            if number % _TURN == 0:
                await asyncio.sleep(0)

    async def _prompts_again(self) -> AsyncIterator[Prompt]:
        pulled = 0
        async for taken in self._again:
            pulled += 1
            self._taken[-pulled] = taken
            yield taken.prompt

    def _record(self, index: int, response: Response) -> None:
        taken = self._taken.pop(index)
        if response.error_kind == "no_agents":
            # Nobody was there to answer: that says nothing about the prompt, so it gets no record.
            self.end("budget spent" if self._pool.statistics().unpaid else "no agents", response.error or "")
            return
        self._guard.spend(response, self._agents.tags_of(response.agent_index))
        checked = self._checked(taken, response)
        if checked is None:
            self._meter.wasted(tokens=response.completion_tokens or 0, prompt_tokens=response.prompt_tokens or 0)
        else:
            self._write(
                taken.request,
                checked,
                tokens=response.completion_tokens or 0,
                prompt_tokens=response.prompt_tokens or 0,
            )
            self._deadline.note(self._now() - taken.since)
            if checked.success and self._cache is not None:
                self._cache.put(taken.request, self._agents.model_of(response.agent_index, self._model), checked)
        stop = self._guard.verdict()
        if stop is not None:
            self.end(*stop)

    def _checked(self, taken: Taken, response: Response) -> Response | None:
        """Give what is to be recorded of a response: a failure if it will not do, None if it is asked for again."""
        problem = self._options.expect.why_not(taken.request.id, response) if response.success else None
        if problem is None:
            return response
        again = self._again_of(taken, response, problem)
        if again is None:
            return msgspec.structs.replace(response, success=False, error=problem[1], error_kind=problem[0])
        if self._ending == "finished":  # else it has no record, and the next run asks for it
            self._again.put(again)
        return None

    def _again_of(self, taken: Taken, response: Response, problem: Problem) -> Taken | None:
        """Give the next try of a request; None if it has had all."""
        (kind, reason), expect, tries = problem, self._options.expect, taken.tries + 1
        if kind != "invalid" or tries > expect.retries:
            return None
        prompt = expect.again(taken.request, self._maker.prompt(taken.request), response.text, reason, tries)
        return taken._replace(prompt=prompt, tries=tries)

    def _write(self, request: Request, response: Response, *, tokens: int, prompt_tokens: int) -> None:
        """Put a record into the output, and count it."""
        agent = None if response.agent_index is None else self._agents.name_of(response.agent_index)
        record = encode_record(
            request,
            response,
            model=self._agents.model_of(response.agent_index, self._model),
            created=int(time.time()),
            agent=agent,
            row=request.kept if self._keeps else None,
        )
        self._journal.append(record)
        now = self._now()
        self._meter.finished(
            success=response.success, tokens=tokens, latency=response.latency, now=now, prompt_tokens=prompt_tokens
        )
        self._guard.finish(response)
        if not response.success:
            self._first_failure = self._first_failure or f"{request.id}: {response.error}"
        elif response.agent_index is not None:
            self._agents.count(response.agent_index, tokens)
        self._log.prompt(now - self._meter.started, response)

    # -- the clock ----------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        synced = self._now()
        while True:
            await asyncio.sleep(self._options.interval)
            now = self._now()
            if now - synced >= self._options.fsync_interval:
                # In a thread: a busy file system takes seconds for it.
                await asyncio.to_thread(self._journal.sync)
                synced = self._now()
            self._check_deadline(now)
            if self._on_progress is None and not self._options.run_log:
                continue  # nobody wants to know: a snapshot of thousands of agents takes milliseconds
            statistics = self._pool.statistics()
            self._log.sample(now - self._meter.started, statistics)
            if self._on_progress is not None:
                self._on_progress(self._progress(now, statistics))

    def _check_deadline(self, now: float) -> None:
        if self._deadline.is_over(now):
            self.end("out of time", "the allocation ends")
            if self._work is not None:
                self._work.cancel()
            return
        oldest = min((taken.since for taken in self._taken.values()), default=now)
        backlog = self._meter.eta(len(self._taken), now=now) or 0.0
        left = self._deadline.is_near(now, oldest=now - oldest, backlog=backlog)
        if left is not None:
            self.end("out of time", f"{left:.0f} s are left, which what is in flight may need")

    def _progress(self, now: float, statistics: PoolStatistics) -> Progress:
        options = self._options
        quiet = self._meter.quiet_for(now=now, factor=options.warn_factor, at_least=options.warn_after)
        return progress_of(
            self._meter,
            total=self._survey.requests,
            due=self._due,
            in_flight=len(self._taken),
            now=now,
            statistics=statistics,
            standstill=None if quiet is None else standstill_of(quiet, statistics),
            ending=None if self._ending == "finished" else self._reason,
        )

    # -- the end ------------------------------------------------------------------------------------------------

    def _note_end(self) -> None:
        seconds = self._now() - self._meter.started
        self._log.note_agents(seconds, self._pool.statistics())
        self._log.event("end", t=round(seconds, 3), ending=self._ending, done=self._meter.done)

    def _summary(self) -> JobSummary:
        meter = self._meter
        statistics = self._pool.statistics()
        remaining = self._due - meter.done
        if remaining and self._ending == "finished":
            self._ending, self._reason = "incomplete", "the input gave fewer requests than before"
        return JobSummary(
            ending=self._ending if remaining else "finished",
            reason=self._reason if remaining else "",
            output=self._journal.name,
            ordered=None,
            table=None,
            model=self._model,
            total=self._survey.requests,
            answered=self._resumed.answered + meter.done - meter.failed,
            failed=self._resumed.failed + meter.failed,
            remaining=remaining,
            done=meter.done,
            failed_now=meter.failed,
            failures=dict(self._guard.failures),
            first_failure=self._first_failure,
            skipped=self._survey.skipped,
            seconds=self._now() - meter.started,
            prompt_tokens=meter.prompt_tokens,
            tokens=meter.tokens,
            cached=self._cached,
            asked_again=self._again.total,
            moved=statistics.moved,
            hedged=statistics.hedged,
            cost=statistics.cost,
            agents=self._agents.all(),
            resumed=self._resumed,
        )
