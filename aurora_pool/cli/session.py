"""What ``aurora-pool run`` does: a job, the pool it runs on, and everything that may end it."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurora_pool import event_loop
from aurora_pool.cli.console import give, say
from aurora_pool.cli.display import Display, make_display, waiting
from aurora_pool.cli.dry_run import dry_run
from aurora_pool.cli.exit_codes import ExitCode
from aurora_pool.cli.fleet import PATIENCE, having, start, wait_for_agents, wait_for_hostfile, watch_hostfile
from aurora_pool.cli.interruptions import GOES_ON, Interruptions
from aurora_pool.cli.min_agents import ONE, MinAgents
from aurora_pool.cli.summary import as_json, describe, describe_resumed, exit_code_of
from aurora_pool.errors import ConfigError, NoAgentsError, PoolError, counted
from aurora_pool.hostfile import AgentEndpoint
from aurora_pool.hostfile_source import parse_hostfile
from aurora_pool.jobs.claimed_job import PIECE_LINES, ClaimedJob
from aurora_pool.jobs.copies import is_remote
from aurora_pool.jobs.job import Job
from aurora_pool.jobs.meter import Progress
from aurora_pool.jobs.options import Ending, JobOptions, JobSummary
from aurora_pool.jobs.paths import check_apart, written_by_job
from aurora_pool.jobs.resume import Resumed
from aurora_pool.jobs.shard import open_shard, shard_output
from aurora_pool.jobs.spending import Spending, check_prices, spending_of
from aurora_pool.options import HostedOptions, OnTooLong, PromptOptions, Timeouts
from aurora_pool.policy.prefix import Prefix
from aurora_pool.policy.scheduler import Balance
from aurora_pool.pool import VLLMPool
from aurora_pool.sharing import AgentShare, Part, Roster

PROBED = 5.0
"""Seconds to find out which model is served, where it is not the one that is asked for."""

if TYPE_CHECKING:
    from aurora_pool.engines import Engine, EnginePool
    from aurora_pool.jobs.run import JobPool


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Everything that the command line says beyond the job's own options. Times are seconds."""

    source: str
    output: str
    claim: Path | None = None
    piece_lines: int = PIECE_LINES
    takeover_after: float = 30.0
    share: Part | None = None
    hostfile: Path
    tags: Mapping[str, str] = field(default_factory=dict)
    engine: str | None = None
    engine_args: str = ""
    spill_after: float = 60.0
    max_cost: float | None = None
    job: JobOptions
    balance: Balance = "adaptive"
    prefix: Prefix = "auto"
    on_too_long: OnTooLong = "error"
    patience: float | None = None
    stall: float = Timeouts().stall
    min_agents: MinAgents = ONE
    grace: float = 8.0
    timeout: float | None = None
    concurrency: int | None = None
    quiet: bool = False
    json: bool = False
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    dry_run: bool = False
    reads: Sequence[str | Path] = ()


def run_session(session: Session) -> ExitCode:
    """Run a job from beginning to end, and say how it went.

    Raises :class:`~aurora_pool.errors.PoolError`, whose kind tells the exit code.
    """
    interruptions = Interruptions()
    display = make_display(quiet=session.quiet)
    if session.quiet:
        for package in ("DATASETS", "HUB"):  # which read this when they are imported
            os.environ.setdefault(f"HF_{package}_DISABLE_PROGRESS_BARS", "1")
    if session.patience is None and session.engine is None:
        endpoints = parse_hostfile(session.hostfile)  # a wrong one is reported before a long input is read
        if session.max_cost is not None:
            check_prices(endpoints, priced=bool(session.job.guardrails.prices))
    if session.claim is None:
        table, shard = session.job.table, session.job.shard
        output = session.output if shard is None else shard_output(Path(session.output), shard)
        check_apart(
            written_by_job(output, None if table is None or is_remote(table) else table),
            [session.hostfile, *session.reads],
        )
    with _open(session) as job:
        if job.bad_records:
            for bad in job.bad_records[:3]:
                display.say(f"skipped: {bad}")
            display.say(f"skipped: {counted(job.skipped, 'bad line')} in all")
        interruptions.keep()
        return event_loop.run(_Command(session, job, display, interruptions).run())


def _open(session: Session) -> Job | ClaimedJob:
    if session.claim is not None:
        return ClaimedJob(
            session.source,
            session.claim,
            session.job,
            piece_lines=session.piece_lines,
            takeover_after=session.takeover_after,
        )
    if session.job.shard is not None:
        return open_shard(session.source, session.output, session.job, session.job.shard)
    return Job(session.source, session.output, session.job)


