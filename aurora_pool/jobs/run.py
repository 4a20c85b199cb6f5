"""One run of a job: prompts to the pool, records to the journal, and an eye on the clock."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from aurora_pool.errors import BadRecord
from aurora_pool.jobs.journal import Journal
from aurora_pool.jobs.meter import Meter, Progress, Stall
from aurora_pool.jobs.options import AgentShare, Ending, JobOptions, JobSummary
from aurora_pool.jobs.records import encode_record
from aurora_pool.jobs.requests import PromptMaker, Request
from aurora_pool.jobs.resume import Resumed
from aurora_pool.jobs.runlog import RunLog
from aurora_pool.jobs.survey import Survey
from aurora_pool.messages import Prompt, Response
from aurora_pool.statistics import PoolStatistics

if TYPE_CHECKING:
    from aurora_pool.engines import EnginePool
    from aurora_pool.pool import VLLMPool

RESERVE = 5.0
"""Seconds before the end of an allocation when nothing is waited for any more: the process has to end as well."""

TURNAROUNDS = 512
"""How many of the latest prompts tell how long one takes, from being taken from the input to its record."""

MARGIN = 1.5
"""How much longer than the prompts before them the last ones may take."""

SHOWN_AGENTS = 3

OnProgress = Callable[[Progress, PoolStatistics], None]

logger = logging.getLogger(__name__)


class Run:
    """Everything between the first prompt and the summary. Made and used once, in a running event loop."""

    def __init__(
        self,
        pool: VLLMPool | EnginePool,
        model: str,
        survey: Survey,
        journal: Journal,
        log: RunLog,
        options: JobOptions,
        resumed: Resumed,
        on_progress: OnProgress | None,
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
        deadline = options.deadline
        self._deadline = None if deadline is None else self._now() + deadline - time.time()
        self._taken: dict[int, tuple[Request, float]] = {}
        self._turnarounds: deque[float] = deque(maxlen=TURNAROUNDS)
        self._agents: list[str] = []
        self._shares: dict[int, list[int]] = {}
        self._failures: Counter[str] = Counter()
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
            self._look_at_deadline(self._now())
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
        responses = self._pool.iter_responses(self._prompts(), total=self._due)
        async with aclosing(responses):
            async for index, response in responses:
                self._record(index, response)

    def _prompts(self) -> Iterator[Prompt]:
        maker = PromptMaker()
        pulled = 0
        try:
            for request in self._survey.pending():
                if self._ending != "finished":
                    return
                self._taken[pulled] = request, self._now()
                pulled += 1
                yield maker.prompt(request)
        except BadRecord as error:
            # What is in flight is saved first.
            self._input_error = error

    def _record(self, index: int, response: Response) -> None:
        request, since = self._taken.pop(index)
        if response.error_kind == "no_agents":
            # Nobody was there to answer: that says nothing about the prompt, so it gets no record.
            self.end("no agents", response.error or "no agent is in service")
            return
        agent = None if response.agent_index is None else self._name_of(response.agent_index)
        record = encode_record(request, response, model=self._model, created=int(time.time()), agent=agent)
        self._journal.append(record)
        now = self._now()
        tokens = response.completion_tokens or 0
        self._meter.finished(
            success=response.success,
            tokens=tokens,
            latency=response.latency,
            now=now,
            prompt_tokens=response.prompt_tokens or 0,
        )
        self._turnarounds.append(now - since)
        if not response.success:
            self._failures[str(response.error_kind)] += 1
            self._first_failure = self._first_failure or f"{request.id}: {response.error}"
        if response.success and response.agent_index is not None:
            share = self._shares.setdefault(response.agent_index, [0, 0])
            share[0] += 1
            share[1] += tokens
        self._log.prompt(now - self._meter.started, response)

    def _name_of(self, agent_index: int) -> str:
        if agent_index >= len(self._agents):
            self._agents = [str(endpoint) for endpoint in self._pool.endpoints]
        return self._agents[agent_index]

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
            self._look_at_deadline(now)
            if self._on_progress is None and not self._options.run_log:
                continue  # nobody wants to know: a snapshot of thousands of agents takes milliseconds
            statistics = self._pool.statistics()
            self._log.look(now - self._meter.started, statistics)
            if self._on_progress is not None:
                self._on_progress(self._progress(now, statistics), statistics)

    def _look_at_deadline(self, now: float) -> None:
        if self._deadline is None:
            return
        left = self._deadline - now
        if left <= RESERVE:
            self.end("out of time", "the allocation ends")
            if self._work is not None:
                self._work.cancel()
            return
        oldest = next(iter(self._taken.values()), None)
        age = 0.0 if oldest is None else now - oldest[1]
        backlog = self._meter.eta(len(self._taken), now=now) or 0.0
        if left <= RESERVE + MARGIN * max(age, backlog, *self._turnarounds):
            self.end("out of time", f"{left:.0f} s are left, which what is in flight may need")

    def _progress(self, now: float, statistics: PoolStatistics) -> Progress:
        meter = self._meter
        prompts_rate, tokens_rate = meter.rates(now=now)
        remaining = self._due - meter.done
        return Progress(
            total=self._survey.requests,
            earlier=self._survey.requests - self._due,
            done=meter.done,
            failed=meter.failed,
            in_flight=len(self._taken),
            seconds=now - meter.started,
            tokens=meter.tokens,
            prompts_per_second=prompts_rate,
            tokens_per_second=tokens_rate,
            eta=meter.eta(remaining, now=now),
            agents=sum(agent.state != "removed" for agent in statistics.agents),
            agents_up=statistics.agents_in_service,
            moved=statistics.moved,
            hedged=statistics.hedged,
            stall=self._stall(now, statistics),
            ending=None if self._ending == "finished" else self._reason,
            exhausted=remaining <= len(self._taken),
        )

    def _stall(self, now: float, statistics: PoolStatistics) -> Stall | None:
        options = self._options
        quiet = self._meter.stalled_for(now=now, factor=options.warn_factor, at_least=options.warn_after)
        if quiet is None:
            return None
        holding = sorted(
            (agent for agent in statistics.agents if agent.in_flight), key=lambda agent: -(agent.oldest_age or 0.0)
        )
        return Stall(quiet, tuple(str(agent.endpoint) for agent in holding[:SHOWN_AGENTS]))

    # -- the end ------------------------------------------------------------------------------------------------

    def _note_end(self) -> None:
        seconds = self._now() - self._meter.started
        self._log.note_agents(seconds, self._pool.statistics())
        self._log.event("end", t=round(seconds, 3), ending=self._ending, done=self._meter.done)

    def _summary(self) -> JobSummary:
        meter = self._meter
        statistics = self._pool.statistics()
        remaining = self._due - meter.done
        shares = sorted((index, *counts) for index, counts in self._shares.items())
        return JobSummary(
            ending=self._ending if remaining else "finished",
            reason=self._reason if remaining else "",
            output=self._journal.name,
            ordered=None,
            model=self._model,
            total=self._survey.requests,
            answered=self._resumed.answered + meter.done - meter.failed,
            failed=self._resumed.failed + meter.failed,
            remaining=remaining,
            done=meter.done,
            failed_now=meter.failed,
            failures=dict(self._failures),
            first_failure=self._first_failure,
            skipped=len(self._survey.skipped),
            seconds=self._now() - meter.started,
            prompt_tokens=meter.prompt_tokens,
            tokens=meter.tokens,
            moved=statistics.moved,
            hedged=statistics.hedged,
            agents=tuple(AgentShare(self._name_of(index), prompts, tokens) for index, prompts, tokens in shares),
            resumed=self._resumed,
        )
