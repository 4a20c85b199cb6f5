"""A 400 on a list: the prompt at fault is found, and costs the others nothing but a few requests.

How often a prompt is sent depends on time: what is slow is hedged.
"""

from __future__ import annotations

import math
import random

import pytest

from aurora_pool import Prompt, VLLMPool
from aurora_pool.testing import AgentProfile
from tests.pool.running import lists_at, prompts_at, running, sizes

pytestmark = pytest.mark.simulated_clock

ECHO = AgentProfile(slots=256, reply=lambda prompt: f"You said: {prompt}")


async def test_one_bad_prompt_among_200_costs_one_response_and_few_requests() -> None:
    async with running(1, profile=ECHO) as (fleet, pool):
        fleet.agents[0].reject("number 123$", "I do not like this number")
        responses = await pool.send_all_batched([f"number {i}" for i in range(200)], max_tokens=64)
        assert [i for i, response in enumerate(responses) if not response.success] == [123]
        bad = responses[123]
        assert (bad.error_kind, bad.agent_index) == ("rejected", 0)
        assert "I do not like this number" in (bad.error or "")
        assert len(sizes(fleet)[0]) <= 1 + 2 * math.ceil(math.log2(200))


async def warm_up(pool: VLLMPool) -> None:
    """Have each agent answer something: one that never has is not taken at its word."""
    responses = await pool.send_all_batched([f"warm up {i}" for i in range(10 * pool.size)], max_tokens=8)
    assert all(response.success for response in responses)


async def test_a_bad_prompt_never_reaches_a_second_agent() -> None:
    async with running(4, profile=ECHO) as (fleet, pool):
        await warm_up(pool)
        for agent in fleet.agents:
            agent.reject("number 13$")
        responses = await pool.send_all_batched([f"number {i}" for i in range(200)], max_tokens=64)
        assert [i for i, response in enumerate(responses) if not response.success] == [13]
        assert ["number 13" in prompts_at(agent) for agent in fleet.agents] == [False, True, False, False]
        assert [len(requests) for requests in sizes(fleet)][::2] == [2, 2]
        statistics = pool.statistics()
        assert statistics.moved == 0
        assert {agent.state for agent in statistics.agents} == {"in service"}


@pytest.mark.parametrize("bad", [1, 5, 30, 50])
async def test_several_bad_prompts_fail_and_no_other(bad: int) -> None:
    chosen = sorted(random.Random(bad).sample(range(50), bad))
    async with running(2, profile=ECHO) as (fleet, pool):
        for agent in fleet.agents:
            agent.reject("bad$")
        await warm_up(pool)
        prompts = [f"number {i} {'bad' if i in chosen else 'good'}" for i in range(50)]
        responses = await pool.send_all_batched(prompts, max_tokens=64)
        assert [i for i, response in enumerate(responses) if response.error_kind == "rejected"] == chosen
        assert sum(response.success for response in responses) == 50 - bad
        received = [set(prompts_at(agent)) for agent in fleet.agents]
        assert len(received[0] & received[1]) <= (0 if bad in (1, 5, 50) else bad)


async def test_a_prompt_found_bad_only_in_the_stream_is_found_too() -> None:
    """vLLM finds an empty prompt when it hands the list to its engine: the 400 is an event by then."""
    async with running(2, profile=ECHO) as (fleet, pool):
        await warm_up(pool)
        prompts = [f"number {i}" for i in range(60)]
        prompts[31] = ""
        responses = await pool.send_all_batched(prompts, max_tokens=64)
        assert [i for i, response in enumerate(responses) if not response.success] == [31]
        assert responses[31].error_kind == "rejected"
        assert "" not in prompts_at(fleet.agents[0])


async def test_a_bad_sampling_fails_each_prompt_and_leaves_the_fleet_in_service() -> None:
    from aurora_pool import Sampling

    async with running(2, profile=ECHO) as (fleet, pool):
        responses = await pool.send_all_batched([f"p{i}" for i in range(20)], 8, sampling=Sampling(temperature=-1.0))
        assert {response.error_kind for response in responses} == {"rejected"}
        assert pool.statistics().agents_in_service == 2
        assert sum(len(lists_at(agent)) for agent in fleet.agents) <= 2 * 20


async def test_a_chat_at_fault_is_one_request() -> None:
    async with running(3, profile=ECHO) as (fleet, pool):
        for agent in fleet.agents:
            agent.reject("forbidden")
        await warm_up(pool)
        received = fleet.prompts_received
        (bad,) = await pool.send_all([Prompt("a forbidden word", format="chat")], max_tokens=8)
        assert bad.error_kind == "rejected"
        assert fleet.prompts_received == received + 1


async def test_a_prompt_rejected_by_an_agent_that_never_answered_anything_is_shown_to_one_other() -> None:
    async with running(3, profile=ECHO) as (fleet, pool):
        fleet.agents[0].reject("")
        responses = await pool.send_all_batched([f"number {i}" for i in range(90)], max_tokens=8)
        assert all(response.success for response in responses)
        for agent in fleet.agents[1:]:
            agent.reject("forbidden")
        (bad,) = await pool.send_all([Prompt("a forbidden word", format="chat")], max_tokens=8)
        assert bad.error_kind == "rejected"
