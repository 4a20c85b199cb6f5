from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, get_args

import aiohttp
import pytest

from aurora_pool.testing import AgentProfile, Fault, SimulatedAgent, SimulatedFleet
from aurora_pool.testing.faults import Action

if TYPE_CHECKING:
    from tests.testing.conftest import Client

pytestmark = pytest.mark.simulated_clock

WORDS = AgentProfile(reply="word " * 150)  # a bit more than a second at full speed


def now() -> float:
    return asyncio.get_running_loop().time()


async def outcome(call: Any, within: float = 60.0) -> Any:
    """What became of a call: its result, its exception, or "nothing"."""
    try:
        return await asyncio.wait_for(call, within)
    except TimeoutError:
        return "nothing"
    except aiohttp.ClientError as error:
        return type(error)


@pytest.fixture
async def agent() -> Any:
    async with SimulatedFleet(profile=WORDS) as fleet:
        yield fleet.agents[0]


async def started(call: Any, after: float = 0.3) -> asyncio.Task[Any]:
    task = asyncio.create_task(outcome(call))
    await asyncio.sleep(after)
    return task


async def test_refuse_leaves_open_connections_alone(agent: SimulatedAgent, client: Client) -> None:
    running = await started(client.complete(agent))
    agent.refuse()
    assert not agent.listening
    assert await outcome(client.get(agent, "/health")) is aiohttp.ClientConnectorError
    assert (await running)[0] == 200
    agent.revive()
    assert await client.get(agent, "/health") == (200, "")


async def test_a_hung_agent_accepts_and_says_nothing_then_goes_on(agent: SimulatedAgent, client: Client) -> None:
    running = await started(client.complete(agent))
    agent.hang()
    assert await outcome(client.get(agent, "/health")) == "nothing"
    new = await started(client.complete(agent), after=0)
    agent.revive()
    assert (await running) == "nothing"  # it had sent nothing for a minute already
    assert (await new)[0] == 200


async def test_sigterm_stalls_open_requests_closes_idle_connections_and_refuses(
    agent: SimulatedAgent, client: Client
) -> None:
    await client.get(agent, "/health")  # leaves an idle connection
    running = await started(client.stream(agent))
    agent.terminate()
    began = now()
    assert await outcome(client.get(agent, "/health")) is aiohttp.ClientConnectorError
    assert now() == began
    assert await running == "nothing"
    agent.revive()
    assert (await client.complete(agent))[0] == 200


async def test_a_dead_agent_cuts_streams_in_the_middle(agent: SimulatedAgent, client: Client) -> None:
    streamed, whole = await started(client.stream(agent)), await started(client.complete(agent))
    agent.die()
    assert await streamed is aiohttp.ClientPayloadError
    assert await whole is aiohttp.ServerDisconnectedError
    assert await outcome(client.complete(agent)) is aiohttp.ClientConnectorError
    agent.revive()
    assert (await client.complete(agent))[0] == 200
    assert agent.prompts_received == 3
    assert agent.prompts_answered == 1


async def test_a_dead_engine_fails_everything_and_then_the_server_exits(agent: SimulatedAgent, client: Client) -> None:
    streamed, whole = await started(client.stream(agent)), await started(client.complete(agent))
    agent.fail_engine()
    assert await client.get(agent, "/health") == (503, "")
    events = await streamed
    assert events[-1] == "[DONE]"
    assert events[-2]["error"]["code"] == 500
    status, body = await whole
    assert status == 500
    assert body["error"]["message"].startswith("EngineCore encountered an issue")
    await asyncio.sleep(0.5)
    assert await outcome(client.get(agent, "/health")) is aiohttp.ClientConnectorError
    agent.revive()
    assert (await client.complete(agent))[0] == 200


async def test_an_engine_that_died_long_ago_left_an_empty_500(client: Client) -> None:
    async with SimulatedFleet(profile=AgentProfile(version="0.17.0", reply="word " * 150)) as fleet:
        (agent,) = fleet.agents
        url = agent.endpoint.base_url + "/v1/completions"
        running = asyncio.create_task(client.session.post(url, json={"prompt": "a", "max_tokens": 300}))
        await asyncio.sleep(0.3)
        agent.fail_engine()
        reply = await running
        assert (reply.status, await reply.text()) == (500, "")


async def test_a_connection_that_was_being_made_when_the_server_died_is_cut(
    agent: SimulatedAgent, client: Client
) -> None:
    calls = [asyncio.create_task(outcome(client.complete(agent))) for _ in range(20)]
    for _ in range(1000):
        await asyncio.sleep(0)
        if agent.server.http.connections:
            break
    agent.die()
    gone = (aiohttp.ServerDisconnectedError, aiohttp.ClientConnectorError, aiohttp.ClientOSError)
    assert all(result in gone for result in await asyncio.gather(*calls))


