"""Prompts that begin alike meet on one agent: counted at simulated servers over HTTP."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aurora_pool import AnyPrompt, PromptOptions, VLLMPool
from aurora_pool.testing import AgentProfile, SimulatedFleet
from tests.pool.running import chats_at, lists_at, prompts_at, running

pytestmark = pytest.mark.simulated_clock

QUICK = AgentProfile(median_length=2, shortest=1, longest=4)
"""Short answers of an engine that has a cache."""


def document(number: int) -> str:
    draw = random.Random(number)
    return f"Document {number}. " + " ".join(draw.choices(["red", "green", "blue", "white", "black"], k=400))


def questions(documents: int, each: int) -> list[str]:
    return [f"{document(d)} Question {q}: what is it?" for d in range(documents) for q in range(each)]


def seen(fleet: SimulatedFleet) -> dict[str, set[int]]:
    """Which agents have been sent each document."""
    found: dict[str, set[int]] = defaultdict(set)
    for index, agent in enumerate(fleet.agents):
        for request in lists_at(agent):
            for prompt in request.body["prompt"]:
                text = prompt if isinstance(prompt, str) else "".join(map(chr, prompt))
                found[text.partition(".")[0]].add(index)
        for request in chats_at(agent):
            found[request.body["messages"][0]["content"].partition(".")[0]].add(index)
    return found


def computed(fleet: SimulatedFleet) -> int:
    """The prompt tokens that the fleet's engines have computed."""
    engines = [agent.server.engine_loop.engine for agent in fleet.agents]
    return sum(engine.prefix_queries - engine.prefix_hits for engine in engines)


async def ask(prompts: list[str], **options: Any) -> tuple[dict[str, set[int]], int]:
    prompting = PromptOptions(prompt_format="raw")
    async with (
        SimulatedFleet(4, profile=QUICK) as fleet,
        VLLMPool(fleet.endpoints, prompting=prompting, rng=random.Random(1), **options) as pool,
    ):
        responses = await pool.send_all_batched(prompts, max_tokens=4)
        assert all(response.success for response in responses)
        return seen(fleet), computed(fleet)


async def test_each_document_is_computed_on_one_agent() -> None:
    prompts = questions(12, 8)
    agents, tokens = await ask(prompts)
    assert len(agents) == 12
    assert all(len(homes) == 1 for homes in agents.values())
    torn, more = await ask(prompts, prefix="off")
    assert all(len(homes) == 4 for homes in torn.values())
    async with SimulatedFleet(1, profile=QUICK) as fleet, VLLMPool(fleet.endpoints) as pool:
        await pool.send_all_batched(prompts, max_tokens=4)
        least = computed(fleet)
    assert tokens <= 1.1 * least
    assert more >= 2 * tokens


def _chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("form", ["text", "token ids", "chats"])
async def test_whatever_form_prompts_have(form: str) -> None:
    texts = [f"{document(d)} Question {q}?" for d in range(10) for q in range(6)]
    prompts: list[AnyPrompt] = [*texts]
    if form == "token ids":
        prompts = [[ord(letter) for letter in text[:1500]] for text in texts]
    elif form == "chats":
        prompts = [*map(_chat, texts)]
    async with running(4, use_batch=form != "chats") as (fleet, pool):
        responses = await pool.send_all_batched(prompts, max_tokens=4)
        assert all(response.success for response in responses)
        homes = seen(fleet)
        assert len(homes) == 10
        assert sum(map(len, homes.values())) <= 12  # two may be torn, so that nobody idles


async def test_what_is_streamed_in_is_grouped_too() -> None:
    async def stream() -> AsyncIterator[str]:
        for prompt in questions(12, 6):
            yield prompt

    async with running(4) as (fleet, pool):
        answered = [response async for response in pool.iter_responses(stream(), max_tokens=4)]
        assert len(answered) == 72
        assert sum(map(len, seen(fleet).values())) <= 16


async def test_later_calls_find_the_homes_of_earlier_ones() -> None:
    async with running(4) as (fleet, pool):
        await pool.send_all_batched([f"{document(d)} First?" for d in range(12)], max_tokens=4)
        order = list(range(12))
        random.Random(3).shuffle(order)
        await pool.send_all_batched([f"{document(d)} Second?" for d in order], max_tokens=4)
        assert sum(map(len, seen(fleet).values())) <= 14


@pytest.mark.parametrize("header", ["", "You are a helpful assistant. " * 40])
async def test_as_ever_where_nothing_or_all_is_shared(header: str) -> None:
    prompts = [f"{header}prompt {number}" for number in range(10)]
    async with running(4) as (fleet, pool):
        await pool.send_all_batched(prompts, max_tokens=4)
        assert [prompts_at(agent) for agent in fleet.agents] == [prompts[index::4] for index in range(4)]
        assert [len(lists_at(agent)) for agent in fleet.agents] == [1, 1, 1, 1]


async def test_statistics_tell_what_servers_found_in_their_caches() -> None:
    profile = AgentProfile(slots=4, median_length=300, longest=400)
    async with running(1, profile=profile) as (_, pool):
        await pool.send_all_batched(questions(24, 5), max_tokens=400)
        (agent,) = pool.statistics().agents
        assert agent.prefix_hit_share is not None
        assert 0.5 < agent.prefix_hit_share < 1
    async with running(1, profile=AgentProfile(instant=True)) as (_, pool):
        await pool.send_all_batched(["Hi"], max_tokens=4)
        assert pool.statistics().agents[0].prefix_hit_share is None
