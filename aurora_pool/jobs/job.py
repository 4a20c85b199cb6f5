"""Runs a job: requests in, one record each out, whatever happens on the way."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from aurora_pool.arguments import check_callable, check_instance, shown
from aurora_pool.errors import BadRecord, ConfigError
from aurora_pool.jobs.cache import ResponseCache
from aurora_pool.jobs.columns import Columns, check_kind
from aurora_pool.jobs.copies import is_remote
from aurora_pool.jobs.files import InputFile
from aurora_pool.jobs.input_writer import write_requests
from aurora_pool.jobs.journal import Journal
from aurora_pool.jobs.lock import Lock
from aurora_pool.jobs.meter import OnProgress
from aurora_pool.jobs.options import Ending, JobOptions, JobSummary
from aurora_pool.jobs.ordered import ordered_path, write_ordered
from aurora_pool.jobs.paths import check_apart, written_by_job
from aurora_pool.jobs.requests import RequestReader
from aurora_pool.jobs.resume import Resumed, resume
from aurora_pool.jobs.run import Run
from aurora_pool.jobs.runlog import RunLog, run_log_of
from aurora_pool.jobs.survey import Survey
from aurora_pool.jobs.table_writer import check_table, write_table
from aurora_pool.jobs.tables import Source, open_source
from aurora_pool.jobs.validation import Expectation
from aurora_pool.messages import AnyPrompt, Prompt
from aurora_pool.own_files import mode_of

if TYPE_CHECKING:
    from aurora_pool.jobs.run import JobPool

__all__ = ["Job", "Requests", "run_job"]

Requests = str | Path | InputFile | Iterable[AnyPrompt | Mapping[str, Any]]
"""The input of a job: a file by its name, prompts, or requests as lines of an input file have them."""


async def run_job(
    pool: JobPool,
    requests: Requests,
    output: str | Path,
    options: JobOptions | None = None,
    *,
    on_progress: OnProgress | None = None,
) -> JobSummary:
    """Answer every request of a file, or of any iterable, into an output file; go on where an earlier run ended.

    >>> async with VLLMPool.from_hostfile("fleet.hostfile") as pool:  # doctest: +SKIP
    ...     summary = await run_job(pool, "prompts.jsonl", "answers.jsonl", JobOptions(retry_failed=True))
    ...     print(summary.answered, summary.failed)

    ``on_progress`` is called with a :class:`Progress` about every second. Cancelling the call loses nothing that is in
    the output.

    Raises :class:`~aurora_pool.errors.BadRecord` for a bad line, :class:`~aurora_pool.errors.JobError` if the input
    can't be read or the output can't be written, and what :meth:`VLLMPool.start` raises.
    """
    with Job(requests, output, options) as job:
        return await job.run(pool, on_progress=on_progress)


class Job:
    """A job whose input has been read and found good, and whose output is locked for this run.

    >>> with Job("prompts.jsonl", "answers.jsonl") as job:  # doctest: +SKIP
    ...     async with VLLMPool.from_hostfile("fleet.hostfile", model=job.model) as pool:
    ...         summary = await job.run(pool)

    Making one raises :class:`~aurora_pool.errors.BadRecord` and :class:`~aurora_pool.errors.JobError`, before any fleet
    is needed; ``model`` is then what the input asks for. Close it, or use it in a ``with``.
    """

    def __init__(
        self,
        requests: Requests,
        output: str | Path,
        options: JobOptions | None = None,
        *,
        lock: Lock | None = None,
        told: dict[str, object] | None = None,
    ) -> None:
        check_instance("options", options, JobOptions)
        check_instance("output", output, str | Path, optional=False)
        self.options = options or JobOptions()
        self.output = output
        self._files: list[Source | IO[bytes]] = []
        self._run: Run | None = None
        self._ending: tuple[Ending, str] | None = None
        self._check_files(requests)
        # The output first: a second run is refused before it reads a million lines.
        self._journal = Journal(output, fsync_every_record=self.options.fsync_every_record, lock=lock)
        try:
            source = self._source(requests)
            self._files.append(source)
            check_kind(self.options.columns, source.kind)
            reader = RequestReader(
                text=source.is_text,
                prompt_format="chat" if self.options.system_prompt is not None else self.options.prompt_format,
                system_prompt=self.options.system_prompt,
                defaults=self.options.defaults,
                model_map=self.options.model_map,
                columns=self._columns(),
            )
            self.survey = Survey(
                source,
                reader,
                model=self.options.model,
                on_bad_line=self.options.on_bad_line,
                allow_empty=self.options.allow_empty,
                shard=self.options.shard,
                told=told,
            )
            check_expectation(self.options.expect, embedding=self.embedding)
        except BaseException:
            self.close()
            raise

    @property
    def model(self) -> str | None:
        """The model that the input or the options name; None if the fleet's own is meant."""
        return self.survey.model

    @property
    def embedding(self) -> bool:
        """Whether the input asks for embeddings, and so for an EmbeddingPool."""
        return bool(self.survey.embedding)

    @property
    def dimensions(self) -> int | None:
        """How many dimensions the input wants embeddings to have; None if it does not say."""
        return self.survey.dimensions

    @property
    def bad_records(self) -> Sequence[BadRecord]:
        """The first of the bad lines that are skipped."""
        return self.survey.bad_records

    @property
    def skipped(self) -> int:
        """How many bad lines are skipped."""
        return self.survey.skipped

    @property
    def answering(self) -> bool:
        """Whether prompts are being answered: not while old records are read, nor while the sorted copy is made."""
        return self._run is not None

    async def inspect(self, pool: JobPool) -> Resumed:
        """Read what an earlier run has left, change nothing, and run nothing. Such a job can't be run."""
        if not self._journal.resumable:
            return Resumed()
        retry, expect = self.options.retry_failed, self.options.expect
        model = pool.model or ""
        return await resume(self._journal, self.survey, model=model, retry_failed=retry, expect=expect, repair=False)

    async def run(
        self,
        pool: JobPool,
        *,
        on_progress: OnProgress | None = None,
        on_resumed: Callable[[Resumed], None] | None = None,
    ) -> JobSummary:
        """Answer what has no record yet. A job runs once.

        ``on_progress`` is called about every second, ``on_resumed`` once, before anything is sent, with what was found
        in the output.

        Raises :class:`~aurora_pool.errors.JobError` if the output fails, and what :meth:`VLLMPool.start` raises.
        """
        if self.survey.embedding is not None:
            check_pool(pool, embedding=self.survey.embedding)
        check_callable(on_progress=on_progress, on_resumed=on_resumed)
        await pool.start()
        model = pool.model or ""
        if self.model is not None and self.model != model:
            raise ConfigError(f"the job asks for the model {self.model!r}, the pool for {model!r}")
        resumed = Resumed()
        if self._journal.resumable:
            resumed = await resume(
                self._journal,
                self.survey,
                model=model,
                retry_failed=self.options.retry_failed,
                expect=self.options.expect,
                before=self.options.before_resume,
            )
        if on_resumed is not None:
            on_resumed(resumed)
        keeps_log = self.options.run_log and self._journal.resumable
        log = RunLog(run_log_of(self.output), mode=mode_of(Path(self.output))) if keeps_log else RunLog(None)
        cache = None
        try:
            if self.options.cache is not None:
                cache = ResponseCache(self.options.cache, sampled=self.options.cache_sampled)
            self._run = Run(pool, model, self.survey, self._journal, log, self.options, resumed, on_progress, cache)
            if self._ending is not None:
                self._run.end(*self._ending)
            summary = await self._run.go()
        finally:
            self._run = None
            log.close()
            if cache is not None:
                cache.close()
        self._journal.keeps_empty = not summary.remaining
        self._journal.close()
        if not summary.remaining and self._journal.resumable:
            summary = await self._with_copies(summary)
        self.close()
        return summary

    async def _with_copies(self, summary: JobSummary) -> JobSummary:
        ordered, table, output = None, self.options.table, Path(self.output)
        if self.options.ordered:
            ordered = await write_ordered(output, self.survey)
        if table is not None:
            await write_table(table, output, self.survey)
        return summary.with_copies(ordered=ordered, table=table)

    def end(self, ending: Ending, reason: str) -> None:
        """End early: ``"stopped"`` at once, anything else by taking nothing new and waiting for what is in flight."""
        self._ending = (ending, reason)
        if self._run is not None:
            self._run.end(ending, reason)

    def close(self) -> None:
        """End the output well and let the next run have it."""
        for file in self._files:
            file.close()
        self._files.clear()
        self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check_files(self, requests: Requests) -> None:
        """Refuse what would write over something, before anything is opened."""
        options, output = self.options, self.output
        if is_remote(output):
            raise ConfigError(f"{output}: an output is appended to as answers come, so it is a file of this machine")
        if options.table is not None:
            if str(output) == "-":
                raise ConfigError("a table is made of the output, which is to be a file then")
            check_table(options.table)
        table = None if options.table is None or is_remote(options.table) else options.table
        written = written_by_job(output, table)
        ordered = ordered_path(Path(output)) if options.ordered and str(output) != "-" else None
        source = requests if isinstance(requests, str | Path) and not is_remote(requests) else None
        check_apart([*written, *([] if ordered is None else [ordered])], [source])
        if Path(output).suffix in {".csv", ".tsv", ".parquet"} and not Path(output).exists():
            name = Path(output).with_suffix(".jsonl")
            raise ConfigError(f"{output}: answers are written as JSON lines; for a table, -o {name} --table {output}")

    def _columns(self) -> Columns:
        """What is kept of rows: for a table, all where nothing is named."""
        columns = self.options.columns
        return replace(columns, keep="all") if self.options.table is not None and not columns.keep else columns

    def _source(self, requests: Requests) -> Source:
        if isinstance(requests, InputFile):
            return requests
        if isinstance(requests, str | Path):
            return open_source(requests, input_format=self.options.input_format)
        if isinstance(requests, bytes | Mapping | Prompt) or not isinstance(requests, Iterable):
            raise ConfigError(f"requests: expected a file's name, or a list of prompts, got {shown(requests)}")
        written = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the job
        self._files.append(written)
        write_requests(requests, written)
        written.seek(0)
        source = InputFile("-", stdin=written, input_format="jsonl")
        source.name = "requests"  # as errors name it
        return source


def check_expectation(expect: Expectation, *, embedding: bool) -> None:
    """Refuse to check embeddings, which have no text.

    Raises :class:`~aurora_pool.errors.ConfigError`.
    """
    if embedding and expect.checks:
        raise ConfigError("expect: an embedding has no text that could be checked, and no length that it was cut at")


def check_pool(pool: JobPool, *, embedding: bool) -> None:
    """Refuse a pool of the other kind than a job needs.

    Raises :class:`~aurora_pool.errors.ConfigError`.
    """
    if pool.gives_vectors is not embedding:
        raise ConfigError("a job that asks for embeddings needs an EmbeddingPool, and any other a VLLMPool")
