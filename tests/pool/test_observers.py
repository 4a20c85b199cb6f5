"""Defects end calls with their error, and never hang them; an observer that raises ends nothing."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from aurora_pool import Observer
from aurora_pool.policy.dispatch import Dispatcher
from aurora_pool.testing import AgentProfile
from tests.pool.running import now, running

pytestmark = pytest.mark.simulated_clock

METHODS = [name for name in vars(Observer) if not name.startswith("_")]


class Raising(Observer):
    """Raises in one of its methods, each time."""

    def __init__(self, method: str) -> None:
        self.calls = 0

        def fail(*event: object) -> None:
            self.calls += 1
            raise RuntimeError("observed")

        fail.__name__ = method
        setattr(self, method, fail)


@pytest.mark.parametrize("method", METHODS)
async def test_an_observer_that_raises_is_logged_once_and_told_on(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    observer = Raising(method)
    profiles = [AgentProfile(slots=8, median_length=20, speed=speed) for speed in (1.0, 0.05, 1.0)]
    async with running(3, profile=profiles, observer=observer, timeout=300.0) as (fleet, pool):
        sending = asyncio.create_task(pool.send_all_batched([f"p{i}" for i in range(60)], max_tokens=30))
        await asyncio.sleep(0.2)
        for agent in (0, 1):
            fleet.agents[agent].die()
            await asyncio.sleep(0.3)
            fleet.agents[agent].revive()
        assert all(response.success for response in await sending)
    told = [record for record in caplog.records if "observer" in record.message]
    assert len(told) == min(observer.calls, 1)
    assert all(record.levelno == logging.ERROR and record.exc_info for record in told)


async def test_each_kind_of_event_is_told() -> None:
    """What the test above rests on: the events do happen."""
    told: set[str] = set()

    class Listing(Observer):
        def request_sent(self, agent: int, prompts: int) -> None:
            told.add("request_sent")

        def agent_state(self, *event: Any) -> None:
            told.add("agent_state")

    async with running(2, profile=AgentProfile(slots=8, median_length=20), observer=Listing()) as (fleet, pool):
        sending = asyncio.create_task(pool.send_all_batched([f"p{i}" for i in range(60)], max_tokens=30))
        await asyncio.sleep(0.2)
        fleet.agents[0].die()
        await sending
    assert told == {"request_sent", "agent_state"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_defect_inside_a_round_ends_the_calls_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(2, profile=AgentProfile(slots=4, reply="word " * 300), timeout=300.0) as (_, pool):
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        calls = [asyncio.create_task(pool.send_all_batched([f"p{i}" for i in range(50)])) for _ in range(3)]
        await asyncio.sleep(0.5)

        def plan(*arguments: object) -> None:
            raise ZeroDivisionError("a defect")

        with monkeypatch.context() as patched:
            patched.setattr(Dispatcher, "plan", plan)
            found = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 60.0)
        assert [type(error) for error in found] == [ZeroDivisionError] * 3
        assert now() < 1.0


@pytest.mark.parametrize("method", ["probed", "load_checked"])
async def test_a_defect_in_a_background_task_does_too(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(Dispatcher, method, fail)
    async with running(1, profile=AgentProfile(slots=4, reply="word " * 300)) as (fleet, pool):
        call = asyncio.create_task(pool.send_all_batched(["a", "b"]))
        await asyncio.sleep(0.5)
        if method == "probed":
            fleet.agents[0].die()
        else:
            fleet.agents[0].hang()
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(call, 60.0)
