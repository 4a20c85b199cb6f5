"""The openai package's own client over a pool: code written for it runs on a fleet unchanged.

>>> client = pool.openai_client()  # doctest: +SKIP
>>> await client.chat.completions.create(model=pool.model, messages=[...])  # doctest: +SKIP

The client is a plain ``openai.AsyncOpenAI``; only its HTTP transport is the pool. Each of its requests is one credit
of one agent; connection failures, busy and broken agents are retried elsewhere until the first byte of a reply has
come. A reply that says the request is at fault (400, 404, ...) reaches the client as it is, and so do all streams.
What the pool gives up on is answered as HTTP 503, which the client raises as ``openai.InternalServerError``.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import httpx2
import msgspec
import openai

from aurora_pool.errors import NoAgentsError, PoolError, ServerError, TransportError
from aurora_pool.messages import Response, Usage
from aurora_pool.policy.outcome import Outcome, classify
from aurora_pool.policy.queues import PromptQueue
from aurora_pool.policy.work import InFlightRequest, WorkItem
from aurora_pool.runtime.driver import Driver
from aurora_pool.runtime.exchange import Exchanges
from aurora_pool.runtime.transport import Reply
from aurora_pool.wire.errors import parse_error

__all__ = ["PoolTransport", "make_client"]

_OWN_HEADERS = frozenset(
    {"host", "authorization", "content-length", "connection", "accept-encoding", "transfer-encoding"}
)
_HOP_HEADERS = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding"})
_CHUNKS_AHEAD = 16


def make_client(driver: Driver, queue: PromptQueue, start: Callable[[], Awaitable[None]]) -> openai.AsyncOpenAI:
    """Make a client whose requests go to the agents of a queue. It keeps nothing open: the pool does, and is closed."""
    return openai.AsyncOpenAI(
        base_url="http://pool/v1",
        api_key="of-the-agents",  # each agent's own key is added where its request is sent
        max_retries=0,  # the pool retries, and elsewhere
        http_client=httpx2.AsyncClient(transport=PoolTransport(driver, queue, start)),
    )


class PoolTransport(httpx2.AsyncBaseTransport):
    """Sends the requests of an httpx2 client to the agents of a pool."""

    def __init__(self, driver: Driver, queue: PromptQueue, start: Callable[[], Awaitable[None]]) -> None:
        self._driver = driver
        self._queue = queue
        self._start = start
        self._turns = itertools.count()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer one request from whichever agent gets it."""
        try:
            await self._start()
        except NoAgentsError as error:
            raise httpx2.ConnectError(str(error), request=request) from error
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OWN_HEADERS}
        body = await request.aread()
        path = request.url.raw_path.decode("ascii")
        forward = _Forward(request.method, path, headers, body or None)
        turn = next(self._turns) % max(1, len(self._queue.view.members))
        item = WorkItem(self._queue, turn, forward, None, limit=1)
        self._driver.calls.add(forward)
        self._driver.admit([item])
        read_within = (request.extensions.get("timeout") or {}).get("read")
        stream = _Body(forward, self._driver, item, read_within)
        try:
            async with asyncio.timeout(read_within):
                status, reply_headers = await forward.head
        except TimeoutError as error:
            await stream.aclose()
            raise httpx2.ReadTimeout(f"no reply within {read_within:g} s", request=request) from error
        except PoolError as error:
            await stream.aclose()
            raise httpx2.ConnectError(str(error), request=request) from error
        except BaseException:
            await stream.aclose()
            raise
        return httpx2.Response(status, headers=reply_headers, stream=stream, request=request)


class _Forward:
    """One request as the client wrote it; its reply is handed on as it comes. It is its own sink."""

    __slots__ = ("_body", "chunks", "head", "headers", "method", "path")

    limit = 1
    streams = False

    def __init__(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self._body = body
        self.head: asyncio.Future[tuple[int, list[tuple[str, str]]]] = asyncio.get_running_loop().create_future()
        self.chunks: asyncio.Queue[bytes | PoolError | None] = asyncio.Queue(_CHUNKS_AHEAD)

    @property
    def sink(self) -> _Forward:
        return self

    def encode(self, items: Sequence[WorkItem], *, stream: bool) -> bytes | None:
        return self._body

    async def receive(self, reply: Reply, request: InFlightRequest, exchanges: Exchanges) -> None:
        if reply.status >= 400:
            content = await reply.read()
            error = parse_error(reply.status, content)
            if not _is_the_clients(error):
                raise error
            self._begin(reply)
            await self.chunks.put(content)
        else:
            self._begin(reply)
            try:
                async for chunk in reply.chunks():
                    exchanges.progress(request)
                    await self.chunks.put(chunk)
            except TransportError as error:
                exchanges.detach(request)
                await self.chunks.put(error)
                raise
        exchanges.answered(request)
        await self.chunks.put(None)

    def _begin(self, reply: Reply) -> None:
        headers = [(name, value) for name, value in reply.headers.items() if name.lower() not in _HOP_HEADERS]
        if not self.head.done():
            self.head.set_result((reply.status, headers))

    def deliver(self, results: Sequence[tuple[int, Response]]) -> None:
        """Record that the pool has given up."""
        ((_, response),) = results
        if not self.head.done():
            problem = {"message": response.error, "type": response.error_kind, "param": None, "code": 503}
            self.head.set_result((503, [("content-type", "application/json")]))
            self.chunks.put_nowait(msgspec.json.encode({"error": problem}))
            self.chunks.put_nowait(None)

    def fail(self, error: BaseException) -> None:
        """Record that there will be no more, because of a defect or because the pool was closed."""
        if not self.head.done():
            self.head.set_exception(error)
            return
        while not self.chunks.empty():
            self.chunks.get_nowait()
        self.chunks.put_nowait(error if isinstance(error, PoolError) else PoolError(repr(error)))

    def agent_index(self, agent: int | None) -> int | None:
        return agent

    def calibrate(self, item: WorkItem, usage: Usage) -> None:
        """Nothing."""

    def fit_max_tokens(self, items: Sequence[WorkItem], error: ServerError) -> bool:
        """Nothing: the request is the client's."""
        return False


class _Body(httpx2.AsyncByteStream):
    """The body of a reply, read from an agent as the client takes it."""

    def __init__(self, forward: _Forward, driver: Driver, item: WorkItem, read_within: float | None) -> None:
        self._forward = forward
        self._driver = driver
        self._item = item
        self._read_within = read_within

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(self._read_within):
                    chunk = await self._forward.chunks.get()
            except TimeoutError as error:
                raise httpx2.ReadTimeout(f"no more of the reply within {self._read_within:g} s") from error
            if chunk is None:
                return
            if isinstance(chunk, PoolError):
                raise httpx2.RemoteProtocolError(str(chunk)) from chunk
            yield chunk

    async def aclose(self) -> None:
        """Stop the request where it has not ended."""
        self._driver.calls.discard(self._forward)
        self._driver.withdraw([self._item])


def _is_the_clients(error: ServerError) -> bool:
    """Whether an error reply belongs to the client: what another agent would say as well."""
    return classify(error, 1) is Outcome.PROMPT_REJECTED or error.status in (404, 405, 501)
