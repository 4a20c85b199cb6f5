"""What goes in and what comes out: prompts with their sampling, and responses.

These are frozen :class:`msgspec.Struct` types: as immutable and slotted as a frozen dataclass, several times cheaper to
make, and JSON-encodable. ``msgspec.structs.replace`` and ``msgspec.structs.asdict`` copy and unpack them.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeAlias

import msgspec

from aurora_pool.errors import NoAgentsError, PoolError

__all__ = [
    "AnyPrompt",
    "AnyPrompts",
    "AttemptsExhausted",
    "Content",
    "ErrorKind",
    "Logprobs",
    "Message",
    "Prompt",
    "PromptFailed",
    "PromptPoisoned",
    "PromptRejected",
    "PromptTimedOut",
    "Response",
    "Sample",
    "Sampling",
    "TokenCount",
    "Usage",
]

Message: TypeAlias = Mapping[str, Any]
"""One chat message, as the OpenAI API writes it: ``{"role": "user", "content": "Hello"}``."""

Content: TypeAlias = str | Sequence[int] | Sequence[Message]
"""What a prompt says: text, token ids, or a conversation."""

ErrorKind: TypeAlias = Literal[
    "rejected",  # a server rejected this prompt or filtered its answer (see ``error``), or it could not be sent at all
    "poison",  # the agents that served this prompt died of it
    "exhausted",  # every attempt that the retry policy allows has failed
    "invalid",  # an answer came, and again and again it was not what the job expects of one
    "length",  # an answer came, cut at ``max_tokens``, where the job takes that for a failure
    "timeout",  # the time the caller allows for one prompt ran out
    "no_agents",  # no agent that may serve it was in service for as long as the pool waits
]
"""Why a prompt has no answer, in one word."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, repr_omit_defaults=True):
    """How a prompt is to be answered. What is None is not sent, and the server's own default holds.

    vLLM takes omitted values from the model's ``generation_config.json``, not from OpenAI's documentation: set
    ``temperature`` (and ``top_p``, ``top_k``) where they matter.

    >>> Sampling(temperature=0.0, seed=1)
    Sampling(temperature=0.0, seed=1)

    ``logprobs`` is the number of alternatives per generated token (vLLM allows 20 by default), ``prompt_logprobs`` the
    same for the prompt's tokens. ``extra`` holds any further field of the request body, for example
    ``{"min_tokens": 4}``; its keys win over the named ones.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    n: int = 1
    seed: int | None = None
    stop: str | tuple[str, ...] | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    response_format: Mapping[str, Any] | None = None
    return_token_ids: bool = False
    extra: Mapping[str, Any] = {}


class Prompt(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """One unit of work. Wherever prompts are taken, a plain string, token ids or a list of messages will do as well.

    ``sampling`` and ``max_tokens`` (generated tokens), where given, win over the call's and the pool's. ``format`` does
    over the pool's ``prompt_format``: ``"chat"`` puts text into the chat template, ``"raw"`` sends it unchanged.

    >>> Prompt("Name a colour.", max_tokens=8).max_tokens
    8
    """

    content: Content
    sampling: Sampling | None = None
    max_tokens: int | None = None
    format: Literal["chat", "raw"] | None = None


AnyPrompt: TypeAlias = Content | Prompt
"""What is taken wherever a prompt is: a :class:`Prompt`, text, token ids, or a list of messages."""

AnyPrompts: TypeAlias = Iterable[AnyPrompt] | AsyncIterable[AnyPrompt]
"""Many prompts: a list or a generator, or an async one."""

MOST_TOKENS = 1 << 23
"""More tokens than any context has: a server that counts more is not believed."""

TokenCount: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]
"""A number of tokens as a server tells it."""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Token counts of one reply: of one prompt where the server tells them apart, else of the whole request."""

    prompt_tokens: TokenCount = 0
    completion_tokens: TokenCount = 0


