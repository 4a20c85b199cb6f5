"""What a pool shows of itself: statistics, an observer's events, and the log."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import Counter

import pytest

from aurora_pool import AgentEndpoint, Observer, Response
from aurora_pool.testing import AgentProfile
from tests.pool.running import SMALL, running, sizes

pytestmark = pytest.mark.simulated_clock

SLOW = AgentProfile(slots=16, median_length=50)


class Recorder(Observer):
    def __init__(self) -> None:
        self.states: list[tuple[int, str]] = []
        self.reasons: list[str] = []
        self.requests: list[tuple[int, int]] = []
        self.done: list[Response] = []
        self.moved: list[tuple[int, str]] = []
        self.hedged: list[tuple[int, int]] = []

    def agent_state(self, agent: int, endpoint: AgentEndpoint, state: str, reason: str) -> None:
        self.states.append((agent, state))
        self.reasons.append(reason)

    def request_sent(self, agent: int, prompts: int) -> None:
        self.requests.append((agent, prompts))

    def prompt_done(self, response: Response) -> None:
        self.done.append(response)

    def prompt_moved(self, agent: int, outcome: str) -> None:
        self.moved.append((agent, outcome))

    def prompt_hedged(self, slow_agent: int, agent: int) -> None:
        self.hedged.append((slow_agent, agent))


async def test_a_finished_job_in_figures() -> None:
    async with running(3, profile=SLOW, balance="strict") as (fleet, pool):  # nothing is hedged
        responses = await pool.send_all_batched([f"p{i}" for i in range(200)], max_tokens=30)
        statistics = pool.statistics()
        assert (statistics.prompts_done, statistics.prompts_failed) == (200, 0)
        assert statistics.tokens_done == sum(response.completion_tokens or 0 for response in responses)
        assert (statistics.queued, statistics.in_flight) == (0, 0)
        assert statistics.requests == sum(len(requests) for requests in sizes(fleet))
        by_agent = Counter(response.agent_index for response in responses)
        assert [agent.prompts_done for agent in statistics.agents] == [by_agent[i] for i in range(3)]
        assert [agent.endpoint for agent in statistics.agents] == fleet.endpoints
        assert all(agent.last_answer_age is not None and agent.last_answer_age >= 0 for agent in statistics.agents)
        assert statistics.agents_in_service == 3


async def test_before_anything_was_sent() -> None:
    async with running(2) as (_, pool):
        statistics = pool.statistics()
        assert (statistics.prompts_done, statistics.requests, statistics.wasted_tokens) == (0, 0, 0)
        assert [agent.last_answer_age for agent in statistics.agents] == [None, None]
        assert [agent.tokens_per_second for agent in statistics.agents] == [0.0, 0.0]


async def test_statistics_are_frozen_and_of_the_moment() -> None:
    async with running(2, profile=SLOW) as (_, pool):
        call = asyncio.create_task(pool.send_all_batched([f"p{i}" for i in range(2000)], max_tokens=100))
        await asyncio.sleep(1.0)
        during = pool.statistics()
        assert during.in_flight == sum(agent.in_flight for agent in during.agents) > 0
        assert during.queued > 0
        assert during.prompts_done > 0
        assert all(agent.oldest_age is not None and 0.9 <= agent.oldest_age <= 1.1 for agent in during.agents)
        with pytest.raises(dataclasses.FrozenInstanceError):
            during.queued = 0  # type: ignore[misc]
        await asyncio.sleep(1.0)
        assert pool.statistics().prompts_done > during.prompts_done
        call.cancel()
        await asyncio.wait([call])


async def test_tokens_per_second_is_what_the_agent_makes() -> None:
    profile = AgentProfile(slots=64, median_length=100, step_base=0.01, step_per_sequence=0.0, max_queued=68)
    async with running(1, profile=profile) as (_, pool):
        call = asyncio.create_task(pool.send_all_batched([f"p{i}" for i in range(400)], max_tokens=150))
        await asyncio.sleep(4.0)
        assert pool.statistics().agents[0].tokens_per_second == pytest.approx(6400, rel=0.25)
        call.cancel()
        await asyncio.wait([call])


async def test_failures_are_counted_by_outcome() -> None:
    async with running(2, profile=SMALL) as (fleet, pool):
        fleet.agents[0].die()
        await asyncio.sleep(0.1)  # the pool sees that its idle connection is closed
        await pool.send_all_batched([f"p{i}" for i in range(20)], max_tokens=20)
        agent = pool.statistics().agents[0]
        assert agent.state == "out"
        assert agent.failures["unreachable"] == 1
        assert "connect" in agent.last_error


async def test_failed_prompts_are_counted() -> None:
    async with running(1, profile=SMALL) as (fleet, pool):
        fleet.agents[0].reject("p7$")
        await pool.send_all_batched([f"p{i}" for i in range(20)], max_tokens=20)
        statistics = pool.statistics()
        assert (statistics.prompts_done, statistics.prompts_failed) == (19, 1)


async def test_an_observer_is_told_everything() -> None:
    recorder = Recorder()
    async with running(2, profile=SMALL, observer=recorder) as (fleet, pool):
        call = asyncio.create_task(pool.send_all_batched([f"p{i}" for i in range(120)], max_tokens=60))
        await asyncio.sleep(0.6)
        fleet.agents[1].die()
        responses = await call
        assert sorted(r.text for r in recorder.done) == sorted(r.text for r in responses)
        assert recorder.states[0] == (1, "out")
        assert "dead" in recorder.reasons[0]
        assert len(recorder.requests) == pool.statistics().requests
        answered = sum(response.agent_index == 1 for response in responses)
        assert len(recorder.moved) == pool.statistics().moved == 60 - answered > 0
        assert {agent for agent, _ in recorder.moved} == {1}
        assert {outcome for _, outcome in recorder.moved} <= {"dead", "unreachable"}
        assert len(recorder.hedged) == pool.statistics().hedged


async def test_the_log_has_a_line_for_each_change_of_an_agent_and_none_per_prompt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="aurora_pool")
    async with running(2, profile=SMALL) as (fleet, pool):
        caplog.clear()
        await pool.send_all_batched([f"p{i}" for i in range(50)], max_tokens=60)
        assert caplog.messages == []
        fleet.agents[1].die()
        await pool.send_all_batched([f"p{i}" for i in range(50)], max_tokens=60)
        fleet.agents[1].revive()
        await asyncio.sleep(10)
        await pool.send_all_batched([f"p{i}" for i in range(50)], max_tokens=60)
        address = str(fleet.endpoints[1])
        assert [message.split(" (")[0] for message in caplog.messages] == [
            f"{address} is out",
            f"{address} is in service",
        ]
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
