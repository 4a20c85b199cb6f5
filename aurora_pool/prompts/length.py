"""How long prompts are, and how many tokens may be generated for them. Pure."""

from __future__ import annotations

from typing import Any

from aurora_pool.messages import Content

_CAUTIOUS = 1 / 2.5
"""Tokens per UTF-8 byte that are assumed before anything is known; English text has about 1/4, dense code more."""
_PER_MESSAGE = 8
"""Tokens that a chat template puts around each message."""


_MOST_PER_MESSAGE = 64
"""Tokens that no chat template exceeds around a message that has no more than a text."""


def most_tokens(messages: Any) -> int:
    """How many tokens a conversation has at most: none is shorter than a byte.

    >>> most_tokens([{"role": "user", "content": "Größe"}])
    71
    """
    return sum(_MOST_PER_MESSAGE + _bytes(str(message.get("content", ""))) for message in messages)


class TokenEstimate:
    """Estimates token counts from bytes, calibrated by the counts that servers report.

    The ratio follows what is seen upwards at once and downwards slowly, so that estimates err on the long side.

    >>> estimate = TokenEstimate()
    >>> estimate.of("x" * 1000)
    401
    >>> for _ in range(500): estimate.observe("x" * 1000, 250)
    >>> 250 <= estimate.of("x" * 1000) <= 260
    True
    """

    __slots__ = ("ratio",)

    def __init__(self) -> None:
        self.ratio = _CAUTIOUS

    def of(self, content: Content) -> int:
        """How many tokens a prompt probably has: text, token ids or messages."""
        if isinstance(content, str):
            return int(_bytes(content) * self.ratio) + 1
        if content and isinstance(content[0], int):
            return len(content)
        messages: Any = content
        texts = [str(message.get("content", "")) for message in messages]
        return sum(_PER_MESSAGE + int(_bytes(text) * self.ratio) for text in texts)

    def observe(self, content: str, tokens: int) -> None:
        """Record how many tokens a text had."""
        size = _bytes(content)
        if size >= 32:  # the special tokens around a short text say nothing about text
            seen = tokens / size
            self.ratio += (seen - self.ratio) * (1.0 if seen > self.ratio else 0.02)


def budget_or_none(max_context: int, prompt_tokens: int, buffer: int, max_tokens: int | None) -> int | None:
    """How many tokens may be generated for a prompt of about this length; None where that has to be counted exactly.

    Counting is due where ``max_tokens`` and the buffer may not fit, or, without ``max_tokens``, for a prompt that takes
    more than half of the context.

    >>> budget_or_none(2048, 100, 64, None), budget_or_none(2048, 100, 64, 256), budget_or_none(2048, 1900, 64, 256)
    (1884, 256, None)
    """
    left = max_context - prompt_tokens - buffer
    if max_tokens is None:
        return left if 2 * prompt_tokens <= max_context and left > 0 else None
    return max_tokens if max_tokens <= left else None


def rounded(budget: int) -> int:
    """Round a budget down by at most a sixteenth, so that prompts of about the same length can share a list request.

    >>> rounded(1948), rounded(1250), rounded(30)
    (1920, 1216, 30)
    """
    return budget & -(1 << max(0, budget.bit_length() - 5))


def exact_budget(max_context: int, prompt_tokens: int, max_tokens: int | None) -> int:
    """How many tokens may be generated for a prompt of exactly this length; at least 1: a server says what is too long.

    >>> exact_budget(2048, 2000, None), exact_budget(2048, 2000, 16)
    (48, 16)
    """
    left = max(1, max_context - prompt_tokens)
    return left if max_tokens is None else min(left, max_tokens)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
