"""The Files API: upload, list, retrieve, content, delete."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError
from sqlalchemy import RowMapping, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from aurora_pool.serve.access import caller_of
from aurora_pool.serve.blobs import CHUNK, Blobs
from aurora_pool.serve.described import TEXT, described, limit, page_of
from aurora_pool.serve.errors import bad_request, not_found, too_large, too_slow
from aurora_pool.serve.http_json import encode_reply, new_id, page, query_choice, query_int, read_page
from aurora_pool.serve.options import ServerOptions
from aurora_pool.serve.replies import send_chunks
from aurora_pool.serve.storage import Storage
from aurora_pool.serve.tables import files

PURPOSES = ("batch",)
DAY = 86_400
SHORTEST, LONGEST = 3600, 30 * DAY
"""Seconds after which a file may be made to expire."""

_FIELD_LIMIT = 4096
_EXPIRES = re.compile(r"expires_after\[(anchor|seconds)\]")


_UPLOAD = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"enum": list(PURPOSES)},
        "expires_after[anchor]": {"const": "created_at"},
        "expires_after[seconds]": {"type": "integer", "minimum": SHORTEST, "maximum": LONGEST},
    },
}
_PAGE = {"after": TEXT, "limit": limit(10_000), "order": {"enum": ["asc", "desc"]}, "purpose": TEXT}


class FilesApi:
    """The handlers; contents are streamed in and out."""

    def __init__(self, storage: Storage, blobs: Blobs, incoming: Path, options: ServerOptions) -> None:
        self._storage = storage
        self._blobs = blobs
        self._incoming = incoming
        self._options = options
        incoming.mkdir(parents=True, exist_ok=True)
        for left in incoming.iterdir():
            if left.stat().st_mtime < time.time() - DAY:  # of uploads that a kill has ended
                left.unlink(missing_ok=True)

    def routes(self) -> list[web.RouteDef]:
        """Where the handlers are reached."""
        return [
            web.post("/v1/files", self.create),
            web.get("/v1/files", self.list, allow_head=False),
            web.get("/v1/files/{file_id}", self.retrieve, allow_head=False),
            web.get("/v1/files/{file_id}/content", self.content, allow_head=False),
            web.delete("/v1/files/{file_id}", self.delete),
        ]

    @described(body=_UPLOAD, body_type="multipart/form-data", reply="types:FileObject")
    async def create(self, request: web.Request) -> web.Response:
        """Upload a file, as multipart with ``file`` and ``purpose``, and ``expires_after[seconds]`` if need be."""
        values, _ = await self.receive(request)
        return encode_reply(file_object(values))

    async def receive(self, request: web.Request) -> tuple[dict[str, Any], dict[str, str]]:
        """Take an upload; return the file's row, and the form's fields."""
        caller = caller_of(request)
        file_id = new_id("file-")
        target = self._incoming / file_id
        try:
            fields, filename, size = await self._receive(request, target)
            if filename is None:
                raise bad_request("Missing required parameter: 'file'.", param="file")
            purpose = fields.get("purpose")
            if purpose is None:
                raise bad_request("Missing required parameter: 'purpose'.", param="purpose")
            if purpose not in PURPOSES:
                raise bad_request(f"Invalid 'purpose': expected 'batch', got {purpose[:40]!r}.", param="purpose")
            now = int(time.time())
            values = {
                "id": file_id,
                "user": caller.user,
                "filename": filename,
                "purpose": purpose,
                "bytes": size,
                "created_at": now,
                "expires_at": now + self._lifetime(fields),
            }
            await self._blobs.put(file_id, target)
        finally:
            target.unlink(missing_ok=True)
        try:
            async with self._storage.write() as connection:
                await connection.execute(insert(files).values(values))
        except BaseException:
            with suppress(OSError):
                await self._blobs.delete(file_id)  # nobody would ever ask for it
            raise
        return values, fields

    @described(query=_PAGE, reply=page_of("types:FileObject"))
    async def list(self, request: web.Request) -> web.Response:
        """List the caller's files."""
        limit = query_int(request, "limit", 10_000, least=1, most=10_000)
        ascending = query_choice(request, "order", ("asc", "desc"), "desc") == "asc"
        user, after = caller_of(request).user, request.query.get("after")
        chosen = select(files)
        if "purpose" in request.query:
            chosen = chosen.where(files.c.purpose == request.query["purpose"])
        async with self._storage.read() as connection:
            rows, more = await read_page(
                connection, files, chosen, user=user, after=after, limit=limit, ascending=ascending
            )
        return encode_reply(page([file_object(row) for row in rows], has_more=more))

    @described(reply="types:FileObject")
    async def retrieve(self, request: web.Request) -> web.Response:
        """Describe a file."""
        return encode_reply(file_object(await self._found(request)))

    @described(reply_types=("application/jsonl", "application/octet-stream"))
    async def content(self, request: web.Request) -> web.StreamResponse:
        """Download a file."""
        row = await self._found(request)
        try:
            return await send_chunks(request, self._blobs.chunks(row["id"]), row["bytes"], self._options.write_timeout)
        except FileNotFoundError:
            raise not_found("File", row["id"]) from None

    @described(reply="types:FileDeleted")
    async def delete(self, request: web.Request) -> web.Response:
        """Delete a file. A batch that runs on it has its own hold of the content."""
        async with self._storage.read() as connection:
            row = await find_file(connection, request.match_info["file_id"], caller_of(request).user)
        await self._drop(row["id"])
        return encode_reply({"id": row["id"], "object": "file", "deleted": True})

    async def sweep(self) -> int:
        """Delete what has expired; return how many files."""
        chosen = select(files.c.id).where(files.c.expires_at <= int(time.time())).limit(1000)
        async with self._storage.read() as connection:
            names = (await connection.execute(chosen)).scalars().all()
        for name in names:
            await self._drop(name)
        return len(names)

    async def _drop(self, file_id: str) -> None:
        """Delete the content before the row: where that fails the row is left, and it is deleted another time."""
        await self._blobs.delete(file_id)
        async with self._storage.write() as connection:
            await connection.execute(delete(files).where(files.c.id == file_id))

    async def _found(self, request: web.Request) -> RowMapping:
        async with self._storage.read() as connection:
            caller = caller_of(request)
            return await find_file(connection, request.match_info["file_id"], None if caller.admin else caller.user)

    async def _receive(self, request: web.Request, target: Path) -> tuple[dict[str, str], str | None, int]:
        """Read the parts: the file to the disk, the rest into memory."""
        if not request.content_type.startswith("multipart/form-data"):
            raise bad_request("Expected a multipart/form-data body with the fields 'file' and 'purpose'.")
        fields: dict[str, str] = {}
        filename: str | None = None
        size = 0
        try:
            parts: MultipartReader = await request.multipart()
            while (part := await self._within(parts.next())) is not None:
                if not isinstance(part, BodyPartReader) or part.name is None or len(fields) > 16:
                    raise bad_request("Expected a multipart/form-data body with the fields 'file' and 'purpose'.")
                if part.name == "file":
                    if filename is not None:
                        raise bad_request("Expected one file.", param="file")
                    filename = Path(part.filename or "file").name[:255] or "file"
                    size = await self._save(part, target)
                else:
                    fields[part.name] = await self._text(part)
        except (ValueError, AssertionError, EOFError, HttpProcessingError) as error:
            raise bad_request(f"The multipart body could not be read: {error}") from None
        return fields, filename, size

    async def _save(self, part: BodyPartReader, target: Path) -> int:
        limit = self._options.upload_bytes
        size = 0
        pieces: list[bytes] = []
        held = 0
        with target.open("wb") as file:
            while chunk := await self._within(part.read_chunk(1 << 16)):
                size += len(chunk)
                if size > limit:
                    raise too_large(limit)
                pieces.append(chunk)
                held += len(chunk)
                if held >= CHUNK:
                    # In a thread: a busy disk takes seconds, and everybody else waits for the event loop.
                    await asyncio.to_thread(file.writelines, pieces)
                    pieces, held = [], 0
            await asyncio.to_thread(file.writelines, pieces)
        return size

    async def _text(self, part: BodyPartReader) -> str:
        content = b""
        while chunk := await self._within(part.read_chunk(_FIELD_LIMIT)):
            content += chunk
            if len(content) > _FIELD_LIMIT:
                raise bad_request(f"The field '{part.name}' is too long.", param=part.name)
        return content.decode(errors="replace")

    async def _within(self, waiting: Any) -> Any:
        try:
            async with asyncio.timeout(self._options.read_timeout):
                return await waiting
        except TimeoutError:
            raise too_slow() from None

    def _lifetime(self, fields: Mapping[str, str]) -> int:
        given = {match[1]: text for name, text in fields.items() if (match := _EXPIRES.fullmatch(name))}
        if not given:
            return int(self._options.file_days * DAY)
        if given.get("anchor") != "created_at":
            raise bad_request("Invalid 'expires_after[anchor]': expected 'created_at'.", param="expires_after[anchor]")
        seconds = given.get("seconds", "")
        if not re.fullmatch(r"\d{1,9}", seconds, re.ASCII) or not SHORTEST <= int(seconds) <= LONGEST:
            raise bad_request(
                f"Invalid 'expires_after[seconds]': expected a whole number from {SHORTEST} to {LONGEST}.",
                param="expires_after[seconds]",
            )
        return int(seconds)


async def find_file(connection: AsyncConnection, file_id: str, user: str | None) -> RowMapping:
    """Give a user's file; a ``user`` of None is anybody.

    Raises :class:`ApiError` (404) where there is none, or it has expired.
    """
    chosen = select(files).where(files.c.id == file_id)
    if user is not None:
        chosen = chosen.where(files.c.user == user)
    row = (await connection.execute(chosen)).mappings().one_or_none()
    if row is None or (row["expires_at"] is not None and row["expires_at"] <= time.time()):
        raise not_found("File", file_id)
    return row


def file_object(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Write a file as the API shows it."""
    return {
        "id": row["id"],
        "object": "file",
        "bytes": row["bytes"],
        "created_at": row["created_at"],
        "expires_at": row["expires_at"],
        "filename": row["filename"],
        "purpose": row["purpose"],
        "status": "processed",
        "status_details": None,
    }
