"""``/v1/chat/completions``: one conversation a request, streamed or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from aurora_pool.errors import BadReply
from aurora_pool.messages import Usage
from aurora_pool.wire import lenient
from aurora_pool.wire.answer import Answer, Finished
from aurora_pool.wire.assembly import Assembly
from aurora_pool.wire.bounds import UNBOUNDED, Bounds
from aurora_pool.wire.completions import streaming
from aurora_pool.wire.sse import DONE

PATH = "/v1/chat/completions"
BATCH_PATH = "/v1/chat/completions/batch"
"""Many conversations in one request, since vLLM 0.19; n = 1, never streamed (``stream`` is accepted and breaks it)."""


class _Message(msgspec.Struct, gc=False):
    content: str
    reasoning: str | None = None
    reasoning_content: None = None
    tool_calls: Annotated[list[Any], msgspec.Meta(max_length=0)] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int
    message: _Message
    finish_reason: str
    logprobs: None = None
    token_ids: list[int] | None = None
    prompt_token_ids: None = None
    prompt_logprobs: None = None


class _Reply(msgspec.Struct, gc=False):
    """A reply with only the fields that nearly all have; the lenient reader knows the others."""

    choices: list[_Choice]
    model: str
    usage: Usage | None = None
    error: None = None
    prompt_token_ids: None = None
    prompt_logprobs: None = None


_DECODER = msgspec.json.Decoder(_Reply)
_ENCODER = msgspec.json.Encoder()


def encode_request(
    model: str,
    messages: Sequence[Mapping[str, Any]],
    fields: dict[str, Any],
    max_tokens: int | None,
    *,
    interval: int = 0,
) -> bytes:
    """Write the body of a chat request. A sampling's ``logprobs`` becomes the two fields that chat has for it.

    With an ``interval`` above 0 it is streamed, with an event for every ``interval`` tokens.

    >>> encode_request("m", [{"role": "user", "content": "Hi"}], {"logprobs": 2}, 8)
    b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"max_tokens":8,"logprobs":true,"top_logprobs":2}'
    """
    body: dict[str, Any] = {"model": model, "messages": messages}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if interval:
        body.update(streaming(interval))
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
    """Reads the reply to a chat request: of ``n`` samples, or of several conversations; in one piece or in events."""

    __slots__ = ("_assembly", "_calls", "_choices", "_conversations", "_n", "_usage", "model")

    def __init__(self, n: int = 1, conversations: int = 1, bounds: Bounds = UNBOUNDED) -> None:
        self._n = n
        self._conversations = conversations
        self._choices = n * conversations
        self._assembly = Assembly(conversations, n, bounds)
        self._calls: dict[int, list[Any]] = {}
        self.model: str | None = None

    def whole(self, body: bytes) -> Finished:
        """Take the body; see :class:`~aurora_pool.wire.answer.Reader`."""
        try:
            plain = _DECODER.decode(body)
        except Exception:  # noqa: BLE001 (the other reader says what is wrong)
            reply = lenient.read(body, "message", self._choices)
            self.model, usage, answers = reply.model, reply.usage, reply.choices
        else:
            self.model, usage = plain.model, plain.usage
            answers = [
                Answer(
                    choice.index,
                    choice.message.content,
                    choice.finish_reason,
                    reasoning=choice.message.reasoning,
                    token_ids=choice.token_ids,
                )
                for choice in plain.choices
            ]
        if len(answers) > 1:
            answers.sort(key=lambda answer: answer.slot)
        return self._assembly.whole(answers, usage)

    def events(self, events: Iterable[bytes]) -> None:
        """Take the data of events; see :class:`~aurora_pool.wire.answer.Reader`."""
        for data in events:
            if data == DONE:
                self._assembly.done()
                continue
            reply = lenient.read(data, "delta", self._choices, self._assembly.has_begun)
            self.model = self.model or reply.model
            for choice in reply.choices:
                if choice.tool_calls is not None:
                    choice.tool_calls = _add_calls(self._calls.setdefault(choice.slot, []), choice.tool_calls)
            self._assembly.add(reply.choices, reply.usage)
        self._assembly.check_size()

    def take(self) -> tuple[list[int], list[Answer]]:
        """Return how many prompts have begun since the last call, and what has finished."""
        return self._assembly.take()


def _add_calls(known: list[Any], pieces: list[Any]) -> list[Any]:
    """Add pieces of tool calls, of which each says by its index where it belongs, to what there is of them."""
    for piece in pieces:
        function = piece.get("function") if isinstance(piece, dict) else None
        if not isinstance(function, dict):
            raise BadReply("the reply is not what the API promises: a tool call has no function")
        index = piece.get("index")
        place = index if type(index) is int else len(known)
        if not 0 <= place <= len(known):
            raise BadReply(f"the reply is not what the API promises: a tool call has the index {index}")
        if place == len(known):
            known.append({key: value for key, value in piece.items() if key != "index"})
            continue
        whole = known[place]["function"]
        whole["arguments"] = f"{whole.get('arguments') or ''}{function.get('arguments') or ''}"
    return known
