from __future__ import annotations

import asyncio
import base64
import math
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from aurora_pool.hostfile_source import parse_hostfile
from aurora_pool.testing import AgentProfile, SimulatedFleet
from tests.conformance.client import user

if TYPE_CHECKING:
    from tests.testing.conftest import Client

pytestmark = pytest.mark.simulated_clock


async def test_a_fleet_writes_its_hostfile(tmp_path: Path) -> None:
    async with SimulatedFleet(3, tags=[{"rack": "1"}, {}, {"rack": "2"}]) as fleet:
        path = fleet.write_hostfile(tmp_path / "fleet.hostfile")
        assert parse_hostfile(path) == fleet.endpoints
        assert [endpoint.tags.get("rack") for endpoint in fleet.endpoints] == ["1", None, "2"]
        before = path.stat().st_ino
        fleet.write_hostfile(path)
        assert path.stat().st_ino != before  # another file took its place: no reader sees a part of it


async def test_a_root_path_may_be_given_or_left_out(client: Client) -> None:
    async with SimulatedFleet(profile=AgentProfile(root_path="/team-a", api_keys=("k",))) as fleet:
        (agent,) = fleet.agents
        assert agent.endpoint.base_url.endswith("/team-a")
        bare = agent.endpoint.base_url.removesuffix("/team-a")
        for url in (agent.endpoint.base_url, bare):
            for path, status in (("/health", 200), ("/v1/models", 401)):
                async with client.session.get(url + path) as reply:
                    assert reply.status == status
        assert {request.path for request in agent.requests} == {"/health", "/v1/models"}


async def test_an_ipv6_fleet(client: Client) -> None:
    async with SimulatedFleet(host="::1") as fleet:
        (agent,) = fleet.agents
        assert await client.get(agent, "/health") == (200, "")
        agent.die()
        agent.revive()
        await asyncio.sleep(0.01)
        assert await client.get(agent, "/health") == (200, "")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the port is bound anew")
async def test_the_port_of_a_dead_agent_is_at_no_moment_anyone_elses(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SimulatedFleet(1, profile=AgentProfile(reply="ok")) as fleet:
        (agent,) = fleet.agents
        monkeypatch.setattr(socket.socket, "bind", None, raising=False)
        agent.die()
        with pytest.raises(aiohttp.ClientConnectorError, match="Connect call failed"):
            await client.get(agent, "/health")
        agent.revive()
        assert await client.get(agent, "/health") == (200, "")


async def test_requests_are_recorded_as_they_came(client: Client) -> None:
    async with SimulatedFleet(2, profile=AgentProfile(reply="ok")) as fleet:
        await client.complete(fleet.agents[1], ["a", "b", "c"])
        await asyncio.sleep(2)
        await client.post(fleet.agents[0], "/v1/chat/completions", {"messages": [user("hi")]})
        await client.get(fleet.agents[0], "/health")
        first, second, third = fleet.requests
        assert (first.method, first.path, first.prompts) == ("POST", "/v1/completions", 3)
        assert first.body["prompt"] == ["a", "b", "c"]
        assert first.headers["content-type"] == "application/json"
        assert second.prompts == 1
        assert second.at - first.at == pytest.approx(2.0, abs=0.05)
        assert (third.path, third.body, third.prompts) == ("/health", None, 0)
        assert [agent.prompts_received for agent in fleet.agents] == [1, 3]
        assert (fleet.prompts_received, fleet.prompts_answered) == (4, 4)


async def test_a_fleet_need_not_record(client: Client) -> None:
    async with SimulatedFleet(record=False, profile=AgentProfile(reply="ok")) as fleet:
        await client.complete(fleet.agents[0])
        assert fleet.requests == []
        assert fleet.prompts_received == 1


@pytest.mark.parametrize(
    "options",
    [{"agents": 0}, {"time_scale": 0}, {"agents": 2, "ports": [1]}, {"agents": 2, "tags": [{}]}, {"faults": {1: []}}],
)
def test_an_invalid_fleet(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        SimulatedFleet(**options)


async def test_a_taken_port_is_an_error_and_leaves_nothing_open() -> None:
    async with SimulatedFleet() as fleet:
        taken = fleet.endpoints[0].port
        with pytest.raises(OSError, match="in use"):
            await SimulatedFleet(2, ports=[0, taken]).start()


async def test_time_scale_speeds_up_engine_and_scripts(client: Client) -> None:
    profile = AgentProfile(reply="word " * 99, step_base=0.01, step_per_sequence=0.0)
    loop = asyncio.get_running_loop()
    async with SimulatedFleet(profile=profile, time_scale=10) as fleet:
        began = loop.time()
        await client.complete(fleet.agents[0])
        assert loop.time() - began == pytest.approx(0.102, rel=1e-3)  # 102 tokens


async def test_closing_a_busy_fleet_leaves_nothing_behind(client: Client) -> None:
    async with SimulatedFleet(2) as fleet:
        fleet.agents[1].hang()
        calls = [
            asyncio.create_task(call)
            for agent in fleet.agents
            for call in (client.complete(agent), client.stream(agent))
        ]
        await asyncio.sleep(0.1)
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, aiohttp.ClientError) for result in results)


