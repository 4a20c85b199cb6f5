"""Batches whose requests go to the servers unchanged: embeddings, tools, adapters.

:mod:`aurora_pool.jobs` puts prompts into the pool's own requests, so that many travel in one, and takes answers apart;
here a body is sent whole and its reply kept whole, as the gateway does, which no prompt of a job can say. The journal
is theirs: a record, whole, as soon as its request is finished, and a run that is cut off goes on where it ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from aurora_pool.errors import PoolError
from aurora_pool.jobs.journal import Journal
from aurora_pool.jobs.meter import Meter
from aurora_pool.jobs.records import decode_record
from aurora_pool.messages import Usage
from aurora_pool.runtime.forward import Forwarder
from aurora_pool.serve.validation import BatchLine, decode_line

AT_ONCE = 256
"""Requests of one batch in the hands of the dispatcher."""
SYNC_EVERY = 5.0
GIVEN_UP = 503
"""The status of what the pool gives up on: that says nothing about the request."""

_encode = msgspec.json.Encoder().encode


class VerbatimRun:
    """One run over an input. ``done`` and ``failed`` count all records, those of earlier runs included.

    ``progress`` is called for each record with both, and with the meter of this run.
    """

    def __init__(
        self, forwarder: Forwarder, source: Path, journal: Path, *, progress: Callable[[int, int, Meter], None]
    ) -> None:
        self._forwarder = forwarder
        self._source = source
        self._path = journal
        self._progress = progress
        self._now = asyncio.get_running_loop().time
        self._meter = Meter(now=self._now())
        self.done = 0
        self.failed = 0

    async def run(self) -> bool:
        """Answer what has no record; return whether everything has one now.

        Cancelling loses nothing that is recorded. Raises :class:`~aurora_pool.errors.JobError` if the journal fails.
        """
        journal = Journal(self._path)
        syncing = asyncio.create_task(_sync(journal))
        try:
            finished = await self._resume(journal)
            lines = self._pending(finished)
            complete = True

            async def work() -> None:
                nonlocal complete
                for line in lines:
                    record = await self._answer(line)
                    if record is None:
                        complete = False
                        return
                    journal.append(record)
                    self._progress(self.done, self.failed, self._meter)

            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(work())
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
        finally:
            syncing.cancel()
            await asyncio.gather(syncing, return_exceptions=True)
            journal.keeps_empty = True
            journal.close()
        return complete

    async def _resume(self, journal: Journal) -> set[int]:
        lines = journal.lines()
        finished: set[int] = set()
        drop: list[int] = []
        place = -1
        for batch in lines.batches():
            for line in batch:
                place += 1
                record = decode_record(line)
                if record is None or hash(record.custom_id) in finished:
                    drop.append(place)
                    continue
                finished.add(hash(record.custom_id))
                self.done += 1
                self.failed += not record.answered
            await asyncio.sleep(0)
        await journal.repair(lines, drop)
        return finished

    def _pending(self, finished: set[int]) -> Iterator[BatchLine]:
        with self._source.open("rb", buffering=1 << 18) as file:
            for line in file:
                if line.strip():
                    request = decode_line(line)
                    if hash(request.custom_id) not in finished:
                        yield request

    async def _answer(self, line: BatchLine) -> bytes | None:
        """Give the record of one request; None if nobody was there to answer it."""
        headers = {"Content-Type": "application/json"}
        error = None
        response = None
        usage = None
        sent = self._now()
        try:
            with await self._forwarder.send("POST", line.url, headers, bytes(line.body)) as reply:
                body = await reply.read()
                usage = reply.usage
            if reply.status == GIVEN_UP:
                kind = msgspec.json.decode(body)["error"]
                if kind["type"] == "no_agents":
                    return None
                error = {"code": kind["type"], "message": kind["message"]}
            else:
                response = {"status_code": reply.status, "request_id": line.custom_id, "body": msgspec.Raw(body)}
                msgspec.json.decode(body, type=msgspec.Raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            response, error = None, {"code": "bad_reply", "message": "the server's reply is no JSON"}
        except PoolError as failure:
            error = {"code": "exhausted", "message": str(failure)}
        self.done += 1
        success = response is not None and response["status_code"] == 200
        self.failed += not success
        usage = usage or Usage()
        now = self._now()
        self._meter.finished(
            success=success,
            tokens=usage.completion_tokens,
            prompt_tokens=usage.prompt_tokens,
            latency=now - sent,
            now=now,
        )
        record = {
            "id": f"batch_req_{abs(hash(line.custom_id)):016x}",
            "custom_id": line.custom_id,
            "response": response,
            "error": error,
        }
        return _encode(record) + b"\n"


async def _sync(journal: Journal) -> None:
    while True:
        await asyncio.sleep(SYNC_EVERY)
        await asyncio.to_thread(journal.sync)
