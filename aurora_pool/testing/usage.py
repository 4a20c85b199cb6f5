"""Token counts, as vLLM writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aurora_pool.testing.generation import Choice


def usage_of(prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> dict[str, Any]:
    """Write the counts of one choice."""
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
        "prompt_tokens_details": {"audio_tokens": None, "cached_tokens": cached_tokens} if cached_tokens else None,
        "completion_tokens_details": None,
    }


def total_usage(choices: Sequence[Choice], cached: Choice | None = None) -> dict[str, Any]:
    """Count the tokens of a whole request: each prompt once, and all of its answers.

    Of tokens found in the cache, vLLM tells one choice's number: ``cached`` is that choice.
    """
    sequence = None if cached is None else cached.sequence
    return usage_of(
        sum(len(choice.prompt.ids) for choice in choices if choice.first_sample),
        sum(len(choice.answer.token_ids) for choice in choices),
        0 if sequence is None else sequence.cached_tokens,
    )
