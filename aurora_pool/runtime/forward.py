"""Requests as a client wrote them: sent to whichever agent gets them, their replies handed on as they come.

Each is one credit of one agent. Connection failures, busy and broken agents are retried elsewhere until the first byte
of a reply has come. A reply that says that the request is at fault (400, 404, ...) is handed on unchanged, and so is
everything after the first byte. What the pool gives up on is answered as HTTP 503.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import msgspec

from aurora_pool.errors import PoolError, ServerError
from aurora_pool.messages import Response, Usage
from aurora_pool.policy.callers import Caller, PromptQueue
from aurora_pool.policy.outcome import Outcome, classify
from aurora_pool.policy.work import InFlightRequest, WorkItem
from aurora_pool.runtime.chunks import Chunks
from aurora_pool.wire.bounds import OTHER_BODY, bounds_of
from aurora_pool.wire.usage import STREAM_END, stream_usage_of, usage_of

if TYPE_CHECKING:
    from aurora_pool.policy.agent import AgentState
    from aurora_pool.runtime.fleet_runtime import FleetRuntime
    from aurora_pool.runtime.reply import Limit, Reply
    from aurora_pool.runtime.request_kinds import Reports

__all__ = ["HOP_HEADERS", "OWN_HEADERS", "ForwardedReply", "Forwarder"]

OWN_HEADERS = frozenset(
    {"host", "authorization", "content-length", "connection", "accept-encoding", "keep-alive", "transfer-encoding"}
)
"""Headers that each connection sets itself: a client's request does not decide them."""
HOP_HEADERS = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding"})
"""Headers of a reply that are about one connection only."""
ONLINE = -1
"""The priority of online requests: before batches."""
SLOW_CLIENT = 2.0
"""Seconds between reports that a reply goes on as fast as its client takes it."""

_Head: TypeAlias = tuple[int, Mapping[str, str], bytes | None]
"""A reply's status, headers, and whole body; None for a stream."""


class Forwarder:
    """Sends requests unchanged to the agents of a queue."""

    def __init__(
        self,
        runtime: FleetRuntime,
        queue: Callable[[], PromptQueue],
        start: Callable[[], Awaitable[None]],
        caller: Caller | None = None,
        otherwise: Forwarder | None = None,
    ) -> None:
        self._runtime = runtime
        self._otherwise = otherwise
        self._queue = queue
        self._caller = caller
        self._started = False
        self.start = start
        """Starts the pool, as its first request does otherwise. Raises what :meth:`AgentPool.start` does."""
        self._turns = itertools.count()

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, *, priority: int = 0
    ) -> ForwardedReply:
        """Send a request; return the reply once its head is here. Close it in the end.

        ``headers`` go out unchanged: give none of :data:`OWN_HEADERS`. A lower ``priority`` is served before others, as
        that of calls is; where all requests share one caller, it is that caller's that counts.

        Raises what the pool's start raises, and :class:`PoolError` where the pool is closed meanwhile.

        >>> with await forwarder.send("GET", "/v1/models", {}, None) as reply:  # doctest: +SKIP
        ...     content = await reply.read()
        """
        if not self._started or not self._runtime.is_open:
            await self.start()
            self._started = True
        forward = _Forward(method, path, headers, body)
        queue = self._queue().for_call(self._caller or Caller(priority=priority))
        if self._otherwise is not None:
            queue.patience = 0.0
        turn = next(self._turns) % max(1, len(queue.view.members))
        item = WorkItem(queue, turn, forward, None, limit=1)
        self._runtime.calls.add(forward)
        self._runtime.admit([item])
        reply = ForwardedReply(forward, self._runtime, item)
        try:
            reply.status, reply.headers, reply.content = await forward.head
        except BaseException:
            reply.close()
            raise
        if forward.given_up == "no_agents" and self._otherwise is not None:
            reply.close()
            return await self._otherwise.send(method, path, headers, body, priority=priority)
        return reply


