"""Requests as a client wrote them: sent to whichever agent gets them, their replies handed on as they come.

Each is one credit of one agent. Connection failures, busy and broken agents are retried elsewhere until the first byte
of a reply has come. A reply that says that the request is at fault (400, 404, ...) is handed on unchanged, and so is
everything after the first byte. What the pool gives up on is answered as HTTP 503.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import msgspec

from aurora_pool.errors import PoolError, ServerError
from aurora_pool.messages import Response, Usage
from aurora_pool.policy.outcome import Outcome, classify
from aurora_pool.policy.queues import PromptQueue
from aurora_pool.policy.work import InFlightRequest, WorkItem

if TYPE_CHECKING:
    from aurora_pool.policy.agent import AgentState
    from aurora_pool.runtime.driver import Driver
    from aurora_pool.runtime.exchange import Exchanges
    from aurora_pool.runtime.reply import Reply

OWN_HEADERS = frozenset(
    {"host", "authorization", "content-length", "connection", "accept-encoding", "keep-alive", "transfer-encoding"}
)
"""What each connection says for itself, and a client's request does not decide."""
HOP_HEADERS = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding"})
"""What a reply says of one connection only."""
ONLINE = -1
"""The priority of requests that somebody waits for: before batches."""
CHUNKS_AHEAD = 16
"""Pieces of a reply that wait at most for a slow client."""
SLOW_CLIENT = 2.0
"""Seconds between reports that a reply goes on as fast as its client takes it."""


class Forwarder:
    """Sends requests unchanged to the agents of a queue."""

    def __init__(self, driver: Driver, queue: Callable[[], PromptQueue], start: Callable[[], Awaitable[None]]) -> None:
        self._driver = driver
        self._queue = queue
        self.start = start
        """Starts the pool, as its first request does otherwise. Raises what :meth:`AgentPool.start` does."""
        self._turns = itertools.count()

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, *, priority: int = 0
    ) -> ForwardedReply:
        """Send a request; return the reply once its head is here. Close it in the end.

        ``headers`` go out unchanged: give none of :data:`OWN_HEADERS`. A lower ``priority`` is served before others, as
        that of calls is.

        Raises what the pool's start raises, and :class:`PoolError` where the pool is closed meanwhile.

        >>> with await forwarder.send("GET", "/v1/models", {}, None) as reply:  # doctest: +SKIP
        ...     content = await reply.read()
        """
        await self.start()
        forward = _Forward(method, path, headers, body)
        queue = self._queue().for_call(priority=priority)
        turn = next(self._turns) % max(1, len(queue.view.members))
        item = WorkItem(queue, turn, forward, None, limit=1)
        self._driver.calls.add(forward)
        self._driver.admit([item])
        reply = ForwardedReply(forward, self._driver, item)
        try:
            reply.status, reply.headers = await forward.head
        except BaseException:
            reply.close()
            raise
        return reply


class ForwardedReply:
    """An agent's reply. It is a context: leaving it before the body has ended stops the request at the agent too."""

    __slots__ = ("_driver", "_forward", "_item", "headers", "status")

    def __init__(self, forward: _Forward, driver: Driver, item: WorkItem) -> None:
        self._forward = forward
        self._driver = driver
        self._item = item
        self.status = 0
        self.headers: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is a stream of server-sent events."""
        return any(
            name.lower() == "content-type" and value.startswith("text/event-stream") for name, value in self.headers
        )

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises :class:`PoolError` where it breaks off."""
        get = self._forward.chunks.get
        while (chunk := await get()) is not None:
            if isinstance(chunk, PoolError):
                raise chunk
            yield chunk

    async def read(self) -> bytes:
        """The whole body. Raises :class:`PoolError` where it breaks off."""
        return b"".join([chunk async for chunk in self.chunks()])

    def close(self) -> None:
        """Stop the request where it has not ended."""
        self._driver.calls.discard(self._forward)
        if not self._item.done:
            self._driver.withdraw([self._item])


