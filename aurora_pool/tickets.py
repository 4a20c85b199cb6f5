"""Prompts of a call -> tickets: which kind of request, which sampling, which agents, room for how many tokens."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import msgspec

from aurora_pool.batch import Batch, ChatBatch, ChatListBatch, CompletionsBatch
from aurora_pool.call import Call, Made
from aurora_pool.chat_template import Shape, shape_of
from aurora_pool.chunking import chunk_text
from aurora_pool.errors import ConfigError, ServerError, TransportError
from aurora_pool.fitting import TokenEstimate, TooLong, exact_room, room_or_none
from aurora_pool.messages import AnyPrompt, Message, Prompt, Response, Sample, Sampling
from aurora_pool.policy.work import Lane, Ticket
from aurora_pool.tokens import Tokenizer
from aurora_pool.wire import completions

SendParts = Callable[[Sequence[Prompt]], Awaitable[list[Response]]]

Kind = Literal["list", "ids", "rendered", "alone", "chat", "chats"]
"""How a prompt travels: as text in a list, as ids in a list (the server refuses a list of both), as a rendered
conversation in a list, as ids alone, as a conversation alone, as a conversation among many."""

_CHATS = ("chat", "chats")


@dataclass(frozen=True, slots=True)
class Rules:
    """What a pool does with all its prompts."""

    model: str
    batched: bool
    text_shape: Shape | None
    """How text is put into the chat template; None where it is not, or where the template does not split cleanly."""
    wraps_text: bool
    separates_reasoning: bool
    """Whether the chat endpoint tells reasoning from answer, which a list request can't."""
    chat_lists: bool
    """Whether the servers take many conversations in one request."""
    system_prompt: str | None
    on_too_long: TooLong
    buffer: int
    estimate: TokenEstimate
    tokenizer: Tokenizer


class Order(msgspec.Struct, frozen=True):
    """One prompt as it came, with what holds for it."""

    index: int
    content: Any
    sampling: Sampling
    own_sampling: bool
    max_tokens: int | None
    wrap: bool
    """Whether text goes through the chat template."""
    shortened: bool = False


