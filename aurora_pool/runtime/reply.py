"""One reply as it comes over HTTP: its body within bounds, what its status means, and no secrets in its errors."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Self, TypeAlias, TypeVar

import aiohttp
from yarl import URL

from aurora_pool.errors import BadReply, ConnectionLost, PoolError, ServerError
from aurora_pool.runtime.unpacking import unpacker
from aurora_pool.wire.bounds import ERROR_BODY, OTHER_BODY, SPARE
from aurora_pool.wire.errors import parse_error, redirected, retry_after, shortened, should_retry

AnyError = TypeVar("AnyError", bound=PoolError)

Limit: TypeAlias = int | Callable[[], int]
"""How many bytes a body may have; where that takes some work, what works it out once there are :data:`SPARE`."""


class Reply:
    """One reply: ``status`` and ``headers`` are here, the body comes on demand.

    It is a context: leaving it before the body has ended closes the connection, and the server aborts what it does.
    """

    __slots__ = ("_loop", "_response", "_secrets", "headers", "read_at", "status")

    def __init__(self, response: aiohttp.ClientResponse, secrets: Sequence[str] = ()) -> None:
        self._response = response
        self._secrets = secrets
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._loop = asyncio.get_running_loop()
        self.read_at = self._loop.time()
        """When the last bytes came."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is a stream of server-sent events."""
        return self.headers.get("Content-Type", "").lower().startswith("text/event-stream")

    async def read(self, limit: int = OTHER_BODY) -> bytes:
        """The whole body, of at most ``limit`` bytes. Raises :class:`ConnectionLost` and :class:`BadReply`."""
        return b"".join([chunk async for chunk in self.chunks(limit)])

    def chunks(self, limit: Limit) -> AsyncIterator[bytes]:
        """The body as it comes, in pieces of any size. Raises :class:`ConnectionLost` and :class:`BadReply`."""
        unpack = unpacker(self.headers.get("Content-Encoding", ""))
        if unpack is None:
            return _Pieces(self, limit)
        limit = limit if isinstance(limit, int) else limit()
        return _unpacked(_Pieces(self, limit), unpack, limit)

    async def piece(self) -> bytes:
        """What comes next of the body, as it is sent; empty at its end. Raises :class:`ConnectionLost`."""
        try:
            piece = await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            lost = words(error)
        else:
            self.read_at = self._loop.time()
            return piece
        raise ConnectionLost(lost, received=True)  # not from aiohttp's own, which shows the headers of the request

    @property
    def ended(self) -> bool:
        """Whether the body has come to its end, and all of it is read; it may still turn out that it has."""
        content = self._response.content
        return content.at_eof() and content.exception() is None

    async def start(self) -> bytes:
        """As much of the body as an error may have, without the agent's own key. Raises :class:`ConnectionLost`."""
        start = b""
        async for chunk in self.chunks(sys.maxsize):
            start += chunk
            if len(start) >= ERROR_BODY:
                break
        return self.without_secret(start[:ERROR_BODY])

    def open_headers(self) -> Mapping[str, str]:
        """The headers for anybody to see: without the agent's own key, should the server have repeated it."""
        if not any(secret in value for secret in self._secrets for value in self.headers.values()):
            return self.headers
        return {name: self.without_secret(value.encode()).decode() for name, value in self.headers.items()}

    def without_secret(self, content: bytes) -> bytes:
        """Bytes without the agent's own key, should the server have repeated it."""
        for secret in self._secrets:
            content = content.replace(secret.encode(), b"***")
        return content

    async def error(self, start: bytes | None = None) -> ServerError:
        """What a status other than 200 means; ``start`` is the start of the body where it has been read already."""
        if 300 <= self.status < 400:
            return redirected(self.status, _origin(self._response.url, self.headers.get("Location", "")))
        error = parse_error(self.status, await self.start() if start is None else start)
        error.retry_after = retry_after(self.headers, datetime.now(UTC))
        error.should_retry = should_retry(self.headers)
        return error

    def redacted(self, error: AnyError) -> AnyError:
        """An error without the agent's own key, should the server have repeated it."""
        for secret in self._secrets:
            if secret in str(error):
                error.args = tuple(a.replace(secret, "***") if isinstance(a, str) else a for a in error.args)
                if isinstance(error, ServerError):
                    error.message = error.message.replace(secret, "***")
                error.__cause__ = error.__context__ = None
        return error


class _Pieces:
    """Iterates over a body as it comes. A generator would cost several times as much, for each reply."""

    __slots__ = ("_left", "_limit", "_reply")

    def __init__(self, reply: Reply, limit: Limit) -> None:
        self._reply = reply
        self._limit = limit
        self._left = limit if isinstance(limit, int) else SPARE

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._reply.ended or not (piece := await self._reply.piece()):
            raise StopAsyncIteration
        self._left -= len(piece)
        if self._left < 0:
            if not isinstance(self._limit, int):
                self._limit = self._limit()
                self._left += self._limit - SPARE
            if self._left < 0:
                raise _too_large(self._limit)
        return piece


async def _unpacked(
    pieces: AsyncIterator[bytes], unpack: Callable[[bytes], Iterator[bytes]], limit: int
) -> AsyncIterator[bytes]:
    """Unpack a body that comes compressed. ``limit`` is for what comes of it."""
    left = limit
    async for packed in pieces:
        for chunk in unpack(packed):
            left -= len(chunk)
            if left < 0:
                raise _too_large(limit)
            yield chunk
            await asyncio.sleep(0)  # one read may unpack to a thousand times its size: others want their turn


def _too_large(limit: int) -> BadReply:
    return BadReply(f"a reply of more than {limit} bytes, far more than was asked for")


def _origin(asked: URL, location: str) -> str | None:
    """Where a redirect leads, without path and secrets."""
    try:
        return str(asked.join(URL(location)).origin())
    except ValueError:
        return None


def words(error: BaseException) -> str:
    """What happened, in words without objects' representations, which could show headers."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"can't connect ({error.os_error.strerror or error.os_error})"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server closed the connection"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the connection broke in the middle of the reply"
    if isinstance(error, TimeoutError):
        return "can't connect in time"
    if isinstance(error, aiohttp.ClientResponseError):
        return "the reply is no HTTP"
    return shortened(str(error), 200) or type(error).__name__
