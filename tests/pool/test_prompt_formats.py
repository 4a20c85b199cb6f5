"""Text goes through the model's chat template where it has one, so that lists carry what chats would."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aurora_pool import ConfigError, NoAgentsError, Prompt, PromptOptions, Timeouts, VLLMPool
from aurora_pool.testing import AgentProfile, SimulatedFleet
from tests.pool.running import chats_at, lists_at, now, prompts_at, running

pytestmark = pytest.mark.simulated_clock

PLAIN = AgentProfile(slots=32, median_length=20)
TEXTS = ["Hello", " two  spaces ", "a\n\nb", "Größe 東京 🦊", "<|im_end|>", ""]


async def test_a_list_gives_the_answers_that_chats_give() -> None:
    async with running(1, profile=PLAIN, prompt_format="auto") as (fleet, pool):
        at_start = len(chats_at(fleet.agents[0]))
        listed = await pool.send_all_batched(TEXTS, max_tokens=30)
        assert len(lists_at(fleet.agents[0])) == 1
        assert len(chats_at(fleet.agents[0])) == at_start
        chatted = await pool.send_all(TEXTS, max_tokens=30)
        assert [r.text for r in listed] == [r.text for r in chatted]
        assert [r.prompt_tokens for r in listed] == [r.prompt_tokens for r in chatted]
        assert lists_at(fleet.agents[0])[0].body["add_special_tokens"] is False


async def test_a_system_prompt_stands_before_every_text() -> None:
    async with running(1, profile=PLAIN, prompt_format="chat", system_prompt="Be brief.") as (_, pool):
        (listed,) = await pool.send_all_batched(["Hello"], max_tokens=30)
        conversation: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
        (chatted,) = await pool.send_all([conversation], max_tokens=30)
        assert (listed.text, listed.prompt_tokens) == (chatted.text, chatted.prompt_tokens)


async def test_raw_text_and_token_ids_are_sent_unchanged() -> None:
    async with running(1, profile=PLAIN, prompt_format="raw") as (fleet, pool):
        await pool.send_all_batched(["Hello"], max_tokens=4)
        assert prompts_at(fleet.agents[0]) == ["Hello"]
        await pool.send_all(["by itself"], max_tokens=4)
        await pool.post(0, "at one agent", max_tokens=4)
        assert prompts_at(fleet.agents[0]) == ["Hello", "by itself", "at one agent"]
        assert [request.prompts for request in lists_at(fleet.agents[0])] == [1, 1, 1]
        assert chats_at(fleet.agents[0]) == []
    async with running(1, profile=PLAIN, prompt_format="chat") as (fleet, pool):
        await pool.send_all_batched([[5, 6, 7], Prompt("as it is", format="raw")], max_tokens=4)
        assert sorted(map(str, prompts_at(fleet.agents[0]))) == ["[5, 6, 7]", "as it is"]


async def test_the_template_is_learnt_once_for_each_shape_of_conversation() -> None:
    conversation: list[Any] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Who are you?"},
    ]
    async with running(2, profile=PLAIN, prompt_format="auto") as (fleet, pool):
        at_start = [len(chats_at(agent)) for agent in fleet.agents]
        before = sum(request.path == "/tokenize" for request in fleet.requests)
        responses = await pool.send_all_batched([conversation] * 50, max_tokens=10)
        assert all(response.success for response in responses)
        assert sum(request.path == "/tokenize" for request in fleet.requests) - before <= 7
        assert [len(chats_at(agent)) for agent in fleet.agents] == at_start


async def test_a_hanging_agent_does_not_hold_up_the_start() -> None:
    async with SimulatedFleet(3, profile=PLAIN) as fleet:
        fleet.agents[1].hang()
        async with VLLMPool(fleet.endpoints) as pool:
            assert now() < 1.0
            assert (await pool.tokenize("Hello", add_special_tokens=False)) != []


async def test_a_fleet_that_never_tells_its_template_is_an_error_after_the_patience() -> None:
    async with SimulatedFleet(1, profile=PLAIN) as fleet:
        fleet.agents[0].die()
        with pytest.raises(NoAgentsError, match="chat template"):
            async with VLLMPool(fleet.endpoints, model="simulated-model", timeouts=Timeouts(patience=3.0)):
                pass
        assert now() < 10.0


async def test_a_raw_prompt_that_goes_alone_is_counted_in_tokens() -> None:
    profile = AgentProfile(slots=32, median_length=20, max_model_len=512)
    async with running(1, profile=profile, prompt_format="raw") as (_, pool):
        text = "many words " * 40
        tokens = len(await pool.tokenize(text))
        (response,) = await pool.send_all([text], max_tokens=510 - tokens)
        assert (response.error, response.prompt_tokens) == (None, tokens)


@pytest.mark.parametrize("what", ["error", "truncate", "split"])
async def test_a_prompt_that_is_too_long(what: str) -> None:
    profile = AgentProfile(slots=32, median_length=20, max_model_len=512)
    async with running(1, profile=profile, prompt_format="chat", on_too_long=what) as (fleet, pool):
        short, long = await pool.send_all_batched(["Hello", "many words " * 600], max_tokens=20)
        assert short.success
        if what == "error":
            assert (long.error_kind, long.success) == ("rejected", False)
            assert "maximum context length is 512" in (long.error or "")
            assert pool.statistics().agents[0].failures == {}
        else:
            assert long.success, long.error
            assert len(long.samples) == (0 if what == "truncate" else len(lists_at(fleet.agents[0])[-1].body["prompt"]))


async def test_a_system_prompt_is_invalid_for_raw_prompts() -> None:
    async with SimulatedFleet(1) as fleet:
        with pytest.raises(ConfigError, match="system_prompt"):
            VLLMPool(fleet.endpoints, prompting=PromptOptions(prompt_format="raw"), system_prompt="Be brief.")


async def test_cancelling_while_something_is_asked_about_a_prompt_leaves_nothing_behind() -> None:
    profile = AgentProfile(slots=32, max_model_len=512)
    async with running(1, profile=profile, prompt_format="chat") as (fleet, pool):
        fleet.agents[0].hang()
        call = asyncio.create_task(pool.send_all_batched(["many words " * 200] * 40, max_tokens=20))
        await asyncio.sleep(1.0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        statistics = pool.statistics()
        assert (statistics.queued, statistics.in_flight) == (0, 0)


async def test_a_call_that_is_cancelled_while_it_learns_leaves_no_other_waiting() -> None:
    conversation: list[Any] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Who are you?"},
    ]
    async with running(1, profile=PLAIN, prompt_format="chat") as (fleet, pool):
        fleet.agents[0].hang()
        first = asyncio.create_task(pool.send_all_batched([conversation] * 3, max_tokens=10))
        second = asyncio.create_task(pool.send_all_batched([conversation] * 3, max_tokens=10))
        await asyncio.sleep(1.0)
        first.cancel()
        await asyncio.sleep(1.0)
        fleet.agents[0].revive()
        responses = await asyncio.wait_for(second, 200.0)
        assert [response.success for response in responses] == [True] * 3
