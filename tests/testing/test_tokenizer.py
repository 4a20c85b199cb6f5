from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurora_pool.testing import tokenizer


@given(st.text() | st.lists(st.sampled_from([*tokenizer.SPECIAL_TOKENS, " the", "the", "é", "<|", "\n"])).map("".join))
def test_every_text_comes_back_from_its_tokens(text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= token < tokenizer.VOCABULARY_SIZE for token in ids)


@given(st.lists(st.integers(0, 255 + 65536)))
def test_every_token_has_a_text_of_one_or_two_bytes(ids: list[int]) -> None:
    assert len(tokenizer.decode_bytes(ids)) == sum(1 if token < 256 else 2 for token in ids)


@given(st.text())
def test_a_text_is_never_longer_than_its_tokens_allow(text: str) -> None:
    assert len(text) <= len(tokenizer.encode(text)) * tokenizer.LONGEST_TOKEN


def test_special_tokens_written_in_a_text_are_special() -> None:
    ids = tokenizer.encode("a<|im_end|>b")
    assert ids[1] == tokenizer.SPECIAL_IDS["<|im_end|>"]
    assert tokenizer.decode(ids, skip_special=True) == "ab"


def test_thinking_tags_are_text() -> None:
    assert tokenizer.decode(tokenizer.encode("<think> hm</think>"), skip_special=True) == "<think> hm</think>"


def test_common_words_are_one_token() -> None:
    assert len(tokenizer.encode(" the water")) == 2
    assert len(set(tokenizer.COMMON_WORDS)) == len(tokenizer.COMMON_WORDS) == 240


def test_a_text_cut_within_a_character_decodes_with_a_replacement() -> None:
    assert tokenizer.decode(tokenizer.encode("€")[:1]) == "\N{REPLACEMENT CHARACTER}"


def test_unknown_ids_are_errors() -> None:
    with pytest.raises(IndexError):
        tokenizer.decode([tokenizer.VOCABULARY_SIZE])
