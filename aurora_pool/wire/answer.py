"""What the readers of replies have in common: the answer to one prompt, and the boundary that bad bytes don't pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from aurora_pool.errors import BadReply, PoolError
from aurora_pool.messages import MOST_TOKENS, Logprobs, Sample, Usage

Data = TypeVar("Data")
Value = TypeVar("Value")


class WireLogprobs(msgspec.Struct):
    """Log-probabilities as ``/v1/completions`` writes them."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None = None

    def message(self) -> Logprobs:
        """The same as the caller gets it."""
        return Logprobs(self.tokens, self.token_logprobs, self.top_logprobs or [None] * len(self.tokens))


class Answer(msgspec.Struct, gc=False, rename={"slot": "index", "wire_logprobs": "logprobs", "logprobs": "-"}):
    """One prompt's part of a reply: ``slot`` is its place in the request.

    A choice of ``/v1/completions`` is decoded straight into it: an object and a copy less for each prompt. ``started``
    says whether an earlier event had shown a part of it.
    """

    slot: int
    text: str
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
    tool_calls: list[Any] | None = None


class Finished(NamedTuple):
    """Answers that are whole, their slots, what they ended with, and how many tokens each has: see :func:`finished`."""

    answers: Sequence[Answer]
    slots: Sequence[int]
    reasons: AbstractSet[str | None]
    tokens: Sequence[int]


def finished(answers: Sequence[Answer]) -> Finished:
    """Tell of answers what they ended with and how many tokens each has.

    That is an estimate from the text where the server does not say.

    >>> found = finished([Answer(0, "Paris is a city.", "stop"), Answer(1, "", "stop", usage=Usage(3, 1))])
    >>> found.reasons, found.tokens
    ({'stop'}, [4, 1])
    """
    slots, reasons = [answer.slot for answer in answers], {answer.finish_reason for answer in answers}
    return Finished(answers, slots, reasons, _tokens_of(answers))


def finished_texts(
    answers: Sequence[Answer], slots: Sequence[int], reasons: AbstractSet[str | None], lengths: Sequence[int]
) -> Finished:
    """The same of answers of which the rest is known, and the texts' lengths; at less cost."""
    untold = [answer.usage for answer in answers].count(None) + [answer.token_ids for answer in answers].count(None)
    tokens = [length // 4 for length in lengths]
    if untold < 2 * len(answers) or 0 in tokens or max(tokens) > MOST_TOKENS:
        tokens = _tokens_of(answers)
    return Finished(answers, slots, reasons, tokens)


def _tokens_of(answers: Sequence[Answer]) -> list[int]:
    counts = [
        len(answer.text) // 4 if answer.usage is None and answer.token_ids is None else _reported_tokens(answer)
        for answer in answers
    ]
    if not all(counts):
        counts = [count or _least_tokens(answer) for count, answer in zip(counts, answers, strict=True)]
    return counts if max(counts, default=0) <= MOST_TOKENS else [min(count, MOST_TOKENS) for count in counts]


def _reported_tokens(answer: Answer) -> int:
    return answer.usage.completion_tokens if answer.usage is not None else len(answer.token_ids or ())


def _least_tokens(answer: Answer) -> int:
    return int(answer.usage is None and answer.token_ids is None and answer.embedding is None)


class Reader(Protocol):
    """Reads one reply: whole, or event by event."""

    model: str | None
    """What the reply says that its model is, once that has been read."""

    def whole(self, body: bytes) -> Finished:
        """Take the body of a reply that was not streamed.

        Raises :class:`ServerError` for an error, :class:`BadReply` for anything that is no such reply.
        """
        ...

    def events(self, events: Sequence[bytes]) -> None:
        """Take the data of events; :meth:`take` has what came of them, also of those before one that raises.

        Raises :class:`ServerError` for an error event, :class:`BadReply` for anything that is no event.
        """
        ...

    def take(self) -> tuple[list[int], list[Answer]]:
        """Return which prompts have shown their first token since the last call, and what has finished."""
        ...


def guarded(read: Callable[[Data], Value], data: Data) -> Value:
    """Call what reads an agent's bytes: whatever it raises becomes that agent's :class:`BadReply`."""
    try:
        return read(data)
    except PoolError:
        raise
    except Exception as error:
        raise BadReply(f"the reply can't be read ({type(error).__name__}: {str(error)[:120]})") from error


def decode(decoder: msgspec.json.Decoder[Any], data: bytes) -> Any:
    """Decode a reply, with what went wrong and how it began where it can't be decoded."""
    try:
        return decoder.decode(data)
    except Exception as error:  # deep nesting is a RecursionError
        raise BadReply(f"the reply is not what the API promises ({error}): {data[:120]!r}") from error


def merge_samples(slot: int, parts: list[Answer]) -> Answer:
    """Make one answer of the n samples of a prompt.

    It counts as finished well only if each sample did; the generated tokens add up.
    """
    first = parts[0]
    usages = [part.usage for part in parts if part.usage is not None]
    unfinished = next((p.finish_reason for p in parts if p.finish_reason not in ("stop", "length", "repetition")), None)
    total = min(MOST_TOKENS, sum(usage.completion_tokens for usage in usages))
    return Answer(
        slot,
        first.text,
        first.finish_reason if unfinished is None else unfinished,
        Usage(usages[0].prompt_tokens, total) if usages else None,
        first.reasoning,
        first.logprobs,
        first.token_ids,
        tuple(Sample(p.text, p.finish_reason, p.reasoning, p.logprobs, p.token_ids) for p in parts),
        first.prompt_token_ids,
        first.prompt_logprobs,
        started=any(part.started for part in parts),
        tool_calls=first.tool_calls,
    )
