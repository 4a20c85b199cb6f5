"""What a reasoning parser does: it takes the thinking out of a text."""

from __future__ import annotations

_OPEN, _CLOSE = "<think>", "</think>"


def split_thinking(text: str) -> tuple[str | None, str | None]:
    """Split a text into its reasoning and its content; None for what it does not have.

    >>> split_thinking("<think> hm</think> Yes.")
    (' hm', ' Yes.')
    >>> split_thinking("<think> hm")
    (' hm', None)
    """
    if not text.startswith(_OPEN):
        return None, text
    reasoning, close, content = text[len(_OPEN) :].partition(_CLOSE)
    return reasoning, content if close else None


def split_delta(text: str, start: int, end: int) -> tuple[str, str]:
    """Split a text's part from ``start`` to ``end`` into its reasoning and its content."""
    if not text.startswith(_OPEN):
        return "", text[start:end]
    close = text.find(_CLOSE)
    if close < 0:
        close = len(text)
    return text[max(start, len(_OPEN)) : min(end, close)], text[max(start, close + len(_CLOSE)) : end]
