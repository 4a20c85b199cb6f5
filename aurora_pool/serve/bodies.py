"""Bodies of requests, from clients that may be slow."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from aurora_pool.serve.errors import too_slow

READ_TIMEOUT = web.AppKey("read_timeout", float)
"""Where the application keeps how many seconds a client may send nothing."""
SLOWEST = 16 * 1024
"""Bytes of a body for each of which that many a client has a second more."""


async def read_body(request: web.Request) -> bytes:
    """Read the whole body.

    A client has ``READ_TIMEOUT`` seconds for it, and one more for each 16 KiB that have come: one that sends a byte now
    and then gains nothing. Raises :class:`~aurora_pool.serve.errors.ApiError` (408) after that.
    """
    content = request.content
    if content.is_eof():
        return await request.read()  # all of it is there, as is most often so: no clock is needed
    limit = request.client_max_size
    body = bytearray()
    try:
        async with asyncio.timeout(request.app[READ_TIMEOUT]) as clock:
            until = clock.when() or 0.0
            while chunk := await content.readany():
                body += chunk
                if 0 < limit < len(body):
                    raise web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=len(body))
                clock.reschedule(until + len(body) / SLOWEST)
    except TimeoutError:
        raise too_slow() from None
    return bytes(body)


async def read_form(request: web.Request) -> Mapping[str, Any]:
    """Read a short form, within ``READ_TIMEOUT`` seconds. Raises :class:`~aurora_pool.serve.errors.ApiError` (408)."""
    try:
        async with asyncio.timeout(request.app[READ_TIMEOUT]):
            return await request.post()
    except TimeoutError:
        raise too_slow() from None
