"""Mutate replies for as long as you like: no call may crash or hang, no text may be another prompt's, nothing may grow.

    python -m tests.hostile.fuzz --minutes 20 [--seed 7]

It prints the seed of what it finds; ``--seed`` with that number and ``--minutes 0`` shows it again.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import time
import tracemalloc
from collections.abc import Awaitable

from aurora_pool import Response, Timeouts
from aurora_pool.embeddings import EmbeddingPool
from aurora_pool.testing.clock import run_simulated
from tests.hostile.mutator import mutated, right_text, valid
from tests.hostile.odd_server import Asked, as_chats, pool_of

CALLS = 5
GROWTH = 20 * 1024 * 1024
"""Bytes by which memory may grow over a run, however long."""


async def fuzz(seed: int, calls: int = CALLS) -> int:
    """Run a pool over one server that mutates its replies and one that does not; return how many it mutated.

    Raises :class:`AssertionError` for a prompt without its own text, or an answer that never comes.
    """
    rng = random.Random(seed)
    mutations = 0

    def odd(asked: Asked) -> bytes | Awaitable[None]:
        nonlocal mutations
        mutations += 1
        reply, cut = mutated(asked, rng)
        if not cut:
            return reply

        async def answer() -> None:
            asked.writer.write(reply)
            await asked.writer.drain()
            asked.writer.close()

        return answer()

    form = rng.choice(["batched", "batched", "whole", "single", "long chats", "embeddings"])
    options = {"stream": form != "whole", "max_tokens": 4000 if form == "long chats" else 64}
    async with pool_of(odd, valid, everything=True, timeouts=Timeouts(patience=30), **options) as (pool, servers):
        for call in range(calls):
            prompts = [f"prompt {number} of call {call} with seed {seed}" for number in range(rng.randint(1, 8))]
            if form == "embeddings":
                endpoints = [server.endpoint for server in servers]
                async with EmbeddingPool(endpoints, model="m", rng=random.Random(1)) as embedder:
                    check(await in_time(embedder.send_all_batched(prompts)), prompts, texts=False)
            elif form in ("batched", "whole"):
                check(await in_time(pool.send_all_batched(prompts)), prompts)
            else:
                check(await in_time(pool.send_all(as_chats(prompts))), prompts)
            await asyncio.sleep(rng.choice([0, 0, 2, 70]))
        statistics = pool.statistics()
        assert statistics.in_flight == statistics.queued == 0, statistics
    return mutations


async def in_time(answering: Awaitable[list[Response]]) -> list[Response]:
    """Wait for responses for as long as anything may take."""
    return await asyncio.wait_for(answering, 5000)


def check(responses: list[Response], prompts: list[str], *, texts: bool = True) -> None:
    """Check that each prompt has one response, with its own text if it is a success."""
    assert len(responses) == len(prompts)
    for prompt, response in zip(prompts, responses, strict=True):
        assert response.success or response.error, response
        assert not texts or not response.success or response.text == right_text(prompt), (prompt, response)
        assert response.success, response  # the other agent is a good one


def main() -> int:
    """Run for some minutes; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.getLogger("aurora_pool").setLevel(logging.CRITICAL)
    end = time.monotonic() + 60 * arguments.minutes
    seed, mutations, before = arguments.seed, 0, 0
    tracemalloc.start()
    while True:
        try:
            mutations += run_simulated(fuzz(seed))
        except Exception as error:
            sys.stderr.write(f"seed {seed}: {type(error).__name__}: {error}\n")
            raise
        seed += 1
        if seed == arguments.seed + 20:
            before = tracemalloc.get_traced_memory()[0]
        if time.monotonic() >= end:
            break
    grown = tracemalloc.get_traced_memory()[0] - before if before else 0
    fleets = seed - arguments.seed
    sys.stdout.write(f"{mutations} mutations in {fleets} fleets, {grown / 1e6:.1f} MB more memory: nothing found\n")
    return 1 if grown > GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