class TicketMaker:
    """Makes the tickets of one call.

    Text and token ids go to ``/v1/completions``, in lists where the pool batches. Conversations, and text where the
    pool wraps it, are put into the model's chat template here and travel in lists like text; where the template does
    not split cleanly, they go to ``/v1/chat/completions/batch`` or one by one to ``/v1/chat/completions``.
    ``contexts`` are the context lengths in the fleet, ascending, each with the lane of the agents that have at least
    that much. ``send_parts`` answers the parts of a text that was split, each of which fits.
    """

    def __init__(
        self,
        rules: Rules,
        sampling: Sampling,
        max_tokens: int | None,
        contexts: Sequence[tuple[int, Lane]],
        send_parts: SendParts,
    ) -> None:
        self._rules = rules
        self._send_parts = send_parts
        self._sampling = sampling
        self._max_tokens = max_tokens
        self._contexts = contexts
        self._own: dict[Kind, Batch] = {}
        self._others: weakref.WeakValueDictionary[tuple[Kind, bytes], Any] = weakref.WeakValueDictionary()
        self._text_kind = self._kind_of_text(rules.wraps_text, sampling)

    def __call__(self, start: int, prompts: Sequence[AnyPrompt], call: Call) -> list[Ticket] | Iterator[Made]:
        """Make the tickets of successive prompts, the first of which has the index ``start``.

        Raises :class:`ConfigError` for what can't be a prompt.
        """
        kind, rules = self._text_kind, self._rules
        if kind == "chat" or not self._contexts or set(map(type, prompts)) != {str}:
            return (self._one(index, prompt, call) for index, prompt in enumerate(prompts, start))
        works = self._written(prompts, kind)
        context, lane = self._contexts[0]
        batch = self._own_batch(kind, self._sampling, call)
        limit, room = batch.limit, self._max_tokens
        left = context - rules.buffer - (room or 0)
        # A character has at most 4 bytes: what fits even then needs no closer look.
        if room is not None and 4 * max(map(len, works)) * rules.estimate.ratio < left - 1:
            return [Ticket(lane, index, batch, work, room, limit) for index, work in enumerate(works, start)]
        return self._plain(start, prompts, works, batch, call)

    def _one(self, index: int, prompt: AnyPrompt, call: Call) -> Made:
        if isinstance(prompt, Prompt):
            if prompt.max_tokens is not None and prompt.max_tokens < 1:
                raise ConfigError(f"prompt {index}: max_tokens: expected at least 1, got {prompt.max_tokens!r}")
            own = prompt.sampling is not None
            sampling = prompt.sampling or self._sampling
            wrap = self._rules.wraps_text if prompt.format is None else prompt.format == "chat"
            order = Order(index, prompt.content, sampling, own, prompt.max_tokens or self._max_tokens, wrap)
        else:
            order = Order(index, prompt, self._sampling, False, self._max_tokens, self._rules.wraps_text)
        return self._make(order, call)

    def _make(self, order: Order, call: Call) -> Made:
        rules = self._rules
        content = order.content
        if isinstance(content, str):
            content = str(content)  # numpy's strings are a subclass, which no encoder takes
            kind = self._kind_of_text(order.wrap, order.sampling)
            if kind == "chat":
                return self._chat(order, as_conversation(content, rules.system_prompt), call)
            (work,) = self._written([content], kind)
            return self._fitted(order, work, kind, call)
        if isinstance(content, Sequence) and content and isinstance(content[0], Mapping):
            return self._chat(order, content, call)
        if isinstance(content, Sequence) and content and isinstance(content[0], int) and type(content) is not bytes:
            return self._fitted(order, content, "ids" if rules.batched else "alone", call)
        raise ConfigError(f"prompt {order.index}: expected text, token ids or messages, got {type(content).__name__}")

    # -- text ---------------------------------------------------------------------------------------------------

    def _kind_of_text(self, wrap: bool, sampling: Sampling) -> Kind:
        rules = self._rules
        if not wrap:
            return "list" if rules.batched else "alone"
        splits = rules.text_shape is not None and rules.batched and "chat_template_kwargs" not in sampling.extra
        return "rendered" if splits else "chat"

    def _written(self, texts: Sequence[Any], kind: Kind) -> Sequence[str]:
        """Texts as they are sent."""
        shape = self._rules.text_shape
        if kind != "rendered" or shape is None:
            return texts
        system_prompt = self._rules.system_prompt
        before = () if system_prompt is None else (system_prompt,)
        return [shape.render((*before, text)) for text in texts]

    def _plain(
        self, start: int, prompts: Sequence[Any], works: Sequence[str], batch: Batch, call: Call
    ) -> Iterator[Made]:
        """Make the tickets of plain texts one by one: most fit by the estimate, the others need a closer look."""
        context, lane = self._contexts[0]
        estimate, buffer = self._rules.estimate, self._rules.buffer
        for index, (prompt, work) in enumerate(zip(prompts, works, strict=True), start):
            room = room_or_none(context, estimate.of(work), buffer, self._max_tokens)
            if room is None:
                yield self._one(index, prompt, call)
            else:
                yield Ticket(lane, index, batch, work, room, batch.limit)

    # -- conversations ------------------------------------------------------------------------------------------

    def _chat(self, order: Order, messages: Sequence[Message], call: Call) -> Made:
        rules = self._rules
        kwargs = order.sampling.extra.get("chat_template_kwargs")
        key = shape_of(messages, kwargs) if rules.batched else None
        if key is None:
            return self._fitted(order, messages, "chat", call)
        if not rules.tokenizer.asked_shape(key):
            return partial(self._learn, order, messages, call, key, kwargs)
        shape = rules.tokenizer.known_shape(key)
        if shape is not None and shape.splits and not rules.separates_reasoning:
            return self._fitted(order, shape.render([message["content"] for message in messages]), "rendered", call)
        listed = rules.chat_lists and not rules.separates_reasoning and order.sampling.n == 1
        return self._fitted(order, messages, "chats" if listed else "chat", call)

    async def _learn(
        self, order: Order, messages: Sequence[Message], call: Call, key: tuple[tuple[str, ...], bytes], kwargs: Any
    ) -> Ticket | Response:
        try:
            await self._rules.tokenizer.learn_shape(self._rules.model, key, kwargs)
        except (TransportError, ServerError):  # nobody can tell now: the chat endpoint always can
            return await _settled(self._fitted(order, messages, "chat", call))
        return await _settled(self._chat(order, messages, call))

    # -- room ---------------------------------------------------------------------------------------------------

    def _fitted(self, order: Order, work: Any, kind: Kind, call: Call) -> Made:
        """Find room for the answer: by the estimate where that is safe, exactly where it is not."""
        rules = self._rules
        max_tokens = order.max_tokens
        if not self._contexts:
            if max_tokens is None and kind not in _CHATS:
                raise ConfigError("max_tokens can't be fitted: no agent tells its context length; give max_tokens")
            return self._ticket(order, work, kind, call, call.lane, max_tokens or 0)
        context, lane = self._contexts[0]
        room = room_or_none(context, rules.estimate.of(work), rules.buffer, max_tokens)
        if room is None:
            return partial(self._counted, order, work, kind, call)
        if max_tokens is None and kind in _CHATS:
            room = 0  # a chat request without max_tokens has the rest of the context
        return self._ticket(order, work, kind, call, lane, room)

    async def _counted(self, order: Order, work: Any, kind: Kind, call: Call) -> Ticket | Response:
        rules = self._rules
        length: int | None = len(work)
        if kind not in ("ids", "alone"):
            length = await rules.tokenizer.count(rules.model, work, add_special_tokens=kind == "list")
        needed = (length or rules.estimate.of(work)) + (order.max_tokens or 1)
        context, lane = next((pair for pair in self._contexts if needed <= pair[0]), self._contexts[-1])
        if length is None:  # nobody can tell: the server that gets it will
            room = exact_room(context, rules.estimate.of(work) + rules.buffer, order.max_tokens)
        elif length >= context:
            return await self._too_long(order, call, length, context)
        else:
            room = exact_room(context, length, order.max_tokens)
        return self._ticket(order, work, kind, call, lane, room)

    async def _too_long(self, order: Order, call: Call, length: int, context: int) -> Ticket | Response:
        if self._rules.on_too_long != "error" and isinstance(order.content, str) and not order.shortened:
            try:
                answer = await self._shortened(order, call, length, context)
            except (TransportError, ServerError):  # nobody can tell how to cut it
                answer = None
            if answer is not None:
                return answer
        error = f"the prompt has {length} tokens, and the model's maximum context length is {context} tokens"
        return Response(False, "", error, None, "rejected")

    async def _shortened(self, order: Order, call: Call, length: int, context: int) -> Ticket | Response | None:
        """Cut or split a text; None where not even nothing of it would fit."""
        rules = self._rules
        own = await rules.tokenizer.count(rules.model, order.content, add_special_tokens=False) or length
        budget = context - (length - own) - min(order.max_tokens or context, context // 4) - rules.buffer
        if budget < 1:
            return None
        if rules.on_too_long == "truncate":
            kept = await rules.tokenizer.last_tokens(rules.model, order.content, budget)
            return await _settled(self._make(msgspec.structs.replace(order, content=kept, shortened=True), call))
        form: Literal["chat", "raw"] = "chat" if order.wrap else "raw"
        parts = chunk_text(order.content, budget, count=rules.estimate.of)
        return join_parts(await self._send_parts([Prompt(p, order.sampling, order.max_tokens, form) for p in parts]))

    # -- batches ------------------------------------------------------------------------------------------------

    def _ticket(self, order: Order, work: Any, kind: Kind, call: Call, lane: Lane, room: int) -> Ticket:
        batch = self._batch(kind, order, call)
        return Ticket(lane, order.index, batch, work, room, batch.limit)

    def _batch(self, kind: Kind, order: Order, call: Call) -> Batch:
        if not order.own_sampling:
            return self._own_batch(kind, order.sampling, call)
        key = kind, msgspec.json.encode(order.sampling, order="sorted")
        found: Batch | None = self._others.get(key)
        if found is None:
            found = self._others[key] = self._new_batch(kind, order.sampling, call)
        return found

    def _own_batch(self, kind: Kind, sampling: Sampling, call: Call) -> Batch:
        """The batch of prompts that have no sampling of their own."""
        batch = self._own.get(kind)
        if batch is None:
            batch = self._own[kind] = self._new_batch(kind, sampling, call)
        return batch

    def _new_batch(self, kind: Kind, sampling: Sampling, call: Call) -> Batch:
        fields = completions.sampling_fields(sampling)
        model = self._rules.model
        if kind == "chat":
            return ChatBatch(call, model, fields)
        if kind == "chats":
            return ChatListBatch(call, model, fields)
        if kind == "rendered":
            fields.pop("chat_template_kwargs", None)
            fields["add_special_tokens"] = False  # the template has put them there
        return CompletionsBatch(call, model, fields, self._rules.estimate, alone=kind == "alone")


def as_conversation(text: str, system_prompt: str | None) -> list[Message]:
    """Text as what a user says, after the system prompt if there is one."""
    user: list[Message] = [{"role": "user", "content": text}]
    return user if system_prompt is None else [{"role": "system", "content": system_prompt}, *user]


def join_parts(parts: Sequence[Response]) -> Response:
    r"""The responses to the parts of one prompt as one: texts joined by empty lines, tokens added up, each a sample.

    >>> join_parts([Response(True, "One."), Response(True, "Two.")]).text
    'One.\n\nTwo.'
    """
    failed = next((part for part in parts if not part.success), None)
    first = failed or parts[0]
    return Response(
        failed is None,
        "\n\n".join(part.text for part in parts),
        first.error,
        first.agent_index,
        first.error_kind,
        first.finish_reason,
        sum(part.prompt_tokens or 0 for part in parts),
        sum(part.completion_tokens or 0 for part in parts),
        attempts=max(part.attempts for part in parts),
        latency=max(part.latency for part in parts),
        samples=tuple(Sample(part.text, part.finish_reason) for part in parts),
    )


async def _settled(made: Made) -> Ticket | Response:
    return made if isinstance(made, Ticket | Response) else await made()
