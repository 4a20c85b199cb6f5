"""``/v1/chat/completions``: one conversation a request, streamed or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from aurora_pool.errors import BadReply
from aurora_pool.messages import Logprobs, Usage
from aurora_pool.wire.answer import Answer, decode, merge_samples
from aurora_pool.wire.errors import error_of

PATH = "/v1/chat/completions"
BATCH_PATH = "/v1/chat/completions/batch"
"""Many conversations in one request, since vLLM 0.19; n = 1, never streamed (``stream`` is accepted and breaks it)."""


class _Token(msgspec.Struct):
    token: str
    logprob: float | None = None
    top_logprobs: list[_Token] = []


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None

    def message(self) -> Logprobs:
        content = self.content or []
        top: list[dict[str, float] | None] = [
            {other.token: other.logprob for other in token.top_logprobs if other.logprob is not None}
            for token in content
        ]
        return Logprobs([token.token for token in content], [token.logprob for token in content], top)


class _Message(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    index: int
    message: _Message = msgspec.field(default_factory=_Message)
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None
    token_ids: list[int] | None = None


class _Reply(msgspec.Struct):
    choices: list[_Choice] = []
    usage: Usage | None = None
    error: Any = None
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: list[Any] | None = None


_DECODER = msgspec.json.Decoder(_Reply)
_ENCODER = msgspec.json.Encoder()


def encode_request(
    model: str, messages: Sequence[Mapping[str, Any]], fields: dict[str, Any], max_tokens: int | None
) -> bytes:
    """Write the body of a chat request. A sampling's ``logprobs`` becomes the two fields that chat has for it.

    >>> encode_request("m", [{"role": "user", "content": "Hi"}], {"logprobs": 2}, 8)
    b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"max_tokens":8,"logprobs":true,"top_logprobs":2}'
    """
    body: dict[str, Any] = {"model": model, "messages": messages}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    body.update(fields)
    if type(fields.get("logprobs")) is int:
        body["logprobs"], body["top_logprobs"] = True, fields["logprobs"]
    return _ENCODER.encode(body)


def encode_batch(model: str, conversations: Sequence[Any], fields: dict[str, Any], max_tokens: int | None) -> bytes:
    """Write the body of a request with many conversations; the fields are those of a chat request."""
    return encode_request(model, conversations, fields, max_tokens)


def as_messages(content: Any) -> Sequence[Mapping[str, Any]]:
    """A prompt's content as a conversation: plain text is what the user says.

    >>> as_messages("Hi")
    [{'role': 'user', 'content': 'Hi'}]
    """
    return [{"role": "user", "content": content}] if isinstance(content, str) else content


class ChatReader:
    """Reads the reply to a chat request: of ``n`` samples, or of a number of conversations."""

    __slots__ = ("_conversations", "_n")

    def __init__(self, n: int = 1, conversations: int = 1) -> None:
        self._n = n
        self._conversations = conversations

    def whole(self, body: bytes) -> Sequence[Answer]:
        """Take the body; see :class:`~aurora_pool.wire.answer.Reader`."""
        reply: _Reply = decode(_DECODER, body)
        if reply.error is not None:
            raise error_of(reply.error)
        expected = self._n * self._conversations
        if sorted(choice.index for choice in reply.choices) != list(range(expected)):
            raise BadReply(f"expected {expected} choices, got {len(reply.choices)}: {body[:120]!r}")
        answers = [_answer(choice, reply) for choice in sorted(reply.choices, key=lambda choice: choice.index)]
        if self._conversations > 1:
            for slot, answer in enumerate(answers):
                answer.slot, answer.usage = slot, None  # the usage is of all conversations together
            return answers
        if self._n == 1:
            return answers
        merged = merge_samples(0, answers)
        merged.usage = reply.usage  # it is of all samples already
        return [merged]


def _answer(choice: _Choice, reply: _Reply) -> Answer:
    message = choice.message
    return Answer(
        0,
        message.content or "",
        choice.finish_reason,
        usage=reply.usage,
        # `reasoning_content` up to 0.15, `reasoning` since 0.11.2
        reasoning=message.reasoning if message.reasoning is not None else message.reasoning_content,
        logprobs=choice.logprobs.message() if choice.logprobs is not None else None,
        token_ids=choice.token_ids,
        prompt_token_ids=reply.prompt_token_ids,
        prompt_logprobs=reply.prompt_logprobs,
    )
