"""Callers share the fleet: in turns, by weight, whatever view they ask and however long the others' jobs are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from aurora_pool import ConfigError, PromptOptions, VLLMPool
from aurora_pool.testing import AgentProfile, SimulatedFleet, run_simulated

PROFILE = AgentProfile(slots=8, median_length=40, longest=80, max_queued=12)
Job = Callable[[VLLMPool], Awaitable[float]]


def times_of(*jobs: Job, agents: int = 4) -> list[float]:
    """The simulated seconds that jobs take which start together on one fleet, whose limits the pool has met before."""

    async def run() -> list[float]:
        prompting = PromptOptions(prompt_format="raw")
        async with (
            SimulatedFleet(agents, profile=PROFILE, seed=1) as fleet,
            VLLMPool(fleet.endpoints, model="simulated-model", max_tokens=80, prompting=prompting) as pool,
        ):
            await job("before", 100)(pool)
            return list(await asyncio.gather(*(job(pool) for job in jobs)))

    return run_simulated(run(), debug=False)


def job(name: str, prompts: int, *, after: float = 0.0, weight: float = 1.0, priority: int = 0) -> Job:
    async def run(pool: VLLMPool) -> float:
        await asyncio.sleep(after)
        loop = asyncio.get_running_loop()
        began = loop.time()
        texts = [f"{name} {number}" for number in range(prompts)]
        responses = await pool.send_all_batched(texts, weight=weight, priority=priority)
        assert all(response.success for response in responses)
        return loop.time() - began

    return run


def test_two_equal_calls_end_together() -> None:
    first, second = times_of(job("first", 500), job("second", 500))
    assert abs(first - second) <= 0.05 * max(first, second)


def test_a_short_call_beside_a_long_one_gets_its_share_at_once() -> None:
    alone, *_ = times_of(job("short", 8))
    long, *short = times_of(job("long", 1000), *(job(f"short {n}", 8, after=2.0 + n / 50) for n in range(5)))
    assert long > 10.0
    # What the servers hold already comes first: about as much work as they do in one answer's time and a half.
    assert max(short) <= 3 * alone


def test_weights_divide_the_fleet() -> None:
    heavy, light = times_of(job("heavy", 750, weight=3.0), job("light", 250))
    assert abs(heavy - light) <= 0.15 * max(heavy, light)


def test_a_lower_priority_number_is_served_first() -> None:
    later, sooner = times_of(job("later", 500, priority=1), job("sooner", 250, after=0.5))
    assert sooner <= 0.5 * later


def test_the_calls_of_one_caller_share_as_one() -> None:
    async def many(pool: VLLMPool) -> float:
        ann = pool.as_caller()
        return max(await asyncio.gather(*(job(f"ann {number}", 160)(ann) for number in range(4))))

    anns, bobs = times_of(many, job("bob", 160))
    assert bobs <= 0.5 * anns  # her four calls beside it would leave it a fifth of the fleet


def test_a_caller_has_weight_and_priority() -> None:
    heavy, light = times_of(
        lambda pool: job("heavy", 750)(pool.as_caller(weight=3.0)), lambda pool: job("light", 250)(pool.as_caller())
    )
    assert abs(heavy - light) <= 0.15 * max(heavy, light)
    later, sooner = times_of(lambda pool: job("later", 500)(pool.as_caller(priority=1)), job("sooner", 250, after=0.5))
    assert sooner <= 0.5 * later


def test_views_share_as_calls_do() -> None:
    async def pinned(pool: VLLMPool) -> float:
        await asyncio.sleep(2.0)
        loop = asyncio.get_running_loop()
        began = loop.time()
        response = await pool.select([0, 1]).post(0, "just one")
        assert response.success
        return loop.time() - began

    alone = times_of(job("one", 1))[0]
    _, one = times_of(job("all of it", 1000), pinned)
    assert one <= 5 * alone


@pytest.mark.parametrize(("weight", "priority"), [(0, 0), (-1.0, 0), (1.0, "high")])
def test_what_is_no_weight_or_priority_is_said_at_once(weight: float, priority: int) -> None:
    with pytest.raises(ConfigError, match=r"weight|priority"):
        times_of(job("x", 1, weight=weight, priority=priority))
