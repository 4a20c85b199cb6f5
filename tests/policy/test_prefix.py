"""Which prompts begin alike."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurora_pool.policy.prefix import LENGTH, depth_of, find_groups, is_worth, key_of, shared_length
from tests.policy.documents import document

WORDS = st.text(st.sampled_from("abcd "), min_size=0, max_size=8)


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_how_much_two_prompts_share(shared: str, one: str, other: str) -> None:
    found = shared_length(shared + one, shared + other)
    assert found >= len(shared)
    assert (shared + one)[:found] == (shared + other)[:found]
    assert (shared + one)[: found + 1] != (shared + other)[: found + 1] or shared + one == shared + other


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), WORDS), min_size=1, max_size=60),
    st.integers(1, 20),
    st.booleans(),
)
def test_every_prompt_is_in_one_group(parts: list[tuple[int, int, str]], most: int, tokens: bool) -> None:
    texts = ["Header. " * 50 + document(d, 300) + f"part {p} " * 60 + question for d, p, question in parts]
    given_texts = [[ord(character) for character in text] for text in texts] if tokens else texts
    keys, groups = find_groups(given_texts, depth_of(given_texts), most)
    assert len(keys) == len(texts)
    if groups is not None:
        assert sorted(place for _, places in groups for place in places) == list(range(len(texts)))
        for key, members in groups:
            assert key or len(members) == 1
            assert len({texts[place][: 8 * 50 + LENGTH] for place in members}) == 1


@pytest.mark.parametrize(
    "texts",
    [
        [document(number) for number in range(50)],
        ["The same header. " * 100 + document(number) for number in range(50)],
        ["The same text. " * 100] * 50,
        [f"short {number % 3}" for number in range(50)],
        [document(number, 100) for number in range(50)] + ["Hi"],
        [document(0)],
    ],
)
def test_nothing_is_grouped_where_nothing_or_all_is_shared(texts: list[str]) -> None:
    assert find_groups(texts, depth_of(texts), 4).groups is None


@pytest.mark.parametrize("order", ["file", "rounds", "shuffled"])
def test_pairs_are_found_among_many(order: str) -> None:
    pairs = [(number, question) for number in range(2000) for question in "ab"]
    if order == "rounds":
        pairs.sort(key=lambda pair: pair[1])
    elif order == "shuffled":
        random.Random(1).shuffle(pairs)
    texts = [f"{number:08d}" * 40 + question for number, question in pairs]
    groups = find_groups(texts, 0, 4).groups
    assert groups is not None
    assert {len(members) for _, members in groups} == {2}


def test_what_all_share_is_told_in_whole_blocks_by_prompts_from_all_over() -> None:
    alike = [f"{'The same header. ' * 6}{number}" for number in range(80)]  # 102 characters and a number
    assert depth_of(alike) == 64
    assert depth_of([[ord(character) for character in text] for text in alike]) == 96
    assert depth_of([*alike, *[document(number) for number in range(80)]]) == 0
    assert depth_of(alike, document(1)) == 0


def test_groups_nest() -> None:
    texts = [
        f"{document(d, 4000)}{document(100 + d * 10 + p)} {q}?" for d in range(2) for p in range(4) for q in range(6)
    ]
    groups = find_groups(texts, depth_of(texts), 8).groups
    assert groups is not None
    assert sorted(sorted(members) for _, members in groups) == [list(range(n, n + 6)) for n in range(0, 48, 6)]
    assert [members[0] // 24 for _, members in groups] == [0] * 4 + [1] * 4  # what shares more is next to each other


def test_a_single_prompt_of_a_large_group_belongs_where_its_like_have_been() -> None:
    shared = document(0, 1000)
    texts = [shared + document(number, 300) for number in range(1, 10)]
    assert find_groups(texts, 0, 4).groups == [(key_of(texts[0], 0), list(range(9)))]
    depth = depth_of(texts)
    met = key_of(texts[5], depth)
    groups = find_groups(texts, 0, 4, {met}).groups
    assert groups == [(key_of(texts[0], 0), [0, 1, 2, 3, 4, 6, 7, 8]), (met, [5])]


def test_what_is_most_alike_is_next_to_each_other_in_a_group() -> None:
    texts = [f"{document(0, 300)}{document(number % 2, 40)}{number}" for number in range(8)] + [document(9)]
    groups = find_groups(texts, 0, 8).groups
    assert groups is not None
    assert [members for _, members in groups if len(members) == 8] == [[0, 2, 4, 6, 1, 3, 5, 7]]


def test_examples_that_each_leave_one_out_are_not_worth_it() -> None:
    examples = [document(number, 60) for number in range(128)]
    texts = ["".join(examples[:i] + examples[i + 1 :]) + examples[i] for i in range(len(examples))]
    groups = find_groups(texts, depth_of(texts), 8).groups
    assert groups is not None
    assert not is_worth(texts, groups, depth_of(texts), agents=16)
