"""Prompts of a call -> tickets: which kind of request, which sampling, room for how many tokens."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import msgspec

from aurora_pool.batch import Batch, ChatBatch, CompletionsBatch
from aurora_pool.call import Call
from aurora_pool.errors import ConfigError
from aurora_pool.fitting import TokenEstimate, fit
from aurora_pool.messages import AnyPrompt, Prompt, Sampling
from aurora_pool.policy.work import Ticket
from aurora_pool.wire import chat, completions


class TicketMaker:
    """Makes tickets of one call's prompts: which kind of request, which sampling, room for how many tokens.

    Text and token ids go to ``/v1/completions``, in lists if ``batched``; conversations, and text that is not
    batched, go to ``/v1/chat/completions``. A prompt's own sampling and ``max_tokens`` win over the call's.
    """

    def __init__(
        self,
        model: str,
        sampling: Sampling,
        max_tokens: int | None,
        *,
        batched: bool,
        context: int | None,
        buffer: int,
        estimate: TokenEstimate,
    ) -> None:
        self._model = model
        self._sampling = sampling
        self._max_tokens = max_tokens
        self._batched = batched
        self._context = context
        self._buffer = buffer
        self._estimate = estimate
        self._own: dict[bool, Batch] = {}
        self._others: weakref.WeakValueDictionary[tuple[bool, bytes], Any] = weakref.WeakValueDictionary()

    def __call__(self, index: int, prompt: AnyPrompt, call: Call) -> Ticket:
        """Make the ticket of one prompt. Raises :class:`ConfigError` for what can't be a prompt."""
        sampling = None
        max_tokens = self._max_tokens
        content = prompt
        if isinstance(prompt, Prompt):
            content, sampling = prompt.content, prompt.sampling
            max_tokens = prompt.max_tokens or max_tokens
        if isinstance(content, str):
            is_chat = not self._batched
            work: Any = content if self._batched else chat.as_messages(content)
        elif isinstance(content, Sequence) and content and isinstance(content[0], int | dict):
            is_chat = isinstance(content[0], dict)
            work = content
        else:
            raise ConfigError(f"prompt {index}: expected text, token ids or messages, got {type(content).__name__}")
        batch = self._batch(is_chat, sampling, call)
        room = self._room(index, work, is_chat, max_tokens)
        return Ticket(call.lane, index, batch, work, room, is_chat or not self._batched)

    def _room(self, index: int, content: Any, is_chat: bool, max_tokens: int | None) -> int:
        """How many tokens may be generated; 0 leaves it to the server."""
        if is_chat and max_tokens is None:
            return 0  # chat requests without max_tokens have the rest of the context
        if self._context is None:
            if max_tokens is None:
                raise ConfigError("max_tokens can't be fitted: no agent tells its context length; give max_tokens")
            return max_tokens
        return fit(self._context, self._estimate.of(content), self._buffer, max_tokens)

    def _batch(self, is_chat: bool, sampling: Sampling | None, call: Call) -> Batch:
        if sampling is None:
            batch = self._own.get(is_chat)
            if batch is None:
                batch = self._own[is_chat] = self._new_batch(is_chat, self._sampling, call)
            return batch
        key = is_chat, msgspec.json.encode(sampling, order="sorted")
        found: Batch | None = self._others.get(key)
        if found is None:
            found = self._others[key] = self._new_batch(is_chat, sampling, call)
        return found

    def _new_batch(self, is_chat: bool, sampling: Sampling, call: Call) -> Batch:
        fields = completions.sampling_fields(sampling)
        if is_chat:
            return ChatBatch(call, self._model, fields)
        return CompletionsBatch(call, self._model, fields, self._estimate)