class ForwardedReply:
    """An agent's reply. It is a context: leaving it before the body has ended stops the request at the agent too.

    ``headers`` are all that the agent sent; :data:`HOP_HEADERS` are for this connection only. ``content`` is the whole
    body, or None for a stream, whose pieces :meth:`chunks` gives as they come.
    """

    __slots__ = ("_forward", "_item", "_runtime", "content", "headers", "status")

    def __init__(self, forward: _Forward, runtime: FleetRuntime, item: WorkItem) -> None:
        self._forward = forward
        self._runtime = runtime
        self._item = item
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.content: bytes | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def usage(self) -> Usage | None:
        """The tokens that the reply tells of at its end; of a stream that tells none, or broke off, one an event."""
        return self._forward.usage

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes. Raises :class:`PoolError` where it breaks off."""
        if self.content is not None:
            yield self.content
            return
        get = self._forward.chunks.get
        while (chunk := await get()) is not None:
            if isinstance(chunk, PoolError):
                raise chunk
            yield chunk

    async def read(self) -> bytes:
        """Read the whole body. Raises :class:`PoolError` where it breaks off."""
        return b"".join([chunk async for chunk in self.chunks()]) if self.content is None else self.content

    def close(self) -> None:
        """Stop the request where it has not ended."""
        self._runtime.calls.discard(self._forward)
        if not self._item.done:
            self._runtime.withdraw([self._item])


class _Forward:
    """One such request: a kind of request that no other prompt shares, and its own sink."""

    __slots__ = (
        "_body",
        "_chunks",
        "_events",
        "_taken_by",
        "_usage",
        "fields",
        "given_up",
        "head",
        "headers",
        "method",
        "path",
    )

    limit = 1
    model = ""
    text_only = False

    def __init__(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.fields: dict[str, Any] = {}
        self._body = body
        self._usage: Usage | None = None
        self._events = 0
        self.given_up: str | None = None
        self._taken_by: InFlightRequest | None = None
        self.head: asyncio.Future[_Head] = asyncio.get_running_loop().create_future()
        self._chunks: Chunks | None = None

    @property
    def usage(self) -> Usage | None:
        return self._usage or (Usage(0, self._events) if self._events else None)

    @property
    def chunks(self) -> Chunks:
        """The pieces of a stream, None after the last; few replies are streams."""
        if self._chunks is None:
            self._chunks = Chunks()
        return self._chunks

    @property
    def sink(self) -> _Forward:
        return self

    def interval(self, token_budget: int, agent: AgentState) -> int:
        """0: how it is streamed is the client's."""
        return 0

    def encode(self, contents: Sequence[Any], token_budget: int, *, interval: int) -> bytes | None:
        return self._body

    async def receive(self, reply: Reply, request: InFlightRequest, reports: Reports) -> None:
        if not 200 <= reply.status < 300:
            content = await reply.start() if reply.status >= 400 else b""
            error = await reply.error(content)
            if not _is_the_clients(error):
                raise error
        elif reply.is_event_stream or "Content-Length" not in reply.headers:
            if await self._hand_on_stream(reply, request, reports):
                reports.answered(request, self.usage)
                self.chunks.put(None)
            return
        else:
            content = await self._read(reply, request, reports)
            self._usage = usage_of(content)
        if self._begin(reply, request, content):
            reports.answered(request, self.usage)

    def _limit(self, reply: Reply) -> Limit:
        """How many bytes of the body are read: a short declared length, or else what the request asked for."""
        declared = reply.headers.get("Content-Length", "")
        if declared and int(declared) <= OTHER_BODY and "Content-Encoding" not in reply.headers:
            return OTHER_BODY
        return self._most

    def _most(self) -> int:
        bounds = bounds_of(self._body)
        return max(bounds.stream, bounds.body)

    async def _read(self, reply: Reply, request: InFlightRequest, reports: Reports) -> bytes:
        """Read a whole body: until it is here, another agent may still answer instead."""
        parts = []
        async for chunk in reply.chunks(self._limit(reply)):
            reports.progress(request)
            parts.append(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _hand_on_stream(self, reply: Reply, request: InFlightRequest, reports: Reports) -> bool:
        """Hand on events as they come; return whether it was this reply that the client got."""
        before = last = b""
        async for chunk in reply.chunks(self._limit(reply)):
            reports.progress(request)
            if self._taken_by is None:
                reports.commit(request)
            if not self._begin(reply, request):
                return False  # another agent's reply has begun to reach the client
            self._events += chunk.count(b"data:")
            before, last = last, chunk
            await self._hand_on(chunk, request, reports)
        self._usage = stream_usage_of((before + last)[-STREAM_END:])
        return self._begin(reply, request)

    async def _hand_on(self, chunk: bytes, request: InFlightRequest, reports: Reports) -> None:
        while self.chunks.full:
            try:
                async with asyncio.timeout(SLOW_CLIENT):
                    await self.chunks.moved()
            except TimeoutError:
                reports.progress(request)  # the client reads nothing; the agent is not stalled
        self.chunks.put(chunk)

    def _begin(self, reply: Reply, request: InFlightRequest, content: bytes | None = None) -> bool:
        """Hand on the head of a reply, and its whole body where it is no stream, unless another one's is."""
        if self._taken_by is None and not self.head.done():
            self._taken_by = request
            self.head.set_result((reply.status, reply.open_headers(), content))
        return self._taken_by is request

    def deliver(self, indices: Sequence[int], responses: Sequence[Response]) -> None:
        """Record that the pool has given up."""
        (response,) = responses
        if not self.head.done():
            self.given_up = response.error_kind
            problem = {"message": response.error, "type": response.error_kind, "param": None, "code": 503}
            content = msgspec.json.encode({"error": problem})
            self.head.set_result((503, {"Content-Type": "application/json"}, content))
        elif self._taken_by is not None:
            self._end(PoolError(response.error or "the pool gave up"))

    def fail(self, error: BaseException) -> None:
        """Record that there will be no more, because of a defect or because the pool was closed."""
        if not self.head.done():
            self.head.set_exception(error)
        else:
            self._end(error if isinstance(error, PoolError) else PoolError(repr(error)))

    def _end(self, error: PoolError) -> None:
        """End a stream, whatever of it still waits for the client; a whole body is there already."""
        self.chunks.clear()
        self.chunks.put(error)

    def agent_index(self, agent: int | None) -> int | None:
        return agent

    def calibrate(self, content: Any, usage: Usage) -> None:
        """Nothing."""

    def fit_max_tokens(self, request: InFlightRequest, error: ServerError) -> bool:
        """Nothing: the request is the client's."""
        return False


def _is_the_clients(error: ServerError) -> bool:
    """Whether an error reply belongs to the client: what another agent would say as well."""
    return classify(error, 1) is Outcome.PROMPT_REJECTED or error.status in (404, 405, 501)