async def test_failing_at_a_rate(agent: SimulatedAgent, client: Client) -> None:
    agent.fail(502, rate=0.5, message="Bad gateway")
    statuses = [(await client.complete(agent, max_tokens=1))[0] for _ in range(40)]
    assert 8 < statuses.count(502) < 32
    assert statuses.count(200) + statuses.count(502) == 40
    assert await client.get(agent, "/health") == (200, "")


async def test_a_draining_agent_finishes_refuses_fast_and_then_hangs(agent: SimulatedAgent, client: Client) -> None:
    running = await started(client.complete(agent))
    agent.drain(5.0)
    began = now()
    for call in (client.complete(agent), client.complete(agent, stream=True)):
        status, body = await call
        assert status == 500
        assert body["error"]["message"] == "cannot schedule new futures after shutdown"
    assert now() - began < 0.01
    assert await client.get(agent, "/health") == (200, "")
    assert (await running)[0] == 200
    await asyncio.sleep(5)
    assert await outcome(client.get(agent, "/health")) is aiohttp.ClientConnectorError


@pytest.mark.parametrize(("sleeps", "awake"), [("sleep", 0), ("pause", 1)])
async def test_sleep_aborts_what_runs_and_lets_new_requests_wait(
    agent: SimulatedAgent, client: Client, sleeps: str, awake: int
) -> None:
    running = await started(client.complete(agent, ["a", "b"]))
    getattr(agent, sleeps)()
    status, body = await running
    assert status == 200
    assert [choice["finish_reason"] for choice in body["choices"]] == ["abort", "abort"]
    assert 0 < len(body["choices"][0]["text"]) < len("word " * 150)
    waiting = await started(client.complete(agent), after=30)
    assert not waiting.done()
    assert await client.get(agent, "/health") == (200, "")
    page = (await client.get(agent, "/metrics"))[1]
    assert f'sleep_state="awake"}} {awake}.0' in page
    assert 'num_requests_running{engine="0",model_name="simulated-model"} 0.0' in page
    agent.revive()
    assert (await waiting)[0] == 200


async def test_slow_takes_that_much_longer(agent: SimulatedAgent, client: Client) -> None:
    began = now()
    await client.complete(agent)
    usual = now() - began
    agent.slow(5)
    began = now()
    await client.complete(agent)
    assert now() - began == pytest.approx(5 * usual, rel=0.01)
    agent.revive()
    began = now()
    await client.complete(agent)
    assert now() - began == pytest.approx(usual, rel=0.01)


async def test_flapping(agent: SimulatedAgent) -> None:
    agent.flap(up=3.0, down=2.0)
    seen = []
    for _ in range(10):
        seen.append(agent.listening)
        await asyncio.sleep(1.0001)
    assert seen == [False, False, True, True, True, False, False, True, True, True]
    agent.revive()
    await asyncio.sleep(20)
    assert agent.listening


async def test_a_rejected_prompt_fails_its_whole_list_unnamed(agent: SimulatedAgent, client: Client) -> None:
    agent.reject("bad +word", "no such words")
    status, body = await client.complete(agent, ["fine", "a bad  word"])
    assert (status, body["error"]["message"]) == (400, "no such words")
    assert (await client.complete(agent, ["fine", "fine too"]))[0] == 200
    chat = {"messages": [{"role": "user", "content": "a bad word"}]}
    assert (await client.post(agent, "/v1/chat/completions", chat))[0] == 400


async def test_poison_kills_whatever_serves_it(agent: SimulatedAgent, client: Client) -> None:
    agent.poison("boom")
    beside = await started(client.complete(agent), after=0.1)
    assert await outcome(client.complete(agent, ["fine", "boom"])) is aiohttp.ServerDisconnectedError
    assert await beside is aiohttp.ServerDisconnectedError
    assert not agent.listening


async def test_broken_streams_end_with_an_error_event_and_done(agent: SimulatedAgent, client: Client) -> None:
    agent.break_streams(after=2, message="out of luck")
    events = await client.stream(agent, ["a", "b", "c", "d"], max_tokens=20, ignore_eos=True, min_tokens=1)
    assert events[-1] == "[DONE]"
    assert events[-2]["error"] == {
        "message": "out of luck",
        "type": "InternalServerError",
        "param": None,
        "code": 500,
    }
    assert (await client.complete(agent))[0] == 200


async def test_garbled_answers(agent: SimulatedAgent, client: Client) -> None:
    agent.garble("plain")
    status, body = await client.complete(agent, ["a", "b"], stream=True)
    assert status == 200
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    for kind in ("noise", "html"):
        agent.garble(kind)
        async with client.session.post(
            agent.endpoint.base_url + "/v1/completions", json={"prompt": "a", "max_tokens": 1}
        ) as reply:
            assert reply.status == 200
            assert reply.content_type != "application/json"


