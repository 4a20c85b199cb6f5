"""Short answers on real servers: few requests, hardly anything hedged, and every prompt answered once."""

from __future__ import annotations

import random
import time

import pytest

from aurora_pool import AgentEndpoint, Observer, Prompt, PromptOptions, Response, Sampling, VLLMPool
from tests.integration.servers import read_idle

RAW = PromptOptions(prompt_format="raw")
EXACTLY = Sampling(temperature=0.0, extra={"ignore_eos": True})
SEEMS_STALLED = 4.0
"""Seconds without an answer: after five or more a pool may take a server for stalled, and hedge all that it holds."""


class Hedges(Observer):
    """Counts the prompts that were hedged though their server had just answered: it can't have seemed stalled."""

    def __init__(self) -> None:
        self.count = 0
        self._began = time.monotonic()
        self._answered: dict[int | None, float] = {}

    def prompt_done(self, response: Response) -> None:
        self._answered[response.agent_index] = time.monotonic()

    def prompt_hedged(self, slow_agent: int, agent: int) -> None:
        self.count += time.monotonic() - self._answered.get(slow_agent, self._began) < SEEMS_STALLED


def prompts(count: int, read: int, *written: int) -> list[Prompt]:
    """Prompts of random tokens, which no prefix cache knows, with answers of these lengths in turn."""
    draw = random.Random(f"{read} {written}")
    return [
        Prompt([draw.randrange(1000, 40000) for _ in range(read)], EXACTLY, max_tokens=written[number % len(written)])
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("work", "requests"),
    [
        (prompts(40, 60, 2), 4),
        # More than the first windows hold.
        (prompts(700, 8, 2), 40),
        (prompts(120, 8, 16), 8),
        (prompts(80, 8, 4, 4, 4, 16, 64), 12),
    ],
    ids=["60 in 2 out", "8 in 2 out", "8 in 16 out", "8 in mixed"],
)
async def test_short_answers(endpoints: list[AgentEndpoint], work: list[Prompt], requests: int) -> None:
    before = await read_idle(endpoints)
    hedges = Hedges()
    async with VLLMPool(endpoints, prompting=RAW, observer=hedges) as pool:
        seen = [pair async for pair in pool.iter_responses(work)]
        statistics = pool.statistics()

    assert sorted(index for index, _ in seen) == list(range(len(work)))
    for index, response in seen:
        assert response.success, response.error
        assert response.completion_tokens == work[index].max_tokens
    assert hedges.count <= 0.05 * len(work)
    assert statistics.requests <= requests + statistics.hedged
    assert all(agent.failures == {} for agent in statistics.agents)
    after = await read_idle(endpoints)
    tokens = sum(now.tokens - then.tokens for now, then in zip(after, before, strict=True))
    wanted = sum(prompt.max_tokens or 0 for prompt in work)
    assert wanted <= tokens <= wanted * 1.05 + 64 * statistics.hedged
