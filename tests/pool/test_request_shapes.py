"""How prompts become requests, as the servers received them."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from aurora_pool import Prompt, Sampling, VLLMPool
from aurora_pool.testing import AgentProfile, SimulatedFleet, run_simulated
from tests.pool.gateway import gateway
from tests.pool.running import chats_at, lists_at, prompts_at, running, sizes

pytestmark = pytest.mark.simulated_clock


async def test_ten_prompts_on_four_agents_are_four_requests() -> None:
    async with running(4) as (fleet, pool):
        responses = await pool.send_all_batched([f"prompt {i}" for i in range(10)], max_tokens=8)
        assert sizes(fleet) == [[3], [3], [2], [2]]
        for index, agent in enumerate(fleet.agents):
            assert prompts_at(agent) == [f"prompt {i}" for i in range(index, 10, 4)]
        assert [response.agent_index for response in responses] == [i % 4 for i in range(10)]


def test_ten_thousand_prompts_on_a_hundred_agents_are_a_hundred_requests_of_a_hundred() -> None:
    async def check() -> None:
        async with running(100) as (fleet, pool):
            responses = await pool.send_all_batched([f"prompt {i}" for i in range(10_000)], max_tokens=8)
            assert sizes(fleet) == [[100]] * 100
            assert prompts_at(fleet.agents[7]) == [f"prompt {i}" for i in range(7, 10_000, 100)]
            assert all(response.success for response in responses)

    run_simulated(check(), debug=False)


async def test_a_list_asks_for_a_stream_with_two_events_per_choice() -> None:
    async with running(1) as (fleet, pool):
        await pool.send_all_batched(["a", "b"], max_tokens=8)
        (request,) = lists_at(fleet.agents[0])
        assert request.body == {
            "model": "simulated-model",
            "prompt": ["a", "b"],
            "max_tokens": 8,
            "stream": True,
            "stream_interval": 100,  # ten seconds' tokens at the speed to reckon with while none is known
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        assert request.headers["content-type"] == "application/json"
        assert "authorization" not in request.headers


async def test_a_pool_that_shall_not_stream_asks_for_none() -> None:
    async with running(1, stream=False) as (fleet, pool):
        responses = await pool.send_all_batched(["a", "b"], max_tokens=8)
        (request,) = lists_at(fleet.agents[0])
        assert set(request.body) == {"model", "prompt", "max_tokens"}
        assert all(response.success for response in responses)


async def test_no_list_is_longer_than_the_servers_limit() -> None:
    async with running(1, profile=AgentProfile(slots=4096, median_length=20, longest=64)) as (fleet, pool):
        responses = await pool.send_all_batched([f"prompt {i}" for i in range(2500)], max_tokens=64)
        assert all(response.success for response in responses)
        assert max(sizes(fleet)[0]) <= 1024
        assert sorted(prompts_at(fleet.agents[0])) == sorted(f"prompt {i}" for i in range(2500))


async def test_chat_requests_are_not_streamed() -> None:
    async with running(1, prompt_format="chat") as (fleet, pool):
        await pool.send_all(["Hello"], max_tokens=8)
        (request,) = chats_at(fleet.agents[0])
        assert request.body == {
            "model": "simulated-model",
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 8,
        }


async def test_a_raw_text_that_goes_alone_is_streamed_only_if_its_answer_may_take_long() -> None:
    async with running(1) as (fleet, pool):
        await pool.send_all(["Hello"], max_tokens=4000)
        await pool.send_all(["Hello"], max_tokens=8)
        assert ["stream" in request.body for request in lists_at(fleet.agents[0])] == [True, False]


async def test_a_conversation_among_texts_travels_in_a_list_with_the_tokens_that_chat_would_have() -> None:
    conversation = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    async with running(1, profile=AgentProfile(slots=16)) as (fleet, pool):
        responses = await pool.send_all_batched(["a", conversation, "b"], max_tokens=8)
        assert chats_at(fleet.agents[0]) == []
        (by_chat,) = await pool.send_all([conversation], max_tokens=8)
        assert (responses[1].text, responses[1].prompt_tokens) == (by_chat.text, by_chat.prompt_tokens)


async def test_a_conversation_with_more_than_texts_goes_as_a_chat() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
    conversation = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}]
    async with running(1) as (fleet, pool):
        await pool.send_all_batched(["a", conversation, "b"], max_tokens=8)
        assert prompts_at(fleet.agents[0]) == ["a", "b"]
        (request,) = chats_at(fleet.agents[0])
        assert request.body["messages"] == conversation


async def test_strings_of_other_libraries_are_strings() -> None:
    class Text(str):
        __slots__ = ()

    async with running(1) as (fleet, pool):
        (response,) = await pool.send_all_batched([Text("a")], max_tokens=8)
        assert response.success
        assert prompts_at(fleet.agents[0]) == ["a"]


async def test_texts_and_token_ids_may_not_share_a_list_and_are_both_answered() -> None:
    prompts: list[Any] = ["one", [5, 6, 7], "two", [8, 9]]
    async with running(1) as (fleet, pool):
        responses = await pool.send_all_batched(prompts, max_tokens=8)
        assert [response.error for response in responses] == [None] * 4
        assert sorted(len(request.body["prompt"]) for request in lists_at(fleet.agents[0])) == [2, 2]
        assert pool.statistics().requests == 2


async def test_prompts_of_different_sampling_travel_apart() -> None:
    cold, warm = Sampling(temperature=0.0), Sampling(temperature=1.0, seed=3)
    prompts: list[Any] = [Prompt(f"p{i}", cold if i % 2 else warm) for i in range(6)]
    async with running(1) as (fleet, pool):
        await pool.send_all_batched(prompts, max_tokens=8)
        found = {request.body["temperature"]: request.body["prompt"] for request in lists_at(fleet.agents[0])}
        assert found == {0.0: ["p1", "p3", "p5"], 1.0: ["p0", "p2", "p4"]}


async def test_equal_sampling_travels_together_though_it_is_another_object() -> None:
    prompts: list[Any] = [Prompt(f"p{i}", Sampling(temperature=0.5)) for i in range(4)]
    async with running(1) as (fleet, pool):
        await pool.send_all_batched(prompts, max_tokens=8)
        assert sizes(fleet) == [[4]]


async def test_the_calls_sampling_wins_over_the_pools_and_a_prompts_own_over_both() -> None:
    async with running(1, sampling=Sampling(temperature=0.1)) as (fleet, pool):
        await pool.send_all_batched(["a"], max_tokens=8)
        await pool.send_all_batched(["b"], max_tokens=8, sampling=Sampling(temperature=0.2))
        own: list[Any] = [Prompt("c", Sampling(temperature=0.3))]
        await pool.send_all_batched(own, max_tokens=8, sampling=Sampling(temperature=0.2))
        found = {request.body["prompt"][0]: request.body["temperature"] for request in lists_at(fleet.agents[0])}
        assert found == {"a": 0.1, "b": 0.2, "c": 0.3}


@pytest.mark.parametrize("batched", [True, False])
async def test_several_samples_of_each_prompt(batched: bool) -> None:
    async with running(2, profile=AgentProfile(slots=64)) as (fleet, pool):
        send = pool.send_all_batched if batched else pool.send_all
        responses = await send(["a", "b", "c"], 8, sampling=Sampling(n=3, temperature=1.0, seed=5))
        assert all(len(response.texts) == 3 for response in responses)
        assert all(response.text == response.texts[0] for response in responses)
        assert [len(set(response.texts)) for response in responses] == [3, 3, 3]
        assert fleet.prompts_received == 3


async def test_logprobs_and_token_ids_where_they_are_asked_for() -> None:
    sampling = Sampling(logprobs=2, return_token_ids=True)
    async with running(1, profile=AgentProfile(slots=4)) as (_, pool):
        (response,) = await pool.send_all_batched(["a"], max_tokens=8, sampling=sampling)
        assert response.token_ids is not None
        assert response.logprobs is not None
        assert response.prompt_token_ids
        assert len(response.token_ids) == len(response.logprobs.tokens) == response.completion_tokens


async def test_prompt_logprobs_can_not_be_streamed_and_are_answered_all_the_same() -> None:
    async with running(1, profile=AgentProfile(slots=4)) as (_, pool):
        (response,) = await pool.send_all_batched(["a b c"], max_tokens=8, sampling=Sampling(prompt_logprobs=1))
        assert response.success, response.error
        assert response.prompt_logprobs is not None
        assert response.prompt_logprobs[0] is None


async def test_every_response_tells_its_own_token_counts() -> None:
    async with running(2, profile=AgentProfile(slots=64)) as (_, pool):
        responses = await pool.send_all_batched(["word " * (i + 1) for i in range(20)], max_tokens=500)
        counts = [response.prompt_tokens for response in responses]
        assert counts == sorted(counts, key=lambda count: count or 0)
        assert len(set(counts)) == 20
        assert all(response.completion_tokens for response in responses)


async def test_the_answers_belong_to_their_prompts() -> None:
    profile = AgentProfile(slots=32, reply=lambda prompt: f"You said: {prompt}")
    async with running(3, profile=profile) as (_, pool):
        responses = await pool.send_all_batched([f"number {i}" for i in range(500)], max_tokens=100)
        assert [response.text for response in responses] == [f"You said: number {i}" for i in range(500)]


async def test_a_short_call_on_a_healthy_equal_fleet_looks_the_same_in_both_balances() -> None:
    shapes = []
    for balance in ("adaptive", "strict"):
        async with running(4, balance=balance) as (fleet, pool):
            await pool.send_all_batched([f"prompt {i}" for i in range(50)], max_tokens=8)
            shapes.append([prompts_at(agent) for agent in fleet.agents])
    assert shapes[0] == shapes[1]


async def test_few_requests_per_prompt_on_a_long_job() -> None:
    async with running(2, profile=AgentProfile(slots=64)) as (_, pool):
        await pool.send_all_batched([f"prompt {i}" for i in range(1000)], max_tokens=100)
        assert pool.statistics().requests <= 0.2 * 1000


CHAT_ONLY: list[dict[str, Any]] = [
    {"reasoning_effort": "low"},
    {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"},
    {"tool_choice": "none"},
    {"documents": [{"text": "d"}]},
    {"chat_template": "{{ messages }}"},
    {"include_reasoning": False},
    {"continue_final_message": True, "add_generation_prompt": False},
    {"add_generation_prompt": True},
    {"mm_processor_kwargs": {}},
    {"logprobs": True, "top_logprobs": 2},
    {"max_completion_tokens": 4},
    {"a_field_of_a_later_version": 1},
]


@pytest.mark.parametrize("extra", CHAT_ONLY, ids=lambda extra: next(iter(extra)))
@pytest.mark.parametrize("content", ["Hello", [{"role": "user", "content": "Hello"}]], ids=["text", "conversation"])
async def test_a_field_that_completions_may_not_know_reaches_the_chat_endpoint(
    content: Any, extra: dict[str, Any]
) -> None:
    async with running(1, prompt_format="auto") as (fleet, pool):
        at_start = len(chats_at(fleet.agents[0]))
        await pool.send_all_batched([Prompt(content, Sampling(extra=extra))], max_tokens=8)
        assert lists_at(fleet.agents[0]) == []
        request = chats_at(fleet.agents[0])[at_start]
        assert {name: request.body[name] for name in extra} == extra


@pytest.mark.parametrize("extra", [{"min_tokens": 2, "min_p": 0.1}, {"ignore_eos": True}, {}])
async def test_a_field_that_completions_knows_keeps_nothing_from_a_list(extra: dict[str, Any]) -> None:
    async with running(1, prompt_format="auto") as (fleet, pool):
        await pool.send_all_batched([Prompt("Hello", Sampling(extra=extra))], max_tokens=8)
        (request,) = lists_at(fleet.agents[0])
        assert {name: request.body[name] for name in extra} == extra


async def test_a_call_of_a_tool_is_an_answer() -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    calls = [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}

    def answer() -> web.Response:
        return web.json_response({"model": "simulated-model", "choices": [choice]})

    async with (
        SimulatedFleet(1, profile=AgentProfile(instant=True)) as fleet,
        gateway(fleet.endpoints[0], {"/v1/chat/completions": answer}) as proxy,
        VLLMPool([proxy]) as pool,
    ):
        prompt = Prompt([{"role": "user", "content": "1 + 1"}], Sampling(extra={"tools": tools}))
        (response,) = await pool.send_all_batched([prompt])
        assert (response.success, response.finish_reason, response.tool_calls) == (True, "tool_calls", calls)
        assert not response.blank
