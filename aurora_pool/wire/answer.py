"""What the readers of replies have in common: the answer to one prompt, and how parts of it add up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from aurora_pool.errors import BadReply
from aurora_pool.messages import Logprobs, Sample, Usage


class Answer(msgspec.Struct):
    """One prompt's part of a reply: ``slot`` is its place in the request.

    ``started`` tells whether an earlier event had shown a part of it.
    """

    slot: int
    text: str
    finish_reason: str | None
    started: bool = False
    usage: Usage | None = None
    reasoning: str | None = None
    logprobs: Logprobs | None = None
    token_ids: list[int] | None = None
    samples: tuple[Sample, ...] = ()
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: list[Any] | None = None
    embedding: bytes | list[float] | None = None

    @property
    def tokens(self) -> int:
        """How many tokens were generated; an estimate from the text where the server does not say."""
        if self.embedding is not None:
            return 0
        if self.usage is not None:
            return self.usage.completion_tokens
        if self.token_ids is not None:
            return len(self.token_ids)
        return max(1, len(self.text) // 4)


class Reader(Protocol):
    """Reads one reply: either its events one by one, or its whole body."""

    done: bool

    def event(self, data: bytes) -> tuple[int, Iterable[Answer]]:
        """Take an event's data; return how many prompts have shown their first token in it, and what is finished.

        Raises :class:`ServerError` for an error event, :class:`BadReply` for anything that is no event.
        """
        ...

    def whole(self, body: bytes) -> Iterable[Answer]:
        """Take the whole body of a reply that was not streamed. Raises as :meth:`event` does."""
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
        any(part.started for part in parts),
        Usage(usages[0].prompt_tokens, sum(usage.completion_tokens for usage in usages)) if usages else None,
        first.reasoning,
        first.logprobs,
        first.token_ids,
        tuple(Sample(p.text, p.finish_reason, p.reasoning, p.logprobs, p.token_ids) for p in parts),
        first.prompt_token_ids,
        first.prompt_logprobs,
    )


def add_logprobs(first: Logprobs | None, second: Logprobs | None) -> Logprobs | None:
    """Put the log-probabilities of two successive parts together."""
    if first is None or second is None:
        return first or second
    return Logprobs(first.tokens + second.tokens, first.token_logprobs + second.token_logprobs, first.top + second.top)


def add_ids(first: list[int] | None, second: list[int] | None) -> list[int] | None:
    """Put the token ids of two successive parts together."""
    return first + second if first is not None and second is not None else first or second
