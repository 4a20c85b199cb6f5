"""Busy is never dead: other clients' work stands before this pool's at a server, for longer than any limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from aurora_pool import Observer, PromptOptions, Timeouts, VLLMPool
from aurora_pool.testing import AgentProfile, SimulatedAgent, SimulatedFleet
from tests.pool.running import COMPLETIONS, chats_at, lists_at, now

pytestmark = pytest.mark.simulated_clock

SLOW = AgentProfile(slots=4, median_length=50, length_sigma=0.0, step_base=0.1, max_num_batched_tokens=8192)
"""Five seconds for an answer, four at a time."""
RAW = PromptOptions(prompt_format="raw")


class States(Observer):
    """Notes what is said of agents."""

    def __init__(self) -> None:
        self.told: list[tuple[int | None, str, str]] = []

    def agent_state(self, agent: int, endpoint: object, state: str, reason: str) -> None:
        self.told.append((agent, state, reason))


@asynccontextmanager
async def occupied(*agents: SimulatedAgent, seconds: float) -> AsyncGenerator[None]:
    """Have another client's list before whatever comes to these agents, work for about ``seconds`` each."""
    count = round(seconds / 5.0 * SLOW.slots)

    async def occupy(session: aiohttp.ClientSession, agent: SimulatedAgent) -> None:
        body = {"model": "simulated-model", "prompt": ["other"] * count, "max_tokens": 50, "ignore_eos": True}
        async with session.post(agent.endpoint.base_url + COMPLETIONS, json=body) as reply:
            await reply.read()

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout()) as session:
        others = [asyncio.create_task(occupy(session, agent)) for agent in agents]
        await asyncio.sleep(1.0)
        try:
            yield
        finally:
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)


async def test_a_queue_longer_than_all_limits_fails_no_prompt() -> None:
    states = States()
    async with (
        SimulatedFleet(2, profile=SLOW) as fleet,
        occupied(*fleet.agents, seconds=200.0),
        VLLMPool(fleet.endpoints, prompting=RAW, observer=states) as pool,
    ):
        responses = await pool.send_all_batched([f"p{n}" for n in range(8)], max_tokens=4)
        assert now() > 100.0
        assert {(response.success, response.attempts) for response in responses} == {(True, 1)}
        assert pool.statistics().hedged == 0
    assert states.told == []


async def test_an_agent_that_comes_back_busy_is_back() -> None:
    # Its probe waits in the queue for longer than the limit, and than the patience of the prompts.
    async with (
        SimulatedFleet(1, profile=SLOW) as fleet,
        VLLMPool(fleet.endpoints, prompting=RAW, timeouts=Timeouts(patience=20.0)) as pool,
    ):
        (agent,) = fleet.agents
        async with occupied(agent, seconds=150.0):
            await asyncio.sleep(10.0)  # no connection is kept so long
            agent.refuse()
            waiting = asyncio.create_task(pool.send_all_batched(["a", "b"], max_tokens=4))
            await asyncio.sleep(3.0)
            assert pool.statistics().agents[0].state == "out"
            agent.revive()
            responses = await waiting
            assert now() > 100.0
            assert all(response.success for response in responses), responses


async def test_one_that_hangs_is_dead_however_much_it_has_to_do() -> None:
    async with (
        SimulatedFleet(1, profile=SLOW) as fleet,
        VLLMPool(fleet.endpoints, prompting=RAW, timeouts=Timeouts(patience=20.0)) as pool,
    ):
        (agent,) = fleet.agents
        async with occupied(agent, seconds=150.0):
            await asyncio.sleep(10.0)  # no connection is kept so long
            agent.refuse()
            waiting = asyncio.create_task(pool.send_all_batched(["a"], max_tokens=4))
            await asyncio.sleep(3.0)
            agent.revive()
            agent.hang()
            (response,) = await waiting
            assert response.error_kind == "no_agents"


@pytest.mark.parametrize("form", ["raw", "chat", "auto"])
async def test_a_pool_starts_on_a_busy_fleet(form: str) -> None:
    prompting = PromptOptions(prompt_format=form)  # type: ignore[arg-type]
    async with SimulatedFleet(3, profile=SLOW) as fleet, occupied(*fleet.agents, seconds=100.0):
        async with VLLMPool(fleet.endpoints, prompting=prompting) as pool:
            assert now() <= 35.0
            responses = await pool.send_all_batched(["a", "b", "c"], max_tokens=4)
        assert all(response.success for response in responses)
        assert {response.attempts for response in responses} == {1}


async def test_who_is_busy_does_not_hold_up_what_others_can_tell() -> None:
    async with SimulatedFleet(3, profile=SLOW) as fleet, occupied(fleet.agents[0], seconds=100.0):
        async with VLLMPool(fleet.endpoints) as pool:
            assert now() <= 10.0
            await pool.send_all_batched(["a", "b", "c"], max_tokens=4)
        assert all(lists_at(agent) for agent in fleet.agents)


async def test_reasoning_that_nobody_could_tell_in_time_is_told_apart_all_the_same() -> None:
    thinking = AgentProfile(slots=4, median_length=50, length_sigma=0.0, step_base=0.1, reasoning=True)
    async with SimulatedFleet(1, profile=thinking) as fleet, occupied(fleet.agents[0], seconds=100.0):
        async with VLLMPool(fleet.endpoints) as pool:
            (response,) = await pool.send_all_batched(["Why?"], max_tokens=60)
        assert response.reasoning
        assert lists_at(fleet.agents[0])[1:] == []
        assert chats_at(fleet.agents[0])


async def test_the_first_look_at_a_busy_server_is_no_licence_to_answer_all_it_holds_elsewhere() -> None:
    async with (
        SimulatedFleet(2, profile=SLOW) as fleet,
        occupied(fleet.agents[0], seconds=20.0),
        VLLMPool(fleet.endpoints, prompting=RAW) as pool,
    ):
        responses = await pool.send_all_batched([f"p{n}" for n in range(60)], max_tokens=4)
        assert all(response.success for response in responses)
        assert pool.statistics().hedged <= 3
