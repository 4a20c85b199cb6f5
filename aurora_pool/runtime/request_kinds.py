"""What prompts that may share a request have in common, and how such a request is written and read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from aurora_pool.errors import ServerError
from aurora_pool.hosted import Left
from aurora_pool.messages import AnyPrompt, Response, Usage
from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.streaming import may_be_long, stream_interval
from aurora_pool.policy.work import LIST_LIMIT, InFlightRequest, Lot, WorkItem
from aurora_pool.wire import chat, completions, embeddings
from aurora_pool.wire.answer import Reader
from aurora_pool.wire.bounds import Asked, Bounds
from aurora_pool.wire.errors import context_left

if TYPE_CHECKING:
    from aurora_pool.runtime.reply import Reply

SCORED_LIMIT = 8
"""Prompts with ``prompt_logprobs`` in one request: the logits of whole prompts are large, and have killed engines."""
CHATS_LIMIT = 32
"""Conversations in one request: all wait there for the longest answer, so not too many."""
VECTOR = 1 << 14
"""Dimensions of a vector at most; as text, each has the space that a generated token has."""


Observe = Callable[[str, int], None]
"""Called with a text and how many tokens the server counted in it."""


class Sink(Protocol):
    """Where results go."""

    def deliver(self, indices: Sequence[int], responses: Sequence[Response]) -> None:
        """Record results, and the indices of their prompts, in the same order."""
        ...

    def fail(self, error: BaseException) -> None:
        """End with an error that is no prompt's own: the input's, a closed pool's, or that of a defect here."""
        ...

    def agent_index(self, agent: int | None) -> int | None:
        """The position of an agent of the fleet in the view that was asked."""
        ...


PlanResult = WorkItem | Response | Callable[[], Awaitable["WorkItem | Response"]]
"""What becomes of a prompt: a work item, its answer already, or what to ask before one of the two is known."""
Planned = Lot | list[WorkItem] | Iterator[PlanResult]
"""What becomes of prompts that come one after the other."""
PlanPrompts = Callable[[int, Sequence[AnyPrompt], Sink], Planned]
"""Plans successive prompts, of which the first has this index: a list where each has a work item at once."""


class Reports(Protocol):
    """What a kind of request calls while it reads a reply: :class:`~aurora_pool.runtime.exchange.Exchanges` has it."""

    async def read_answers(
        self, reply: Reply, reader: Reader, bounds: Bounds, kind: RequestKind, request: InFlightRequest
    ) -> None:
        """Read a reply to the end, and report each answer as soon as it is finished."""

    def progress(self, request: InFlightRequest) -> None:
        """Report that bytes of a reply came."""

    def commit(self, request: InFlightRequest) -> None:
        """Report that bytes of this reply go to the caller now, so that no other agent may answer any more."""

    def answered(self, request: InFlightRequest, usage: Usage | None) -> None:
        """Report that the one prompt of a request has its answer, and its caller has read it."""

    def limits_reported(self, agent: int, requests: Left | None, tokens: Left | None) -> None:
        """Report what an agent says is left of its limits."""


class RequestKind(Protocol):
    """A kind of request: prompts with the same kind object may travel together."""

    sink: Sink
    path: str
    method: str
    headers: Mapping[str, str] | None
    limit: int
    """How many prompts may share a request."""
    fields: dict[str, Any]
    """The fields of the body that say how to sample."""
    model: str
    """The model that is asked for; empty where the request is not the pool's own."""

    @property
    def text_only(self) -> bool:
        """Whether an answer is a text and nothing else."""
        ...

    def interval(self, token_budget: int, agent: AgentState) -> int:
        """How many tokens of an answer an event should hold if these prompts are streamed; 0 if they are not."""
        ...

    def encode(self, contents: Sequence[Any], token_budget: int, *, interval: int) -> bytes | None:
        """Write the request body for these prompts, streamed if the interval is above 0."""
        ...

    async def receive(self, reply: Reply, request: InFlightRequest, reports: Reports) -> None:
        """Read the reply to the end. Raises :class:`TransportError`, :class:`ServerError` and :class:`BadReply`."""
        ...

    def calibrate(self, content: Any, usage: Usage) -> None:
        """Record what an answer tells about its prompt."""
        ...

    def fit_max_tokens(self, request: InFlightRequest, error: ServerError) -> bool:
        """Record that the server refused the request; return whether it may take it as it would now be written."""
        ...


class _JSONKind:
    """What kinds of the pool's own requests have in common."""

    text_only = False
    __slots__ = ("__weakref__", "_asked", "_n", "fields", "headers", "limit", "method", "model", "path", "sink")

    def __init__(self, sink: Sink, model: str, fields: dict[str, Any], path: str, *, limit: int) -> None:
        self.limit = limit
        self.sink = sink
        self.path = path
        self.method = "POST"
        self.headers: Mapping[str, str] | None = None
        self.model = model
        self.fields = fields
        self._n = fields.get("n") or 1
        self._asked = Asked(fields)

    def interval(self, token_budget: int, agent: AgentState) -> int:
        """0, where there is no form that is streamed."""
        return 0

    def bounds(self, request: InFlightRequest) -> Bounds:
        """How large the reply may be."""
        echoed = sum(map(_characters, request.contents)) if self._asked.echoes else 0
        return self._asked.bounds(request.size * self._n, request.token_budget, echoed)

    def calibrate(self, content: Any, usage: Usage) -> None:
        """Nothing, where other tokens than the prompt's own are counted with it."""

    def fit_max_tokens(self, request: InFlightRequest, error: ServerError) -> bool:
        """Give a prompt that went alone as many tokens as the server says are left."""
        left = context_left(error)
        if request.open != 1 or left is None:
            return False
        (item,) = request.unreleased()
        if 0 < item.token_budget <= left:
            return False
        item.token_budget = request.token_budget = left
        return True


