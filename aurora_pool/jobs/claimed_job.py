"""A job that several drivers share, each of which takes pieces of the input until all are done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from aurora_pool.errors import BadRecord, ConfigError
from aurora_pool.jobs.claim_run import ClaimRun
from aurora_pool.jobs.claims import Claims
from aurora_pool.jobs.guardrails import Guardrails
from aurora_pool.jobs.job import check_expectation, check_pool
from aurora_pool.jobs.meter import OnProgress
from aurora_pool.jobs.options import Ending, JobOptions, JobSummary
from aurora_pool.jobs.pieces import agree_on_plan, first_request
from aurora_pool.jobs.requests import Request
from aurora_pool.jobs.resume import Resumed
from aurora_pool.sharing.roster import Roster, process_name

if TYPE_CHECKING:
    from aurora_pool.jobs.run import JobPool

PIECE_LINES = 10_000


class ClaimedJob:
    """One driver's part of a job that any number of drivers share; it has the methods of a :class:`Job`.

    All drivers get the same ``source``, ``folder`` and options; they may start and stop at any time. A driver ends when
    all pieces are done, by whichever driver; then :func:`~aurora_pool.jobs.merge.merge` joins them. A driver without a
    heartbeat for ``takeover_after`` seconds is taken for dead, and other drivers continue its pieces.

    Raises :class:`~aurora_pool.errors.ConfigError`, :class:`~aurora_pool.errors.BadRecord` and
    :class:`~aurora_pool.errors.JobError` as :func:`~aurora_pool.jobs.pieces.agree_on_plan` does.
    """

    def __init__(
        self,
        source: str,
        folder: str | Path,
        options: JobOptions | None = None,
        *,
        piece_lines: int = PIECE_LINES,
        takeover_after: float = 30.0,
    ) -> None:
        self.options = options or JobOptions()
        if self.options.retry_failed or self.options.ordered:
            raise ConfigError("with --claim, --ordered and --retry-failed come later: merge, and run it again with -o")
        if self.options.table is not None:
            raise ConfigError("with --claim, --table comes later: merge, and run it again with -o")
        if self.options.guardrails != Guardrails():
            raise ConfigError("with --claim, there are no limits of failures, tokens or cost: no driver sees all")
        self.output = Path(folder)
        self.plan = agree_on_plan(self.output, source, self.options, name=process_name(), piece_lines=piece_lines)
        first = self._first_request()
        self._roster = Roster(self.output / "drivers", takeover_after=takeover_after)
        skips = self.options.on_bad_line == "skip"
        self._claims = Claims(self.output, len(self.plan.offsets), self._roster, retry_unusable=skips)
        self.model: str | None = self.plan.settings["model"] or (None if first is None else first.model)
        self.embedding = first is not None and first.embedding
        check_expectation(self.options.expect, embedding=self.embedding)
        self.dimensions: int | None = first.body.get("dimensions") if first is not None and first.embedding else None
        self.bad_records: Sequence[BadRecord] = []
        self.skipped = 0
        self._run: ClaimRun | None = None
        self._ending: tuple[Ending, str] | None = None

    def _first_request(self) -> Request | None:
        try:
            return first_request(self.plan)
        except BadRecord:
            if self.options.allow_empty:
                return None
            raise

    @property
    def answering(self) -> bool:
        """Whether pieces are being answered, or waited for."""
        return self._run is not None

    async def run(
        self,
        pool: JobPool,
        *,
        on_progress: OnProgress | None = None,
        on_resumed: Callable[[Resumed], None] | None = None,
    ) -> JobSummary:
        """Answer pieces until none is left. A job runs once. The summary counts lines of the whole input.

        Raises :class:`~aurora_pool.errors.BadRecord` if everything else is done and some pieces can't be,
        :class:`~aurora_pool.errors.ConfigError` for an option or a check that is wrong,
        :class:`~aurora_pool.errors.JobError` if the folder fails, and what :meth:`VLLMPool.start` raises.
        """
        check_pool(pool, embedding=self.embedding)
        await pool.start()
        if on_resumed is not None:
            on_resumed(Resumed())
        self._run = ClaimRun(pool, self.plan, self._claims, self._roster, self.output, self.options, on_progress)
        if self._ending is not None:
            self._run.end(*self._ending)
        try:
            return await self._run.go()
        finally:
            self._run = None

    def end(self, ending: Ending, reason: str) -> None:
        """End early, as :meth:`Job.end` does."""
        self._ending = (ending, reason)
        if self._run is not None:
            self._run.end(ending, reason)

    def close(self) -> None:
        """Let the other drivers have what is not done."""
        self._roster.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