async def test_many_ports_in_one_process(client: Client) -> None:
    async with SimulatedFleet(100, profile=AgentProfile(reply="ok")) as fleet:
        statuses = await asyncio.gather(*(client.get(agent, "/health") for agent in fleet.agents))
        assert statuses == [(200, "")] * 100


async def test_the_key_guards_v1_and_nothing_else(client: Client) -> None:
    async with SimulatedFleet(profile=AgentProfile(api_keys=("secret",), reply="ok")) as fleet:
        (agent,) = fleet.agents
        url = agent.endpoint.base_url
        assert (await client.get(agent, "/v1/models")) == (401, '{"error":"Unauthorized"}')
        assert (await client.get(agent, "/v1/nope"))[0] == 401
        for path in ("/health", "/version", "/load", "/metrics"):
            assert (await client.get(agent, path))[0] == 200
        assert (await client.post(agent, "/tokenize", {"prompt": "a"}))[0] == 200
        for header, status in (
            ({"Authorization": "Bearer secret"}, 200),
            ({"Authorization": "bearer secret"}, 200),
            ({"Authorization": "Bearer wrong"}, 401),
            ({"x-api-key": "secret"}, 401),
        ):
            async with client.session.get(url + "/v1/models", headers=header) as reply:
                assert reply.status == status


async def test_embeddings_are_unit_vectors_of_their_own(client: Client) -> None:
    async with SimulatedFleet() as fleet:
        (agent,) = fleet.agents
        status, body = await client.post(agent, "/v1/embeddings", {"input": ["a", "b", "a"]})
        assert status == 200
        vectors = [entry["embedding"] for entry in body["data"]]
        assert [entry["index"] for entry in body["data"]] == [0, 1, 2]
        assert vectors[0] == vectors[2] != vectors[1]
        assert math.isclose(sum(value * value for value in vectors[0]), 1, rel_tol=1e-5)
        assert body["usage"]["prompt_tokens"] == 3
        _, packed = await client.post(agent, "/v1/embeddings", {"input": "a", "encoding_format": "base64"})
        data = base64.b64decode(packed["data"][0]["embedding"])
        assert list(struct.unpack(f"<{len(data) // 4}f", data)) == vectors[0]
        assert (await client.post(agent, "/v1/embeddings", {"input": ["a", ""]}))[0] == 400
        assert (await client.post(agent, "/v1/embeddings", {"input": "a", "dimensions": 8}))[0] == 400


async def test_load_is_told_only_where_it_is_tracked(client: Client) -> None:
    for tracks, load in ((True, '{"server_load":1}'), (False, '{"server_load":0}')):
        async with SimulatedFleet(profile=AgentProfile(tracks_load=tracks)) as fleet:
            (agent,) = fleet.agents
            task = asyncio.create_task(client.complete(agent, list("abcdef")))
            await asyncio.sleep(0.05)
            assert await client.get(agent, "/load") == (200, load)
            assert (await task)[0] == 200


async def test_dev_mode_sleeps_and_wakes(client: Client) -> None:
    async with SimulatedFleet(profile=AgentProfile(dev_mode=True, reply="word " * 200)) as fleet:
        (agent,) = fleet.agents
        running = asyncio.create_task(client.complete(agent))
        await asyncio.sleep(0.2)
        assert (await client.session.post(agent.endpoint.base_url + "/sleep?level=1&mode=abort")).status == 200
        assert (await running)[1]["choices"][0]["finish_reason"] == "abort"
        assert await client.get(agent, "/is_sleeping") == (200, '{"is_sleeping":true}')
        waiting = asyncio.create_task(client.complete(agent))
        await asyncio.sleep(60)
        assert not waiting.done()
        assert (await client.session.post(agent.endpoint.base_url + "/wake_up")).status == 200
        assert (await waiting)[1]["choices"][0]["finish_reason"] == "stop"


