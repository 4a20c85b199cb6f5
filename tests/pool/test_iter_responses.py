"""Responses as they come, from any input, without reading ahead of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest

from aurora_pool import ConfigError, NoAgentsError
from aurora_pool.testing import AgentProfile
from tests.pool.running import INSTANT, SMALL, now, running, running_sequences

pytestmark = pytest.mark.simulated_clock


class Source:
    """Gives out numbered prompts, and counts them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.pulled = 0
        self.closed = False

    def __iter__(self) -> Iterator[str]:
        for index in range(self.count):
            self.pulled += 1
            yield f"prompt {index}"

    async def slowly(self, pause: float = 0.0) -> AsyncIterator[str]:
        try:
            for prompt in self:
                if pause:
                    await asyncio.sleep(pause)
                yield prompt
        finally:
            self.closed = True


async def test_responses_come_in_the_order_in_which_they_end() -> None:
    profile = AgentProfile(slots=8, reply=lambda prompt: "word " * int(prompt or 1), step_base=0.01)
    lengths = [50, 5, 80, 20, 1, 35]
    async with running(1, profile=profile) as (_, pool):
        found = [index async for index, _ in pool.iter_responses([str(n) for n in lengths], max_tokens=500)]
        assert found == sorted(range(6), key=lambda index: lengths[index])


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_every_prompt_has_one_response(asynchronous: bool) -> None:
    source = Source(500)
    async with running(3, profile=SMALL) as (_, pool):
        prompts = source.slowly() if asynchronous else source
        found = [pair async for pair in pool.iter_responses(prompts, max_tokens=30)]
        assert sorted(index for index, _ in found) == list(range(500))
        assert all(response.success for _, response in found)
        assert source.pulled == 500


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_the_input_is_pulled_no_further_than_twice_what_the_agents_hold(asynchronous: bool) -> None:
    source = Source(100_000)
    async with running(2, profile=INSTANT) as (_, pool):
        windows = sum(agent.window for agent in pool.statistics().agents)
        prompts = source.slowly() if asynchronous else source
        async with aclosing(pool.iter_responses(prompts, max_tokens=5)) as responses:
            await anext(responses)
            await asyncio.sleep(60)  # the caller takes nothing for a minute
            windows = max(windows, sum(agent.window for agent in pool.statistics().agents))
            assert source.pulled <= 2 * windows + 1
            for _ in range(5000):
                await anext(responses)
            windows = max(windows, sum(agent.window for agent in pool.statistics().agents))
            assert source.pulled <= 5001 + 2 * windows


async def test_a_slow_input_is_sent_as_it_comes() -> None:
    source = Source(20)
    async with running(2, profile=SMALL) as (fleet, pool):
        async with aclosing(pool.iter_responses(source.slowly(10.0), max_tokens=5)) as responses:
            index, _ = await anext(responses)
            assert index == 0
            assert now() < 11.0
            assert source.pulled <= 3
            rest = [index async for index, _ in responses]
        assert rest == list(range(1, 20))
        assert fleet.prompts_received == 20


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_input_that_raises_reaches_the_caller_and_nothing_goes_on(asynchronous: bool) -> None:
    def broken() -> Iterator[str]:
        yield from (f"prompt {index}" for index in range(40))
        raise OSError("the disk is gone")

    async def broken_later() -> AsyncIterator[str]:
        for prompt in broken():
            yield prompt

    async with running(2, profile=SMALL) as (fleet, pool):
        with pytest.raises(OSError, match="the disk is gone"):
            async for _ in pool.iter_responses(broken_later() if asynchronous else broken(), max_tokens=50):
                pass
        await asyncio.sleep(0.1)
        assert running_sequences(fleet) == 0
        statistics = pool.statistics()
        assert (statistics.queued, statistics.in_flight) == (0, 0)
        assert all(response.success for response in await pool.send_all_batched(["a"] * 40, max_tokens=5))


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_closing_early_aborts_at_the_servers_and_closes_the_input(asynchronous: bool) -> None:
    source = Source(5000)
    async with running(2, profile=AgentProfile(slots=64)) as (fleet, pool):
        prompts = source.slowly() if asynchronous else source
        async with aclosing(pool.iter_responses(prompts, max_tokens=500)) as responses:
            for _ in range(10):
                await anext(responses)
            assert running_sequences(fleet) > 100
        await asyncio.sleep(0.1)
        assert running_sequences(fleet) == 0
        statistics = pool.statistics()
        assert (statistics.queued, statistics.in_flight) == (0, 0)
        assert all(agent.in_flight == 0 for agent in statistics.agents)
        assert all(agent.state == "in service" for agent in statistics.agents)
        pulled = source.pulled
        await asyncio.sleep(60)
        assert source.pulled == pulled
        assert source.closed == asynchronous


async def test_closing_one_call_leaves_the_others_alone() -> None:
    async with running(2, profile=AgentProfile(slots=64)) as (_, pool):
        other = asyncio.create_task(pool.send_all_batched([f"other {i}" for i in range(200)], max_tokens=200))
        async with aclosing(pool.iter_responses(Source(5000), max_tokens=500)) as responses:
            for _ in range(10):
                await anext(responses)
        assert all(response.success for response in await other)


async def test_cancelling_a_call_aborts_it_at_the_servers() -> None:
    async with running(2, profile=AgentProfile(slots=64)) as (fleet, pool):
        call = asyncio.create_task(pool.send_all_batched([f"prompt {i}" for i in range(300)], max_tokens=2000))
        await asyncio.sleep(1.0)
        assert running_sequences(fleet) > 100
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.sleep(0.1)
        assert running_sequences(fleet) == 0
        assert pool.statistics().in_flight == 0


async def test_the_total_may_be_told() -> None:
    source = Source(300)
    async with running(2, profile=SMALL) as (_, pool):
        found = [index async for index, _ in pool.iter_responses(source.slowly(), max_tokens=30, total=300)]
        assert sorted(found) == list(range(300))


@pytest.mark.parametrize("total", [10, 1000])
async def test_a_total_that_is_wrong_loses_nothing(total: int) -> None:
    async with running(2, profile=SMALL) as (_, pool):
        found = [index async for index, _ in pool.iter_responses(Source(300), max_tokens=30, total=total)]
        assert sorted(found) == list(range(300))
        responses = await pool.send_all_batched(["a"] * 100, max_tokens=30)
        assert all(response.success for response in responses)


async def test_no_prompts_end_at_once() -> None:
    async with running(1) as (_, pool):
        assert [pair async for pair in pool.iter_responses([])] == []
        assert [pair async for pair in pool.iter_responses(Source(0).slowly())] == []


async def test_misuse_is_told_when_it_is_used() -> None:
    async with running(1) as (_, pool):
        with pytest.raises(ConfigError):
            async for _ in pool.iter_responses([None]):  # type: ignore[list-item]
                pass
        with pytest.raises(NoAgentsError):
            async for _ in pool.select([]).iter_responses(["a"]):
                pass


async def test_prompts_may_be_made_of_earlier_answers() -> None:
    """An input that waits for answers of its own call does not lock up."""
    answered: asyncio.Queue[str] = asyncio.Queue()

    async def chain() -> AsyncIterator[str]:
        yield "start"
        for _ in range(5):
            yield f"go on from {await answered.get()}"

    async with running(2, profile=SMALL) as (_, pool):
        indices = []
        async for index, response in pool.iter_responses(chain(), max_tokens=10):
            indices.append(index)
            answered.put_nowait(response.text)
        assert indices == [0, 1, 2, 3, 4, 5]
