"""``aurora-pool run`` and ``aurora-pool sim`` run on uvloop, whose timers that are due at once tell no time."""

from __future__ import annotations

import asyncio
import random

import pytest

from aurora_pool import PromptOptions, Timeouts, VLLMPool
from aurora_pool.testing import AgentProfile, SimulatedFleet

uvloop = pytest.importorskip("uvloop", reason="it is not there on every platform")


def run(work: object) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)  # type: ignore[arg-type]


def test_engines_whose_steps_take_no_time() -> None:
    async def answer() -> None:
        profile = AgentProfile(slots=8, median_length=20)
        async with (
            SimulatedFleet(2, profile=profile, time_scale=2000.0) as fleet,
            VLLMPool(fleet.endpoints, prompting=PromptOptions(prompt_format="raw")) as pool,
        ):
            responses = await pool.send_all_batched([f"p{i}" for i in range(600)], max_tokens=40)
            assert all(response.success for response in responses)
            assert [dict(agent.failures) for agent in pool.statistics().agents] == [{}, {}]

    run(answer())


def test_calls_that_are_cancelled_while_timers_are_due() -> None:
    async def cancel() -> None:
        rng = random.Random(1)
        prompting = PromptOptions(prompt_format="raw")
        async with (
            SimulatedFleet(2, profile=AgentProfile(slots=4, reply="word " * 50)) as fleet,
            # A time limit of next to nothing: the timer of the deadline is due at once.
            VLLMPool(fleet.endpoints, prompting=prompting, timeout=0.0003, timeouts=Timeouts(stall=1.0)) as pool,
        ):
            for _ in range(150):
                call = asyncio.create_task(pool.send_all_batched(["a", "b", "c"], max_tokens=40))
                await asyncio.sleep(rng.random() * 0.003)
                call.cancel()
                (found,) = await asyncio.gather(call, return_exceptions=True)
                assert isinstance(found, list | asyncio.CancelledError)

    run(cancel())
