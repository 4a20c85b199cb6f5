"""The patterns over real HTTP, on simulated servers and in simulated time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from aurora_pool import PromptOptions, VLLMPool
from aurora_pool.messages import Sampling
from aurora_pool.options import Timeouts
from aurora_pool.patterns import (
    Blackboard,
    Role,
    Stage,
    broadcast_and_reduce,
    map_reduce,
    run_pipeline,
    sample_many,
    tree_reduce,
)
from aurora_pool.testing import AgentProfile, SimulatedFleet

pytestmark = pytest.mark.simulated_clock

PROMPT = "Summarise: {item}"
REDUCE_PROMPT = "Merge: {responses}"


@asynccontextmanager
async def fleet_and_pool(agents: int = 4, **profile: Any) -> AsyncIterator[tuple[SimulatedFleet, VLLMPool]]:
    options: dict[str, Any] = {
        "max_tokens_aggregation": 100,
        "prompting": PromptOptions(prompt_format="raw"),
        "rng": random.Random(1),
    }
    async with (
        SimulatedFleet(agents, profile=AgentProfile(**profile)) as fleet,
        VLLMPool(fleet.endpoints, timeouts=Timeouts(patience=20.0), **options) as pool,
    ):
        yield fleet, pool


def received(fleet: SimulatedFleet) -> list[tuple[float, str]]:
    """When which prompt came."""
    return [
        (request.at, prompt)
        for request in fleet.requests
        if request.path == "/v1/completions"
        for prompt in request.body["prompt"]
    ]


async def test_groups_are_merged_while_leaves_are_still_running() -> None:
    async with fleet_and_pool() as (fleet, pool):
        result = await tree_reduce(pool, PROMPT, REDUCE_PROMPT, 4, range(200), max_tokens=400)
        now = asyncio.get_running_loop().time()
        prompts = received(fleet)
    assert result.success
    assert (result.leaves, result.levels, result.calls) == (200, 4, 200 + 50 + 13 + 4 + 1)
    assert len(prompts) == result.calls
    merges = [at for at, prompt in prompts if prompt.startswith("Merge")]
    leaves = [at for at, prompt in prompts if not prompt.startswith("Merge")]
    assert max(leaves) < min(merges) < now / 2
    sent = [request for request in fleet.requests if request.path == "/v1/completions"]
    assert {request.body["max_tokens"] for request in sent} == {400, 100}


async def test_an_agent_that_dies_costs_no_leaf() -> None:
    async with fleet_and_pool() as (fleet, pool):
        asyncio.get_running_loop().call_later(0.5, fleet.agents[1].die)
        result = await tree_reduce(pool, PROMPT, REDUCE_PROMPT, items=range(100), max_tokens=200)
    assert result.success
    assert result.leaves == 100


async def test_a_leaf_that_the_servers_refuse_is_lost_and_named() -> None:
    async with fleet_and_pool() as (fleet, pool):
        for agent in fleet.agents:
            agent.reject("page 7$", "no such page")
        result = await tree_reduce(pool, PROMPT, REDUCE_PROMPT, items=[f"page {n}" for n in range(20)], max_tokens=50)
    assert not result.success
    assert result.text
    [lost] = result.lost
    assert (lost.index, lost.error_kind) == (7, "rejected")
    assert "no such page" in lost.error


async def test_a_reduce_prompt_that_the_servers_refuse_is_split() -> None:
    async with fleet_and_pool(reply="a fine summary") as (fleet, pool):
        for agent in fleet.agents:
            agent.reject(r"^Merge: (a fine summary\s*){4,}", "too much")
        result = await tree_reduce(pool, PROMPT, REDUCE_PROMPT, 8, range(8), max_tokens=50)
    assert result.success
    # All eight, refused; two times four, refused; four times two; two times two; and one.
    assert [len(p.split("\n\n")) for _, p in received(fleet) if p.startswith("Merge")].count(2) >= 7


async def test_nobody_answers_and_every_leaf_is_named() -> None:
    async with fleet_and_pool(agents=2) as (fleet, pool):
        for agent in fleet.agents:
            agent.die()
        result = await tree_reduce(pool, PROMPT, REDUCE_PROMPT, items=range(5), max_tokens=50)
    assert (result.success, result.text) == (False, "")
    assert [leaf.index for leaf in result.lost] == [0, 1, 2, 3, 4]
    assert {leaf.error_kind for leaf in result.lost} == {"no_agents"}


async def test_cancelling_a_reduction_stops_the_servers() -> None:
    async with fleet_and_pool() as (fleet, pool):
        task = asyncio.ensure_future(tree_reduce(pool, PROMPT, REDUCE_PROMPT, items=range(100), max_tokens=2000))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        before = fleet.prompts_received
        await asyncio.sleep(60)
        assert fleet.prompts_received == before
        assert fleet.prompts_answered < 100
        assert pool.statistics().in_flight == 0


async def test_agents_that_fail_are_named_in_a_broadcast() -> None:
    async with fleet_and_pool() as (fleet, pool):
        fleet.agents[2].die()
        result = await broadcast_and_reduce(pool, "Well?", REDUCE_PROMPT, max_tokens=20)
        names = [leaf.name for leaf in result.lost]
        assert names == [f"agent {pool.endpoints[2]}"]
    assert not result.success
    assert result.text


async def test_keys_are_reduced_side_by_side() -> None:
    async with fleet_and_pool() as (_, pool):
        results = await map_reduce(pool, range(60), PROMPT, REDUCE_PROMPT, key=lambda n: n % 3, max_tokens=50)
    assert [(key, result.success, result.leaves) for key, result in results.items()] == [
        (0, True, 20),
        (1, True, 20),
        (2, True, 20),
    ]


async def test_samples_of_a_prompt_are_spread_over_the_agents() -> None:
    async with fleet_and_pool() as (_, pool):
        sampling = Sampling(temperature=1.0, seed=1)
        found = await sample_many(pool, ["one", "two", "three"], 4, max_tokens=20, sampling=sampling)
    for samples in found:
        assert len({response.agent_index for response in samples}) == 4
        assert len({response.text for response in samples}) == 4


async def test_later_stages_run_while_earlier_ones_do() -> None:
    stages = [Stage("draft", "Draft: {item}", max_tokens=400), Stage("final", "Finish: {draft}", max_tokens=400)]
    async with fleet_and_pool() as (fleet, pool):
        results = await run_pipeline(pool, stages, range(100))
        now = asyncio.get_running_loop().time()
    assert all(result.success for result in results)
    assert min(at for at, prompt in received(fleet) if prompt.startswith("Finish")) < now / 4


async def test_roles_are_asked_at_the_agents_with_their_tag() -> None:
    async with SimulatedFleet(4) as fleet:
        roles = ["thinker", "critic", "critic", "thinker"]
        endpoints = [
            replace(endpoint, tags={"role": role}) for endpoint, role in zip(fleet.endpoints, roles, strict=True)
        ]
        async with VLLMPool(endpoints, max_tokens=30, prompting=PromptOptions(prompt_format="raw")) as pool:
            board = Blackboard(
                {"ideas": "", "critique": ""},
                [
                    Role("thinker", "ideas", "Think {round}: {critique}", tag=("role", "thinker"), count=2),
                    Role("critic", "critique", "Object {round}: {ideas}", tag=("role", "critic"), count=2),
                ],
            )
            result = await board.run(pool, 3)
        asked = [
            {str(p)[:5] for r in agent.requests if r.path == "/v1/completions" for p in r.body["prompt"]}
            for agent in fleet.agents
        ]
    assert (result.rounds, result.lost) == (3, ())
    assert asked == [{"Think"}, {"Objec"}, {"Objec"}, {"Think"}]
