"""Views: some of the agents, over the same connections and the same state."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from aurora_pool import ConfigError, NoAgentsError
from aurora_pool.testing import AgentProfile, SimulatedFleet
from tests.pool.running import SMALL, lists_at, running, sizes

pytestmark = pytest.mark.simulated_clock

TAGS = [{"tier": "large", "rack": "1"}, {"tier": "small"}, {"tier": "large", "rack": "2"}, {}]


async def test_by_tag() -> None:
    async with running(4, tags=TAGS) as (fleet, pool):
        large = pool.by_tag("tier", "large")
        assert (large.size, len(large)) == (2, 2)
        assert large.endpoints == (fleet.endpoints[0], fleet.endpoints[2])
        responses = await large.send_all_batched([f"p{i}" for i in range(10)], max_tokens=4)
        assert sizes(fleet) == [[5], [], [5], []]
        assert [response.agent_index for response in responses] == [i % 2 for i in range(10)]


async def test_select_keeps_the_order_given() -> None:
    async with running(4) as (fleet, pool):
        view = pool.select([3, 0])
        assert view.endpoints == (fleet.endpoints[3], fleet.endpoints[0])
        responses = await view.send_all_batched(["a", "b", "c"], max_tokens=4)
        assert sizes(fleet) == [[1], [], [], [2]]
        assert [response.agent_index for response in responses] == [0, 1, 0]


async def test_slice_is_as_of_a_list() -> None:
    async with running(5) as (fleet, pool):
        assert pool.slice(1, 3).endpoints == tuple(fleet.endpoints[1:3])
        assert pool.slice(-2).endpoints == tuple(fleet.endpoints[-2:])
        assert pool.slice(stop=2).size == 2
        assert pool.slice(9).size == 0


async def test_sample_draws_agents_in_the_order_of_the_hostfile() -> None:
    async with running(6) as (fleet, pool):
        drawn = pool.sample(3, rng=random.Random(5))
        assert drawn.size == 3
        assert [fleet.endpoints.index(each) for each in drawn.endpoints] == sorted(
            fleet.endpoints.index(each) for each in drawn.endpoints
        )
        assert pool.sample(3, rng=random.Random(5)).endpoints == drawn.endpoints
        assert pool.sample(6).endpoints == tuple(fleet.endpoints)


async def test_views_of_views() -> None:
    async with running(4, tags=TAGS) as (fleet, pool):
        view = pool.by_tag("tier", "large").by_tag("rack", "2").slice(0, 1)
        assert view.endpoints == (fleet.endpoints[2],)
        (response,) = await view.send_all_batched(["a"], max_tokens=4)
        assert (response.agent_index, sizes(fleet)) == (0, [[], [], [1], []])
        assert pool.select([1, 2, 3]).select([1, 2]).endpoints == tuple(fleet.endpoints[2:4])


async def test_indices_are_those_of_the_view_everywhere() -> None:
    profiles = [AgentProfile(slots=4, reply=f"I am number {i}") for i in range(4)]
    async with running(4, profile=profiles) as (_, pool):
        view = pool.select([2, 3])
        assert (await view.post(0, "Who?", max_tokens=20)).text == "I am number 2"
        assert [r.text for r in await view.post_batch(1, ["Who?"], max_tokens=20)] == ["I am number 3"]
        responses = await view.broadcast_prompt("Who?", max_tokens=20)
        assert [(r.agent_index, r.text) for r in responses] == [(0, "I am number 2"), (1, "I am number 3")]
        nested = await view.select([1]).send_all(["Who?"], max_tokens=20)
        assert [(r.agent_index, r.text) for r in nested] == [(0, "I am number 3")]
        with pytest.raises(ConfigError, match="below 2, got 2"):
            await view.post(2, "Who?")


async def test_an_empty_view_may_be_taken_and_not_used() -> None:
    async with running(2) as (_, pool):
        empty = pool.by_tag("tier", "none")
        assert (empty.size, empty.endpoints, empty.statistics().agents) == (0, (), ())
        with pytest.raises(NoAgentsError):
            await empty.send_all(["a"])
        with pytest.raises(NoAgentsError):
            await empty.send_all_batched(["a"])
        with pytest.raises(NoAgentsError):
            await empty.broadcast_prompt("a")
        with pytest.raises(NoAgentsError):
            await empty.start()
        with pytest.raises(ConfigError):
            await empty.post(0, "a")


@pytest.mark.parametrize("indices", [[4], [-5], [0, 0], [1, -3]])
async def test_agents_that_do_not_exist_or_are_listed_twice_are_an_error(indices: list[int]) -> None:
    async with running(4) as (_, pool):
        with pytest.raises(ConfigError, match="select"):
            pool.select(indices)


@pytest.mark.parametrize(("n", "expected"), [(-1, "at least 0"), (5, "at most 4"), ("2", "whole number")])
async def test_more_agents_than_there_are_can_not_be_drawn(n: Any, expected: str) -> None:
    async with running(4) as (_, pool):
        with pytest.raises(ConfigError, match=f"n: expected .*{expected}"):
            pool.sample(n)


async def test_a_view_knows_what_the_pool_has_learnt_of_an_agent() -> None:
    async with running(3) as (fleet, pool):
        fleet.agents[1].die()
        await pool.send_all_batched([f"p{i}" for i in range(6)], max_tokens=4)
        view = pool.select([1, 2])
        assert [agent.state for agent in view.statistics().agents][1:] == ["in service"]
        assert view.statistics().agents[0].state != "in service"
        before = len(lists_at(fleet.agents[2]))
        responses = await view.send_all_batched(["a", "b"], max_tokens=4)
        assert all(response.success for response in responses)
        assert len(lists_at(fleet.agents[2])) == before + 1


async def test_a_view_shares_windows_and_connections() -> None:
    async with running(2, profile=SMALL) as (_, pool):
        view = pool.select([0])
        await pool.send_all_batched([f"p{i}" for i in range(400)], max_tokens=40)
        assert view.statistics().agents[0] == pool.statistics().agents[0]


async def test_two_views_at_once_do_not_overload_a_shared_agent() -> None:
    async with running(3, profile=SMALL) as (fleet, pool):
        left, right = pool.select([0, 1]), pool.select([1, 2])
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, pool.statistics().agents[1].in_flight)
                await asyncio.sleep(0.01)

        watcher = asyncio.create_task(watch())
        windows = [agent.window for agent in pool.statistics().agents]
        found = await asyncio.gather(
            *(view.send_all_batched([f"p{i}" for i in range(250)], max_tokens=40) for view in (left, right))
        )
        watcher.cancel()
        assert all(response.success for responses in found for response in responses)
        assert most <= max(windows)
        assert all(len(lists_at(agent)) > 0 for agent in fleet.agents)


async def test_closing_a_view_closes_nothing() -> None:
    async with running(2) as (_, pool):
        async with pool.select([0]) as view:
            await view.send_all_batched(["a"], max_tokens=4)
        (response,) = await pool.send_all_batched(["a"], max_tokens=4)
        assert response.success


async def test_a_view_is_shown_as_one() -> None:
    async with SimulatedFleet(3) as fleet:
        from aurora_pool import VLLMPool

        pool = VLLMPool(fleet.endpoints)
        assert repr(pool) == "<VLLMPool of 3 agents>"
        assert repr(pool.slice(0, 2)) == "<VLLMPool of 2 of 3 agents>"
        await pool.close()
