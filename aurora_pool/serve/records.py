"""The records of a batch, for people to read: searched, counted by cause of failure, and one in full."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from aurora_pool.serve.blobs import Blobs, read_file
from aurora_pool.serve.errors import not_found
from aurora_pool.serve.folders import BatchFolders

SHOWN = 50
SCAN_LIMIT = 64 << 20
"""Bytes that one search reads; the next page goes on from there."""
_LONGEST = 64 << 20
_REMEMBERED = 256
_ANSWERED = b'"error":null'


class _Error(msgspec.Struct, gc=False):
    code: str | int | None = None
    message: str | None = None


class _Response(msgspec.Struct, gc=False):
    status_code: int = 0
    body: Any = None


class _Record(msgspec.Struct, gc=False):
    custom_id: str = ""
    response: _Response | None = None
    error: _Error | None = None


_decode = msgspec.json.Decoder(_Record).decode


class Found(msgspec.Struct, frozen=True):
    """A record that a search found: where it lies, and the beginning of what it says."""

    place: str
    offset: int
    custom_id: str
    cause: str | None
    text: str


class Page(msgspec.Struct, frozen=True):
    """What a search found, and where the next page begins: None at the end."""

    found: list[Found]
    next_place: str | None = None
    next_offset: int = 0


class BatchRecords:
    """Reads the journal of a batch that runs, and the output and error files of one that has ended."""

    def __init__(self, folders: BatchFolders, blobs: Blobs) -> None:
        self._folders = folders
        self._blobs = blobs
        self._counting = asyncio.Lock()
        self._counted: OrderedDict[tuple[str, str], tuple[int, Counter[str]]] = OrderedDict()

    async def search(self, row: Mapping[Any, Any], text: str, *, failed: bool, place: str, offset: int) -> Page:
        """Find records that contain ``text``, whatever its case; with ``failed``, only those without an answer."""
        needle = json.dumps(text, ensure_ascii=False)[1:-1].lower().encode(errors="replace")
        places = self._places(row, failed=failed)
        found: list[Found] = []
        left = SCAN_LIMIT
        for current in places[places.index(place) if place in places else 0 :]:
            at = offset if current == place else 0
            async with aclosing(self._lines(row, current, at)) as lines:  # type: ignore[type-var]
                async for start, line in lines:
                    if len(found) >= SHOWN or left <= 0:
                        return Page(found, current, start)
                    left -= len(line)
                    if failed and current == "journal" and _ANSWERED in line and _cause(line) is None:
                        continue
                    if needle in line.lower():
                        found.append(_describe(current, start, line))
        return Page(found)

    async def one(self, row: Mapping[Any, Any], place: str, offset: int) -> Any:
        """Give one record. Raises :class:`ApiError` (404) where there is none."""
        if place in self._places(row, failed=False):
            async with aclosing(self._lines(row, place, offset)) as lines:  # type: ignore[type-var]
                async for _, line in lines:
                    try:
                        return msgspec.json.decode(line)
                    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                        break
        raise not_found("Record", f"{place}-{offset}")

    async def causes(self, row: Mapping[Any, Any]) -> list[tuple[str, int]]:
        """Count the failures by cause, the most frequent first; of a long journal, as far as it was read by now."""
        async with self._counting:
            total: Counter[str] = Counter()
            for place in self._places(row, failed=True):
                total += await self._count(row, place)
        return total.most_common()

    async def _count(self, row: Mapping[Any, Any], place: str) -> Counter[str]:
        key = (row["id"], f"{place}-{row['epoch']}")
        at, counts = self._counted.pop(key, (0, Counter()))
        end = at + SCAN_LIMIT
        async with aclosing(self._lines(row, place, at)) as lines:  # type: ignore[type-var]
            async for start, line in lines:
                if start >= end:
                    break
                at = start + len(line) + 1
                if place == "journal" and _ANSWERED in line and b'"status_code":200' in line:
                    continue
                if (cause := _cause(line)) is not None:
                    counts[cause] += 1
        self._counted[key] = (at, counts)
        while len(self._counted) > _REMEMBERED:
            self._counted.popitem(last=False)
        return counts

    def _places(self, row: Mapping[Any, Any], *, failed: bool) -> list[str]:
        """Name where records lie, failed ones first."""
        if row["output_file_id"] is None and row["error_file_id"] is None:
            return ["journal"]
        names = ["error"] if failed else ["error", "output"]
        return [name for name in names if row[f"{name}_file_id"] is not None]

    async def _lines(self, row: Mapping[Any, Any], place: str, start: int) -> AsyncIterator[tuple[int, bytes]]:
        """Give whole lines and their offsets, from an offset on."""
        try:
            if place == "journal":
                path, size = await self._folders.journal_so_far(row["id"])
                if path is None:
                    return
                chunks = read_file(path, start=start, end=size)
            else:
                chunks = self._blobs.chunks(row[f"{place}_file_id"], start)
            rest = b""
            async with aclosing(chunks) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in lines:
                        yield start, line
                        start += len(line) + 1
                    if len(rest) > _LONGEST:
                        return
        except FileNotFoundError:
            return  # the file has expired, or the batch has just ended


def _cause(line: bytes) -> str | None:
    """Say why a request has no answer; None for one that has."""
    try:
        record = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "unreadable"
    return _cause_of(record)


def _cause_of(record: _Record) -> str | None:
    if record.error is not None:
        return str(record.error.code or "error")
    status = 0 if record.response is None else record.response.status_code
    return None if status == 200 else f"HTTP {status}"


def _describe(place: str, offset: int, line: bytes) -> Found:
    try:
        record = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Found(place, offset, "", "unreadable", line[:200].decode(errors="replace"))
    body = None if record.response is None else record.response.body
    text = record.error.message if record.error is not None else answer_text(body)
    return Found(place, offset, record.custom_id, _cause_of(record), (text or "")[:300])


def answer_text(body: Any) -> str:
    """Give the text of a reply's body: the first choice's, or the body itself where there is none."""
    try:
        choice = body["choices"][0]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
    except (KeyError, IndexError, TypeError):
        text = None
    return text if isinstance(text, str) else json.dumps(body, ensure_ascii=False)[:2000]
