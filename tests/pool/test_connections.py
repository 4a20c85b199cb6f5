"""Connections: kept, closed, limited, and never left behind."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from typing import Any

import pytest

from aurora_pool import ConfigError, Observer, PoolClosedError, PromptOptions, Timeouts, VLLMPool
from aurora_pool.testing import AgentProfile, SimulatedFleet
from tests.pool.running import INSTANT, SMALL, chats_at, now, running, running_sequences, sizes

pytestmark = pytest.mark.simulated_clock


def connections(fleet: SimulatedFleet) -> int:
    """How many connections the fleet's servers have open."""
    return sum(len(agent.server.http.connections) for agent in fleet.agents)


async def test_a_connection_that_the_server_closed_while_idle_is_replaced_at_once() -> None:
    async with running(1, profile=AgentProfile(instant=True, keep_alive=5.0)) as (fleet, pool):
        for pause in (0.0, 4.9, 5.0, 5.1, 60.0):
            await asyncio.sleep(pause)
            (response,) = await pool.send_all_batched(["a"], max_tokens=4)
            assert (response.success, response.attempts) == (True, 1)
        assert sizes(fleet) == [[1] * 5]
        assert pool.statistics().agents[0].failures == {}


async def test_a_server_restarted_between_requests_costs_no_attempt() -> None:
    async with running(1, profile=INSTANT) as (fleet, pool):
        await pool.send_all_batched(["a"], max_tokens=4)
        fleet.agents[0].die()
        fleet.agents[0].revive()
        (response,) = await pool.send_all_batched(["b"], max_tokens=4)
        assert (response.success, response.attempts) == (True, 1)


async def test_no_connection_is_left_when_the_pool_is_closed() -> None:
    async with SimulatedFleet(3, profile=SMALL) as fleet:
        async with VLLMPool(fleet.endpoints, prompting=PromptOptions(prompt_format="raw")) as pool:
            await pool.send_all_batched([f"p{i}" for i in range(100)], max_tokens=20)
            assert connections(fleet) == 3
        await asyncio.sleep(0.1)
        assert connections(fleet) == 0
        assert len(asyncio.all_tasks()) <= 1 + 2 * len(fleet.agents)


async def test_closing_while_calls_are_in_flight_ends_them_with_an_error() -> None:
    async with SimulatedFleet(2, profile=SMALL) as fleet:
        pool = VLLMPool(fleet.endpoints, prompting=PromptOptions(prompt_format="raw"))
        calls = [
            asyncio.create_task(pool.send_all_batched([f"p{i}" for i in range(80)], max_tokens=300)) for _ in range(3)
        ]
        await asyncio.sleep(0.5)
        statistics = pool.statistics()
        assert running_sequences(fleet) == statistics.in_flight == 240 - statistics.prompts_done > 0
        await pool.close()
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, PoolClosedError) and "closed" in str(result) for result in found)
        await asyncio.sleep(0.1)
        assert running_sequences(fleet) == 0
        assert connections(fleet) == 0


