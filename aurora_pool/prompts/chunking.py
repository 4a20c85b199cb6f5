"""Cut long texts into chunks that fit a prompt, at the ends of paragraphs and sentences."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from aurora_pool.arguments import check_callable, check_instance, check_whole
from aurora_pool.errors import ConfigError
from aurora_pool.prompts.length import TokenEstimate

__all__ = ["chunk_text"]

_PARAGRAPH_END = re.compile(r"\n[ \t]*\n\s*")
# Western sentences end before a space; Chinese and Japanese ones need none.
_SENTENCE_END = re.compile(r"""(?<=[.!?…])["'”\u2019)\]]*\s+(?![a-z])|(?<=[。\uff01\uff1f])""")
_LINE_END = re.compile(r"\n\s*")
_WORD_END = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class _Piece:
    """A run of text that stays together: a sentence where sentences are short enough."""

    start: int
    end: int
    tokens: int
    ends_paragraph: bool


def chunk_text(text: str, max_tokens: int, overlap: int = 0, *, count: Callable[[str], int] | None = None) -> list[str]:
    r"""Cut a text into chunks of at most ``max_tokens`` tokens.

    >>> chunk_text("One. Two.\n\nThree. Four.", max_tokens=8)
    ['One. Two.', 'Three. Four.']

    A chunk ends with a paragraph if that leaves it more than half full, else with a sentence. Only a sentence that is
    longer than a chunk is cut: between lines or else words, and only such a word within. Up to ``overlap`` tokens of
    whole sentences from the end of one chunk are repeated at the start of the next. Nothing but space between chunks
    is left out.

    ``count`` gives the number of a text's tokens: ``pool.estimate_tokens`` knows the served model, the default is
    cautious. A chunk has the sum of its sentences.

    Raises :class:`~aurora_pool.errors.ConfigError` if ``max_tokens`` is less than 1, or ``overlap`` is negative or more
    than half of it.
    """
    check_instance("text", text, str, optional=False)
    check_whole(1, optional=False, max_tokens=max_tokens)
    check_whole(0, optional=False, overlap=overlap)
    check_callable(count=count)
    if overlap > max_tokens // 2:
        raise ConfigError(f"overlap: expected at most half of max_tokens ({max_tokens // 2}), got {overlap}")
    pieces = list(_pieces(text, max_tokens, count or TokenEstimate().of))
    chunks = []
    start = 0
    while start < len(pieces):
        end = _end_of_chunk(pieces, start, max_tokens)
        chunks.append(text[pieces[start].start : pieces[end - 1].end].strip())
        if end == len(pieces):
            break
        start = _start_of_overlap(pieces, start, end, min(overlap, max_tokens - pieces[end].tokens))
    return [chunk for chunk in chunks if chunk]


def _end_of_chunk(pieces: list[_Piece], start: int, max_tokens: int) -> int:
    """Say where a chunk ends that starts with a given piece; the first piece always belongs to it."""
    used = 0
    end = paragraph_end = start
    while end < len(pieces) and (end == start or used + pieces[end].tokens <= max_tokens):
        used += pieces[end].tokens
        end += 1
        if pieces[end - 1].ends_paragraph and used * 2 > max_tokens:
            paragraph_end = end
    return paragraph_end if end < len(pieces) and paragraph_end > start else end


def _start_of_overlap(pieces: list[_Piece], start: int, end: int, budget: int) -> int:
    """Say where the next chunk starts, so that it repeats at most ``budget`` tokens and still takes in a new piece."""
    first = end
    while first - 1 > start and pieces[first - 1].tokens <= budget:
        first -= 1
        budget -= pieces[first].tokens
    return first


def _pieces(text: str, max_tokens: int, count: Callable[[str], int]) -> Iterator[_Piece]:
    for start, end in _split(text, 0, len(text), _PARAGRAPH_END):
        for sentence in _split(text, start, end, _SENTENCE_END):
            for piece_start, piece_end, tokens in _fitting(text, *sentence, max_tokens, count):
                yield _Piece(piece_start, piece_end, tokens, ends_paragraph=piece_end == end)


def _fitting(
    text: str, start: int, end: int, max_tokens: int, count: Callable[[str], int]
) -> Iterator[tuple[int, int, int]]:
    """Yield start, end and tokens of a sentence if it fits, else of its halves, cut at the best place."""
    tokens = count(text[start:end])
    if tokens <= max_tokens or end - start == 1:
        yield start, end, tokens
        return
    middle = (start + end) // 2
    for boundary in (_LINE_END, _WORD_END):
        ends = [match.end() for match in boundary.finditer(text, start, end) if start < match.end() < end]
        if ends:
            middle = min(ends, key=lambda place: abs(place - middle))
            break
    yield from _fitting(text, start, middle, max_tokens, count)
    yield from _fitting(text, middle, end, max_tokens, count)


def _split(text: str, start: int, end: int, boundary: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    for match in boundary.finditer(text, start, end):
        if start < match.end() < end:
            yield start, match.end()
            start = match.end()
    if start < end:
        yield start, end
