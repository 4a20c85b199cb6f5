"""Hosted agents: asked last and within their quota, never for more than the budget, and only for what any API knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from openai import AsyncOpenAI

from aurora_pool import AgentEndpoint, ConfigError, HostedOptions, HostfileError, Prompt, Sampling, Timeouts, VLLMPool
from aurora_pool.hostfile import format_hostfile, parse_hostfile_text
from aurora_pool.testing import AgentProfile, SimulatedAgent, SimulatedFleet, run_simulated
from tests.pool.gateway import gateway
from tests.pool.running import CHAT, chats_at

OWN = AgentProfile(slots=16, median_length=40, longest=60)
API = AgentProfile(model="small", slots=64, median_length=20, longest=30)
HOSTED = {"hosted": "true", "model": "small"}


@asynccontextmanager
async def spilling(
    own: int = 1, terms: Mapping[str, str] | Sequence[Mapping[str, str]] = HOSTED, **options: Any
) -> AsyncGenerator[tuple[SimulatedFleet, VLLMPool]]:
    """Run a pool over own agents and, after these, one hosted agent for each of the terms."""
    each = [terms] if isinstance(terms, Mapping) else terms
    profiles = [OWN] * own + [API] * len(each)
    tags: list[Mapping[str, str]] = [{}] * own + [{**HOSTED, **one} for one in each]
    async with (
        SimulatedFleet(own + len(each), profile=profiles, tags=tags, seed=1) as fleet,
        VLLMPool(fleet.endpoints, **{"max_tokens": 60, **options}) as pool,
    ):
        yield fleet, pool


def paths(agent: SimulatedAgent) -> set[str]:
    return {request.path for request in agent.requests}


def most_in_a_minute(agent: SimulatedAgent) -> int:
    times = [request.at for request in chats_at(agent)]
    return max(sum(start <= at <= start + 60.0 for at in times) for start in times)


def test_a_fleet_that_works_asks_no_hosted_agent_anything() -> None:
    async def run() -> None:
        async with spilling(2) as (fleet, pool):
            responses = await pool.send_all_batched([f"prompt {n}" for n in range(200)])
            assert {response.agent_index for response in responses} == {0, 1}
            assert not fleet.agents[2].requests
            assert pool.statistics().cost == 0

    run_simulated(run())


def test_hosted_agents_take_over_when_no_own_agent_is_in_service() -> None:
    async def run() -> None:
        async with spilling(1, {"price_in": "1", "price_out": "2"}, system_prompt="Be brief.") as (fleet, pool):
            fleet.agents[0].die()
            loop = asyncio.get_running_loop()
            began = loop.time()
            responses = await pool.send_all_batched([f"prompt {n}" for n in range(20)])
            assert [response.agent_index for response in responses] == [1] * 20
            requests = chats_at(fleet.agents[1])
            assert min(request.at for request in requests) >= began + 60.0
            body = requests[0].body
            assert set(body) == {"model", "messages", "max_tokens"}
            assert (body["model"], body["max_tokens"]) == ("small", 60)
            assert body["messages"] == [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "prompt 0"},
            ]
            assert paths(fleet.agents[1]) == {CHAT}
            usages = [(r.prompt_tokens or 0) + 2 * (r.completion_tokens or 0) for r in responses]
            assert pool.statistics().cost == pytest.approx(sum(usages) / 1e6)

    run_simulated(run())


def test_own_agents_that_come_back_take_over_again() -> None:
    async def run() -> None:
        async with spilling(1, {"rpm": "30"}, hosted=HostedOptions(spill_after=5.0)) as (fleet, pool):
            fleet.agents[0].die()
            asyncio.get_running_loop().call_later(20.0, fleet.agents[0].revive)
            responses = await pool.send_all_batched([f"prompt {n}" for n in range(200)])
            assert all(response.success for response in responses)
            assert 1 <= len(chats_at(fleet.agents[1])) <= 30

    run_simulated(run())


def test_several_drivers_keep_the_quota_together() -> None:
    async def run() -> None:
        async with spilling(0, {"rpm": "100", "max": "4"}) as (fleet, _), AsyncExitStack() as stack:
            (agent,) = fleet.agents
            hosted = HostedOptions(drivers=4)
            pools = [VLLMPool(fleet.endpoints, max_tokens=60, hosted=hosted) for _ in range(4)]
            for pool in pools:
                await stack.enter_async_context(pool)
            loop = asyncio.get_running_loop()
            began = loop.time()
            prompts = [f"prompt {n}" for n in range(75)]
            for responses in await asyncio.gather(*(pool.send_all_batched(prompts) for pool in pools)):
                assert all(response.success for response in responses)
            assert 90 <= most_in_a_minute(agent) <= 100
            assert 170.0 <= loop.time() - began <= 190.0

    run_simulated(run(), debug=False)


async def test_a_driver_keeps_its_part_where_the_hostfile_changes() -> None:
    def terms(pool: VLLMPool) -> list[int]:
        return [agent.window for agent in pool.statistics().agents]

    async with VLLMPool(["api hosted max=8 rpm=60 model=m"], hosted=HostedOptions(drivers=4)) as pool:
        assert terms(pool) == [2]
        pool.update_endpoints(["api hosted max=12 rpm=60 model=m"])
        assert terms(pool) == [3]


@pytest.mark.parametrize("drivers", [0, 1.5, True])
def test_the_number_of_drivers_is_a_whole_one(drivers: Any) -> None:
    with pytest.raises(ConfigError, match="drivers"):
        HostedOptions(drivers=drivers)


def test_the_quota_is_kept() -> None:
    async def run() -> None:
        async with spilling(0, {"rpm": "100", "max": "2"}) as (fleet, pool):
            (agent,) = fleet.agents
            loop = asyncio.get_running_loop()
            began = loop.time()
            async for _, response in pool.iter_responses(f"prompt {n}" for n in range(490)):
                assert response.success
                assert agent.server.requests_in_flight <= 2
            assert most_in_a_minute(agent) <= 100
            assert 290.0 <= loop.time() - began <= 310.0

    run_simulated(run(), debug=False)


def test_a_429_pauses_the_agent_and_costs_no_attempt() -> None:
    async def run() -> None:
        async with spilling(0) as (fleet, pool):
            (agent,) = fleet.agents
            agent.fail(429, message="Rate limit reached", headers={"retry-after": "120"})
            asyncio.get_running_loop().call_later(1.0, agent.revive)
            response = (await pool.send_all_batched(["one"]))[0]
            assert response.success
            first, second = [request.at for request in chats_at(agent)]
            assert second - first >= 120.0

    run_simulated(run())


@pytest.mark.parametrize(
    ("status", "told", "answered"), [(500, "false", False), (429, "false", False), (400, "true", True)]
)
def test_what_it_says_of_asking_again_is_heeded(status: int, told: str, answered: bool) -> None:
    async def run() -> None:
        async with spilling(0) as (fleet, pool):
            (agent,) = fleet.agents
            agent.fail(status, message="No", headers={"x-should-retry": told})
            asyncio.get_running_loop().call_later(0.1, agent.revive)
            response = await pool.ask("one")
            assert response.success == answered
            assert response.error_kind == (None if answered else "rejected")
            assert (len(chats_at(agent)) > 1) == answered

    run_simulated(run())


@pytest.mark.parametrize("headers", [{"retry-after": "7"}, {"retry-after-ms": "2500"}, {"retry-after": "1.5"}])
@pytest.mark.parametrize("status", [429, 503])
def test_it_waits_as_long_as_the_openai_client_does(status: int, headers: Mapping[str, str]) -> None:
    async def waited(ask: Callable[[AgentEndpoint], Awaitable[object]]) -> float:
        async with SimulatedFleet(1, profile=API, seed=1) as fleet:
            (agent,) = fleet.agents
            agent.fail(status, message="Rate limit reached", headers=headers)
            asyncio.get_running_loop().call_later(0.1, agent.revive)
            await ask(agent.endpoint)
            first, second = [request.at for request in chats_at(agent)]
            return second - first

    async def by_openai(endpoint: AgentEndpoint) -> None:
        async with AsyncOpenAI(base_url=f"{endpoint.base_url}/v1", api_key="none") as client:
            await client.chat.completions.create(model="small", messages=[{"role": "user", "content": "one"}])

    async def by_pool(endpoint: AgentEndpoint) -> None:
        api = AgentEndpoint(endpoint.host, endpoint.port, HOSTED)
        async with VLLMPool([api], max_tokens=60) as pool:
            assert (await pool.ask("one")).success

    async def run() -> None:
        assert await waited(by_pool) == pytest.approx(await waited(by_openai), abs=0.1)

    run_simulated(run())


def test_its_own_words_on_what_is_left_are_believed() -> None:
    async def run() -> None:
        async with spilling(0, {"rpm": "600"}) as (fleet, pool):
            (agent,) = fleet.agents
            agent.tell({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"})
            assert all(response.success for response in await pool.send_all_batched(["one", "two"]))
            first, *_, last = [request.at for request in chats_at(agent)]
            assert 360.0 <= last - first < 361.0
            before = asyncio.get_running_loop().time()
            await pool.ask("three")
            assert chats_at(agent)[-1].at - before >= 300.0

    run_simulated(run())


def as_reasoning_model(path: str, body: Any) -> web.Response | None:
    """Refuse what OpenAI's reasoning models refuse, in their words."""
    if "max_tokens" not in body:
        return None
    message = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    )
    error = {
        "message": message,
        "type": "invalid_request_error",
        "param": "max_tokens",
        "code": "unsupported_parameter",
    }
    return web.json_response({"error": error}, status=400)


