"""A server is killed, told to stop, or paused in the middle of a run: every prompt is answered all the same."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter

import pytest

from aurora_pool import Prompt, Sampling, VLLMPool
from tests.integration.conftest import Victim
from tests.integration.servers import PATIENCE

pytestmark = pytest.mark.destructive

EXACTLY = Sampling(temperature=0.0, extra={"ignore_eos": True})
SHORT = 20
PROMPTS = [Prompt(f"The number {n} is", max_tokens=2 if n < SHORT else 64) for n in range(100)]
"""Some answers are done when the server goes; the others take 60 steps more, so that it can't have given them."""


async def assert_all_answered(pool: VLLMPool, victim: Victim, signum: signal.Signals) -> None:
    """Send the prompts, do it to the victim after the first ten answers, and see each prompt answered once."""
    answered: Counter[int] = Counter()
    agents: list[int | None] = [None] * len(PROMPTS)
    async for index, response in pool.iter_responses(PROMPTS, sampling=EXACTLY):
        assert response.success, response.error
        answered[index] += 1
        agents[index] = response.agent_index
        if answered.total() == 10:
            victim.signal(signum)

    assert answered == Counter(range(len(PROMPTS)))
    assert victim.index not in agents[SHORT:]


async def test_a_paused_server_costs_no_prompt_and_is_used_again_when_it_goes_on(
    pool: VLLMPool, victim: Victim
) -> None:
    await assert_all_answered(pool, victim, signal.SIGSTOP)

    victim.signal(signal.SIGCONT)

    async with asyncio.timeout(PATIENCE):
        while True:
            response = await pool.post(victim.index, "What is the capital of France?", 4)
            if response.success:
                return
            await asyncio.sleep(0.5)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=lambda signum: signum.name)
async def test_a_lost_server_costs_no_prompt(pool: VLLMPool, victim: Victim, signum: signal.Signals) -> None:
    await assert_all_answered(pool, victim, signum)

    assert pool.statistics().agents[victim.index].state != "in service"
