"""What prompts that may share a request have in common, and how such a request is written and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from aurora_pool.errors import BadReply, ServerError
from aurora_pool.fitting import TokenEstimate
from aurora_pool.messages import Response, Usage
from aurora_pool.policy.dispatch import Dispatcher
from aurora_pool.policy.work import LIST_LIMIT, Assignment, Ticket
from aurora_pool.wire import chat, completions, embeddings
from aurora_pool.wire.answer import Answer, Reader
from aurora_pool.wire.errors import context_left, parse_error
from aurora_pool.wire.sse import EventSplitter

if TYPE_CHECKING:
    from aurora_pool.transport import Exchange

SCORED_LIMIT = 8
"""Prompts with ``prompt_logprobs`` in one request: the logits of whole prompts are large, and have killed engines."""
CHATS_LIMIT = 32
"""Conversations in one request: all wait there for the longest answer, so not too many."""


class Sink(Protocol):
    """Where results go."""

    def deliver(self, results: Sequence[tuple[int, Response]]) -> None:
        """Take in results, each with the index of its prompt."""
        ...

    def crash(self, error: BaseException) -> None:
        """Take in an error that is nobody's fault but the program's."""
        ...

    def agent_index(self, agent: int | None) -> int | None:
        """Where an agent of the fleet stands in the view that was asked."""
        ...


class Receiver(Protocol):
    """Takes in what replies say; the fleet."""

    @property
    def now(self) -> float:
        """The time."""
        ...

    @property
    def dispatcher(self) -> Dispatcher:
        """The policy."""
        ...

    def answers(self, assignment: Assignment, batch: Batch, answers: Sequence[Answer], now: float) -> None:
        """Take in the answers to some of a request's prompts, all of this batch."""
        ...

    def schedule(self) -> None:
        """Have a plan made soon."""
        ...


class Batch(Protocol):
    """A kind of request: prompts with the same batch object may travel together."""

    call: Sink
    path: str
    method: str
    headers: Mapping[str, str] | None
    limit: int
    """How many prompts may share a request."""
    streams: bool
    """Whether such a request can be streamed."""

    def encode(self, tickets: Sequence[Ticket], *, stream: bool) -> bytes | None:
        """Write the request body for these prompts."""
        ...

    async def receive(self, exchange: Exchange, assignment: Assignment, receiver: Receiver) -> None:
        """Read the reply to the end. Raises :class:`TransportError`, :class:`ServerError` and :class:`BadReply`."""
        ...

    def learn(self, ticket: Ticket, usage: Usage) -> None:
        """Take in what an answer tells about its prompt."""
        ...

    def refit(self, tickets: Sequence[Ticket], error: ServerError) -> bool:
        """Take in that the server refused the request; return whether it may take it as it would now be written."""
        ...


class _JSONBatch:
    """What batches of the pool's own requests have in common."""

    __slots__ = ("__weakref__", "_fields", "_model", "_n", "call", "headers", "limit", "method", "path", "streams")

    def __init__(
        self, call: Sink, model: str, fields: dict[str, Any], path: str, *, limit: int, streams: bool = False
    ) -> None:
        self.limit = limit
        self.streams = streams
        self.call = call
        self.path = path
        self.method = "POST"
        self.headers: Mapping[str, str] | None = None
        self._model = model
        self._fields = fields
        self._n = fields.get("n") or 1

    def learn(self, ticket: Ticket, usage: Usage) -> None:
        """Nothing, where other tokens than the prompt's own are counted with it."""

    def refit(self, tickets: Sequence[Ticket], error: ServerError) -> bool:
        """Give a prompt that went alone the room that the server says there is."""
        left = context_left(error)
        if len(tickets) > 1 or left is None or 0 < tickets[0].room <= left:
            return False
        tickets[0].room = left
        return True


class CompletionsBatch(_JSONBatch):
    """Prompts of one call with equal sampling, for ``/v1/completions``; a ticket's ``work`` is text or token ids."""

    __slots__ = ("_estimate",)

    def __init__(
        self, call: Sink, model: str, fields: dict[str, Any], estimate: TokenEstimate, *, alone: bool = False
    ) -> None:
        scored = fields.get("prompt_logprobs") is not None
        limit = 1 if alone else SCORED_LIMIT if scored else LIST_LIMIT
        # vLLM refuses to stream prompt_logprobs
        super().__init__(call, model, fields, completions.PATH, limit=limit, streams=not scored and not alone)
        self._estimate = estimate

    def encode(self, tickets: Sequence[Ticket], *, stream: bool) -> bytes:
        """Write a list request, with the least ``room`` of its prompts as ``max_tokens``."""
        room = min([ticket.room for ticket in tickets])
        contents = [ticket.work for ticket in tickets]
        return completions.encode_request(self._model, contents, self._fields, room, stream=stream)

    async def receive(self, exchange: Exchange, assignment: Assignment, receiver: Receiver) -> None:
        """Read the reply to the end, prompt by prompt where it is streamed."""
        reader = completions.CompletionsReader(len(assignment.tickets), self._n)
        await receive_answers(exchange, reader, self, assignment, receiver)

    def learn(self, ticket: Ticket, usage: Usage) -> None:
        """Calibrate the estimate of token counts."""
        if isinstance(ticket.work, str):
            self._estimate.observe(ticket.work, usage.prompt_tokens)


