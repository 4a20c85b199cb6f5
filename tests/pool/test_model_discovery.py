"""Which model a pool asks for, found out from the fleet or checked against it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from aioresponses import aioresponses

from aurora_pool import AgentEndpoint, ConfigError, NoAgentsError, PromptOptions, Timeouts, VLLMPool
from aurora_pool.testing import AgentProfile, Fault, SimulatedFleet
from tests.pool.running import lists_at, now, running

pytestmark = pytest.mark.simulated_clock


def serving(*models: str) -> list[AgentProfile]:
    return [AgentProfile(instant=True, model=model) for model in models]


async def test_the_one_model_of_the_fleet_is_taken() -> None:
    async with running(3, profile=serving("m", "m", "m")) as (fleet, pool):
        assert pool.model == "m"
        await pool.send_all_batched(["a"], max_tokens=4)
        assert lists_at(fleet.agents[0])[0].body["model"] == "m"


async def test_nothing_is_asked_before_the_pool_is_used() -> None:
    async with SimulatedFleet(2, profile=AgentProfile(instant=True)) as fleet:
        pool = VLLMPool(fleet.endpoints)
        assert (pool.model, fleet.requests) == (None, [])
        await pool.send_all_batched(["a"], max_tokens=4)
        assert pool.model == "simulated-model"
        await pool.close()


async def test_each_agent_is_asked_once_however_many_calls_come_at_once() -> None:
    async with running(2) as (fleet, pool):
        for _ in range(3):
            await pool.send_all_batched(["a", "b"], max_tokens=4)
        assert [sum(r.path == "/v1/models" for r in agent.requests) for agent in fleet.agents] == [1, 1]


async def test_agents_that_disagree_are_one_error_that_names_them() -> None:
    async with SimulatedFleet(3, profile=serving("m", "m", "other")) as fleet:
        with pytest.raises(ConfigError, match="serve different models") as raised:
            async with VLLMPool(fleet.endpoints):
                pass
        for part in ("'m'", "'other'", str(fleet.endpoints[0]), str(fleet.endpoints[2])):
            assert part in str(raised.value)


async def test_a_named_model_that_nobody_serves_is_one_error() -> None:
    async with SimulatedFleet(2, profile=serving("m", "m")) as fleet:
        with pytest.raises(ConfigError, match="no agent serves the model 'x'; they serve 'm'"):
            async with VLLMPool(fleet.endpoints, model="x"):
                pass


async def test_a_named_model_goes_to_the_agents_that_serve_it() -> None:
    async with running(3, profile=serving("m", "other", "m"), model="m") as (_, pool):
        responses = await pool.send_all_batched([f"p{i}" for i in range(30)], max_tokens=4)
        assert {response.agent_index for response in responses} == {0, 2}
        assert all(response.success for response in responses)


async def test_several_names_of_one_model_are_one_model() -> None:
    profile = AgentProfile(instant=True, model="long-name", aliases=("short",))
    async with running(2, profile=profile) as (_, pool):
        assert pool.model == "long-name"
    async with running(2, profile=profile, model="short") as (fleet, pool):
        (response,) = await pool.send_all_batched(["a"], max_tokens=4)
        assert response.success
        assert lists_at(fleet.agents[0])[0].body["model"] == "short"


async def test_a_name_that_all_agents_share_is_taken() -> None:
    profiles = [
        AgentProfile(instant=True, model="a", aliases=("shared",)),
        AgentProfile(instant=True, model="b", aliases=("shared",)),
    ]
    async with running(2, profile=profiles) as (_, pool):
        assert pool.model == "shared"


class TestAdapters:
    MODELS = {  # noqa: RUF012 (it is not changed)
        "data": [
            {"id": "base", "root": "/models/base", "parent": None, "max_model_len": 2048},
            {"id": "adapter", "root": "/loras/a", "parent": "base"},
        ]
    }

    @pytest.fixture
    def http(self) -> Iterator[aioresponses]:
        with aioresponses() as mocked:
            mocked.get("http://gpu01:8000/v1/models", payload=self.MODELS, repeat=True)
            yield mocked

    async def test_the_base_is_taken_where_none_is_named(self, http: aioresponses) -> None:
        async with VLLMPool([AgentEndpoint("gpu01")], prompting=PromptOptions(prompt_format="raw")) as pool:
            assert (pool.model, pool.max_context) == ("base", 2048)

    async def test_an_adapter_is_served_where_it_is_named_and_has_its_parents_context(self, http: aioresponses) -> None:
        async with VLLMPool(
            [AgentEndpoint("gpu01")], model="adapter", prompting=PromptOptions(prompt_format="raw")
        ) as pool:
            assert (pool.model, pool.max_context) == ("adapter", 2048)


async def test_a_dead_fleet_is_one_error_after_the_patience() -> None:
    async with SimulatedFleet(3) as fleet:
        for agent in fleet.agents:
            agent.die()
        with pytest.raises(NoAgentsError, match="no agent tells what it serves") as raised:
            async with VLLMPool(fleet.endpoints, timeouts=Timeouts(patience=10.0)):
                pass
        assert str(fleet.endpoints[0]) in str(raised.value)
        assert 9.0 <= now() <= 11.0


async def test_a_fleet_that_is_still_starting_is_waited_for() -> None:
    faults = {i: [Fault(action="die", at=0.0, lasting=30.0)] for i in range(2)}
    async with SimulatedFleet(2, profile=AgentProfile(instant=True), faults=faults) as fleet:
        for agent in fleet.agents:
            agent.die()
        async with VLLMPool(fleet.endpoints) as pool:
            assert pool.model == "simulated-model"
            assert 29.0 <= now() <= 32.0


async def test_a_start_that_failed_may_be_tried_again() -> None:
    async with SimulatedFleet(1, profile=AgentProfile(instant=True)) as fleet:
        fleet.agents[0].die()
        pool = VLLMPool(fleet.endpoints, timeouts=Timeouts(patience=2.0))
        with pytest.raises(NoAgentsError):
            await pool.start()
        fleet.agents[0].revive()
        await pool.start()
        assert pool.model == "simulated-model"
        await pool.close()


async def test_one_dead_agent_does_not_keep_a_fleet_from_starting() -> None:
    async with SimulatedFleet(3, profile=AgentProfile(instant=True)) as fleet:
        fleet.agents[1].die()
        async with VLLMPool(fleet.endpoints) as pool:
            assert pool.model == "simulated-model"
            assert now() < 1.0


async def test_one_hanging_agent_does_not_keep_a_fleet_from_starting() -> None:
    async with SimulatedFleet(3, profile=AgentProfile(instant=True)) as fleet:
        fleet.agents[1].hang()
        async with VLLMPool(fleet.endpoints) as pool:
            assert pool.model == "simulated-model"
            assert now() < 1.0


async def test_a_named_model_lets_a_pool_begin_while_nobody_answers() -> None:
    faults = {0: [Fault(action="die", at=0.0, lasting=20.0)]}
    async with SimulatedFleet(1, profile=serving("m"), faults=faults) as fleet:
        fleet.agents[0].die()
        async with VLLMPool(fleet.endpoints, model="m", max_tokens=4) as pool:
            (response,) = await pool.send_all_batched(["a"])
            assert response.success
            assert 20.0 <= now() <= 60.0


async def test_what_can_not_come_right_is_not_waited_for() -> None:
    async with SimulatedFleet(1, profile=AgentProfile(api_keys=("k",))) as fleet:
        with pytest.raises(NoAgentsError, match="Unauthorized"):
            async with VLLMPool(fleet.endpoints):
                pass
        assert now() < 1.0


async def test_a_view_starts_the_whole_pool_once() -> None:
    async with SimulatedFleet(2, profile=AgentProfile(instant=True)) as fleet:
        pool = VLLMPool(fleet.endpoints)
        await pool.select([1]).send_all_batched(["a"], max_tokens=4)
        await pool.send_all_batched(["a"], max_tokens=4)
        assert [sum(r.path == "/v1/models" for r in agent.requests) for agent in fleet.agents] == [1, 1]
        await pool.close()