def beginning(work: Any) -> str | Sequence[int]:
    r"""How a prompt begins, of the ``work`` of its item: text, token ids, or the text of messages.

    >>> beginning([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    'system\nBe brief.\nuser\nHi\n'
    """
    if isinstance(work, str):
        return work
    if not isinstance(work, list) or not work:  # a request that is sent unchanged
        return ""
    if not isinstance(work[0], Mapping):
        return work
    return "".join(f"{message.get('role')}\n{message.get('content')}\n" for message in work)


class CompletionsList(_JSONKind):
    """Prompts of one call with equal sampling, for ``/v1/completions``; an item's ``work`` is text or token ids."""

    __slots__ = ("_observe", "_streams", "text_only")

    def __init__(
        self, sink: Sink, model: str, fields: dict[str, Any], observe: Observe, *, single: bool = False
    ) -> None:
        scored = fields.get("prompt_logprobs") is not None
        limit = 1 if single else SCORED_LIMIT if scored else LIST_LIMIT
        super().__init__(sink, model, fields, completions.PATH, limit=limit)
        more = fields.get("logprobs"), fields.get("prompt_logprobs"), fields.get("return_token_ids")
        self.text_only = self._n == 1 and all(each is None for each in more)
        self._streams = not scored  # vLLM refuses to stream prompt_logprobs
        self._observe = observe

    def interval(self, token_budget: int, agent: AgentState) -> int:
        """Give the number of tokens an event, such that something comes every few seconds; 0 for a short single one."""
        if not self._streams or (self.limit == 1 and not may_be_long(token_budget, agent.speed, agent.idle_timeout)):
            return 0
        return stream_interval(agent.speed, agent.idle_timeout)

    def encode(self, contents: Sequence[Any], token_budget: int, *, interval: int) -> bytes:
        """Write a list request; its prompts have one token budget, as :mod:`~aurora_pool.policy.batching` has it."""
        return completions.encode_request(self.model, contents, self.fields, token_budget, interval=interval)

    async def receive(self, reply: Reply, request: InFlightRequest, reports: Reports) -> None:
        """Read the reply to the end, prompt by prompt where it is streamed."""
        bounds = self.bounds(request)
        reader = completions.CompletionsReader(request.size, self._n, bounds)
        await reports.read_answers(reply, reader, bounds, self, request)

    def calibrate(self, content: Any, usage: Usage) -> None:
        """Calibrate the estimate of token counts."""
        if isinstance(content, str):
            self._observe(content, usage.prompt_tokens)


class SingleChat(_JSONKind):
    """Conversations for ``/v1/chat/completions``, one a request; an item's ``work`` is a list of messages."""

    __slots__ = ()

    def __init__(self, sink: Sink, model: str, fields: dict[str, Any]) -> None:
        super().__init__(sink, model, fields, chat.PATH, limit=1)

    def interval(self, token_budget: int, agent: AgentState) -> int:
        """Give the number of tokens an event, such that something comes every few seconds; 0 for a short answer."""
        if self.fields.get("prompt_logprobs") is not None or not may_be_long(
            token_budget, agent.speed, agent.idle_timeout
        ):
            return 0
        return stream_interval(agent.speed, agent.idle_timeout)

    def encode(self, contents: Sequence[Any], token_budget: int, *, interval: int) -> bytes:
        """Write a chat request."""
        (messages,) = contents
        return chat.encode_request(self.model, messages, self.fields, token_budget or None, interval=interval)

    async def receive(self, reply: Reply, request: InFlightRequest, reports: Reports) -> None:
        """Read the reply."""
        bounds = self.bounds(request)
        await reports.read_answers(reply, chat.ChatReader(self._n, bounds=bounds), bounds, self, request)


class ChatList(_JSONKind):
    """Conversations for ``/v1/chat/completions/batch``, which answers them all at once, when the longest is done."""

    __slots__ = ()

    def __init__(self, sink: Sink, model: str, fields: dict[str, Any]) -> None:
        super().__init__(sink, model, fields, chat.BATCH_PATH, limit=CHATS_LIMIT)

    def encode(self, contents: Sequence[Any], token_budget: int, *, interval: int) -> bytes:
        """Write a request with many conversations; it must not be streamed."""
        return chat.encode_batch(self.model, contents, self.fields, token_budget or None)

    async def receive(self, reply: Reply, request: InFlightRequest, reports: Reports) -> None:
        """Read the reply."""
        bounds = self.bounds(request)
        reader = chat.ChatReader(conversations=request.size, bounds=bounds)
        await reports.read_answers(reply, reader, bounds, self, request)


class EmbeddingsList(_JSONKind):
    """Texts or token ids for ``/v1/embeddings``."""

    __slots__ = ()

    def __init__(self, sink: Sink, model: str, fields: dict[str, Any], *, single: bool) -> None:
        super().__init__(sink, model, fields, embeddings.PATH, limit=1 if single else LIST_LIMIT)

    def encode(self, contents: Sequence[Any], token_budget: int, *, interval: int) -> bytes:
        """Write a list request."""
        return embeddings.encode_request(self.model, contents, self.fields)

    async def receive(self, reply: Reply, request: InFlightRequest, reports: Reports) -> None:
        """Read the reply."""
        bounds = self._asked.bounds(request.size, VECTOR, 0)
        reader = embeddings.EmbeddingsReader(request.size, self.fields.get("dimensions"))
        await reports.read_answers(reply, reader, bounds, self, request)


def _characters(content: Any) -> int:
    """How many characters a prompt has; of token ids, how many there are."""
    if content and isinstance(content[0], Mapping):
        return sum(len(str(message.get("content", ""))) for message in content)
    return len(content)
