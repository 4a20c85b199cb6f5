from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurora_pool.messages import Response
from aurora_pool.patterns.growing import Work, grow
from tests.patterns.fake_pool import FakePool


@given(st.lists(st.integers(0, 6), max_size=30), st.integers(1, 20), st.integers(0, 2**32))
async def test_everything_that_follows_is_sent_once_and_the_call_ends(
    counts: list[int], window: int, seed: int
) -> None:
    pool = FakePool(lambda text: text, window=window, seed=seed)
    seen: list[str] = []

    def follow(key: str, response: Response) -> list[Work[str]]:
        assert response.text == f"prompt {key}"
        seen.append(key)
        name, left = key.split(":")
        return [(f"{name}:{int(left) - 1}", f"prompt {name}:{int(left) - 1}")] if int(left) else []

    first = [(f"{i}:{count}", f"prompt {i}:{count}") for i, count in enumerate(counts)]
    await grow(pool, first, follow)
    assert sorted(seen) == sorted(f"{i}:{left}" for i, count in enumerate(counts) for left in range(count + 1))


async def test_what_follows_goes_ahead_and_the_rest_is_pulled_only_as_needed() -> None:
    pulled = []

    def first() -> Iterator[Work[str]]:
        for number in range(100):
            pulled.append(number)
            yield "first", f"first {number}"

    pool = FakePool(lambda text: text, window=2)

    def follow(key: str, response: Response) -> list[Work[str]]:
        if key == "then":
            assert len(pulled) <= len([text for text in pool.answered if text.startswith("first")]) + 3
            return []
        return [("then", response.text.replace("first", "then"))]

    await grow(pool, first(), follow)
    texts = [str(prompt.content) for prompt in pool.sent]
    assert len(texts) == 200
    assert max(abs(texts.index(f"then {n}") - texts.index(f"first {n}")) for n in range(100)) < 30


async def test_an_error_in_follow_ends_the_call_and_closes_it() -> None:
    pool = FakePool(lambda text: text)

    def follow(key: int, response: Response) -> list[Work[int]]:
        raise ValueError(response.text)

    with pytest.raises(ValueError, match="hello"):
        await grow(pool, [(0, "hello"), (1, "hello")], follow)
    assert len(pool.closed) == 1


async def test_nothing_to_send_is_nothing_to_do() -> None:
    pool = FakePool(lambda text: text)
    await grow(pool, [], lambda *_: [])
    assert pool.sent == []
