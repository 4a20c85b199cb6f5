"""That an agent could not be asked about its template says nothing about its model: another is asked, and later."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aurora_pool import Prompt, Sampling, VLLMPool
from aurora_pool.testing import AgentProfile, SimulatedFleet
from tests.pool.gateway import Answer, bad_gateway, forbidden, gateway, not_found, page
from tests.pool.running import chats_at, lists_at, running

pytestmark = pytest.mark.simulated_clock

PLAIN = AgentProfile(slots=32, median_length=20)
TEXTS = ["Hello", "What is this?"]


@pytest.mark.parametrize("first", [not_found, forbidden, page, bad_gateway])
@pytest.mark.parametrize("order", [1, -1])
async def test_an_agent_that_cannot_be_asked_does_not_decide_for_the_fleet(first: Answer, order: int) -> None:
    async with (
        SimulatedFleet(2, profile=PLAIN) as fleet,
        gateway(fleet.endpoints[0], {"/tokenize": first}) as proxy,
        VLLMPool([proxy, fleet.endpoints[1]][::order]) as pool,
    ):
        listed = await pool.send_all_batched(TEXTS, max_tokens=30)
        chatted = await pool.send_all(TEXTS, max_tokens=30)
        assert [(r.text, r.prompt_tokens) for r in listed] == [(r.text, r.prompt_tokens) for r in chatted]
        assert any(lists_at(agent) for agent in fleet.agents)


@pytest.mark.parametrize("answer", [not_found, forbidden, page, bad_gateway])
async def test_where_nobody_can_tell_the_chat_endpoint_is_used_and_it_is_said_once(
    answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    async with SimulatedFleet(1, profile=PLAIN) as fleet:
        async with gateway(fleet.endpoints[0], {"/tokenize": answer}) as proxy, VLLMPool([proxy]) as pool:
            for _ in range(3):
                responses = await pool.send_all_batched(TEXTS, max_tokens=30)
                assert all(response.success for response in responses)
            assert lists_at(fleet.agents[0]) == []
        async with VLLMPool(fleet.endpoints) as plain:
            assert [r.text for r in responses] == [r.text for r in await plain.send_all(TEXTS, max_tokens=30)]
    assert [record.levelname for record in caplog.records if "chat template" in record.message] == ["WARNING"]


async def test_what_nobody_could_tell_is_asked_again_later() -> None:
    answers: dict[str, Answer] = {"/tokenize": bad_gateway}
    async with (
        SimulatedFleet(1, profile=PLAIN) as fleet,
        gateway(fleet.endpoints[0], answers) as proxy,
        VLLMPool([proxy]) as pool,
    ):
        await pool.send_all_batched(TEXTS, max_tokens=30)
        assert lists_at(fleet.agents[0]) == []
        answers.clear()
        await asyncio.sleep(60.0)
        await pool.send_all_batched(TEXTS, max_tokens=30)
        assert len(lists_at(fleet.agents[0])) == 1


async def test_a_conversation_of_a_new_shape_goes_as_a_chat_while_nobody_can_tell() -> None:
    answers: dict[str, Answer] = {}
    conversation: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    async with (
        SimulatedFleet(1, profile=PLAIN) as fleet,
        gateway(fleet.endpoints[0], answers) as proxy,
        VLLMPool([proxy]) as pool,
    ):
        answers["/tokenize"] = bad_gateway
        responses = await pool.send_all_batched([conversation] * 40, max_tokens=30)
        assert all(response.success for response in responses)
        assert lists_at(fleet.agents[0]) == []


async def test_a_page_at_the_chat_endpoint_of_one_agent_does_not_keep_the_pool_from_starting() -> None:
    async with (
        SimulatedFleet(2, profile=PLAIN) as fleet,
        gateway(fleet.endpoints[0], {"/v1/chat/completions": page}) as proxy,
    ):
        for endpoints in ([proxy, fleet.endpoints[1]], [fleet.endpoints[1], proxy]):
            async with VLLMPool(endpoints) as pool:
                assert all(r.success for r in await pool.send_all_batched(TEXTS, max_tokens=30))


async def test_agents_with_different_templates_each_apply_their_own(caplog: pytest.LogCaptureFixture) -> None:
    profiles = [PLAIN, AgentProfile(slots=32, median_length=20, begins_with_token=True)]
    async with running(2, profile=profiles, prompt_format="auto") as (fleet, pool):
        listed = await pool.send_all_batched(TEXTS * 4, max_tokens=30)
        assert all(response.success for response in listed)
        assert all(lists_at(agent) == [] for agent in fleet.agents)
    assert "different chat templates" in caplog.text


async def test_one_agent_that_tells_reasoning_apart_is_enough_to_use_the_chat_endpoints() -> None:
    profiles = [PLAIN, AgentProfile(slots=32, median_length=20, reasoning=True)]
    async with running(2, profile=profiles, prompt_format="auto") as (fleet, pool):
        assert all(r.success for r in await pool.send_all_batched(TEXTS * 4, max_tokens=60))
        assert all(lists_at(agent) == [] for agent in fleet.agents)


async def test_template_arguments_that_differ_with_every_prompt_are_not_learnt_one_by_one() -> None:
    prompts = [Prompt("Hello", Sampling(extra={"chat_template_kwargs": {"id": number}})) for number in range(60)]
    async with running(1, profile=PLAIN, prompt_format="chat") as (fleet, pool):
        before = sum(request.path in ("/tokenize", "/detokenize") for request in fleet.requests)
        assert all(response.success for response in await pool.send_all_batched(prompts, max_tokens=20))
        questions = sum(request.path in ("/tokenize", "/detokenize") for request in fleet.requests) - before
        assert questions <= 40
        chats = len(chats_at(fleet.agents[0]))
        await pool.send_all_batched(prompts[-1:] * 5, max_tokens=20)
        assert len(chats_at(fleet.agents[0])) == chats, "what is used again is learnt after all"