class _Forward:
    """One such request: a kind of request that no other prompt shares, and its own sink."""

    __slots__ = ("_body", "_taken_by", "chunks", "fields", "head", "headers", "method", "path")

    limit = 1
    model = ""

    def __init__(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.fields: dict[str, Any] = {}
        self._body = body
        self._taken_by: InFlightRequest | None = None
        self.head: asyncio.Future[tuple[int, list[tuple[str, str]]]] = asyncio.get_running_loop().create_future()
        self.chunks: asyncio.Queue[bytes | PoolError | None] = asyncio.Queue(CHUNKS_AHEAD)

    @property
    def sink(self) -> _Forward:
        return self

    def interval(self, items: Sequence[WorkItem], agent: AgentState) -> int:
        """0: how it is streamed is the client's."""
        return 0

    def encode(self, items: Sequence[WorkItem], *, interval: int) -> bytes | None:
        return self._body

    async def receive(self, reply: Reply, request: InFlightRequest, exchanges: Exchanges) -> None:
        if not 200 <= reply.status < 300:
            content = await reply.start() if reply.status >= 400 else b""
            error = await reply.error(content)
            if not _is_the_clients(error):
                raise error
            if self._begin(reply, request):
                await self.chunks.put(content)
        else:
            async for chunk in reply.chunks(sys.maxsize):
                exchanges.progress(request)
                if self._taken_by is None:
                    exchanges.commit(request)
                if not self._begin(reply, request):
                    return  # another agent's reply has begun to reach the client
                await self._hand_on(chunk, request, exchanges)
            if not self._begin(reply, request):
                return
        exchanges.answered(request)
        await self.chunks.put(None)

    async def _hand_on(self, chunk: bytes, request: InFlightRequest, exchanges: Exchanges) -> None:
        while self.chunks.full():
            try:
                async with asyncio.timeout(SLOW_CLIENT):
                    await self.chunks.put(chunk)
                    return
            except TimeoutError:
                exchanges.progress(request)  # it is the client that takes nothing, and not the agent that is silent
        self.chunks.put_nowait(chunk)

    def _begin(self, reply: Reply, request: InFlightRequest) -> bool:
        """Hand on the head of a reply, unless another one's is."""
        if self._taken_by is None and not self.head.done():
            self._taken_by = request
            headers = [(name, value) for name, value in reply.headers.items() if name.lower() not in HOP_HEADERS]
            self.head.set_result((reply.status, headers))
        return self._taken_by is request

    def deliver(self, results: Sequence[tuple[int, Response]]) -> None:
        """Record that the pool has given up."""
        ((_, response),) = results
        if not self.head.done():
            problem = {"message": response.error, "type": response.error_kind, "param": None, "code": 503}
            self.head.set_result((503, [("Content-Type", "application/json")]))
            self.chunks.put_nowait(msgspec.json.encode({"error": problem}))
            self.chunks.put_nowait(None)
        elif self._taken_by is not None:
            self._end(PoolError(response.error or "the pool gave up"))

    def fail(self, error: BaseException) -> None:
        """Record that there will be no more, because of a defect or because the pool was closed."""
        if not self.head.done():
            self.head.set_exception(error)
        else:
            self._end(error if isinstance(error, PoolError) else PoolError(repr(error)))

    def _end(self, error: PoolError) -> None:
        while not self.chunks.empty():
            self.chunks.get_nowait()
        self.chunks.put_nowait(error)

    def agent_index(self, agent: int | None) -> int | None:
        return agent

    def calibrate(self, item: WorkItem, usage: Usage) -> None:
        """Nothing."""

    def fit_max_tokens(self, items: Sequence[WorkItem], error: ServerError) -> bool:
        """Nothing: the request is the client's."""
        return False


def _is_the_clients(error: ServerError) -> bool:
    """Whether an error reply belongs to the client: what another agent would say as well."""
    return classify(error, 1) is Outcome.PROMPT_REJECTED or error.status in (404, 405, 501)