class ChatBatch(_JSONBatch):
    """Conversations for ``/v1/chat/completions``, one a request; a ticket's ``work`` is a list of messages."""

    __slots__ = ()

    def __init__(self, call: Sink, model: str, fields: dict[str, Any]) -> None:
        super().__init__(call, model, fields, chat.PATH, limit=1)

    def encode(self, tickets: Sequence[Ticket], *, stream: bool) -> bytes:
        """Write a chat request; it is not streamed."""
        (ticket,) = tickets
        return chat.encode_request(self._model, ticket.work, self._fields, ticket.room or None)

    async def receive(self, exchange: Exchange, assignment: Assignment, receiver: Receiver) -> None:
        """Read the reply."""
        await receive_answers(exchange, chat.ChatReader(self._n), self, assignment, receiver)


class ChatListBatch(_JSONBatch):
    """Conversations for ``/v1/chat/completions/batch``, which answers them all at once, when the longest is done."""

    __slots__ = ()

    def __init__(self, call: Sink, model: str, fields: dict[str, Any]) -> None:
        super().__init__(call, model, fields, chat.BATCH_PATH, limit=CHATS_LIMIT)

    def encode(self, tickets: Sequence[Ticket], *, stream: bool) -> bytes:
        """Write a request with many conversations; it must not be streamed."""
        room = min([ticket.room for ticket in tickets])
        return chat.encode_batch(self._model, [ticket.work for ticket in tickets], self._fields, room or None)

    async def receive(self, exchange: Exchange, assignment: Assignment, receiver: Receiver) -> None:
        """Read the reply."""
        reader = chat.ChatReader(conversations=len(assignment.tickets))
        await receive_answers(exchange, reader, self, assignment, receiver)


class EmbeddingsBatch(_JSONBatch):
    """Texts or token ids for ``/v1/embeddings``."""

    __slots__ = ()

    def __init__(self, call: Sink, model: str, fields: dict[str, Any], *, alone: bool) -> None:
        super().__init__(call, model, fields, embeddings.PATH, limit=1 if alone else LIST_LIMIT)

    def encode(self, tickets: Sequence[Ticket], *, stream: bool) -> bytes:
        """Write a list request."""
        return embeddings.encode_request(self._model, [ticket.work for ticket in tickets], self._fields)

    async def receive(self, exchange: Exchange, assignment: Assignment, receiver: Receiver) -> None:
        """Read the reply."""
        await receive_answers(
            exchange, embeddings.EmbeddingsReader(len(assignment.tickets)), self, assignment, receiver
        )


async def receive_answers(
    exchange: Exchange, reader: Reader, batch: Batch, assignment: Assignment, receiver: Receiver
) -> None:
    """Read a reply of either form, and hand on each answer as soon as it is finished."""
    if exchange.status != 200:
        raise parse_error(exchange.status, await exchange.read())
    if exchange.is_event_stream:
        if not isinstance(reader, completions.CompletionsReader):
            raise BadReply("the reply is streamed, though the request did not ask for that")
        await _receive_events(exchange, reader, batch, assignment, receiver)
    else:
        content = await exchange.read()
        now = receiver.now
        receiver.dispatcher.progress(assignment, now)
        receiver.answers(assignment, batch, reader.whole(content), now)
    if assignment.live:
        raise BadReply("the reply ended before every prompt had its answer")


async def _receive_events(
    exchange: Exchange, reader: completions.CompletionsReader, batch: Batch, assignment: Assignment, receiver: Receiver
) -> None:
    splitter = EventSplitter()
    progress = receiver.dispatcher.progress
    async for chunk in exchange.chunks():
        now = receiver.now
        try:
            reader.events(splitter.feed(chunk))
        finally:  # what came before an event that says that the rest failed is kept
            started, finished = reader.take()
            progress(assignment, now, started)
            if finished:
                receiver.answers(assignment, batch, finished, now)
        receiver.schedule()
