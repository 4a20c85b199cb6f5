"""The openai package's own client over a pool: code written for it runs on a fleet unchanged.

>>> client = pool.openai_client()  # doctest: +SKIP
>>> await client.chat.completions.create(model=pool.model, messages=[...])  # doctest: +SKIP

The client is a plain ``openai.AsyncOpenAI``; only its HTTP transport is the pool. :mod:`aurora_pool.runtime.forward`
tells what is retried and what is handed on. What the pool gives up on is answered as HTTP 503, which the client raises
as ``openai.InternalServerError``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx2
import openai

from aurora_pool.errors import NoAgentsError, PoolError
from aurora_pool.runtime.forward import HOP_HEADERS, OWN_HEADERS, ForwardedReply, Forwarder

__all__ = ["PoolTransport", "make_client"]


def make_client(forwarder: Forwarder) -> openai.AsyncOpenAI:
    """Make a client whose requests go to the agents of a pool. It keeps nothing open: the pool does, and is closed.

    >>> client = make_client(pool.by_tag("tier", "large").forwarder())  # doctest: +SKIP
    """
    return openai.AsyncOpenAI(
        base_url="http://pool/v1",
        api_key="of-the-agents",  # each agent's own key is added where its request is sent
        max_retries=0,  # the pool retries, and elsewhere
        http_client=httpx2.AsyncClient(transport=PoolTransport(forwarder)),
    )


class PoolTransport(httpx2.AsyncBaseTransport):
    """Sends the requests of an httpx2 client to the agents of a pool."""

    def __init__(self, forwarder: Forwarder) -> None:
        self._forwarder = forwarder

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer one request from whichever agent gets it."""
        try:
            await self._forwarder.start()
        except NoAgentsError as error:
            raise httpx2.ConnectError(str(error), request=request) from error
        body = await request.aread()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in OWN_HEADERS}
        path = request.url.raw_path.decode("ascii")
        read_within = (request.extensions.get("timeout") or {}).get("read")
        try:
            async with asyncio.timeout(read_within):
                reply = await self._forwarder.send(request.method, path, headers, body or None)
        except TimeoutError as error:
            raise httpx2.ReadTimeout(f"no reply within {read_within:g} s", request=request) from error
        except PoolError as error:
            raise httpx2.ConnectError(str(error), request=request) from error
        kept = [(name, value) for name, value in reply.headers.items() if name.lower() not in HOP_HEADERS]
        return httpx2.Response(reply.status, headers=kept, stream=_Body(reply, read_within), request=request)


class _Body(httpx2.AsyncByteStream):
    """The body of a reply, read from an agent as the client takes it."""

    def __init__(self, reply: ForwardedReply, read_within: float | None) -> None:
        self._reply = reply
        self._read_within = read_within

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = aiter(self._reply.chunks())
        while True:
            try:
                async with asyncio.timeout(self._read_within):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise httpx2.ReadTimeout(f"no more of the reply within {self._read_within:g} s") from error
            except PoolError as error:
                raise httpx2.RemoteProtocolError(str(error)) from error
            yield chunk

    async def aclose(self) -> None:
        """Stop the request where it has not ended."""
        self._reply.close()