def test_a_model_that_takes_no_max_tokens_is_asked_by_the_other_name() -> None:
    async def run() -> None:
        async with (
            SimulatedFleet(1, profile=API) as fleet,
            gateway(fleet.endpoints[0], {}, as_reasoning_model) as endpoint,
        ):
            tags = HOSTED | {"price_in": "1", "price_out": "1", "rpm": "60"}
            api = AgentEndpoint(endpoint.host, endpoint.port, tags)
            async with VLLMPool([api], max_tokens=60, hosted=HostedOptions(max_cost=1.0)) as pool:
                responses = await pool.send_all_batched([f"prompt {n}" for n in range(20)])
                assert [response.error for response in responses] == [None] * 20
                tokens = sum((r.prompt_tokens or 0) + (r.completion_tokens or 0) for r in responses)
                assert pool.statistics().cost == pytest.approx(tokens / 1e6)
            bodies = [request.body for request in chats_at(fleet.agents[0])]
            assert [body["max_completion_tokens"] for body in bodies] == [60] * 20

    run_simulated(run())


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [(401, None, "Incorrect API key"), (429, "insufficient_quota", "You exceeded your current quota")],
)
def test_an_agent_that_will_not_serve_leaves_with_one_clear_error(status: int, kind: str | None, message: str) -> None:
    async def run() -> None:
        async with spilling(0) as (fleet, pool):
            (agent,) = fleet.agents
            agent.fail(status, message=message, kind=kind)
            responses = await pool.send_all_batched([f"prompt {n}" for n in range(10)])
            assert {response.error_kind for response in responses} == {"no_agents"}
            assert message in str(responses[0].error)
            assert len(chats_at(agent)) <= 8
            assert pool.statistics().agents_in_service == 0

    run_simulated(run())


