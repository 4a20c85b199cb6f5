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
from aurora_pool.messages import Sampling, Usage
from aurora_pool.wire.answer import Answer, add_ids, add_logprobs, decode, merge_samples
from aurora_pool.wire.errors import error_of

PATH = "/v1/completions"
STREAM_INTERVAL = 1_000_000
_STREAMING = {
    "stream": True,
    "stream_interval": STREAM_INTERVAL,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}


class _Reply(msgspec.Struct, gc=False):
    choices: list[Answer] = []
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
    """Reads the reply to a list request of a number of prompts with ``n`` samples each."""

    __slots__ = ("_choices", "_finished", "_n", "_parts", "_samples", "_started")

    def __init__(self, prompts: int, n: int = 1) -> None:
        self._n = n
        self._choices = prompts * n
        self._parts: dict[int, Answer] = {}
        self._samples: dict[int, list[Answer]] = {}
        self._started: list[int] = []
        self._finished: list[Answer] = []

    def events(self, events: Iterable[bytes]) -> None:
        """Take the data of events; :meth:`take` has what came of them, also of those before one that raises.

        Raises :class:`ServerError` for an error event, :class:`BadReply` for anything that is no event.
        """
        parts, n = self._parts, self._n
        for data in events:
            if data == b"[DONE]":
                continue
            reply: _Reply = decode(_DECODER, data)
            if reply.error is not None:
                raise error_of(reply.error)
            choices = reply.choices
            self._check(choices)
            for choice in choices:
                index = choice.slot
                part = parts.get(index)
                if part is None:
                    part = parts[index] = choice
                    if choice.finish_reason is None and index % n == 0:
                        self._started.append(index // n)
                else:
                    _add(part, choice)
                if len(choices) == 1 and reply.usage is not None:
                    part.usage = reply.usage
                if choice.finish_reason is not None:
                    if n == 1:
                        self._finished.append(part)
                    else:
                        self._finished += self._sample(part)

    def take(self) -> tuple[list[int], list[Answer]]:
        """Return which prompts have shown their first token since the last call, and what has finished."""
        started, finished = self._started, self._finished
        self._started, self._finished = [], []
        return started, finished

    def whole(self, body: bytes) -> Sequence[Answer]:
        """Take a body that was not streamed; see :class:`~aurora_pool.wire.answer.Reader`."""
        reply: _Reply = decode(_DECODER, body)
        if reply.error is not None:
            raise error_of(reply.error)
        answers = reply.choices
        if len(answers) != self._choices:
            raise BadReply(f"expected {self._choices} choices, got {len(answers)}: {body[:120]!r}")
        self._check(answers)
        if self._n > 1:
            answers = [merged for answer in answers for merged in self._sample(answer)]
        if len(answers) == 1:
            answers[0].usage = reply.usage
        return answers

    def _check(self, choices: Sequence[Answer]) -> None:
        for choice in choices:
            if not 0 <= choice.slot < self._choices:
                raise BadReply(f"a choice has the index {choice.slot}; expected 0 to {self._choices - 1}")
            if choice.wire_logprobs is not None:
                choice.logprobs = choice.wire_logprobs.message()

    def _sample(self, part: Answer) -> Sequence[Answer]:
        slot = part.slot // self._n
        siblings = self._samples.setdefault(slot, [])
        siblings.append(part)
        if len(siblings) < self._n:
            return ()
        siblings.sort(key=lambda sibling: sibling.slot)
        merged = merge_samples(slot, siblings)
        merged.started = siblings[0].started
        return (merged,)


def _add(part: Answer, choice: Answer) -> None:
    """Add the next piece of a choice to what there is of it."""
    part.started = True
    part.text += choice.text
    part.finish_reason = choice.finish_reason
    if choice.logprobs is not None:
        part.logprobs = add_logprobs(part.logprobs, choice.logprobs)
    if choice.token_ids is not None:
        part.token_ids = add_ids(part.token_ids, choice.token_ids)
