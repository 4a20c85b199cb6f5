"""The ways to send prompts: to one agent, to all, each alone, in lists."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from aurora_pool import ConfigError, Sampling, Timeouts
from aurora_pool.testing import AgentProfile
from tests.pool.running import SMALL, chats_at, lists_at, now, prompts_at, running, sizes

pytestmark = pytest.mark.simulated_clock

ECHO = AgentProfile(slots=32, reply=lambda prompt: f"You said: {prompt}")


async def test_post_asks_that_agent_by_chat() -> None:
    async with running(3, profile=ECHO, prompt_format="chat") as (fleet, pool):
        response = await pool.post(1, "Hello", max_tokens=50)
        assert (response.success, response.text, response.agent_index) == (True, "You said: Hello", 1)
        assert [len(chats_at(agent)) for agent in fleet.agents] == [0, 1, 0]
        assert (await pool.post(-1, "Hello", max_tokens=50)).agent_index == 2


async def test_post_to_an_agent_that_is_out_says_so_and_asks_no_other() -> None:
    async with running(3, prompt_format="chat") as (fleet, pool):
        fleet.agents[1].die()
        for _ in range(2):
            response = await pool.post(1, "Hello", max_tokens=5)
            assert not response.success
            assert str(fleet.endpoints[1]) in (response.error or "") or "can't connect" in (response.error or "")
        assert [len(chats_at(agent)) for agent in fleet.agents] == [0, 0, 0]
        assert now() < 0.1


async def test_post_to_an_agent_that_answers_again_is_answered() -> None:
    async with running(2) as (fleet, pool):
        fleet.agents[1].die()
        assert not (await pool.post(1, "Hello", max_tokens=5)).success
        fleet.agents[1].revive()
        await asyncio.sleep(40)
        assert (await pool.post(1, "Hello", max_tokens=5)).success


async def test_post_batch_is_one_list_request_to_that_agent() -> None:
    async with running(3, profile=ECHO) as (fleet, pool):
        responses = await pool.post_batch(2, ["a", "b", "c"], max_tokens=50)
        assert [response.text for response in responses] == ["You said: a", "You said: b", "You said: c"]
        assert sizes(fleet) == [[], [], [3]]


async def test_post_batch_keeps_to_its_agent_when_it_dies() -> None:
    async with running(2, profile=SMALL) as (fleet, pool):
        fleet.agents[0].break_streams(after=2)
        responses = await pool.post_batch(0, [f"p{i}" for i in range(8)], max_tokens=50)
        assert {response.agent_index for response in responses if response.success} == {0}
        assert prompts_at(fleet.agents[1]) == []


async def test_a_pool_that_shall_not_batch_sends_chats() -> None:
    async with running(2, profile=ECHO, prompt_format="chat", use_batch=False) as (fleet, pool):
        assert not pool.supports_batch
        responses = await pool.send_all_batched([f"p{i}" for i in range(6)], max_tokens=50)
        responses += await pool.post_batch(0, ["x"], max_tokens=50)
        assert [response.text for response in responses] == [f"You said: p{i}" for i in range(6)] + ["You said: x"]
        assert sizes(fleet) == [[], []]
        assert [len(chats_at(agent)) for agent in fleet.agents] == [4, 3]


async def test_send_all_sends_each_prompt_alone() -> None:
    async with running(4, profile=ECHO, prompt_format="chat") as (fleet, pool):
        responses = await pool.send_all([f"p{i}" for i in range(10)], max_tokens=50)
        assert [response.text for response in responses] == [f"You said: p{i}" for i in range(10)]
        assert [len(chats_at(agent)) for agent in fleet.agents] == [3, 3, 2, 2]
        assert sizes(fleet) == [[]] * 4


async def test_broadcast_asks_every_agent_and_answers_in_their_order() -> None:
    profiles = [AgentProfile(slots=4, reply=f"I am number {i}") for i in range(4)]
    async with running(4, profile=profiles) as (fleet, pool):
        fleet.agents[0].slow(50)
        responses = await pool.broadcast_prompt("Who are you?", max_tokens=50)
        assert [response.text for response in responses] == [f"I am number {i}" for i in range(4)]
        assert [response.agent_index for response in responses] == [0, 1, 2, 3]


async def test_broadcast_to_a_fleet_with_a_dead_agent_has_one_failure() -> None:
    async with running(3) as (fleet, pool):
        fleet.agents[1].die()
        responses = await pool.broadcast_prompt("Who are you?", max_tokens=5)
        assert [response.success for response in responses] == [True, False, True]


@pytest.mark.parametrize("method", ["send_all", "send_all_batched"])
async def test_no_prompts_are_no_responses(method: str) -> None:
    async with running(2) as (fleet, pool):
        assert await getattr(pool, method)([], max_tokens=5) == []
        assert await pool.post_batch(0, []) == []
        assert fleet.prompts_received == 0


async def test_prompts_may_come_from_any_iterable() -> None:
    async with running(2, profile=ECHO) as (_, pool):
        responses = await pool.send_all_batched((f"p{i}" for i in range(5)), max_tokens=50)
        assert [response.text for response in responses] == [f"You said: p{i}" for i in range(5)]


async def test_calls_at_the_same_time_share_the_fleet_and_keep_their_answers_apart() -> None:
    async with running(3, profile=ECHO) as (_, pool):
        calls = [pool.send_all_batched([f"call {c} prompt {i}" for i in range(60)], max_tokens=50) for c in range(8)]
        found = await asyncio.gather(*calls)
        expected = [[f"You said: call {c} prompt {i}" for i in range(60)] for c in range(8)]
        assert [[response.text for response in responses] for responses in found] == expected


async def test_many_short_calls_spread_over_the_fleet() -> None:
    async with running(4, profile=SMALL) as (fleet, pool):
        await asyncio.gather(*(pool.send_all_batched([f"p{i}"], max_tokens=40) for i in range(40)))
        received = [agent.prompts_received for agent in fleet.agents]
        assert max(received) - min(received) <= 4


@pytest.mark.parametrize("index", [3, -4, 100])
async def test_an_agent_that_does_not_exist_is_an_error(index: int) -> None:
    async with running(3) as (_, pool):
        with pytest.raises(ConfigError, match=f"agent_index: expected an index below 3, got {index}"):
            await pool.post(index, "Hello")
        with pytest.raises(ConfigError, match="agent_index"):
            await pool.post_batch(index, ["Hello"])


@pytest.mark.parametrize("prompt", [None, 7, b"bytes", [], {"role": "user"}, [None], ["text in a list"], object()])
async def test_what_is_no_prompt_is_an_error(prompt: Any) -> None:
    async with running(1) as (fleet, pool):
        with pytest.raises(ConfigError, match="prompt 1: expected text, token ids or messages"):
            await pool.send_all_batched(["fine", prompt], max_tokens=5)
        assert pool.statistics().queued == 0
        (response,) = await pool.send_all_batched(["still works"], max_tokens=5)
        assert response.success
        assert fleet.agents[0].server.engine_loop.engine.running == 0


@pytest.mark.parametrize("method", ["send_all", "send_all_batched"])
async def test_one_string_is_not_a_list_of_letters(method: str) -> None:
    async with running(1) as (_, pool):
        with pytest.raises(ConfigError, match="prompts: expected a list"):
            await getattr(pool, method)("Hello")
        with pytest.raises(ConfigError, match="prompts: expected a list"):
            await pool.post_batch(0, "Hello")
        with pytest.raises(ConfigError, match="prompts: expected a list"):
            _ = [pair async for pair in pool.iter_responses("Hello")]


async def test_an_empty_text_is_the_servers_to_refuse() -> None:
    async with running(1) as (_, pool):
        good, bad = await pool.send_all_batched(["a", ""], max_tokens=5)
        assert good.success
        assert bad.error_kind == "rejected"
        assert "empty" in (bad.error or "")


async def test_latency_counts_from_the_sending() -> None:
    async with running(1, profile=AgentProfile(slots=4, reply="word " * 100, step_base=0.01)) as (_, pool):
        await asyncio.sleep(30)
        (response,) = await pool.send_all_batched(["a"], max_tokens=500)
        assert response.latency == pytest.approx(0.01 * (response.completion_tokens or 0), rel=0.1)


async def test_a_timeout_bounds_each_prompt_from_its_sending_and_no_queue() -> None:
    profile = AgentProfile(slots=16, reply="word " * 50, step_base=0.02)
    async with running(1, profile=profile, timeout=25.0) as (_, pool):
        responses = await pool.send_all_batched([f"p{i}" for i in range(400)], max_tokens=500)
        assert now() > 25.0
        assert all(response.success for response in responses)


async def test_a_prompt_that_takes_too_long_fails_alone_and_is_aborted() -> None:
    async with running(1, profile=AgentProfile(slots=4, longest=2000, step_base=0.02), timeout=10.0) as (fleet, pool):
        profile = fleet.agents[0].profile
        assert profile.longest == 2000
        fleet.agents[0].pause()
        (response,) = await pool.send_all_batched(["a"], max_tokens=5)
        assert (response.success, response.error_kind, response.agent_index) == (False, "timeout", 0)
        assert "10 s" in (response.error or "")
        assert now() == pytest.approx(10.0, abs=0.5)
        await asyncio.sleep(0.1)
        assert fleet.agents[0].server.engine_loop.active == {}


async def test_a_job_on_a_fleet_that_is_gone_fails_after_the_patience_with_reasons() -> None:
    async with running(2, timeouts=Timeouts(patience=7.0)) as (fleet, pool):
        for agent in fleet.agents:
            agent.die()
        responses = await pool.send_all_batched([f"p{i}" for i in range(50)], max_tokens=5)
        assert {response.error_kind for response in responses} == {"no_agents"}
        assert all(str(fleet.endpoints[1]) in (response.error or "") for response in responses)
        assert 7.0 <= now() <= 9.0


@pytest.mark.parametrize(
    ("fault", "cause"), [("die", "where it was: can't connect"), ("hang", "has sent nothing for [12] s")]
)
@pytest.mark.parametrize("method", ["send_all", "send_all_batched"])
async def test_a_timeout_that_is_shorter_than_the_patience_names_the_cause(fault: str, cause: str, method: str) -> None:
    profile = AgentProfile(slots=16, reply="word " * 500, step_base=0.02)
    async with running(2, profile=profile, timeout=2.0) as (fleet, pool):
        sending = asyncio.create_task(getattr(pool, method)(["a", "b"], max_tokens=500))
        await asyncio.sleep(0.5)
        for agent in fleet.agents:
            getattr(agent, fault)()
        responses = await sending
        assert {response.error_kind for response in responses} == {"timeout"}
        for response, endpoint in zip(responses, fleet.endpoints, strict=True):
            assert re.search(f"no answer within 2 s of sending; .*{endpoint}.*{cause}", response.error or "")
        assert now() < 3.0


async def test_list_requests_name_their_model() -> None:
    async with running(1) as (fleet, pool):
        await pool.post_batch(0, ["a"], max_tokens=5)
        assert lists_at(fleet.agents[0])[0].body["model"] == pool.model


async def test_one_prompt_is_asked_of_any_agent() -> None:
    async with running(2, profile=SMALL) as (fleet, pool):
        response = await pool.ask("What is a mill?", max_tokens=6, sampling=Sampling(temperature=0.0))
        assert response.raise_for_status().completion_tokens == 6
        chat = await pool.ask([{"role": "user", "content": "What is a mill?"}], max_tokens=6)
        assert chat.success
        asked = await asyncio.gather(*(pool.ask(f"p{number}", max_tokens=40) for number in range(8)))
        assert all(response.success for response in asked)
        assert {response.agent_index for response in asked} == {0, 1}
        assert fleet.prompts_received == 1 + 1 + 8
