"""A server is killed, told to stop, or paused in the middle of a run: every prompt is answered all the same."""

from __future__ import annotations

import signal
from collections import Counter

import pytest

from aurora_pool import Sampling, VLLMPool
from tests.integration.conftest import Victim

SAMPLING = Sampling(temperature=0.0, stop=(".", "\n"))  # answers of many lengths: some are done when the server goes
PROMPTS = [f"Write a sentence about the number {n}:" for n in range(200)]


@pytest.mark.destructive
@pytest.mark.parametrize("signum", [signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL], ids=lambda signum: signum.name)
async def test_every_prompt_is_answered_once_by_the_others(
    pool: VLLMPool, victim: Victim, signum: signal.Signals
) -> None:
    answered: Counter[int] = Counter()
    agents: list[int | None] = []
    async for index, response in pool.iter_responses(PROMPTS, 48, sampling=SAMPLING):
        assert response.success, response.error
        answered[index] += 1
        agents.append(response.agent_index)
        if len(agents) == 20:
            victim.signal(signum)

    assert answered == Counter(range(len(PROMPTS)))
    assert victim.index not in agents[-100:]