async def test_another_model(agent: SimulatedAgent, client: Client) -> None:
    agent.serve_model("other")
    status, body = await client.complete(agent, model="simulated-model")
    assert status == 404
    assert body["error"]["param"] == "model"
    assert (await client.complete(agent, model="other"))[1]["model"] == "other"
    assert '"id":"other"' in (await client.get(agent, "/v1/models"))[1]


async def test_a_restart_changes_the_version(agent: SimulatedAgent, client: Client) -> None:
    agent.restart(AgentProfile(version="0.10.0", reply="ok"))
    assert await client.get(agent, "/version") == (200, '{"version":"0.10.0"}')
    status, body = await client.complete(agent, model="nope")
    assert (status, body["object"], body["code"]) == (404, "error", 404)
    assert (await client.post(agent, "/v1/chat/completions/batch", {}))[0] == 404
    assert len(await client.stream(agent, "a")) == 3  # "o", "k" in one pair, the end token, [DONE]


async def test_a_server_that_does_not_stream(client: Client) -> None:
    async with SimulatedFleet(profile=AgentProfile(streams=False)) as fleet:
        status, body = await client.complete(fleet.agents[0], stream=True)
        assert status == 400
        assert "Streaming" in body["error"]["message"]


async def test_keep_alive_comments(client: Client) -> None:
    async with SimulatedFleet(profile=AgentProfile(sse_keep_alive=2.0, slots=1, reply="w " * 1000)) as fleet:
        agent = fleet.agents[0]
        body = {"prompt": ["a", "b"], "max_tokens": 1000, "stream": True, "stream_interval": 10_000}
        async with client.session.post(agent.endpoint.base_url + "/v1/completions", json=body) as reply:
            text = await reply.text()
        assert text.count(": keep-alive\n\n") == 8


async def test_a_full_queue_refuses_whole_lists(client: Client) -> None:
    async with SimulatedFleet(profile=AgentProfile(max_queued=4, reply="ok")) as fleet:
        agent = fleet.agents[0]
        status, body = await client.complete(agent, list("abcde"))
        assert (status, body["error"]["type"]) == (503, "Service Unavailable")
        assert (await client.complete(agent, list("abcd")))[0] == 200
        events = await client.stream(agent, list("abcde"))
        assert events[0]["error"]["code"] == 503
        assert events[1:] == ["[DONE]"]
        page = (await client.get(agent, "/metrics"))[1]
        assert 'admission_rejections_total{model_name="simulated-model",reason="max_num_queued_reqs"} 10.0' in page


async def test_scripts_by_time_by_prompts_and_by_text(client: Client) -> None:
    script = [
        Fault(action="die", at=10.0, lasting=5.0),
        Fault(action="fail", after_prompts=4, lasting=2.0, arguments={"status": 502}),
        Fault(action="slow", on_prompt="please be slow", arguments={"factor": 100}),
    ]
    async with SimulatedFleet(profile=AgentProfile(reply="ok", step_base=0.01), faults={0: script}) as fleet:
        (agent,) = fleet.agents
        assert (await client.complete(agent, ["a", "b", "c"]))[0] == 200
        assert (await client.complete(agent, "d"))[0] == 502
        await asyncio.sleep(2)
        assert (await client.complete(agent, "e"))[0] == 200
        began = now()
        assert (await client.complete(agent, "please be slow"))[0] == 200
        assert now() - began == pytest.approx(2.02, abs=0.01)  # "ok" is two tokens
        await asyncio.sleep(10.5 - now())
        assert not agent.listening
        await asyncio.sleep(5)
        assert agent.listening


@pytest.mark.parametrize("when", [{}, {"at": 1.0, "after_prompts": 2}])
def test_a_fault_happens_at_one_occasion(when: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        Fault(action="die", **when)


def test_every_action_is_a_method_and_no_other_is_taken() -> None:
    assert all(callable(getattr(SimulatedAgent, action)) for action in get_args(Action))
    with pytest.raises(ValueError, match="expected an action"):
        Fault(action="explode", at=1.0)  # type: ignore[arg-type]


async def test_the_same_seed_gives_the_same_course(client: Client) -> None:
    async def course(seed: int) -> list[int]:
        async with SimulatedFleet(2, seed=seed, profile=AgentProfile(reply="ok")) as fleet:
            for agent in fleet.agents:
                agent.fail(rate=0.5)
            return [(await client.complete(agent))[0] for _ in range(20) for agent in fleet.agents]

    assert await course(1) == await course(1)
    assert await course(1) != await course(2)
