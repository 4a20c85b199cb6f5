"""Servers that are older, or different, or in the way: proxies that do not stream, plain JSON, garbage."""

from __future__ import annotations

import pytest

from aurora_pool import Sampling, Timeouts
from aurora_pool.testing import AgentProfile
from tests.pool.running import lists_at, now, prompts_at, running, sizes

pytestmark = pytest.mark.simulated_clock

PROMPTS = [f"number {i}" for i in range(24)]


def echo(**options: object) -> AgentProfile:
    return AgentProfile(slots=16, reply=lambda prompt: f"You said: {prompt}", **options)  # type: ignore[arg-type]


EXPECTED = [f"You said: {prompt}" for prompt in PROMPTS]


@pytest.mark.parametrize("version", ["0.32.0", "0.26.0", "0.19.0", "0.10.2", "0.8.5"])
async def test_every_version_that_ignores_stream_interval_is_read(version: str) -> None:
    async with running(2, profile=echo(version=version)) as (fleet, pool):
        responses = await pool.send_all_batched(PROMPTS, max_tokens=64)
        assert [response.text for response in responses] == EXPECTED
        assert all(response.completion_tokens for response in responses)
        assert sizes(fleet) == [[12], [12]]


async def test_a_mixed_fleet_gives_the_same_answers() -> None:
    profiles = [echo(version="0.32.0"), echo(version="0.10.2"), echo(streams=False)]
    async with running(3, profile=profiles) as (_, pool):
        responses = await pool.send_all_batched(PROMPTS, max_tokens=64)
        assert [response.text for response in responses] == EXPECTED


async def test_a_server_that_refuses_streaming_is_asked_again_without_and_not_asked_to_stream_again() -> None:
    async with running(2, profile=echo(streams=False)) as (fleet, pool):
        for _ in range(2):
            responses = await pool.send_all_batched(PROMPTS, max_tokens=64)
            assert [response.text for response in responses] == EXPECTED
        streamed = [["stream" in request.body for request in lists_at(agent)] for agent in fleet.agents]
        assert streamed == [[True, False, False]] * 2


async def test_a_400_about_a_prompt_is_not_taken_for_a_refusal_to_stream() -> None:
    async with running(1, profile=echo()) as (fleet, pool):
        fleet.agents[0].reject("number 7$", "This upstream prompt is too spicy")
        responses = await pool.send_all_batched(PROMPTS, max_tokens=64)
        assert [response.error_kind for response in responses] == [None] * 7 + ["rejected"] + [None] * 16
        await pool.send_all_batched(["after"], max_tokens=64)
        assert lists_at(fleet.agents[0])[-1].body.get("stream") is True


async def test_a_prompt_refused_with_words_about_streams_costs_nothing_but_itself() -> None:
    async with running(1, profile=echo()) as (fleet, pool):
        fleet.agents[0].reject("number 7$", "Nothing about streams, please")
        responses = await pool.send_all_batched(PROMPTS, max_tokens=64)
        assert [response.error_kind for response in responses] == [None] * 7 + ["rejected"] + [None] * 16


async def test_a_server_that_answers_a_stream_with_plain_json_is_read() -> None:
    async with running(1, profile=echo()) as (fleet, pool):
        fleet.agents[0].garble("plain")
        responses = await pool.send_all_batched(PROMPTS, max_tokens=64)
        assert [response.text for response in responses] == EXPECTED
        assert sizes(fleet) == [[24]]


@pytest.mark.parametrize("kind", ["noise", "html"])
async def test_garbage_sends_the_prompts_elsewhere(kind: str) -> None:
    async with running(2, profile=echo()) as (fleet, pool):
        fleet.agents[0].garble(kind)  # type: ignore[arg-type]
        responses = await pool.send_all_batched(PROMPTS, max_tokens=64)
        assert [response.text for response in responses] == EXPECTED
        assert {response.agent_index for response in responses} == {1}
        assert pool.statistics().agents[0].failures["broken"] == 1


async def test_garbage_from_a_whole_fleet_is_an_error_with_its_beginning() -> None:
    async with running(1, profile=echo(), timeouts=Timeouts(patience=30.0)) as (fleet, pool):
        fleet.agents[0].garble("html")
        (response,) = await pool.send_all_batched(["a"], max_tokens=64)
        assert not response.success
        assert "html" in (response.error or "")
        assert now() < 200


async def test_keep_alive_comments_are_skipped() -> None:
    profile = AgentProfile(slots=2, reply="word " * 200, step_base=0.1, sse_keep_alive=1.0)
    async with running(1, profile=profile) as (fleet, pool):
        responses = await pool.send_all_batched(["a", "b", "c", "d"], max_tokens=500)
        assert all(response.success for response in responses)
        assert sizes(fleet) == [[4]]


async def test_long_events_are_read_whole() -> None:
    profile = AgentProfile(slots=4, reply="word " * 6000, max_model_len=16_384)
    async with running(1, profile=profile) as (_, pool):
        sampling = Sampling(logprobs=20, return_token_ids=True)
        (response,) = await pool.send_all_batched(["a"], max_tokens=15_000, sampling=sampling)
        assert response.success, response.error
        assert response.token_ids is not None
        assert len(response.token_ids) == response.completion_tokens
        assert len(response.token_ids) > 5000


async def test_thoughts_come_apart_from_the_answer_in_chats() -> None:
    profile = AgentProfile(slots=4, reasoning=True, median_length=60)
    async with running(1, profile=profile, prompt_format="chat") as (_, pool):
        response = await pool.post(0, "Think!", max_tokens=500)
        assert response.success
        assert response.reasoning
        assert response.text


@pytest.mark.parametrize("limit", [64, 1])
async def test_a_server_with_a_smaller_list_limit_still_answers_every_prompt(limit: int) -> None:
    async with running(1, profile=echo(max_prompts=limit)) as (fleet, pool):
        responses = await pool.send_all_batched([f"number {i}" for i in range(70)], max_tokens=64)
        assert [response.text for response in responses] == [f"You said: number {i}" for i in range(70)]
        assert len(prompts_at(fleet.agents[0])) <= 70 * 8


async def test_a_prefix_in_the_url_is_kept() -> None:
    from aurora_pool import AgentEndpoint, PromptOptions, VLLMPool
    from aurora_pool.testing import SimulatedFleet

    async with SimulatedFleet(1, profile=echo()) as fleet:
        here = fleet.endpoints[0]
        prefixed = AgentEndpoint(here.host, here.port, path="/team-a/v1")
        async with VLLMPool(
            [prefixed],
            model="simulated-model",
            prompting=PromptOptions(prompt_format="raw"),
            timeouts=Timeouts(patience=1.0),
        ) as pool:
            await pool.send_all_batched(["a"], max_tokens=4)
        assert {request.path for request in fleet.requests} >= {"/team-a/v1/models", "/team-a/v1/completions"}


async def test_an_api_key_is_sent_to_the_agent_that_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LARGE_KEY", "sk-one")
    profiles = [echo(api_keys=("sk-one",)), echo()]
    async with running(2, profile=profiles, tags=[{"api_key_env": "LARGE_KEY"}, {}]) as (fleet, pool):
        responses = await pool.send_all_batched(PROMPTS, max_tokens=64)
        assert [response.text for response in responses] == EXPECTED
        assert lists_at(fleet.agents[0])[0].headers["authorization"] == "Bearer sk-one"
        assert "authorization" not in lists_at(fleet.agents[1])[0].headers