async def test_closing_while_the_pool_starts() -> None:
    async with SimulatedFleet(2, profile=INSTANT) as fleet:
        for agent in fleet.agents:
            agent.hang()
        pool = VLLMPool(fleet.endpoints)
        call = asyncio.create_task(pool.send_all_batched(["a"]))
        await asyncio.sleep(1.0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await pool.close()
        await asyncio.sleep(0.1)
        assert connections(fleet) == 0


async def test_a_pool_may_be_closed_twice_and_unused() -> None:
    async with SimulatedFleet(1) as fleet:
        pool = VLLMPool(fleet.endpoints)
        await pool.close()
        await pool.close()
        with pytest.raises(PoolClosedError, match="closed"):
            await pool.send_all(["a"])
        with pytest.raises(PoolClosedError, match="closed"):
            await pool.slice(0, 1).send_all(["a"])


async def test_a_pool_made_and_thrown_away_warns_of_nothing() -> None:
    async with SimulatedFleet(1) as fleet:
        VLLMPool(fleet.endpoints)
        gc.collect()


async def test_a_failed_start_leaves_nothing_open() -> None:
    async with SimulatedFleet(1, profile=INSTANT) as fleet:
        with pytest.raises(ConfigError):
            async with VLLMPool(fleet.endpoints, model="unknown"):
                pass
        await asyncio.sleep(0.1)
        assert connections(fleet) == 0


@pytest.mark.parametrize("method", ["post", "send_all", "send_all_batched"])
async def test_cancelling_a_call_closes_its_request_and_the_server_aborts_it(method: str) -> None:
    async with running(1, profile=AgentProfile(slots=4, reply="word " * 500)) as (fleet, pool):
        arguments = (0, "a") if method == "post" else (["a", "b"],)
        call = asyncio.create_task(getattr(pool, method)(*arguments, max_tokens=2000))
        await asyncio.sleep(1.0)
        assert running_sequences(fleet) == (1 if method == "post" else 2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.sleep(0.1)
        assert running_sequences(fleet) == 0
        (response,) = await pool.send_all_batched(["c"], max_tokens=2000)
        assert response.success


async def test_a_time_limit_of_the_caller_is_a_cancellation() -> None:
    async with running(1, profile=AgentProfile(slots=4, reply="word " * 500)) as (fleet, pool):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await pool.send_all_batched(["a"], max_tokens=2000)
        await asyncio.sleep(0.1)
        assert running_sequences(fleet) == 0


async def test_concurrency_bounds_the_requests_in_flight() -> None:
    most = 0

    async def watch(fleet: SimulatedFleet) -> None:
        nonlocal most
        while True:
            most = max(most, sum(len(agent.server.engine_loop.active) for agent in fleet.agents))
            await asyncio.sleep(0.005)

    async with running(4, profile=SMALL, concurrency=3) as (fleet, pool):
        watcher = asyncio.create_task(watch(fleet))
        responses = await pool.send_all([f"p{i}" for i in range(40)], max_tokens=30)
        watcher.cancel()
        assert all(response.success for response in responses)
        assert most == 3
        responses = await pool.send_all_batched([f"p{i}" for i in range(40)], max_tokens=30)
        assert all(response.success for response in responses)


async def test_connector_limit_keeps_connections_few() -> None:
    async with running(4, profile=SMALL, connector_limit=2) as (fleet, pool):
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, connections(fleet))
                await asyncio.sleep(0.005)

        watcher = asyncio.create_task(watch())
        responses = await pool.send_all([f"p{i}" for i in range(30)], max_tokens=30)
        responses += await pool.send_all_batched([f"p{i}" for i in range(30)], max_tokens=30)
        watcher.cancel()
        assert all(response.success for response in responses)
        assert most <= 3  # two, and one more for looking at agents


@pytest.mark.parametrize("limit", ["concurrency", "connector_limit"])
async def test_what_waits_here_for_its_turn_is_no_agents_fault(limit: str) -> None:
    """All requests but one wait on this side, much longer than any limit, and no clock runs for those."""
    profile = AgentProfile(slots=4, reply="word " * 40, step_base=0.1)
    options: dict[str, Any] = {limit: 1, "timeouts": Timeouts(stall=10.0, probe=2.0), "timeout": 20.0}
    async with running(8, profile=profile, **options) as (_, pool):
        responses = await pool.send_all_batched([f"p{i}" for i in range(16)], max_tokens=40)
        assert all(response.success for response in responses)
        assert {response.attempts for response in responses} == {1}
        statistics = pool.statistics()
        assert [dict(agent.failures) for agent in statistics.agents] == [{}] * 8
        assert (statistics.quarantined, statistics.hedged, statistics.moved) == (0, 0, 0)
        assert max(response.latency for response in responses) < 20.0 < now()


async def test_there_is_no_hidden_limit_on_connections() -> None:
    async with running(1, profile=AgentProfile(slots=300, reply="word " * 20), prompt_format="chat") as (fleet, pool):
        await pool.send_all([f"p{i}" for i in range(150)], max_tokens=100)
        assert connections(fleet) >= 150
        assert len(chats_at(fleet.agents[0])) == 150


async def test_there_is_no_hidden_limit_on_time() -> None:
    profile = AgentProfile(slots=4, reply="word " * 90, step_base=4.0)
    async with running(1, profile=profile) as (_, pool):
        (response,) = await pool.send_all_batched(["a"], max_tokens=500)
        assert (response.success, response.attempts) == (True, 1)
        assert now() > 300  # aiohttp's own default


async def test_a_machine_that_is_gone_is_given_up_after_the_connect_timeout() -> None:
    with socket.socket() as full:
        # A listener whose backlog is full: the kernel drops what comes, as if nobody were there.
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            fillers.append(filler)
        from aurora_pool import AgentEndpoint

        endpoint = AgentEndpoint("127.0.0.1", full.getsockname()[1])
        timeouts = Timeouts(connect=3.0, probe=4.0, patience=1.0)
        async with VLLMPool(
            [endpoint], model="m", max_tokens=4, prompting=PromptOptions(prompt_format="raw"), timeouts=timeouts
        ) as pool:
            began = now()
            (response,) = await pool.send_all_batched(["a"])
            assert response.error_kind == "no_agents"
            assert "in time" in (response.error or "")
            assert 3.0 <= now() - began <= 6.0
        for filler in fillers:
            filler.close()


async def test_cookies_and_redirects_are_not_followed() -> None:
    from aiohttp import web

    asked: list[str] = []

    async def redirect(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=307, headers={"Location": "http://127.0.0.1:1/elsewhere", "Set-Cookie": "a=b"})

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", redirect)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    from aurora_pool import AgentEndpoint

    port = runner.addresses[0][1]
    options = {
        "model": "m",
        "max_tokens": 4,
        "prompting": PromptOptions(prompt_format="raw"),
        "timeouts": Timeouts(patience=5.0),
    }
    async with VLLMPool([AgentEndpoint("127.0.0.1", port)], **options) as pool:  # type: ignore[arg-type]
        (response,) = await pool.send_all_batched(["a"])
        assert not response.success
    await runner.cleanup()
    assert set(asked) <= {"/v1/models", "/v1/completions"}


async def test_nothing_is_left_in_memory_of_a_pool_that_was_closed_while_prompts_were_in_flight() -> None:
    async with SimulatedFleet(3, profile=SMALL) as fleet:
        kept = await _close_in_the_middle(fleet)
        await asyncio.sleep(0.1)
        gc.collect()
        assert kept() is None


async def _close_in_the_middle(fleet: SimulatedFleet) -> weakref.ref[Observer]:
    """Close a pool with prompts in flight; return what the pool holds, and everything in the pool holds the pool."""
    observer = Observer()
    pool = VLLMPool(fleet.endpoints, prompting=PromptOptions(prompt_format="raw"), timeout=100.0, observer=observer)
    prompts = [f"p{i}" for i in range(2000)]
    cancelled = asyncio.create_task(pool.send_all_batched(prompts, max_tokens=300))
    closed = asyncio.create_task(pool.post_batch(1, prompts, max_tokens=300))
    fleet.agents[0].hang()
    await asyncio.sleep(0.5)
    fleet.agents[2].die()
    await asyncio.sleep(0.5)
    assert pool.statistics().in_flight > 0
    assert pool.statistics().queued > 0
    cancelled.cancel()
    await asyncio.sleep(0.1)
    await pool.close()
    await asyncio.gather(cancelled, closed, return_exceptions=True)
    return weakref.ref(observer)


async def test_servers_are_asked_about_few_prompts_at_a_time() -> None:
    async with running(1, profile=INSTANT) as (fleet, pool):
        fleet.agents[0].hang()
        call = asyncio.create_task(pool.send_all_batched(["too long " * 20_000] * 200, max_tokens=4))
        await asyncio.sleep(1.0)
        assert 1 < connections(fleet) <= 20
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
