"""The dashboard's pages about batches: the list, one batch, its records, and the upload of a new one."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web
from sqlalchemy import RowMapping, select

from aurora_pool.serve.access import caller_of
from aurora_pool.serve.batch_rows import ENDPOINTS, batch_object, find_batch
from aurora_pool.serve.batches import BatchesApi, CreateBatch
from aurora_pool.serve.blobs import Blobs
from aurora_pool.serve.errors import ApiError
from aurora_pool.serve.files import FilesApi
from aurora_pool.serve.http_json import query_int, read_page
from aurora_pool.serve.records import BatchRecords, answer_text
from aurora_pool.serve.rendering import UI, Pages, Values, see_other
from aurora_pool.serve.storage import Storage
from aurora_pool.serve.tables import batches
from aurora_pool.serve.waits import Waits
from aurora_pool.wire.batch_states import ACTIVE, CHANGEABLE, ENDED

SHOWN = 50
_FIRST_LINE = 1 << 20
_FURTHEST = 10**15 - 1


class JobPages:
    """The handlers."""

    def __init__(
        self,
        pages: Pages,
        storage: Storage,
        blobs: Blobs,
        records: BatchRecords,
        files: FilesApi,
        api: BatchesApi,
        waits: Waits,
    ) -> None:
        self._pages = pages
        self._storage = storage
        self._blobs = blobs
        self._records = records
        self._files = files
        self._api = api
        self._waits = waits

    def routes(self) -> list[web.RouteDef]:
        """Where the handlers are reached."""
        one = f"{UI}jobs/{{batch_id}}"
        return [
            web.get(f"{UI}jobs", self.list, allow_head=False),
            web.get(one, self.job, allow_head=False),
            web.get(f"{one}/records", self.search, allow_head=False),
            web.get(f"{one}/record", self.record, allow_head=False),
            web.get(f"{one}/output", self.output, allow_head=False),
            web.post(f"{one}/{{action:cancel|pause|resume}}", self.act),
            web.get(f"{UI}files/{{file_id}}/content", self.file, allow_head=False),
            web.get(f"{UI}upload", self.upload_form, allow_head=False),
            web.post(f"{UI}upload", self.upload),
        ]

    async def list(self, request: web.Request) -> web.StreamResponse:
        """List the caller's batches, the newest first; administrators see everybody's."""
        caller = caller_of(request)
        status = request.query.get("status", "")
        after = request.query.get("after")
        user = None if caller.admin else caller.user
        chosen = select(batches)
        if status:
            chosen = chosen.where(batches.c.status.in_(ACTIVE if status == "active" else [status]))

        async def values_of() -> Values:
            async with self._storage.read() as connection:
                rows, more = await read_page(connection, batches, chosen, user=user, after=after, limit=SHOWN)
            waits = await self._waits.reasons(rows, caller)
            jobs = [_shown(row, waits.get(row["user"])) for row in rows]
            return {
                "jobs": jobs,
                "more": rows[-1]["id"] if more else None,
                "after": after,
                "status": status,
                "statuses": ("active", *ENDED),
                "active": sum(job["is_active"] for job in jobs),
            }

        return await self._pages.show(request, "jobs.html", values_of)

    async def job(self, request: web.Request) -> web.StreamResponse:
        """Show one batch."""

        async def values_of() -> Values:
            row = await self._found(request)
            caller = caller_of(request)
            waits = await self._waits.reasons([row], caller)
            causes = await self._records.causes(row) if row["total"] else []
            job = _shown(row, waits.get(row["user"]))
            return {"job": job, "causes": causes, "own": row["user"] == caller.user}

        return await self._pages.show(request, "job.html", values_of)

    async def search(self, request: web.Request) -> web.Response:
        """Search a batch's records."""
        row = await self._found(request)
        text = request.query.get("q", "")[:500]
        failed = request.query.get("failed") == "1"
        page = await self._records.search(
            row,
            text,
            failed=failed,
            place=request.query.get("place", ""),
            offset=query_int(request, "offset", 0, least=0, most=_FURTHEST),
        )
        return self._pages.render(
            request, "records.html", {"job": _shown(row), "page": page, "q": text, "failed": failed}
        )

    async def record(self, request: web.Request) -> web.Response:
        """Show one record in full."""
        row = await self._found(request)
        place = request.query.get("place", "")
        found = await self._records.one(row, place, query_int(request, "offset", 0, least=0, most=_FURTHEST))
        answer = None
        if isinstance(found, dict) and isinstance(reply := found.get("response"), dict):
            answer = answer_text(reply.get("body"))
        text = msgspec.json.format(msgspec.json.encode(found), indent=2).decode()
        name = found.get("custom_id") if isinstance(found, dict) else None
        return self._pages.render(
            request, "record.html", {"job": _shown(row), "name": str(name), "answer": answer, "text": text}
        )

    async def output(self, request: web.Request) -> web.StreamResponse:
        """Download what is answered so far."""
        return await self._api.output(request)

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Download a file."""
        return await self._files.content(request)

    async def act(self, request: web.Request) -> web.Response:
        """Cancel, pause or resume a batch."""
        await getattr(self._api, request.match_info["action"])(request)
        return see_other(f"../{request.match_info['batch_id']}")

    async def upload_form(self, request: web.Request) -> web.Response:
        """Show the form for a new batch."""
        return self._pages.render(request, "upload.html", {"problem": None})

    async def upload(self, request: web.Request) -> web.Response:
        """Take a file and queue it as a batch; its page tells what is wrong with which line."""
        try:
            file, fields = await self._files.receive(request)
            wanted = CreateBatch(
                input_file_id=file["id"],
                endpoint=await self._endpoint_of(file["id"]),
                completion_window=fields.get("window", "24h"),
                metadata={"filename": file["filename"][:512]},
                priority=_priority(fields.get("priority", "0")),
            )
            row = await self._api.create_for(caller_of(request), wanted)
        except ApiError as error:
            return self._pages.render(request, "upload.html", {"problem": error.message}, error.status)
        return see_other(f"jobs/{row['id']}")

    async def _endpoint_of(self, file_id: str) -> str:
        """Read what the batch is for from its first line that tells; validation finds the lines that differ."""
        head = b""
        async for chunk in self._blobs.chunks(file_id):
            head += chunk
            if len(head) >= _FIRST_LINE:
                break
        for line in head.split(b"\n"):
            try:
                url = msgspec.json.decode(line)["url"]
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
                continue
            if url in ENDPOINTS:
                return str(url)
        return ENDPOINTS[0]

    async def _found(self, request: web.Request) -> RowMapping:
        async with self._storage.read() as connection:
            return await find_batch(connection, request.match_info["batch_id"], caller_of(request))


def _shown(row: RowMapping, waits: str | None = None) -> dict[str, Any]:
    """Give a batch as the pages show it: as the API does, and what follows from it."""
    counts = {name: row[name] for name in ("total", "completed", "failed")}
    done = counts["completed"] + counts["failed"]
    shown = batch_object(row, waits)
    return {
        **shown,
        **counts,
        "user": row["user"],
        "paused": row["paused"],
        "waiting": shown["aurora_pool"]["waiting"],
        "priority": row["priority"],
        "rate": row["rate"] if row["status"] == "in_progress" and not row["paused"] else None,
        "eta": row["eta"] if row["status"] == "in_progress" and not row["paused"] else None,
        "done": done,
        "share": done / counts["total"] if counts["total"] else 0.0,
        "problems": row["errors"] or [],
        "is_active": row["status"] in ACTIVE,
        "can_change": row["status"] in CHANGEABLE,
        "title": (row["metadata"] or {}).get("filename") or row["id"],
        "ended_at": next((row[f"{status}_at"] for status in ENDED if row[f"{status}_at"]), None),
    }


def _priority(text: str) -> int:
    try:
        return int(text or 0)
    except ValueError:
        raise ApiError(400, "Invalid 'priority': expected a whole number from -100 to 100.") from None
