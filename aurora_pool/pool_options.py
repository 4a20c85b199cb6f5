"""What callers say: the options of the pools' constructors, for signatures that hand them on, and those of one call."""

from __future__ import annotations

import random
from collections.abc import AsyncIterable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict

from aurora_pool.arguments import check_instance, check_positive, check_whole, shown
from aurora_pool.errors import ConfigError
from aurora_pool.messages import AnyPrompt, Prompt, Sampling
from aurora_pool.options import ConnectionOptions, HostedOptions, Observer, PromptOptions, Timeouts
from aurora_pool.policy.prefix import Prefix
from aurora_pool.policy.scheduler import Balance
from aurora_pool.prompts.content import check_each, check_sampling

__all__ = [
    "AgentPoolOptions",
    "CallOptions",
    "EmbeddingOnTooLong",
    "EmbeddingPoolOptions",
    "VLLMPoolOptions",
    "check_prompts",
    "listed",
]


EmbeddingOnTooLong: TypeAlias = Literal["error", "truncate"]
"""What becomes of a text that is longer than an embedding model's context."""


class AgentPoolOptions(TypedDict, total=False):
    """The options that all kinds of pools have. A test holds these classes to the constructors."""

    model: str | None
    timeout: float | None
    balance: Balance
    concurrency: int | None
    connector_limit: int | None
    timeouts: Timeouts | None
    connection: ConnectionOptions | None
    observer: Observer | None
    rng: random.Random | None


class VLLMPoolOptions(AgentPoolOptions, total=False):
    """The options of :class:`~aurora_pool.VLLMPool`."""

    prefix: Prefix
    max_tokens: int | None
    max_tokens_aggregation: int | None
    model_max_context: int | None
    buffer: int
    system_prompt: str | None
    sampling: Sampling | None
    use_batch: bool
    prompting: PromptOptions | None
    hosted: HostedOptions | None


class EmbeddingPoolOptions(AgentPoolOptions, total=False):
    """The options of :class:`~aurora_pool.EmbeddingPool`."""

    dimensions: int | None
    on_too_long: EmbeddingOnTooLong


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What a caller has said about one call. Raises :class:`ConfigError` for invalid arguments."""

    max_tokens: int | None
    sampling: Sampling | None
    batched: bool
    weight: float = 1.0
    priority: int = 0

    def __post_init__(self) -> None:
        check_whole(1, max_tokens=self.max_tokens)
        check_positive(weight=self.weight)
        check_instance("priority", self.priority, int, optional=False)
        if self.sampling is not None:
            check_sampling(self.sampling)


def listed(prompts: Iterable[AnyPrompt]) -> list[AnyPrompt]:
    """Make a list of prompts that are all needed before anything is sent: checked, also where they come one by one.

    Raises :class:`ConfigError` as :func:`check_prompts` does, and for an async iterable.
    """
    check_prompts(prompts, asynchronous=False)
    if isinstance(prompts, Collection):
        return list(prompts)
    found = list(prompts)
    check_each(found)
    return found


def check_prompts(prompts: object, *, asynchronous: bool = True) -> None:
    """Raise :class:`ConfigError` for what is one prompt or nothing that holds prompts, and for a bad one in a list.

    An iterator can't be looked at before it is used: a bad prompt from one is a failed response.

    >>> check_prompts("Name a colour.")
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: prompts: expected a list, or another iterable, of prompts, got 'Name a colour.'
    """
    many = isinstance(prompts, Iterable) or (asynchronous and isinstance(prompts, AsyncIterable))
    if isinstance(prompts, str | bytes | Mapping | Prompt) or not many:
        raise ConfigError(f"prompts: expected a list, or another iterable, of prompts, got {shown(prompts)}")
    if isinstance(prompts, Collection):
        check_each(prompts)