def test_no_more_is_spent_than_the_budget() -> None:
    async def run() -> None:
        terms = {"price_in": "1000", "price_out": "1000"}
        async with spilling(0, terms, hosted=HostedOptions(max_cost=1.0)) as (_, pool):
            responses = await pool.send_all_batched([f"prompt {n}" for n in range(100)])
            answered = [response for response in responses if response.success]
            cost = sum((r.prompt_tokens or 0) + (r.completion_tokens or 0) for r in answered) / 1000
            assert 0.7 < cost <= 1.0
            assert pool.statistics().cost == pytest.approx(cost)
            failed = next(response for response in responses if not response.success)
            assert "the budget of 1 is spent" in str(failed.error)

    run_simulated(run())


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt("raw", format="raw"),
        Prompt([1, 2, 3]),
        Prompt("engine's own", sampling=Sampling(top_k=5)),
        Prompt("engine's own", sampling=Sampling(extra={"min_tokens": 4})),
    ],
)
def test_what_only_engines_know_stays_with_own_agents(prompt: Prompt) -> None:
    async def run() -> None:
        hosted, timeouts = HostedOptions(spill_after=1.0), Timeouts(patience=20.0)
        async with spilling(1, hosted=hosted, timeouts=timeouts) as (fleet, pool):
            fleet.agents[0].die()
            responses = await pool.send_all_batched([prompt, "portable"])
            assert [response.error_kind for response in responses] == ["no_agents", None]
            assert "hosted agents take only conversations" in str(responses[0].error)
            assert len(chats_at(fleet.agents[1])) == 1

    run_simulated(run())


