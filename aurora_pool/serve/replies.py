"""Replies that are streamed, to clients that may be slow or gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from aiohttp import web

UNHURRIED = 32 * 1024
"""Bytes that a connection takes without being waited for; the event loop's own mark is 64 KiB."""


class SlowClient(ConnectionError):
    """A client does not take what is sent to it."""


async def write_within(request: web.Request, response: web.StreamResponse, data: bytes, limit: float) -> None:
    """Write a piece of a body. Raises :class:`SlowClient` if the client does not take it in time."""
    transport = request.transport
    if transport is not None and transport.get_write_buffer_size() + len(data) < UNHURRIED:
        await response.write(data)  # it does not wait, so it needs no clock: that is a fifth of the cost of an event
        return
    try:
        async with asyncio.timeout(limit):
            await response.write(data)
    except TimeoutError:
        raise SlowClient(f"the client took nothing for {limit:g} s") from None


async def send_chunks(
    request: web.Request, chunks: AsyncIterator[bytes], size: int, limit: float
) -> web.StreamResponse:
    """Send a file of JSON Lines of a known size. Raises what ``chunks`` raises before its first piece."""
    response = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
    response.content_length = size
    async with aclosing(chunks) as pieces:  # type: ignore[type-var]
        first = await anext(aiter(pieces), b"")
        await response.prepare(request)
        try:
            await write_within(request, response, first, limit)
            async for piece in pieces:
                await write_within(request, response, piece, limit)
        except SlowClient:
            response.force_close()
            if request.transport is not None:
                request.transport.abort()
            return response
    await response.write_eof()
    return response
