"""One batch from its file to its results: validated, run by :mod:`aurora_pool.jobs`, finalized."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from aurora_pool.errors import BadRecord, JobError
from aurora_pool.jobs.job import Job
from aurora_pool.jobs.meter import Meter, Progress
from aurora_pool.jobs.options import JobOptions
from aurora_pool.serve.blobs import Blobs
from aurora_pool.serve.finalize import finalize
from aurora_pool.serve.fleet import Model, ServedFleet
from aurora_pool.serve.folders import BatchFolders
from aurora_pool.serve.keys import KeyRing
from aurora_pool.serve.leases import Leases
from aurora_pool.serve.limits import TokenAccounts
from aurora_pool.serve.options import ServerOptions
from aurora_pool.serve.validation import validate
from aurora_pool.serve.verbatim import VerbatimRun

POLL_EVERY = 1.0
LEFT = 20
"""Of how many leases before the files are looked for that a kill kept from being anybody's."""
DAY = 86_400

Row: TypeAlias = Mapping[Any, Any]
Note: TypeAlias = Callable[[Mapping[str, Any]], None]
Parking: TypeAlias = Literal["drained", "stopped"]


@dataclass(frozen=True, slots=True)
class Machinery:
    """What running batches takes."""

    fleet: ServedFleet
    folders: BatchFolders
    blobs: Blobs
    accounts: TokenAccounts
    keys: KeyRing
    options: ServerOptions
    delivered: Callable[[], None]
    """Is called when a webhook may be due."""


async def validate_batch(machinery: Machinery, leases: Leases, row: Row) -> None:
    """Check a batch's input; the batch is then in progress, or has failed."""
    found = await asyncio.to_thread(validate, machinery.folders.input_of(row["id"]), row["endpoint"])
    now = int(time.time())
    errors = found.errors
    if not errors:
        errors = await _model_errors(machinery.fleet, found.model)
    if errors:
        values = {"status": "failed", "failed_at": now, "errors": errors, "model": found.model}
        await leases.end(row, values)
        await machinery.folders.drop(row["id"])
        machinery.delivered()
        return
    started = {
        "status": "in_progress",
        "in_progress_at": now,
        "total": found.total,
        "model": found.model,
        "plain": found.plain,
    }
    await leases.change(row, started, release=True)


async def _model_errors(fleet: ServedFleet, name: str | None) -> list[dict[str, Any]]:
    """What is wrong with the model, as far as is known; while an agent is undiscovered, it may be that one's."""
    await fleet.wait_for_change(0 if fleet.models else POLL_EVERY)
    if name is None and len(fleet.models) > 1:
        message = f"The requests name no model, and there are several: {', '.join(sorted(fleet.models)[:5])}."
    elif name is not None and fleet.models and not fleet.undiscovered and name not in fleet.models:
        message = f"The model `{name}` does not exist. The server has: {', '.join(sorted(fleet.models)[:5])}."
    else:
        return []
    return [{"code": "model_not_found", "line": None, "message": message, "param": "body.model"}]


