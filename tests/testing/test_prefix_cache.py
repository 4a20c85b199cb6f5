"""The prefix cache of a simulated server, as a client sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from aurora_pool.testing import AgentProfile, SimulatedAgent, SimulatedFleet

if TYPE_CHECKING:
    from tests.testing.conftest import Client

pytestmark = pytest.mark.simulated_clock

DOCUMENT = "A long document about genes. " * 20
DETAILS = AgentProfile(reply="ok", prompt_tokens_details=True)


async def counters(client: Client, agent: SimulatedAgent) -> tuple[float, float]:
    _, page = await client.get(agent, "/metrics")
    values = dict(line.rsplit(" ", 1) for line in page.splitlines() if line.startswith("vllm:prefix_cache"))
    queries, hits = (
        float(value)
        for name in ("queries", "hits")
        for line, value in values.items()
        if line.startswith(f"vllm:prefix_cache_{name}_total")
    )
    return queries, hits


async def test_metrics_count_the_tokens_that_were_found(client: Client) -> None:
    async with SimulatedFleet(profile=AgentProfile(reply="ok")) as fleet:
        (agent,) = fleet.agents
        _, body = await client.complete(agent, DOCUMENT + "What is it about?")
        tokens = body["usage"]["prompt_tokens"]
        assert await counters(client, agent) == (tokens, 0)
        await client.complete(agent, DOCUMENT + "What is it about?")
        assert await counters(client, agent) == (2 * tokens, (tokens - 1) // 16 * 16)


async def test_what_is_found_is_not_computed_again(client: Client) -> None:
    profile = AgentProfile(reply="ok", prefill_rate=100.0)
    async with SimulatedFleet(
        2, profile=[profile, AgentProfile(reply="ok", prefill_rate=100.0, prefix_caching=False)]
    ) as fleet:
        took = []
        for agent in fleet.agents:
            for _ in range(2):
                server = agent.server
                before = server.counters.whole_time.total
                await client.complete(agent, DOCUMENT)
                took.append(server.counters.whole_time.total - before)
        assert took[1] < took[0] / 5
        assert took[2] == took[3] == pytest.approx(took[0])


async def test_usage_tells_cached_tokens_where_the_server_was_started_so(client: Client) -> None:
    async with SimulatedFleet(2, profile=[DETAILS, AgentProfile(reply="ok")]) as fleet:
        details: list[Any] = []
        for agent in fleet.agents:
            for _ in range(2):
                _, body = await client.complete(agent, DOCUMENT)
                details.append(body["usage"]["prompt_tokens_details"])
        tokens = body["usage"]["prompt_tokens"]
        assert details == [None, {"audio_tokens": None, "cached_tokens": (tokens - 1) // 16 * 16}, None, None]


async def test_of_a_list_it_tells_the_last_prompts_and_of_a_stream_the_firsts(client: Client) -> None:
    async with SimulatedFleet(profile=DETAILS) as fleet:
        (agent,) = fleet.agents
        await client.complete(agent, DOCUMENT)
        _, body = await client.complete(agent, [DOCUMENT, "Something else altogether, and not short either. " * 3])
        assert body["usage"]["prompt_tokens_details"] is None
        events = await client.stream(agent, [DOCUMENT, "New. " * 30], stream_options={"include_usage": True})
        assert events[-2]["usage"]["prompt_tokens_details"]["cached_tokens"] == 240


async def test_a_chat_tells_them_whole_and_streamed(client: Client) -> None:
    chat = {"messages": [{"role": "user", "content": DOCUMENT}]}
    async with SimulatedFleet(profile=DETAILS) as fleet:
        (agent,) = fleet.agents
        await client.post(agent, "/v1/chat/completions", chat)
        _, body = await client.post(agent, "/v1/chat/completions", chat)
        assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 240


async def test_a_different_salt_shares_nothing(client: Client) -> None:
    async with SimulatedFleet(profile=DETAILS) as fleet:
        (agent,) = fleet.agents
        await client.complete(agent, DOCUMENT, cache_salt="mine")
        _, body = await client.complete(agent, DOCUMENT, cache_salt="yours")
        assert body["usage"]["prompt_tokens_details"] is None
        _, body = await client.complete(agent, DOCUMENT, cache_salt="mine")
        assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 240


async def test_a_small_cache_preempts_and_says_so(client: Client) -> None:
    profile = AgentProfile(reply="word " * 60, kv_blocks=8, max_model_len=128)
    async with SimulatedFleet(profile=profile) as fleet:
        (agent,) = fleet.agents
        status, body = await client.complete(agent, ["a b c", "d e f", "g h i"], max_tokens=100)
        assert status == 200
        assert {choice["text"] for choice in body["choices"]} == {"word " * 60}
        _, page = await client.get(agent, "/metrics")
        assert "vllm:num_preemptions_total" in page
        assert agent.server.engine_loop.engine.preemptions == 2


def test_a_cache_smaller_than_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 8192 tokens"):
        AgentProfile(kv_blocks=100)
