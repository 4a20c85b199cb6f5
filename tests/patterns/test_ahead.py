"""What comes next is prepared while the caller uses what is there."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from aurora_pool.patterns import score
from aurora_pool.patterns.ahead import AHEAD, ahead
from aurora_pool.testing import AgentProfile
from tests.pool.running import now, running

pytestmark = pytest.mark.simulated_clock


async def test_in_order_and_a_few_at_a_time() -> None:
    most = in_flight = 0

    async def prepare(number: int) -> int:
        nonlocal most, in_flight
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(1.0 + number % 3 / 10)
        in_flight -= 1
        return number

    assert [number async for number in ahead(range(64), prepare)] == list(range(64))
    assert most == AHEAD
    assert now() < 64 / AHEAD * 2.5


async def test_what_is_not_needed_any_more_is_cancelled() -> None:
    cancelled = 0

    async def prepare(number: int) -> int:
        nonlocal cancelled
        try:
            await asyncio.sleep(float(number))
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return number

    async with aclosing(ahead(range(64), prepare)) as numbers:
        async for number in numbers:
            if number == 3:
                break
    assert cancelled >= AHEAD - 4


async def test_texts_to_be_scored_are_tokenized_side_by_side() -> None:
    async with running(2, profile=AgentProfile(slots=32)) as (_, pool):
        waiting = most = 0
        plain = pool.tokenize

        async def slow(text: str) -> list[int]:
            nonlocal waiting, most
            waiting += 1
            most = max(most, waiting)
            await asyncio.sleep(1.0)
            waiting -= 1
            return await plain(text)

        pool.tokenize = slow  # type: ignore[method-assign, assignment]
        scores = await score(pool, [f"text {n}" for n in range(32)])
        assert all(one.success for one in scores)
        assert most == AHEAD