async def test_older_versions_refuse_what_the_newest_clamps_and_lack_what_it_has(client: Client) -> None:
    async with SimulatedFleet(profile=AgentProfile(version="0.24.0", max_model_len=100, reply="a b c d")) as fleet:
        (agent,) = fleet.agents
        status, body = await client.complete(agent, "word " * 60, max_tokens=60)
        assert status == 400
        assert "maximum context length is 100 tokens" in body["error"]["message"]
        assert len(await client.stream(agent, "a", max_tokens=60)) > 4  # it does not know stream_interval
        status, _ = await client.complete(agent, ["a"] * 1500, max_tokens=2)
        assert status == 200  # nor a limit on the length of a list


async def test_the_begin_token_stands_twice_if_one_does_not_look(client: Client) -> None:
    async with SimulatedFleet(profile=AgentProfile(begins_with_token=True)) as fleet:
        (agent,) = fleet.agents
        _, body = await client.post(
            agent,
            "/v1/chat/completions",
            {"messages": [user("hi")], "return_prompt_text": True, "return_token_ids": True},
        )
        text, ids = body["prompt_text"], body["prompt_token_ids"]
        for special, expected in ((True, [ids[0], *ids]), (False, ids)):
            _, found = await client.post(agent, "/tokenize", {"prompt": text, "add_special_tokens": special})
            assert found["tokens"] == expected


async def test_aliases_answer_under_the_first_name(client: Client) -> None:
    async with SimulatedFleet(profile=AgentProfile(model="base", aliases=("other",), reply="ok")) as fleet:
        status, body = await client.complete(fleet.agents[0], model="other")
        assert (status, body["model"]) == (200, "base")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_instant_agent_takes_no_time(client: Client, stream: bool) -> None:
    loop = asyncio.get_running_loop()
    async with SimulatedFleet(profile=AgentProfile(instant=True)) as fleet:
        (agent,) = fleet.agents
        began = loop.time()
        prompts = [f"prompt {number}" for number in range(200)]
        if stream:
            options = {"include_usage": True, "continuous_usage_stats": True}
            *events, total, done = await client.stream(agent, prompts, stream_options=options)
            assert done == "[DONE]"
            assert total["usage"]["completion_tokens"] == 200 * 9
            assert sorted(event["choices"][0]["index"] for event in events) == sorted([*range(200), *range(200)])
            ends = [event["choices"][0] for event in events if event["choices"][0]["finish_reason"]]
            assert len(ends) == 200
        else:
            status, body = await client.complete(agent, prompts)
            assert [choice["index"] for choice in body["choices"]] == list(range(200))
            assert len({choice["text"] for choice in body["choices"]}) > 20
        status, body = await client.post(agent, "/v1/chat/completions", {"messages": [user("hi")]})
        assert (status, body["choices"][0]["finish_reason"]) == (200, "stop")
        assert loop.time() == began
        assert agent.prompts_answered == 201
        assert (await client.complete(agent, ["a", ""]))[0] == 400
        assert (await client.complete(agent, ["a"] * 1025))[0] == 400
        agent.fail(500)
        assert (await client.complete(agent, ["a"]))[0] == 500


@pytest.mark.parametrize(
    "invalid",
    [
        {"top_p": 3},
        {"temperature": -1},
        {"seed": 1.5},
        {"max_tokens": 10**9},
        {"stream_interval": 0},
    ],
    ids=str,
)
async def test_an_instant_agent_refuses_what_others_refuse(client: Client, invalid: dict[str, object]) -> None:
    replies = []
    for instant in (False, True):
        async with SimulatedFleet(profile=AgentProfile(instant=instant)) as fleet:
            body = {"prompt": "Hi", "stream": "stream_interval" in invalid, **invalid}
            replies.append(await client.post(fleet.agents[0], "/v1/completions", body))
    assert [status for status, _ in replies] == [400, 400]
    assert replies[0] == replies[1]


async def test_counters_of_a_sampled_list(client: Client) -> None:
    async with SimulatedFleet(profile=AgentProfile(reply="ok")) as fleet:
        (agent,) = fleet.agents
        await client.complete(agent, ["a", "b"], n=3)
        assert agent.prompts_answered == 2
