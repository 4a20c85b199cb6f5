"""The Batches API: create, retrieve, list, cancel, and this server's own pause, resume and partial output."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web
from sqlalchemy import RowMapping, func, insert, select, update

from aurora_pool.serve.access import caller_of
from aurora_pool.serve.batch_rows import ENDPOINTS, batch_object, find_batch
from aurora_pool.serve.blobs import read_file
from aurora_pool.serve.bodies import read_body
from aurora_pool.serve.described import TEXT, described, limit, page_of
from aurora_pool.serve.errors import ApiError, bad_request, conflict, not_found
from aurora_pool.serve.files import LONGEST, SHORTEST, find_file
from aurora_pool.serve.folders import BatchFolders
from aurora_pool.serve.http_json import decode, encode_reply, new_id, page, parse_duration, query_int, read_page
from aurora_pool.serve.keys import Caller
from aurora_pool.serve.limits import too_many
from aurora_pool.serve.options import ServerOptions
from aurora_pool.serve.replies import send_chunks
from aurora_pool.serve.storage import Storage
from aurora_pool.serve.tables import batches
from aurora_pool.serve.waits import Waits
from aurora_pool.wire.batch_states import ACTIVE, CHANGEABLE

PRIORITIES = range(-100, 101)


class _Expiry(msgspec.Struct, forbid_unknown_fields=True):
    anchor: str
    seconds: int


class CreateBatch(msgspec.Struct, forbid_unknown_fields=True):
    """What a batch is made from."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: _Expiry | None = None
    priority: int = 0