class _Command:
    """One run: signals, the pool, the job."""

    def __init__(self, session: Session, job: Job | ClaimedJob, display: Display, interruptions: Interruptions) -> None:
        self._session = session
        self._interruptions = interruptions
        self._job = job
        self._display = display
        self._listeners: list[Callable[[Progress], None]] = []
        self._signal_code: ExitCode | None = None
        self._waits = False
        self._task: asyncio.Task[object] | None = None

    async def run(self) -> ExitCode:
        self._task = asyncio.current_task()
        self._interruptions.hand_to(self._signalled)
        try:
            summary = await self._run_job()
            if summary is None:
                return ExitCode.DONE
        except asyncio.CancelledError:
            if self._signal_code is None:
                raise
            self._display.say(f"{self._signal_code.name.lower()} while nothing was in flight; {GOES_ON}")
            return self._signal_code
        finally:
            self._interruptions.ignore()
        for line in [] if self._session.quiet else describe(summary, self._job):
            self._display.say(line)
        if self._session.json:
            # Standard output may be taken by the answers.
            (say if self._session.output == "-" else give)(as_json(summary))
        return exit_code_of(summary, self._signal_code)

    async def _run_job(self) -> JobSummary | None:
        session = self._session
        async with AsyncExitStack() as stack:
            pool: JobPool = await (self._open_fleet(stack) if session.engine is None else self._open_engine(stack))
            if session.dry_run:
                assert isinstance(self._job, Job)  # the options are refused together with --claim
                for line in await dry_run(self._job, pool):
                    give(line)
                return None
            if session.metrics_port is not None:
                self._serve_metrics(session.metrics_port, session.metrics_host)
            stack.callback(self._display.stop)
            self._listeners.append(self._display.update)
            return await self._job.run(pool, on_progress=self._tell, on_resumed=self._tell_resumed)

    async def _open_fleet(self, stack: AsyncExitStack) -> JobPool:
        session = self._session
        within = PATIENCE if session.patience is None else session.patience
        endpoints = having(await wait_for_hostfile(session.hostfile, within=session.patience or 0.0), session.tags)
        share = None
        if session.share is not None:
            folder = session.hostfile.with_name(f"{session.hostfile.name}.drivers")
            roster = Roster(folder, takeover_after=session.takeover_after)
            share = AgentShare(roster, session.share, takeover_after=session.takeover_after)
            endpoints = share.select(endpoints)
        spending = self._spending(endpoints)
        pool = self._pool(endpoints, Timeouts(stall=session.stall, patience=within), spending)
        stack.callback(lambda: spending.write(spending.spent + pool.statistics().cost))
        stack.push_async_callback(pool.close)
        if share is not None:
            stack.callback(share.leave)
        await self._start(pool, endpoints)
        if session.dry_run:
            return pool
        stack.push_async_callback(_cancelled, asyncio.create_task(self._follow_hostfile(pool, share)))
        if session.min_agents != ONE and isinstance(pool, VLLMPool):
            await wait_for_agents(pool, session.min_agents, within=within)
        if share is not None:
            self._lend(pool, share, stack)
        return pool

    async def _open_engine(self, stack: AsyncExitStack) -> EnginePool:
        from aurora_pool.engines import EnginePool

        session = self._session
        pool = EnginePool(make_engine(session.engine or "", self._job.model or "", session.engine_args))
        stack.push_async_callback(pool.close)
        self._display.say(f"loading {pool.model}")
        await pool.start()
        return pool

    def _spending(self, endpoints: list[AgentEndpoint]) -> Spending:
        """What the job has spent so far; kept where hosted agents have prices, and the job has an output of its own."""
        session = self._session
        if session.max_cost is not None:
            check_prices(endpoints, priced=bool(session.job.guardrails.prices))
        kept = any(terms.priced for each in endpoints if (terms := each.hosted) is not None)
        kept = kept and session.claim is None and session.output != "-" and not session.dry_run
        return Spending(spending_of(session.output) if kept else None)

    def _pool(self, endpoints: list[AgentEndpoint], timeouts: Timeouts, spending: Spending) -> JobPool:
        session = self._session
        options: dict[str, Any] = {
            "model": self._job.model,
            "timeout": session.timeout,
            "concurrency": session.concurrency,
            "balance": session.balance,
            "timeouts": timeouts,
        }
        if not self._job.embedding:
            hosted = HostedOptions(
                spill_after=session.spill_after,
                max_cost=math.inf if session.max_cost is None else session.max_cost,
                deadline=session.job.deadline,
                spent=spending.spent,
                on_draw=None if session.max_cost is None else spending.write,
                drivers=session.job.shard.count if session.job.shard and not session.share else 1,
            )
            prompting = PromptOptions(on_too_long=session.on_too_long)
            return VLLMPool(endpoints, prefix=session.prefix, prompting=prompting, hosted=hosted, **options)
        try:
            from aurora_pool.embeddings import EmbeddingPool
        except ModuleNotFoundError:
            raise ConfigError("embeddings need the package numpy: pip install 'aurora-pool[embeddings]'") from None
        return EmbeddingPool(endpoints, dimensions=self._job.dimensions, **options)

    async def _start(self, pool: JobPool, endpoints: list[AgentEndpoint]) -> None:
        try:
            await start(pool)
        except NoAgentsError as error:
            wanted = self._job.model
            served = None if wanted is None or wanted == self._session.job.model else await _served_by(endpoints)
            if served is None:
                raise
            raise NoAgentsError(f"{error}; if that is meant: --model-map '{wanted}={served}'") from error

    def _tell_resumed(self, resumed: Resumed) -> None:
        # Before anything is sent: a user who has changed a whole input by mistake can still stop.
        if resumed.changed or resumed.unfit or not self._session.quiet:
            for line in describe_resumed(resumed, self._session.output):
                self._display.say(line)
        self._display.start()  # not earlier: a bar would get into the way of a question

    def _tell(self, progress: Progress) -> None:
        if self._waits:
            self._waits = False
            self._display.say(f"waiting for {waiting(progress)}; press Ctrl-C again to stop at once")
        for listener in self._listeners:
            listener(progress)

    def _serve_metrics(self, port: int, host: str) -> None:
        from aurora_pool.jobs.metrics import JobMetrics

        self._listeners.append(JobMetrics.serving(port, host).update)

    def _lend(self, pool: JobPool, share: AgentShare, stack: AsyncExitStack) -> None:
        """Say which agents are idle at the end, and take those of other drivers."""

        def update(endpoints: list[AgentEndpoint]) -> None:
            self._display.say(f"share {share.part}: {counted(len(endpoints), 'agent')} now, with idle ones of others")
            pool.update_endpoints(endpoints)

        self._listeners.append(lambda progress: share.tell(progress.statistics, exhausted=progress.exhausted))
        stack.push_async_callback(_cancelled, asyncio.create_task(share.follow(update)))

    async def _follow_hostfile(self, pool: JobPool, share: AgentShare | None) -> None:
        known = {str(endpoint) for endpoint in pool.endpoints}

        def update(endpoints: list[AgentEndpoint]) -> None:
            nonlocal known
            before, known = known, {str(endpoint) for endpoint in endpoints}
            self._display.say(f"the hostfile changed: {len(known - before)} to join, {len(before - known)} to leave")
            try:
                endpoints = having(endpoints, self._session.tags)
                pool.update_endpoints(endpoints if share is None else share.select(endpoints))
            except NoAgentsError as error:
                self._display.say(f"going on with the agents of before: {error}")

        await watch_hostfile(self._session.hostfile, update, known=pool.endpoints)

    # -- signals ------------------------------------------------------------------------------------------------

    def _signalled(self, code: ExitCode) -> None:
        again = self._signal_code is not None
        self._signal_code = code
        if code is ExitCode.TERMINATED:
            self._end("drained", "terminated")
            # Whoever sends SIGTERM sends SIGKILL soon after.
            asyncio.get_running_loop().call_later(self._session.grace, self._end, "stopped", "terminated")
        elif again:
            self._end("stopped", "interrupted twice")
        else:
            self._end("drained", "interrupted")

    def _end(self, ending: Ending, reason: str) -> None:
        if not self._job.answering:
            # The input is being read, the fleet is being waited for, or the sorted copy is being made.
            assert self._task is not None
            self._task.cancel()
            return
        self._job.end(ending, reason)
        if reason == "interrupted":
            self._waits = True


async def _served_by(endpoints: list[AgentEndpoint]) -> str | None:
    """Find out which model a fleet serves, if it is one."""
    async with VLLMPool(endpoints, timeouts=Timeouts(patience=PROBED)) as pool:
        try:
            await pool.start()
        except PoolError:
            return None
        return pool.model


def make_engine(kind: str, model: str, arguments: str) -> Engine:
    """Make an engine that computes in this process; nothing is loaded yet."""
    if kind == "transformers":
        from aurora_pool.engines.transformers import TransformersEngine

        return TransformersEngine(model, arguments)
    from aurora_pool.engines.vllm import VllmEngine

    return VllmEngine(model, arguments)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
