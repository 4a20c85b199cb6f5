from __future__ import annotations

import asyncio
import random
from typing import Any

import aiohttp

from aurora_pool.testing import AgentProfile, SimulatedFleet, run_simulated


def test_a_whole_storm_takes_the_same_course_every_time() -> None:
    first, second = (run_simulated(stormy(AgentProfile(median_length=40), prompts=150)) for _ in range(2))
    assert first == second
    assert len({what for _, _, what in first}) > 3


async def stormy(profile: AgentProfile, prompts: int) -> list[tuple[float, int, Any]]:
    """Send prompts one by one to a fleet in which everything goes wrong; note when each went where and what came."""
    course: list[tuple[float, int, Any]] = []
    chance = random.Random(4)
    async with (
        SimulatedFleet(5, profile=profile, seed=7) as fleet,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session,
    ):
        flapping, slow, failing, drowsy, healthy = fleet.agents
        flapping.flap(up=0.7, down=0.4)
        slow.slow(6)
        failing.fail(500, rate=0.5)
        asyncio.get_running_loop().call_later(1.0, drowsy.hang)

        async def ask(number: int) -> None:
            await asyncio.sleep(0.02 * number)
            agent = chance.choice(fleet.agents)
            body = {"prompt": f"number {number}", "max_tokens": 60}
            what: Any
            try:
                async with session.post(agent.endpoint.base_url + "/v1/completions", json=body) as reply:
                    what = reply.status, hash(await reply.text())
            except (aiohttp.ClientError, TimeoutError) as error:
                what = type(error).__name__
            course.append((asyncio.get_running_loop().time(), agent.index, what))

        await asyncio.gather(*map(ask, range(prompts)))
        assert healthy.prompts_received == healthy.prompts_answered == 24
    return course