class BatchesApi:
    """The handlers. ``wake`` is called when there may be something to do."""

    def __init__(
        self, storage: Storage, folders: BatchFolders, options: ServerOptions, waits: Waits, wake: Callable[[], None]
    ) -> None:
        self._storage = storage
        self._folders = folders
        self._options = options
        self._waits = waits
        self._wake = wake

    def routes(self) -> list[web.RouteDef]:
        """Where the handlers are reached."""
        one = "/v1/batches/{batch_id}"
        return [
            web.post("/v1/batches", self.create),
            web.get("/v1/batches", self.list, allow_head=False),
            web.get(one, self.retrieve, allow_head=False),
            web.post(f"{one}/cancel", self.cancel),
            web.post(f"{one}/pause", self.pause),
            web.post(f"{one}/resume", self.resume),
            web.get(f"{one}/output", self.output, allow_head=False),
        ]

    @described(body=CreateBatch, reply="types:Batch")
    async def create(self, request: web.Request) -> web.Response:
        """Queue a batch; its file is validated soon after."""
        row = await self.create_for(caller_of(request), decode(await read_body(request), CreateBatch))
        return encode_reply(batch_object(row))

    async def create_for(self, caller: Caller, wanted: CreateBatch) -> RowMapping:
        """Queue a batch. Raises :class:`ApiError`."""
        values = _checked(wanted)
        if wanted.priority > 0 and not caller.admin:
            # Priorities hold across users: who raises his own takes all from the others, whatever the weights.
            message = "Only administrators may give a batch a 'priority' above 0; a lower one lets others go first."
            raise ApiError(403, message, param="priority", code="insufficient_permissions")
        async with self._storage.read() as connection:
            file = await find_file(connection, wanted.input_file_id, caller.user)
        batch_id = new_id("batch_")
        try:
            # The batch's own hold on the content: the file may be deleted from now on.
            await self._folders.take_input(batch_id, file["id"])
        except FileNotFoundError:
            raise not_found("File", file["id"]) from None
        try:
            row = await self._insert(caller, {**values, "id": batch_id, "user": caller.user})
        except BaseException:
            await self._folders.drop(batch_id)
            raise
        self._wake()
        return row

    async def _insert(self, caller: Caller, values: dict[str, Any]) -> RowMapping:
        now = int(time.time())
        limit = caller.limits.batches_queued
        new = {
            **values,
            "status": "validating",
            "created_at": now,
            "expires_at": now + parse_duration(values["completion_window"], "completion_window"),
            "plain": False,
            "paused": False,
            "total": 0,
            "completed": 0,
            "failed": 0,
            "epoch": 0,
        }
        async with self._storage.write() as connection:
            if limit is not None:
                chosen = select(func.count()).where(batches.c.user == caller.user, batches.c.status.in_(ACTIVE))
                if (await connection.execute(chosen)).scalar_one() >= limit:
                    raise too_many(f"Limit of {limit} batches queued or running reached.", 60)
            created = await connection.execute(insert(batches).values(new).returning(batches))
            row: RowMapping = created.mappings().one()
        return row

    @described(reply="types:Batch")
    async def retrieve(self, request: web.Request) -> web.Response:
        """Describe a batch."""
        return await self._shown(request, await self._found(request))

    @described(query={"after": TEXT, "limit": limit(100)}, reply=page_of("types:Batch"))
    async def list(self, request: web.Request) -> web.Response:
        """List the caller's batches."""
        limit = query_int(request, "limit", 20, least=1, most=100)
        caller, after = caller_of(request), request.query.get("after")
        async with self._storage.read() as connection:
            rows, more = await read_page(
                connection, batches, select(batches), user=caller.user, after=after, limit=limit
            )
        waits = await self._waits.reasons(rows, caller)
        return encode_reply(page([batch_object(row, waits.get(row["user"])) for row in rows], has_more=more))

    @described(reply="types:Batch")
    async def cancel(self, request: web.Request) -> web.Response:
        """Cancel a batch: what is answered is kept, and becomes its output."""
        now = int(time.time())
        row = await self._change(request, CHANGEABLE, {"status": "cancelling", "cancelling_at": now}, "cancelled")
        return encode_reply(batch_object(row))

    @described(reply="types:Batch")
    async def pause(self, request: web.Request) -> web.Response:
        """Pause a batch; its completion window keeps running."""
        row = await self._change(request, CHANGEABLE, {"paused": True}, "paused")
        return encode_reply(batch_object(row))

    @described(reply="types:Batch")
    async def resume(self, request: web.Request) -> web.Response:
        """Resume a paused batch."""
        row = await self._change(request, CHANGEABLE, {"paused": False}, "resumed")
        return await self._shown(request, row)

    @described(reply_types=("application/jsonl",))
    async def output(self, request: web.Request) -> web.StreamResponse:
        """Download what is answered so far, failures included, while the batch runs."""
        row = await self._found(request)
        if row["status"] not in ACTIVE:
            raise conflict(f"The batch is {row['status']}: its output is a file now.", code="batch_ended")
        path, size = await self._folders.journal_so_far(row["id"])
        if path is None:
            return web.Response(body=b"", content_type="application/jsonl")
        return await send_chunks(request, read_file(path, size), size, self._options.write_timeout)

    async def _shown(self, request: web.Request, row: RowMapping) -> web.Response:
        waits = await self._waits.reasons([row], caller_of(request))
        return encode_reply(batch_object(row, waits.get(row["user"])))

    async def _found(self, request: web.Request) -> RowMapping:
        async with self._storage.read() as connection:
            return await find_batch(connection, request.match_info["batch_id"], caller_of(request))

    async def _change(
        self, request: web.Request, when: tuple[str, ...], values: dict[str, Any], what: str
    ) -> RowMapping:
        """Change a batch that is in one of these states, in one statement."""
        async with self._storage.write() as connection:
            found = await find_batch(connection, request.match_info["batch_id"], caller_of(request))
            chosen = update(batches).where(batches.c.id == found["id"], batches.c.status.in_(when)).values(values)
            changed = await connection.execute(chosen.returning(batches))
            row: RowMapping | None = changed.mappings().one_or_none()
        if row is None:
            if found["status"] == values.get("status"):
                return found
            raise conflict(f"Cannot be {what}: the batch is {found['status']}.", code="invalid_batch_state")
        self._wake()
        return row


def _checked(wanted: CreateBatch) -> dict[str, Any]:
    if wanted.endpoint not in ENDPOINTS:
        raise bad_request(f"Invalid 'endpoint': expected one of {', '.join(ENDPOINTS)}.", param="endpoint")
    parse_duration(wanted.completion_window, "completion_window")
    metadata = wanted.metadata
    if metadata is not None and (
        len(metadata) > 16 or any(len(key) > 64 or len(value) > 512 for key, value in metadata.items())
    ):
        raise bad_request(
            "Invalid 'metadata': expected at most 16 pairs, keys of 64 and values of 512 characters.", param="metadata"
        )
    expiry = wanted.output_expires_after
    if expiry is not None and (expiry.anchor != "created_at" or not SHORTEST <= expiry.seconds <= LONGEST):
        raise bad_request(
            f"Invalid 'output_expires_after': expected the anchor 'created_at' and {SHORTEST} to {LONGEST} seconds.",
            param="output_expires_after",
        )
    if wanted.priority not in PRIORITIES:
        raise bad_request("Invalid 'priority': expected a whole number from -100 to 100.", param="priority")
    return {
        "input_file_id": wanted.input_file_id,
        "endpoint": wanted.endpoint,
        "completion_window": wanted.completion_window,
        "metadata": metadata,
        "output_expires_after": None if expiry is None else expiry.seconds,
        "priority": wanted.priority,
    }
