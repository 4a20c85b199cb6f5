"""What the readers of replies have in common: the answer to one prompt, and how parts of it add up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from aurora_pool.errors import BadReply
from aurora_pool.messages import Logprobs, Sample, Usage


class WireLogprobs(msgspec.Struct):
    """Log-probabilities as ``/v1/completions`` writes them."""

    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] | None = None

    def message(self) -> Logprobs:
        """The same as the caller gets it."""
        return Logprobs(self.tokens, self.token_logprobs, self.top_logprobs or [None] * len(self.tokens))


class Answer(msgspec.Struct, gc=False, rename={"slot": "index", "wire_logprobs": "logprobs", "logprobs": "-"}):
    """One prompt's part of a reply: ``slot`` is its place in the request.

    A choice of ``/v1/completions`` is decoded straight into it: an object and a copy less for each prompt. ``started``
    tells whether an earlier event had shown a part of it.
    """

    slot: int
    text: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None
    reasoning: str | None = None
    logprobs: Logprobs | None = None
    token_ids: list[int] | None = None
    samples: tuple[Sample, ...] = ()
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: list[Any] | None = None
    embedding: bytes | list[float] | None = None
    wire_logprobs: WireLogprobs | None = None
    started: bool = False

    @property
    def tokens(self) -> int:
        """How many tokens were generated; an estimate from the text where the server does not say."""
        if self.usage is not None:
            return self.usage.completion_tokens
        if self.token_ids is not None:
            return len(self.token_ids)
        return len(self.text) // 4 or (1 if self.embedding is None else 0)


class Reader(Protocol):
    """Reads one reply."""

    def whole(self, body: bytes) -> Sequence[Answer]:
        """Take the body of a reply that was not streamed.

        Raises :class:`ServerError` for an error, :class:`BadReply` for anything that is no such reply.
        """
        ...


def decode(decoder: msgspec.json.Decoder[Any], data: bytes) -> Any:
    """Decode a reply, with what went wrong and how it began where it can't be decoded."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadReply(f"the reply is not what the API promises ({error}): {data[:120]!r}") from error


def merge_samples(slot: int, parts: list[Answer]) -> Answer:
    """Make one answer of the n samples of a prompt.

    It counts as finished well only if each sample did; the generated tokens add up.
    """
    first = parts[0]
    usages = [part.usage for part in parts if part.usage is not None]
    unfinished = next((p.finish_reason for p in parts if p.finish_reason not in ("stop", "length", "repetition")), None)
    return Answer(
        slot,
        first.text,
        first.finish_reason if unfinished is None else unfinished,
        Usage(usages[0].prompt_tokens, sum(usage.completion_tokens for usage in usages)) if usages else None,
        first.reasoning,
        first.logprobs,
        first.token_ids,
        tuple(Sample(p.text, p.finish_reason, p.reasoning, p.logprobs, p.token_ids) for p in parts),
        first.prompt_token_ids,
        first.prompt_logprobs,
        started=any(part.started for part in parts),
    )


def add_logprobs(first: Logprobs | None, second: Logprobs | None) -> Logprobs | None:
    """Put the log-probabilities of two successive parts together."""
    if first is None or second is None:
        return first or second
    return Logprobs(first.tokens + second.tokens, first.token_logprobs + second.token_logprobs, first.top + second.top)


def add_ids(first: list[int] | None, second: list[int] | None) -> list[int] | None:
    """Put the token ids of two successive parts together."""
    return first + second if first is not None and second is not None else first or second
