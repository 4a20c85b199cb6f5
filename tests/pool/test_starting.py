"""Starting a pool: once for all who wait, from the agents that it is about, in one event loop."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from aurora_pool import AgentEndpoint, ConfigError, NoAgentsError, PoolClosedError, PromptOptions, Timeouts, VLLMPool
from aurora_pool.testing import AgentProfile, SimulatedFleet
from tests.pool.running import lists_at, now


@pytest.mark.simulated_clock
@pytest.mark.parametrize("agents", [20, 40])
async def test_a_broadcast_that_cannot_start_asks_each_agent_once_and_nothing_goes_on(agents: int) -> None:
    async with SimulatedFleet(agents, profile=AgentProfile(api_keys=("k",))) as fleet:
        pool = VLLMPool(fleet.endpoints)
        with pytest.raises(NoAgentsError):
            await pool.broadcast_prompt("Hello")
        asked = len(fleet.requests)
        assert asked == agents
        await asyncio.sleep(60.0)
        assert len(fleet.requests) == asked
        await pool.close()
        gc.collect()  # an exception that nobody has retrieved would be told now


@pytest.mark.simulated_clock
async def test_calls_at_once_share_one_start_and_its_failure() -> None:
    async with SimulatedFleet(2) as fleet:
        for agent in fleet.agents:
            agent.die()
        pool = VLLMPool(fleet.endpoints, timeouts=Timeouts(patience=3.0))
        found = await asyncio.gather(*(pool.send_all_batched(["a"]) for _ in range(30)), return_exceptions=True)
        assert {type(error) for error in found} == {NoAgentsError}
        assert now() < 5.0
        for agent in fleet.agents:
            agent.revive()
        (response,) = await pool.send_all_batched(["a"], max_tokens=4)
        assert response.success
        await pool.close()


@pytest.mark.simulated_clock
@pytest.mark.parametrize("keys", [(), ("k",)], ids=["it starts", "it can't"])
async def test_calls_at_once_ask_each_agent_once(keys: tuple[str, ...]) -> None:
    async with SimulatedFleet(5, profile=AgentProfile(slots=64, median_length=5, api_keys=keys)) as fleet:
        pool = VLLMPool(fleet.endpoints)
        calls = [pool.send_all_batched(["a"], max_tokens=4) for _ in range(30)]
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(error, NoAgentsError) for error in found] == [bool(keys)] * 30
        assert sum(request.path == "/v1/models" for request in fleet.requests) == 5
        await pool.close()


@pytest.mark.simulated_clock
async def test_a_caller_that_gives_up_leaves_the_start_to_the_others() -> None:
    async with SimulatedFleet(1) as fleet:
        fleet.agents[0].die()
        pool = VLLMPool(fleet.endpoints)
        first, second = (asyncio.create_task(pool.send_all_batched(["a"], max_tokens=4)) for _ in range(2))
        await asyncio.sleep(2.0)
        first.cancel()
        await asyncio.sleep(2.0)
        fleet.agents[0].revive()
        assert (await second)[0].success
        assert first.cancelled()
        await pool.close()


ROLES = [{"role": "chat"}, {"role": "embed"}, {"role": "chat", "tier": "large"}]


@pytest.mark.simulated_clock
class TestViews:
    PROFILES = tuple(AgentProfile(slots=8, median_length=20, model=model) for model in ("chatty", "vectors", "chatty"))

    async def test_a_view_finds_out_about_its_own_agents_only(self) -> None:
        async with SimulatedFleet(3, profile=self.PROFILES, tags=ROLES) as fleet:
            pool = VLLMPool(fleet.endpoints)
            view = pool.by_tag("role", "chat")
            responses = await view.send_all_batched(["a", "b"], max_tokens=4)
            assert all(response.success for response in responses)
            assert (view.model, pool.model) == ("chatty", None)
            assert fleet.agents[1].requests == []
            with pytest.raises(ConfigError, match="serve different models"):
                await pool.send_all_batched(["a"])
            await pool.close()

    async def test_views_of_one_model_ask_once(self) -> None:
        async with SimulatedFleet(3, profile=self.PROFILES, tags=ROLES) as fleet:
            pool = VLLMPool(fleet.endpoints)
            await pool.by_tag("role", "chat").send_all_batched(["a"], max_tokens=4)
            asked = sum(request.path != "/v1/completions" for request in fleet.requests)
            for _ in range(3):
                await pool.by_tag("role", "chat").send_all_batched(["a"], max_tokens=4)
            assert sum(request.path != "/v1/completions" for request in fleet.requests) == asked
            await pool.close()

    async def test_leaving_a_view_that_opened_the_pool_closes_it(self) -> None:
        async with SimulatedFleet(3, profile=self.PROFILES, tags=ROLES) as fleet:
            async with VLLMPool(fleet.endpoints).by_tag("role", "chat") as view:
                await view.send_all_batched(["a"], max_tokens=4)
            await asyncio.sleep(0.1)
            assert sum(len(agent.server.http.connections) for agent in fleet.agents) == 0
            with pytest.raises(PoolClosedError):
                await view.send_all_batched(["a"], max_tokens=4)

    async def test_a_view_that_cannot_start_leaves_nothing_open(self) -> None:
        async with SimulatedFleet(3, profile=self.PROFILES, tags=ROLES) as fleet:
            with pytest.raises(ConfigError, match="no agent serves"):
                async with VLLMPool(fleet.endpoints, model="nope").by_tag("role", "chat"):
                    pass
            await asyncio.sleep(0.1)
            assert sum(len(agent.server.http.connections) for agent in fleet.agents) == 0

    async def test_several_tags(self) -> None:
        async with SimulatedFleet(3, profile=self.PROFILES, tags=ROLES) as fleet:
            pool = VLLMPool(fleet.endpoints)
            assert pool.by_tag(role="chat", tier="large").endpoints == (fleet.endpoints[2],)
            assert pool.by_tag("role", "chat", tier="large").size == 1
            assert pool.by_tag(role="embed", tier="large").size == 0
            for arguments in ((), ("role",)):
                with pytest.raises(ConfigError, match="by_tag"):
                    pool.by_tag(*arguments)
            await pool.close()


def test_a_pool_in_a_second_event_loop_is_told_what_to_do() -> None:
    pools: list[VLLMPool] = []

    async def first() -> None:
        async with SimulatedFleet(1, profile=AgentProfile(instant=True)) as fleet:
            pool = VLLMPool(fleet.endpoints)
            pools.append(pool)
            await pool.send_all_batched(["a"], max_tokens=4)
            in_thread: list[BaseException] = []
            thread = threading.Thread(target=lambda: in_thread.append(asyncio.run(second())))
            thread.start()
            await asyncio.to_thread(thread.join)
            assert "event loop" in str(in_thread[0])
            await pool.close()
            pools[:] = [VLLMPool(fleet.endpoints)]
            await pools[0].send_all_batched(["a"], max_tokens=4)
            await pools[0].close()

    async def second() -> BaseException:
        with pytest.raises(ConfigError, match=r"event loop.*sync\(\)") as raised:
            await pools[0].send_all_batched(["b"])
        return raised.value

    asyncio.run(first())


async def _left_open() -> VLLMPool:
    async with SimulatedFleet(1, profile=AgentProfile(instant=True)) as fleet:
        pool = VLLMPool(fleet.endpoints)
        await pool.send_all_batched(["a"], max_tokens=4)
        await pool._runtime.transport.close()  # noqa: SLF001 (an open session would be told of as such)
        return pool


def test_a_second_asyncio_run_is_told_what_to_do() -> None:
    pool = asyncio.run(_left_open())
    with pytest.raises(ConfigError, match="event loop"):
        asyncio.run(pool.send_all_batched(["b"]))


@pytest.mark.simulated_clock
class TestUpdates:
    async def test_a_failed_update_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with (
            SimulatedFleet(3, profile=AgentProfile(instant=True)) as fleet,
            VLLMPool(fleet.endpoints[:2]) as pool,
        ):
            bad = AgentEndpoint("127.0.0.1", 1, {"api_key_env": "NOT_SET"})
            with pytest.raises(ConfigError, match="NOT_SET"):
                pool.update_endpoints([*fleet.endpoints[:2], bad])
            assert (pool.size, len(pool.endpoints), len(pool.statistics().agents)) == (2, 2, 2)
            pool.update_endpoints(fleet.endpoints)
            await asyncio.sleep(1.0)
            responses = await pool.send_all_batched(["a"] * 6, max_tokens=4)
            assert {response.agent_index for response in responses} == {0, 1, 2}

    async def test_a_known_agents_new_key_and_tags_are_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NEW_KEY", "sk-new")
        async with SimulatedFleet(1, profile=AgentProfile(instant=True)) as fleet, VLLMPool(fleet.endpoints) as pool:
            await pool.send_all_batched(["a"], max_tokens=4)
            known = fleet.endpoints[0]
            pool.update_endpoints([AgentEndpoint(known.host, known.port, {"api_key_env": "NEW_KEY", "tier": "large"})])
            await pool.send_all_batched(["b"], max_tokens=4)
            keys = [request.headers.get("authorization") for request in lists_at(fleet.agents[0])]
            assert keys == [None, "Bearer sk-new"]
            assert pool.by_tag("tier", "large").size == 1

    async def test_removed_agents_do_not_count(self) -> None:
        async with (
            SimulatedFleet(4, profile=AgentProfile(instant=True)) as fleet,
            VLLMPool(fleet.endpoints[:2]) as pool,
        ):
            for start in (2, 0, 2, 0, 2):
                pool.update_endpoints(fleet.endpoints[start : start + 2])
            await asyncio.sleep(2.0)
            assert (pool.size, len(pool)) == (2, 2)
            assert {pool.sample(1).endpoints[0] for _ in range(30)} == set(fleet.endpoints[2:])
            with pytest.raises(ConfigError, match="the pool has 2 agents"):
                pool.sample(3)
            answers = await pool.broadcast_prompt("a", max_tokens=4)
            assert [(answer.success, answer.agent_index) for answer in answers] == [(True, 2), (True, 3)]

    async def test_agents_that_join_are_asked_what_they_serve(self) -> None:
        profiles = [AgentProfile(slots=32, median_length=20, max_model_len=length) for length in (4096, 512)]
        async with (
            SimulatedFleet(2, profile=profiles) as fleet,
            VLLMPool(fleet.endpoints[:1], prompting=PromptOptions(prompt_format="raw")) as pool,
        ):
            running = asyncio.create_task(pool.send_all_batched(["words " * 900] * 200, max_tokens=20))
            await asyncio.sleep(0.2)
            pool.update_endpoints(fleet.endpoints)
            responses = await running
            await asyncio.sleep(1.0)
            responses += await pool.send_all_batched(["words " * 900, "short"] * 4, max_tokens=20)
            assert [response.error for response in responses if not response.success] == []
            assert {response.agent_index for response in responses} == {0, 1}
            assert {response.attempts for response in responses} == {1}

    async def test_an_agent_that_joins_before_it_is_ready_gets_nothing_until_it_is(self) -> None:
        async with (
            SimulatedFleet(2, profile=AgentProfile(slots=8, median_length=20)) as fleet,
            VLLMPool(fleet.endpoints[:1], prompting=PromptOptions(prompt_format="raw")) as pool,
        ):
            fleet.agents[1].die()
            pool.update_endpoints(fleet.endpoints)
            await asyncio.sleep(5.0)
            running = asyncio.create_task(pool.send_all_batched([f"p{i}" for i in range(2000)], max_tokens=30))
            await asyncio.sleep(5.0)
            fleet.agents[1].revive()
            responses = await running
            assert all(response.success for response in responses)
            assert {response.agent_index for response in responses} == {0, 1}
            assert dict(pool.statistics().agents[1].failures) == {}
