"""Token counts, as vLLM writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aurora_pool.testing.generation import Choice


def usage_of(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """Write the counts of one choice."""
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }


def total_usage(choices: Sequence[Choice]) -> dict[str, Any]:
    """Count the tokens of a whole request: each prompt once, and all of its answers."""
    return usage_of(
        sum(len(choice.prompt.ids) for choice in choices if choice.first_sample),
        sum(len(choice.answer.token_ids) for choice in choices),
    )
