"""What becomes of prompts where the chat template does not split cleanly, where there is none, and with reasoning."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from aurora_pool import Prompt, Sampling
from aurora_pool.testing import AgentProfile
from tests.pool.running import chats_at, lists_at, prompts_at, running

pytestmark = pytest.mark.simulated_clock

CHAT_BATCH = "/v1/chat/completions/batch"
TEXTS = ["Hello", "  spaces around  ", "Größe 東京"]
Kind = Literal["chatml", "trims", "counts", "none"]


def profile(template: Kind = "chatml", **fields: Any) -> AgentProfile:
    return AgentProfile(slots=32, median_length=20, template=template, **fields)


def batches_at(agent: Any) -> list[Any]:
    """The chat batches that an agent received with something in them."""
    return [request for request in agent.requests if request.path == CHAT_BATCH and request.body["messages"]]


async def test_a_template_that_trims_is_learnt() -> None:
    async with running(1, profile=profile("trims"), prompt_format="auto") as (fleet, pool):
        listed = await pool.send_all_batched(TEXTS, max_tokens=30)
        assert len(lists_at(fleet.agents[0])) == 1
        chatted = await pool.send_all(TEXTS, max_tokens=30)
        assert [(r.text, r.prompt_tokens) for r in listed] == [(r.text, r.prompt_tokens) for r in chatted]


async def test_a_begin_token_is_sent_once() -> None:
    async with running(1, profile=profile(begins_with_token=True), prompt_format="auto") as (fleet, pool):
        ids = Sampling(return_token_ids=True)
        (listed,) = await pool.send_all_batched(["Hello"], max_tokens=4, sampling=ids)
        (chatted,) = await pool.send_all(["Hello"], max_tokens=4, sampling=ids)
        assert len(lists_at(fleet.agents[0])) == 1
        assert listed.prompt_token_ids is not None
        assert listed.prompt_token_ids == chatted.prompt_token_ids
        assert listed.prompt_token_ids.count(listed.prompt_token_ids[0]) == 1


async def test_a_template_that_does_not_split_goes_to_the_chat_batch() -> None:
    async with running(1, profile=profile("counts"), prompt_format="auto") as (fleet, pool):
        listed = await pool.send_all_batched(TEXTS, max_tokens=30)
        (batch,) = batches_at(fleet.agents[0])
        assert [messages[0]["content"] for messages in batch.body["messages"]] == TEXTS
        assert "stream" not in batch.body
        assert lists_at(fleet.agents[0]) == []
        chatted = await pool.send_all(TEXTS, max_tokens=30)
        assert [r.text for r in listed] == [r.text for r in chatted]


@pytest.mark.parametrize(
    ("version", "sampling"), [("0.18.0", Sampling()), ("0.32.0", Sampling(n=2, temperature=1.0, seed=1))]
)
async def test_where_there_is_no_chat_batch_chats_go_one_by_one(version: str, sampling: Sampling) -> None:
    async with running(1, profile=profile("counts", version=version), prompt_format="auto") as (fleet, pool):
        at_start = len(chats_at(fleet.agents[0]))
        responses = await pool.send_all_batched(TEXTS, max_tokens=30, sampling=sampling)
        assert all(len(response.texts) == sampling.n for response in responses)
        assert len(chats_at(fleet.agents[0])) - at_start == len(TEXTS)
        assert batches_at(fleet.agents[0]) == []


async def test_without_a_template_text_is_sent_raw() -> None:
    async with running(1, profile=profile("none"), prompt_format="auto") as (fleet, pool):
        assert all(response.success for response in await pool.send_all_batched(TEXTS, max_tokens=30))
        assert lists_at(fleet.agents[0])[0].body["prompt"] == TEXTS


@pytest.mark.parametrize(("prompt_format", "use_batch"), [("auto", True), ("raw", True), ("raw", False)])
async def test_without_a_template_every_method_sends_text_raw(prompt_format: str, use_batch: bool) -> None:
    options: dict[str, Any] = {"prompt_format": prompt_format, "use_batch": use_batch, "max_tokens": 30}
    async with running(2, profile=profile("none"), **options) as (fleet, pool):
        responses = [await pool.ask("Hello"), await pool.post(0, "Hello")]
        responses += await pool.send_all(["Hello"]) + await pool.send_all_batched(["Hello"])
        responses += await pool.broadcast_prompt("Hello")
        assert [response.error for response in responses] == [None] * 6
        assert [prompt for agent in fleet.agents for prompt in prompts_at(agent)] == ["Hello"] * 6
        assert [chats_at(agent) for agent in fleet.agents] == [[], []]


async def test_reasoning_is_told_apart_where_the_server_does() -> None:
    async with running(1, profile=profile(reasoning=True), prompt_format="auto") as (fleet, pool):
        (response,) = await pool.send_all_batched(["Why?"], max_tokens=60)
        assert response.reasoning
        assert lists_at(fleet.agents[0]) == []
    async with running(1, profile=profile(reasoning=True), prompt_format="chat") as (fleet, pool):
        (response,) = await pool.send_all_batched(["Why?"], max_tokens=60)
        assert response.reasoning is None
        assert len(lists_at(fleet.agents[0])) == 1


async def test_template_arguments_are_part_of_a_conversations_shape() -> None:
    thinking = Sampling(extra={"chat_template_kwargs": {"enable_thinking": False}})
    async with running(1, profile=profile(), prompt_format="chat") as (fleet, pool):
        (listed,) = await pool.send_all_batched([Prompt("Hello", thinking)], max_tokens=30)
        (request,) = lists_at(fleet.agents[0])
        assert "chat_template_kwargs" not in request.body
        (chatted,) = await pool.send_all([Prompt("Hello", thinking)], max_tokens=30)
        assert (listed.text, listed.prompt_tokens) == (chatted.text, chatted.prompt_tokens)


async def test_a_long_prompt_goes_only_where_it_fits() -> None:
    profiles = [AgentProfile(slots=32, median_length=20, max_model_len=length) for length in (512, 4096, 512, 4096)]
    async with running(4, profile=profiles) as (fleet, pool):
        responses = await pool.send_all_batched(["words " * 900, "short"] * 8, max_tokens=20)
        assert all(response.success for response in responses), [r.error for r in responses]
        assert {response.agent_index for response in responses[::2]} <= {1, 3}
        assert all(response.attempts == 1 for response in responses)
        small = [
            prompt for agent in fleet.agents[::2] for request in lists_at(agent) for prompt in request.body["prompt"]
        ]
        assert "words " * 900 not in small


async def test_prompts_to_be_scored_travel_in_small_lists_and_unstreamed() -> None:
    async with running(1, profile=profile()) as (fleet, pool):
        responses = await pool.send_all_batched(
            [f"text {i}" for i in range(20)], max_tokens=1, sampling=Sampling(prompt_logprobs=0)
        )
        assert all(response.prompt_logprobs for response in responses)
        requests = lists_at(fleet.agents[0])
        assert sorted(request.prompts for request in requests) == [4, 8, 8]
        assert not any(request.body.get("stream") for request in requests)
