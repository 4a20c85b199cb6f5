from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aurora_pool.errors import ConfigError
from aurora_pool.prompts.chunking import chunk_text
from aurora_pool.prompts.length import TokenEstimate

prose = st.lists(
    st.sampled_from(["word", "a", "Longerword", ". ", ".\n\n", "\n", " ", "? ", "。", "字", "é", "x" * 50]), max_size=80
).map("".join)


def words(text: str) -> int:
    return len(text.split())


@given(prose | st.text(), st.integers(1, 40))
def test_without_overlap_every_character_is_in_exactly_one_chunk(text: str, max_tokens: int) -> None:
    chunks = chunk_text(text, max_tokens)
    assert "".join("".join(chunks).split()) == "".join(text.split())


@given(prose | st.text(), st.integers(2, 40), st.integers(0, 20))
@example("One. Two.\n\nThree. Four.", 6, 3)
def test_chunks_fit_and_cover_the_text_in_order(text: str, max_tokens: int, overlap: int) -> None:
    covered = previous = 0
    for chunk in chunk_text(text, max_tokens, min(overlap, max_tokens // 2)):
        assert TokenEstimate().of(chunk) <= max_tokens
        # The last possible place: an equal chunk may stand earlier in the text.
        start = max(
            place
            for place in range(previous, len(text))
            if text.startswith(chunk, place) and not text[covered:place].strip()
        )
        assert start + len(chunk) > covered
        covered, previous = start + len(chunk), start
    assert not text[covered:].strip()


def test_paragraphs_stay_whole_where_that_leaves_a_chunk_half_full() -> None:
    text = "One two three. Four five six.\n\nSeven eight. Nine ten.\n\nEleven."
    assert chunk_text(text, 8, count=words) == [
        "One two three. Four five six.",
        "Seven eight. Nine ten.\n\nEleven.",
    ]


def test_sentences_stay_whole() -> None:
    text = "Mr. x came, i.e. late. “Why?” he asked! None knew."
    assert chunk_text(text, 6, count=words) == ["Mr. x came, i.e. late.", "“Why?” he asked! None knew."]


def test_a_sentence_may_run_over_lines() -> None:
    assert chunk_text("It was a dark\nand stormy night. Rain fell.", 7, count=words) == [
        "It was a dark\nand stormy night.",
        "Rain fell.",
    ]


def test_a_sentence_that_does_not_fit_is_cut_between_lines_then_words_then_anywhere() -> None:
    assert chunk_text("a b c\nd e f", 4, count=words) == ["a b c", "d e f"]
    assert chunk_text("a b c d e f", 4, count=words) == ["a b", "c d e f"]
    assert chunk_text("abcdefgh" * 2, 4) == ["abcdefgh", "abcdefgh"]


def test_overlap_repeats_whole_sentences() -> None:
    text = "One a. Two b. Three c. Four d. Five e."
    assert chunk_text(text, 6, overlap=2, count=words) == ["One a. Two b. Three c.", "Three c. Four d. Five e."]
    assert chunk_text(text, 6, overlap=1, count=words) == ["One a. Two b. Three c.", "Four d. Five e."]


def test_nothing_gives_no_chunks() -> None:
    assert chunk_text("", 10) == chunk_text(" \n\n ", 10) == []


def test_a_large_text_on_one_line_takes_no_time_to_speak_of() -> None:
    chunks = chunk_text("word " * 100_000, 100)
    assert len(chunks) < 2 * 100_000 * 5 / 2.5 / 100


@pytest.mark.parametrize(
    ("max_tokens", "overlap", "match"),
    [(0, 0, "at least 1, got 0"), (10, 6, r"half of max_tokens \(5\), got 6"), (10, -1, "got -1")],
)
def test_misuse(max_tokens: int, overlap: int, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        chunk_text("text", max_tokens, overlap)
