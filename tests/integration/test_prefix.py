"""Prompts that begin alike meet on one real server, by the servers' own counters."""

from __future__ import annotations

import random

from aurora_pool import AgentEndpoint, PromptOptions, VLLMPool
from tests.integration.conftest import GREEDY
from tests.integration.servers import read_idle

DOCUMENTS, QUESTIONS = 4, 6
WORDS = ("red", "green", "blue", "house", "tree", "river", "stone", "seven")


def questions(seed: int) -> list[str]:
    """Questions about documents that no server has seen, shuffled."""
    draw = random.Random(seed)
    documents = [" ".join(draw.choices(WORDS, k=120)) for _ in range(DOCUMENTS)]
    prompts = [
        f"{document}. Question {number}: what comes next?" for document in documents for number in range(QUESTIONS)
    ]
    draw.shuffle(prompts)
    return prompts


async def computed(endpoints: list[AgentEndpoint], prompts: list[str]) -> tuple[int, int]:
    """The tokens of these prompts that servers had to compute, and how many prompts were sent to a second one."""
    before = await read_idle(endpoints)
    async with VLLMPool(endpoints, sampling=GREEDY, prompting=PromptOptions(prompt_format="raw")) as pool:
        responses = await pool.send_all_batched(prompts, max_tokens=2)
        assert all(response.success for response in responses)
        hedged = pool.statistics().hedged
    after = await read_idle(endpoints)
    return sum(now.computed - then.computed for now, then in zip(after, before, strict=True)), hedged


async def test_two_servers_compute_as_much_as_one(endpoints: list[AgentEndpoint]) -> None:
    # One server alone computes each document once, whatever the order: the least that there is.
    seed = random.SystemRandom().randrange(1 << 30)
    least, _ = await computed(endpoints[:1], questions(seed))
    found, hedged = await computed(endpoints, questions(seed + 1))
    # A prompt that goes to a second server, as those of one that a busy machine delays do, is computed there once more.
    assert found <= 1.15 * least + hedged * least / DOCUMENTS