class BatchRun:
    """Runs a batch that is in progress, until it ends, is parked, or its window closes."""

    def __init__(self, machinery: Machinery, leases: Leases, row: Row, note: Note) -> None:
        self._machinery = machinery
        self._leases = leases
        self._row = row
        self._note = note
        self._charged: int = row["charged"]
        self._spent = 0
        self._job: Job | None = None
        self._parked: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._parking: Parking | None = None

    @property
    def user(self) -> str:
        """Whose batch it is."""
        user: str = self._row["user"]
        return user

    @property
    def is_parked(self) -> bool:
        """Whether it was told to stop."""
        return self._parking is not None

    @property
    def is_answered(self) -> bool:
        """Whether everything had its answer when it began, so that it uses up no tokens."""
        return bool(self._row["status"] == "finalizing")

    def park(self, how: Parking) -> None:
        """Stop for now: at once, or when what is in flight has ended."""
        self._parking = how
        if self._job is not None:
            self._job.end(how, "parked")
        if (how == "stopped" or self._job is None) and not self._parked.done():
            self._parked.set_result(True)

    async def go(self) -> None:
        """Run it. Raises :class:`~aurora_pool.serve.leases.LeaseLost` and what the job raises."""
        row = self._row
        journal = await self._machinery.folders.take_journal(row["id"], row["epoch"])
        answering = asyncio.create_task(self._answer(journal))
        try:
            left = max(0.0, row["expires_at"] - time.time())
            await asyncio.wait({answering, self._parked}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            expired = not answering.done() and not self._parked.done()
        finally:
            if not answering.done():
                answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
        if not answering.cancelled() and answering.exception() is None and answering.result():
            await self._finish(journal, expired=False)
        elif expired:
            await self._finish(journal, expired=True)
        elif not answering.cancelled() and (error := answering.exception()) is not None:
            if not isinstance(error, BadRecord):
                raise error
            await self._fail(error)

    async def _answer(self, journal: Path) -> bool:
        """Answer everything; return whether everything has its record now."""
        while self._parking is None:
            model = self._model()
            if model is None:
                await self._machinery.fleet.wait_for_change(POLL_EVERY)
            elif await self._answer_with(model, journal):
                return True
        return False

    async def _answer_with(self, model: Model, journal: Path) -> bool:
        row = self._row
        self._spent = 0
        source = self._machinery.folders.input_of(row["id"])
        weight = await self._machinery.keys.weight_of(row["user"])
        share = self._machinery.fleet.share(model, row["user"], weight=weight, priority=row["priority"])
        job = None
        if model.plain and row["plain"]:
            options = JobOptions(run_log=False, input_format="jsonl", interval=POLL_EVERY)
            with suppress(BadRecord):  # servers may take what a job can't put in its own form
                job = await _make_job(source, journal, options)
        if job is None:
            return await VerbatimRun(share.forwarder(), source, journal, progress=self._count).run()
        self._job = job
        with job:
            try:
                if self._parking is not None:
                    return False
                summary = await job.run(share, on_progress=self._tell)
            finally:
                self._job = None
        charged = self._charge(summary.tokens + summary.prompt_tokens)
        self._note({"completed": summary.answered, "failed": summary.failed, "eta": 0.0, "charged": charged})
        return summary.remaining == 0

    def _model(self) -> Model | None:
        models = self._machinery.fleet.models
        name = self._row["model"]
        if name is None:
            return next(iter(models.values())) if len(models) == 1 else None
        return models.get(name)

    def _tell(self, progress: Progress) -> None:
        done = progress.earlier + progress.done
        # Records of earlier runs count as completed until the end tells them apart.
        counts = {"completed": done - progress.failed, "failed": progress.failed}
        charged = self._charge(progress.tokens + progress.prompt_tokens)
        self._note({**counts, "eta": progress.eta, "rate": progress.prompts_per_second, "charged": charged})

    def _count(self, done: int, failed: int, meter: Meter) -> None:
        now = asyncio.get_running_loop().time()
        rate, _ = meter.rates(now=now)
        told = {"eta": meter.eta(self._row["total"] - done, now=now), "rate": rate}
        charged = self._charge(meter.tokens + meter.prompt_tokens)
        self._note({"completed": done - failed, "failed": failed, **told, "charged": charged})

    def _charge(self, tokens: int) -> int:
        """Charge what a run has used up since it last told; return what the batch was charged in all."""
        more = tokens - self._spent
        self._spent = tokens
        self._machinery.accounts.charge(self.user, more)
        self._charged += more
        return self._charged

    async def _finish(self, journal: Path, *, expired: bool) -> None:
        row = self._row
        if row["status"] != "finalizing":
            values = {"status": "finalizing", "finalizing_at": int(time.time())}
            await self._leases.change(row, values)
            row = {**row, **values}
        row = {**row, "charged": self._charged}
        await _finish(self._machinery, self._leases, row, journal, "expired" if expired else "completed")

    async def _fail(self, error: BadRecord) -> None:
        row = self._row
        told = [{"code": "invalid_request", "line": error.line, "message": error.reason, "param": None}]
        await self._leases.end(row, {"status": "failed", "failed_at": int(time.time()), "errors": told})
        await self._machinery.folders.drop(row["id"])
        self._machinery.delivered()


async def give_up_lost(machinery: Machinery, leases: Leases, row: Row) -> None:
    """End a batch whose input is gone."""
    message = "The server's copy of the input is lost: hand the batch in again."
    told = [{"code": "input_lost", "line": None, "message": message, "param": None}]
    await leases.end(row, {"status": "failed", "failed_at": int(time.time()), "errors": told})
    await machinery.folders.drop(row["id"])
    machinery.delivered()


async def finish_cancelled(machinery: Machinery, leases: Leases, row: Row) -> None:
    """End a batch that its user has cancelled: what is answered becomes its output."""
    journal = await machinery.folders.take_journal(row["id"], row["epoch"])
    await _finish(machinery, leases, row, journal, "cancelled")


async def _finish(machinery: Machinery, leases: Leases, row: Row, journal: Path, status: str) -> None:
    """Make the files of a batch and end it. A kill in between has it made again, by the same names."""
    folders = machinery.folders
    batch_id = row["id"]
    parts = {name: folders.work_file(batch_id, f"{name}-{row['epoch']}.jsonl") for name in ("output", "error")}
    source = folders.input_of(batch_id)
    expired = status == "expired"
    results = await asyncio.to_thread(finalize, journal, source, parts["output"], parts["error"], expired=expired)
    if status != "cancelled" and results.completed + results.failed != row["total"]:
        raise JobError(f"{batch_id}: {row['total']} requests have {results.completed + results.failed} results")
    created = {}
    for name, count in (("output", results.completed), ("error", results.failed)):
        if count:
            file_id = _file_id(batch_id, row["epoch"], name)
            size = parts[name].stat().st_size
            await machinery.blobs.put(file_id, parts[name])
            created[name] = _file(machinery.options, row, name, file_id, size)
    values = {
        "status": status,
        f"{status}_at": int(time.time()),
        "completed": results.completed,
        "failed": results.failed,
        "total": max(row["total"], results.completed + results.failed),
        "usage": results.usage(),
        "eta": None,
        **{f"{name}_file_id": file["id"] for name, file in created.items()},
    }
    await leases.end(row, values, created.values())
    # What was not told as it ran: the tokens of the last second, and those before a kill.
    rest = results.input_tokens + results.output_tokens - row["charged"]
    machinery.accounts.charge(row["user"], max(0, rest))
    machinery.delivered()
    for epoch in range(max(1, row["epoch"] - LEFT), row["epoch"]):  # what a kill may have left
        for name in parts:
            await machinery.blobs.delete(_file_id(batch_id, epoch, name))
    await folders.drop(batch_id)


async def _make_job(source: Path, journal: Path, options: JobOptions) -> Job:
    """Make a job in a thread, for it reads the whole input; one that nobody waits for any more is closed."""
    making = asyncio.ensure_future(asyncio.to_thread(Job, source, journal, options))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        making.add_done_callback(
            lambda created: None if created.cancelled() or created.exception() else created.result().close()
        )
        raise


def _file_id(batch_id: str, epoch: int, name: str) -> str:
    """Name a file by the lease under which it is made: who has lost the lease can't overwrite what another made."""
    return f"file-{batch_id.removeprefix('batch_')}-{epoch}{name[0]}"


def _file(options: ServerOptions, row: Row, name: str, file_id: str, size: int) -> dict[str, Any]:
    now = int(time.time())
    return {
        "id": file_id,
        "user": row["user"],
        "filename": f"{row['id']}_{name}.jsonl",
        "purpose": "batch_output",
        "bytes": size,
        "created_at": now,
        "expires_at": now + (row["output_expires_after"] or int(options.file_days * DAY)),
    }