def test_what_a_hosted_agent_rejects_waits_for_an_own_one() -> None:
    async def run() -> None:
        async with spilling(1, hosted=HostedOptions(spill_after=1.0)) as (fleet, pool):
            fleet.agents[0].die()
            fleet.agents[1].reject("prompt", message="content not allowed")
            asyncio.get_running_loop().call_later(10.0, fleet.agents[0].revive)
            response = await pool.ask("prompt")
            assert (response.success, response.agent_index) == (True, 0)
            assert len(chats_at(fleet.agents[1])) == 1

    run_simulated(run())


def test_a_hosted_agent_that_joins_is_asked_like_others_and_not_what_it_serves() -> None:
    async def run() -> None:
        async with spilling(1, hosted=HostedOptions(spill_after=1.0)) as (fleet, pool):
            own, hosted = fleet.endpoints
            pool.update_endpoints([own])
            pool.update_endpoints([own, hosted])
            fleet.agents[0].die()
            assert (await pool.ask("prompt")).agent_index == 1
            assert {"/v1/models", CHAT} >= paths(fleet.agents[1])
            assert len(chats_at(fleet.agents[1])) == 1

    run_simulated(run())


def test_the_cheapest_comes_first() -> None:
    async def run() -> None:
        dear, cheap = {"price_out": "9"}, {"price_out": "1", "max": "4"}
        async with spilling(0, [dear, cheap]) as (fleet, pool):
            await pool.send_all_batched([f"prompt {n}" for n in range(4)])
            assert [len(chats_at(agent)) for agent in fleet.agents] == [0, 4]

    run_simulated(run())


def test_a_hosted_agent_can_be_asked_by_its_number() -> None:
    async def run() -> None:
        async with spilling(1) as (fleet, pool):
            assert (await pool.post(1, "who?")).agent_index == 1
            assert len(chats_at(fleet.agents[1])) == 1

    run_simulated(run())


def test_a_hostfile_names_hosted_agents() -> None:
    text = "https://api.example.com/v1 hosted rpm=100 tpm=200000 max=2 price_in=0.15 price_out=0.6 model=small-1\n"
    (endpoint,) = parse_hostfile_text(text)
    terms = endpoint.hosted
    assert terms is not None
    assert (terms.requests, terms.tokens, terms.at_once, terms.model) == (100, 200_000, 2, "small-1")
    assert parse_hostfile_text(format_hostfile([endpoint])) == [endpoint]
    assert parse_hostfile_text("gpu01 8000 max=many rpm=few")[0].hosted is None


@pytest.mark.parametrize("tag", ["rpm=0", "tpm=many", "max=-1", "price_in=free", "hosted=yes", "price_out=nan"])
def test_a_bad_tag_is_told_with_its_line(tag: str) -> None:
    with pytest.raises(HostfileError, match=f"x.hostfile:1: .*{tag.partition('=')[0]}"):
        parse_hostfile_text(f"api.example.com {'' if tag.startswith('hosted') else 'hosted '}{tag}", path="x.hostfile")


def test_the_hostfile_round_trips_an_endpoint_without_tags_of_its_own() -> None:
    assert format_hostfile([AgentEndpoint("api", 443, {"hosted": "true"}, "https")]) == "https://api:443\thosted\n"
