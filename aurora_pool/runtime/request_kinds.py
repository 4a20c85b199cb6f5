"""What prompts that may share a request have in common, and how such a request is written and read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from aurora_pool.errors import ServerError
from aurora_pool.messages import AnyPrompt, Response, Usage
from aurora_pool.policy.work import LIST_LIMIT, InFlightRequest, WorkItem
from aurora_pool.wire import chat, completions, embeddings
from aurora_pool.wire.errors import context_left

if TYPE_CHECKING:
    from aurora_pool.runtime.exchange import Exchanges
    from aurora_pool.runtime.transport import Reply

SCORED_LIMIT = 8
"""Prompts with ``prompt_logprobs`` in one request: the logits of whole prompts are large, and have killed engines."""
CHATS_LIMIT = 32
"""Conversations in one request: all wait there for the longest answer, so not too many."""


Observe = Callable[[str, int], None]
"""Is told of a text and how many tokens the server counted in it."""


class Sink(Protocol):
    """Where results go."""

    def deliver(self, results: Sequence[tuple[int, Response]]) -> None:
        """Record results, each with the index of its prompt."""
        ...

    def fail(self, error: BaseException) -> None:
        """Record an error that is nobody's fault but the program's."""
        ...

    def agent_index(self, agent: int | None) -> int | None:
        """Where an agent of the fleet stands in the view that was asked."""
        ...


PlanResult = WorkItem | Response | Callable[[], Awaitable["WorkItem | Response"]]
"""What becomes of a prompt: a work item, its answer already, or what to ask before one of the two is known."""
PlanPrompts = Callable[[int, Sequence[AnyPrompt], Sink], list[WorkItem] | Iterator[PlanResult]]
"""Plans successive prompts, of which the first has this index: a list where each has a work item at once."""


class RequestKind(Protocol):
    """A kind of request: prompts with the same kind object may travel together."""

    sink: Sink
    path: str
    method: str
    headers: Mapping[str, str] | None
    limit: int
    """How many prompts may share a request."""
    streams: bool
    """Whether such a request can be streamed."""

    def encode(self, items: Sequence[WorkItem], *, stream: bool) -> bytes | None:
        """Write the request body for these prompts."""
        ...

    async def receive(self, reply: Reply, request: InFlightRequest, exchanges: Exchanges) -> None:
        """Read the reply to the end. Raises :class:`TransportError`, :class:`ServerError` and :class:`BadReply`."""
        ...

    def calibrate(self, item: WorkItem, usage: Usage) -> None:
        """Record what an answer tells about its prompt."""
        ...

    def fit_max_tokens(self, items: Sequence[WorkItem], error: ServerError) -> bool:
        """Record that the server refused the request; return whether it may take it as it would now be written."""
        ...


class _JSONKind:
    """What kinds of the pool's own requests have in common."""

    __slots__ = ("__weakref__", "_fields", "_model", "_n", "headers", "limit", "method", "path", "sink", "streams")

    def __init__(
        self, sink: Sink, model: str, fields: dict[str, Any], path: str, *, limit: int, streams: bool = False
    ) -> None:
        self.limit = limit
        self.streams = streams
        self.sink = sink
        self.path = path
        self.method = "POST"
        self.headers: Mapping[str, str] | None = None
        self._model = model
        self._fields = fields
        self._n = fields.get("n") or 1

    def calibrate(self, item: WorkItem, usage: Usage) -> None:
        """Nothing, where other tokens than the prompt's own are counted with it."""

    def fit_max_tokens(self, items: Sequence[WorkItem], error: ServerError) -> bool:
        """Give a prompt that went alone the room that the server says there is."""
        left = context_left(error)
        if len(items) > 1 or left is None or 0 < items[0].room <= left:
            return False
        items[0].room = left
        return True


class CompletionsBatch(_JSONKind):
    """Prompts of one call with equal sampling, for ``/v1/completions``; a item's ``work`` is text or token ids."""

    __slots__ = ("_observe",)

    def __init__(
        self, sink: Sink, model: str, fields: dict[str, Any], observe: Observe, *, alone: bool = False
    ) -> None:
        scored = fields.get("prompt_logprobs") is not None
        limit = 1 if alone else SCORED_LIMIT if scored else LIST_LIMIT
        # vLLM refuses to stream prompt_logprobs
        super().__init__(sink, model, fields, completions.PATH, limit=limit, streams=not scored and not alone)
        self._observe = observe

    def encode(self, items: Sequence[WorkItem], *, stream: bool) -> bytes:
        """Write a list request, with the least ``room`` of its prompts as ``max_tokens``."""
        room = min([item.room for item in items])
        contents = [item.work for item in items]
        return completions.encode_request(self._model, contents, self._fields, room, stream=stream)

    async def receive(self, reply: Reply, request: InFlightRequest, exchanges: Exchanges) -> None:
        """Read the reply to the end, prompt by prompt where it is streamed."""
        reader = completions.CompletionsReader(len(request.items), self._n)
        await exchanges.read_answers(reply, reader, self, request)

    def calibrate(self, item: WorkItem, usage: Usage) -> None:
        """Calibrate the estimate of token counts."""
        if isinstance(item.work, str):
            self._observe(item.work, usage.prompt_tokens)


class SingleChat(_JSONKind):
    """Conversations for ``/v1/chat/completions``, one a request; a item's ``work`` is a list of messages."""

    __slots__ = ()

    def __init__(self, sink: Sink, model: str, fields: dict[str, Any]) -> None:
        super().__init__(sink, model, fields, chat.PATH, limit=1)

    def encode(self, items: Sequence[WorkItem], *, stream: bool) -> bytes:
        """Write a chat request; it is not streamed."""
        (item,) = items
        return chat.encode_request(self._model, item.work, self._fields, item.room or None)

    async def receive(self, reply: Reply, request: InFlightRequest, exchanges: Exchanges) -> None:
        """Read the reply."""
        await exchanges.read_answers(reply, chat.ChatReader(self._n), self, request)


class ChatBatch(_JSONKind):
    """Conversations for ``/v1/chat/completions/batch``, which answers them all at once, when the longest is done."""

    __slots__ = ()

    def __init__(self, sink: Sink, model: str, fields: dict[str, Any]) -> None:
        super().__init__(sink, model, fields, chat.BATCH_PATH, limit=CHATS_LIMIT)

    def encode(self, items: Sequence[WorkItem], *, stream: bool) -> bytes:
        """Write a request with many conversations; it must not be streamed."""
        room = min([item.room for item in items])
        return chat.encode_batch(self._model, [item.work for item in items], self._fields, room or None)

    async def receive(self, reply: Reply, request: InFlightRequest, exchanges: Exchanges) -> None:
        """Read the reply."""
        reader = chat.ChatReader(conversations=len(request.items))
        await exchanges.read_answers(reply, reader, self, request)


class EmbeddingsBatch(_JSONKind):
    """Texts or token ids for ``/v1/embeddings``."""

    __slots__ = ()

    def __init__(self, sink: Sink, model: str, fields: dict[str, Any], *, alone: bool) -> None:
        super().__init__(sink, model, fields, embeddings.PATH, limit=1 if alone else LIST_LIMIT)

    def encode(self, items: Sequence[WorkItem], *, stream: bool) -> bytes:
        """Write a list request."""
        return embeddings.encode_request(self._model, [item.work for item in items], self._fields)

    async def receive(self, reply: Reply, request: InFlightRequest, exchanges: Exchanges) -> None:
        """Read the reply."""
        await exchanges.read_answers(reply, embeddings.EmbeddingsReader(len(request.items)), self, request)
