"""How many tokens are asked for: given, or fitted to each prompt."""

from __future__ import annotations

from typing import Any

import pytest

from aurora_pool import ConfigError, Prompt, VLLMPool
from aurora_pool.testing import AgentProfile
from tests.pool.running import chats_at, lists_at, running

pytestmark = pytest.mark.simulated_clock

CONTEXT_2048 = AgentProfile(instant=True, max_model_len=2048)


async def asked_for(prompts: list[Any], asked: int | None = None, **options: Any) -> dict[str, int]:
    """Send prompts to one agent with a context of 2,048; return each one's first words and max_tokens as received."""
    async with running(1, profile=CONTEXT_2048, **options) as (fleet, pool):
        responses = await pool.send_all_batched(prompts, max_tokens=asked)
        assert [response.error for response in responses] == [None] * len(prompts)
        return {
            prompt[:8]: request.body["max_tokens"]
            for request in lists_at(fleet.agents[0])
            for prompt in request.body["prompt"]
        }


async def test_what_the_call_says_wins_over_the_pool() -> None:
    assert await asked_for(["a"], 8, max_tokens=99) == {"a": 8}
    assert await asked_for(["a"], None, max_tokens=99) == {"a": 99}


async def test_a_prompts_own_number_wins_over_both() -> None:
    assert await asked_for([Prompt("a", max_tokens=5), "b"], 50, max_tokens=99) == {"a": 5, "b": 50}


async def test_without_a_number_a_prompt_has_the_rest_of_the_context_less_the_buffer() -> None:
    """Rounded down by a sixteenth at most, so that prompts of about the same length share a list."""
    for buffer in (0, 64, 500):
        found = await asked_for(["short"], buffer=buffer)
        assert (2048 - buffer - 16) * 15 / 16 <= found["short"] <= 2048 - buffer


async def test_a_long_prompt_does_not_shrink_the_room_of_a_short_one_to_its_own() -> None:
    found = await asked_for(["long " * 1500, "short"])
    assert found["short"] > 1900
    assert found["long lon"] < 600


@pytest.mark.parametrize("asked", [None, 1000])
async def test_what_a_prompt_may_be_answered_with_does_not_depend_on_its_company(asked: int | None) -> None:
    texts = [f"{n:03} " + "word " * (100 * n) for n in range(16)]
    prompts = [*texts, Prompt("own", max_tokens=6), Prompt("own2", max_tokens=5)]
    together = await asked_for(prompts, asked)
    for prompt in prompts:
        alone = await asked_for([prompt], asked)
        assert alone.items() <= together.items()


async def test_a_number_too_large_for_a_long_prompt_is_fitted_for_that_one_alone() -> None:
    assert await asked_for(["word " * 1500, "short"], 1000) == {"word wor": pytest.approx(500, abs=499), "short": 1000}


async def test_a_number_above_the_context_is_fitted() -> None:
    found = await asked_for(["short"], 100_000)
    assert found["short"] < 2048


async def test_model_max_context_wins_over_what_the_server_says() -> None:
    found = await asked_for(["short"], model_max_context=512)
    assert found["short"] <= 512 - 64


async def test_token_ids_are_counted_exactly() -> None:
    async with running(1, profile=CONTEXT_2048, buffer=0) as (fleet, pool):
        await pool.send_all_batched([[7] * 1000])
        (request,) = lists_at(fleet.agents[0])
        assert request.body["max_tokens"] == 1024


async def test_the_smallest_context_of_a_fleet_counts() -> None:
    profiles = [AgentProfile(instant=True, max_model_len=length) for length in (8192, 1024)]
    async with running(2, profile=profiles) as (_, pool):
        assert pool.max_context == 1024
        assert pool.select([0]).max_context == 8192


async def test_a_chat_without_a_number_leaves_it_to_the_server() -> None:
    async with running(1, profile=CONTEXT_2048, prompt_format="chat") as (fleet, pool):
        await pool.send_all(["Hello"])
        await pool.send_all(["Hello"], max_tokens=7)
        assert [request.body.get("max_tokens") for request in chats_at(fleet.agents[0])] == [None, 7]


async def test_a_prompt_longer_than_the_context_is_the_prompts_own_failure() -> None:
    async with running(1, profile=CONTEXT_2048) as (_, pool):
        good, bad = await pool.send_all_batched(["short", "word " * 4000], max_tokens=16)
        assert good.success
        assert (bad.error_kind, bad.success) == ("rejected", False)
        assert "maximum context length is 2048 tokens" in (bad.error or "")


async def test_estimates_learn_from_what_servers_count() -> None:
    text = "word " * 200
    async with running(1, profile=AgentProfile(slots=64, max_model_len=2048, median_length=20)) as (_, pool):
        before = pool.estimate_tokens(text)
        await pool.send_all_batched([f"{text} {i}" for i in range(800)], max_tokens=4)
        counted = (await pool.send_all_batched([text], max_tokens=10))[0].prompt_tokens
        assert counted is not None
        assert counted <= pool.estimate_tokens(text) < before


@pytest.mark.parametrize("version", ["0.31.0", "0.10.2"])
async def test_an_older_server_that_refuses_what_exceeds_the_context_gets_what_fits(version: str) -> None:
    profile = AgentProfile(instant=True, max_model_len=2048, version=version)
    async with running(1, profile=profile) as (_, pool):
        responses = await pool.send_all_batched(["these are plain words " * 60 for _ in range(5)])
        assert [response.error for response in responses] == [None] * 5


@pytest.mark.parametrize("number", [0, -1])
async def test_a_number_below_one_is_an_error(number: int) -> None:
    async with running(1) as (_, pool):
        for send in (pool.send_all, pool.send_all_batched):
            with pytest.raises(ConfigError, match="max_tokens"):
                await send(["a"], max_tokens=number)
        with pytest.raises(ConfigError, match="max_tokens"):
            await pool.post(0, "a", max_tokens=number)
        with pytest.raises(ConfigError, match="max_tokens"):
            await pool.send_all_batched([Prompt("a", max_tokens=number)])
        with pytest.raises(ConfigError, match="max_tokens"):
            VLLMPool(pool.endpoints, max_tokens=number)