class Logprobs(msgspec.Struct, frozen=True):
    """Log-probabilities of generated tokens, position by position; the lists are equally long.

    ``top`` holds, for each position, the best alternatives and their log-probabilities.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top: list[dict[str, float] | None]


class Sample(msgspec.Struct, frozen=True):
    """One of the ``n`` answers to a prompt that was sampled more than once."""

    text: str
    finish_reason: str | None = None
    reasoning: str | None = None
    logprobs: Logprobs | None = None
    token_ids: list[int] | None = None


class Response(msgspec.Struct, frozen=True, repr_omit_defaults=True, gc=False):
    """The result of one prompt. There is exactly one per prompt, and ``success`` says whether it is an answer.

    Success means that the server ended the answer itself: its ``finish_reason`` is ``stop``, ``length``, ``repetition``
    or ``tool_calls``. An HTTP status of 200 is not success.

    - ``text``: the answer; of a failed prompt, what had come of it (often nothing).
    - ``error``, ``error_kind``: why it failed, in words and as one of :data:`ErrorKind`; None on success.
    - ``agent_index``: which agent gave it, counted within the pool or view that was asked; None if none did.
    - ``prompt_tokens``, ``completion_tokens``: None where the server did not tell them per prompt.
    - ``attempts``: how often the prompt was sent; ``latency``: seconds from its first sending to this response.
    - ``samples``: all ``n`` answers where more than one was asked for, the first one included.
    - ``prompt_token_ids``, ``prompt_logprobs``: only where the sampling asked for them.
    - ``tool_calls``: what a chat answer with the ``finish_reason`` ``tool_calls`` wants called, as the server wrote it.
    - ``embedding``: of an :class:`~aurora_pool.embeddings.EmbeddingPool`, the bytes of little-endian 32-bit floats.

    >>> Response(True, " Paris.", agent_index=2, finish_reason="stop").texts
    (' Paris.',)
    """

    success: bool
    text: str
    error: str | None = None
    agent_index: int | None = None
    error_kind: ErrorKind | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning: str | None = None
    logprobs: Logprobs | None = None
    token_ids: list[int] | None = None
    attempts: int = 0
    latency: float = 0.0
    samples: tuple[Sample, ...] = ()
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: list[Any] | None = None
    embedding: bytes | list[float] | None = None
    tool_calls: list[Any] | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """All answers to this prompt: one, or ``n`` where the sampling asked for more."""
        return tuple(sample.text for sample in self.samples) or (self.text,)

    @property
    def blank(self) -> bool:
        """Whether it is a success without any text: a reasoning model, say, whose ``max_tokens`` ended its thoughts.

        >>> Response(True, " ", finish_reason="length").blank
        True
        """
        return self.success and not self.text.strip() and self.embedding is None and not self.tool_calls

    def raise_for_status(self) -> Self:
        """Return the response if it is an answer; raise an error that says why if it is not.

        >>> Response(True, " Paris.").raise_for_status().text
        ' Paris.'

        Raises :class:`PromptRejected`, :class:`PromptPoisoned`, :class:`PromptTimedOut` or :class:`AttemptsExhausted`,
        which are all :class:`PromptFailed`; for the kinds ``invalid`` and ``length``, which only jobs give,
        :class:`PromptFailed` itself; and :class:`NoAgentsError`, which is none, where no agent was in service.
        """
        if self.success:
            return self
        reason = self.error or "the prompt has no answer"
        if self.error_kind == "no_agents":
            raise NoAgentsError(reason)
        raise _FAILURES.get(self.error_kind or "", PromptFailed)(reason, self)


class PromptFailed(PoolError):
    """One prompt has no answer; raised by :meth:`Response.raise_for_status`. ``response`` is the failed response."""

    def __init__(self, reason: str, response: Response) -> None:
        self.response = response
        super().__init__(reason)


class PromptRejected(PromptFailed):
    """This prompt was rejected for a reason of its own: by a server, or before it was sent."""


class PromptPoisoned(PromptFailed):
    """The agents that served this prompt died of it."""


class PromptTimedOut(PromptFailed):
    """The time that the caller allows for one prompt (``VLLMPool(timeout=...)``) ran out."""


class AttemptsExhausted(PromptFailed):
    """Every attempt that the retry policy allows has failed."""


_FAILURES: Mapping[str, type[PromptFailed]] = {
    "rejected": PromptRejected,
    "poison": PromptPoisoned,
    "timeout": PromptTimedOut,
    "exhausted": AttemptsExhausted,
}
