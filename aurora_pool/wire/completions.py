"""``/v1/completions``: a list of prompts in one request, its choices one by one.

The choice of sample ``k`` of prompt ``p`` has the index ``p x n + k``. Streamed with a large ``stream_interval``, each
choice has two events: its first token, and all the rest at the moment it finishes. Older servers send one event per
token; a server or proxy that does not stream at all sends one JSON body. All three are read here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from aurora_pool.errors import BadReply
from aurora_pool.messages import Logprobs, Sampling, Usage
from aurora_pool.wire.answer import Answer, add_ids, add_logprobs, decode, merge_samples
from aurora_pool.wire.errors import error_of

PATH = "/v1/completions"
STREAM_INTERVAL = 1_000_000
_STREAMING = {
    "stream": True,
    "stream_interval": STREAM_INTERVAL,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}


class _Logprobs(msgspec.Struct):
    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] | None = None

    def message(self) -> Logprobs:
        return Logprobs(self.tokens, self.token_logprobs, self.top_logprobs or [None] * len(self.tokens))


class _Choice(msgspec.Struct):
    index: int
    text: str = ""
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: list[Any] | None = None


class _Reply(msgspec.Struct):
    choices: list[_Choice] = []
    usage: Usage | None = None
    error: Any = None


_DECODER = msgspec.json.Decoder(_Reply)
_ENCODER = msgspec.json.Encoder()


def sampling_fields(sampling: Sampling) -> dict[str, Any]:
    """The body fields that a sampling stands for: only what is set.

    >>> sampling_fields(Sampling(temperature=0.0, extra={"min_tokens": 4}))
    {'temperature': 0.0, 'min_tokens': 4}
    """
    fields: dict[str, Any] = msgspec.to_builtins(sampling)
    fields.update(fields.pop("extra", {}))
    return fields


def encode_request(
    model: str, contents: Sequence[Any], fields: dict[str, Any], max_tokens: int | None, *, stream: bool
) -> bytes:
    """Write the body of a list request.

    >>> encode_request("m", ["a", "b"], {"seed": 1}, 8, stream=False)
    b'{"model":"m","prompt":["a","b"],"max_tokens":8,"seed":1}'
    """
    body: dict[str, Any] = {"model": model, "prompt": contents}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if stream:
        body.update(_STREAMING)
    body.update(fields)
    return _ENCODER.encode(body)


class CompletionsReader:
    """Reads the reply to a list request of so many prompts with ``n`` samples each."""

    __slots__ = ("_finished", "_n", "_parts", "_prompts", "done")

    def __init__(self, prompts: int, n: int = 1) -> None:
        self._prompts = prompts
        self._n = n
        self._parts: dict[int, Answer] = {}
        self._finished: dict[int, list[Answer]] = {}
        self.done = False

    def event(self, data: bytes) -> tuple[int, Iterable[Answer]]:
        """Take an event's data; see :class:`~aurora_pool.wire.answer.Reader`."""
        if data == b"[DONE]":
            self.done = True
            return 0, ()
        reply: _Reply = decode(_DECODER, data)
        if reply.error is not None:
            raise error_of(reply.error)
        choices = reply.choices
        if len(choices) == 1:
            return self._choice(choices[0], reply.usage)
        started = 0
        finished: list[Answer] = []
        for choice in choices:
            more, ended = self._choice(choice, None)
            started += more
            finished += ended
        return started, finished

    def whole(self, body: bytes) -> Iterable[Answer]:
        """Take a body that was not streamed; see :class:`~aurora_pool.wire.answer.Reader`."""
        reply: _Reply = decode(_DECODER, body)
        if reply.error is not None:
            raise error_of(reply.error)
        if len(reply.choices) != self._prompts * self._n:
            raise BadReply(f"expected {self._prompts * self._n} choices, got {len(reply.choices)}: {body[:120]!r}")
        self.done = True
        answers = [self._answer(choice, None) for choice in reply.choices]
        if self._n > 1:
            answers = [merged for answer in answers for merged in self._sample(answer)]
        if self._prompts == len(answers) == 1:
            answers[0].usage = reply.usage
        return answers

    def _answer(self, choice: _Choice, usage: Usage | None) -> Answer:
        index = choice.index
        if not 0 <= index < self._prompts * self._n:
            raise BadReply(f"a choice has the index {index}; expected 0 to {self._prompts * self._n - 1}")
        logprobs = choice.logprobs
        return Answer(
            index,
            choice.text,
            choice.finish_reason,
            False,
            usage,
            None,
            logprobs.message() if logprobs is not None else None,
            choice.token_ids,
            (),
            choice.prompt_token_ids,
            choice.prompt_logprobs,
        )

    def _choice(self, choice: _Choice, usage: Usage | None) -> tuple[int, Sequence[Answer]]:
        index = choice.index
        part = self._parts.get(index)
        if part is None:
            part = self._parts[index] = self._answer(choice, usage)
            if choice.finish_reason is None:
                return (1 if index % self._n == 0 else 0), ()
        else:
            part.started = True
            part.text += choice.text
            part.finish_reason = choice.finish_reason
            part.usage = usage or part.usage
            if choice.logprobs is not None:
                part.logprobs = add_logprobs(part.logprobs, choice.logprobs.message())
            if choice.token_ids is not None:
                part.token_ids = add_ids(part.token_ids, choice.token_ids)
            if choice.finish_reason is None:
                return 0, ()
        if self._n == 1:
            return 0, (part,)
        return 0, self._sample(part)

    def _sample(self, part: Answer) -> Sequence[Answer]:
        slot = part.slot // self._n
        siblings = self._finished.setdefault(slot, [])
        siblings.append(part)
        if len(siblings) < self._n:
            return ()
        siblings.sort(key=lambda sibling: sibling.slot)
        merged = merge_samples(slot, siblings)
        merged.started = siblings[0].started
        return (merged,)
