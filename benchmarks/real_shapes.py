"""Short answers, a mix with long ones, ``choose`` and ``score`` on two real servers: rows of ``benchmarks.real``.

Each row is answered by a new pool, and by *lists by hand*: bare aiohttp, one list request to each server with its half
of the prompts, streamed where the pool streams, with the same parameters. Where a list can't be one, it is as few as
can be: one for each length of answers in the mix, and lists of eight for ``score``, whose logits have killed engines.
The two take turns, the first changing every round, and the ratio is taken within rounds: above 1 the pool is faster.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from aurora_pool import Prompt, PromptOptions, Sampling, VLLMPool, parse_hostfile
from aurora_pool.patterns import choose, score
from aurora_pool.wire import completions
from benchmarks.printing import table
from tests.integration.local_fleet import MODEL, LocalFleet, say

GOAL = 0.97
MOST_HEDGED = 0.05
SERVERS = 2
SAMPLING = Sampling(temperature=0.0, extra={"ignore_eos": True})
SCORED = Sampling(temperature=0.0, prompt_logprobs=1)
SCORED_LIST = 8
RAW = PromptOptions(prompt_format="raw")
NEXT = Sampling(temperature=0.0, logprobs=20, return_token_ids=True, extra={"return_tokens_as_token_ids": True})
CHOICES = (" Yes", " No")
SPINNER = "while True: pass"

Job = Sequence[Prompt]


@dataclass(frozen=True)
class Row:
    """One shape of work: how to make its prompts, how the pool is asked, and whether by hand it is streamed."""

    name: str
    prompts: int
    make: Callable[[random.Random, int], Prompt]
    ask: Callable[[VLLMPool, Job], Awaitable[Sequence[Any]]]
    streamed: bool = True
    list_limit: int = 1024


@dataclass(frozen=True)
class Turn:
    """What one turn took: seconds, and of the pool its requests and the prompts that it hedged."""

    seconds: float
    requests: int
    hedged: int = 0


async def _send(pool: VLLMPool, prompts: Job) -> Sequence[Any]:
    return await pool.send_all_batched(prompts)


async def _choose(pool: VLLMPool, prompts: Job) -> Sequence[Any]:
    return await choose(pool, [prompt.content for prompt in prompts], CHOICES)


async def _score(pool: VLLMPool, prompts: Job) -> Sequence[Any]:
    return await score(pool, [_ids(prompt) for prompt in prompts])


def _ids(prompt: Prompt) -> list[int]:
    assert not isinstance(prompt.content, str)
    return [token for token in prompt.content if isinstance(token, int)]


def _words(draw: random.Random, count: int) -> list[int]:
    return [draw.randrange(1000, 40000) for _ in range(count)]


def _answered(read: int, *written: int) -> Callable[[random.Random, int], Prompt]:
    """Make prompts of random tokens, with answers of these lengths in turn."""
    return lambda draw, number: Prompt(_words(draw, read), SAMPLING, max_tokens=written[number % len(written)])


def _question(draw: random.Random, number: int) -> Prompt:
    text = f"Question: Is {draw.randrange(1000)} larger than {number}? Answer Yes or No.\nAnswer:"
    return Prompt(text, NEXT, max_tokens=1)


ROWS = (
    Row("60 in, 2 out", 60, _answered(60, 2), _send),
    Row("8 in, 2 out", 600, _answered(8, 2), _send),
    Row("8 in, 16 out", 120, _answered(8, 16), _send),
    Row("8 in, mixed: 4, 4, 4, 16, 64 out", 80, _answered(8, 4, 4, 4, 16, 64), _send),
    Row("choose", 150, _question, _choose),
    Row("score", 48, lambda draw, _: Prompt(_words(draw, 40), SCORED, max_tokens=1), _score, False, SCORED_LIST),
)


async def by_pool(row: Row, prompts: Job, fleet: LocalFleet) -> Turn:
    """Answer a row's prompts by a new pool; its start is not counted."""
    async with VLLMPool.from_hostfile(fleet.hostfile, model=MODEL, prompting=RAW) as pool:
        began = time.perf_counter()
        found = await row.ask(pool, prompts)
        seconds = time.perf_counter() - began
        assert all(one.success for one in found), next(one for one in found if not one.success)
        counted = pool.statistics()
    return Turn(seconds, counted.requests, counted.hedged)


async def by_hand(row: Row, prompts: Job, fleet: LocalFleet) -> Turn:
    """Answer them by static lists."""
    urls = [f"http://{endpoint}{completions.PATH}" for endpoint in parse_hostfile(fleet.hostfile)]
    lists: list[tuple[str, bytes, int]] = []
    for place, url in enumerate(urls):
        by_length: dict[int, list[Prompt]] = defaultdict(list)
        for prompt in prompts[place :: len(urls)]:
            by_length[prompt.max_tokens or 0].append(prompt)
        for length, alike in by_length.items():
            for start in range(0, len(alike), row.list_limit):
                part = alike[start : start + row.list_limit]
                assert part[0].sampling is not None
                fields = completions.sampling_fields(part[0].sampling)
                interval = 1_000_000 if row.streamed else 0
                contents = [prompt.content for prompt in part]
                lists.append(
                    (url, completions.encode_request(MODEL, contents, fields, length, interval=interval), len(part))
                )

    async def send(session: aiohttp.ClientSession, url: str, body: bytes, count: int) -> None:
        async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as reply:
            content = await reply.read()
        found = [msgspec.json.decode(line[6:]) for line in content.split(b"\n\n") if line.startswith(b"data: {")]
        choices = [one for event in found or [msgspec.json.decode(content)] for one in event["choices"]]
        assert sum(choice["finish_reason"] is not None for choice in choices) == count, content[-300:]

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(), read_bufsize=2**20) as session:
        began = time.perf_counter()
        await asyncio.gather(*(send(session, *each) for each in lists))
        return Turn(time.perf_counter() - began, len(lists))


@contextmanager
def beside(count: int) -> Iterator[None]:
    """Have other programs compute meanwhile, as many as that."""
    others = [subprocess.Popen([sys.executable, "-c", SPINNER]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(fleet: LocalFleet, rows: Sequence[Row], *, rounds: int, share: float, others: int) -> list[str]:
    """Measure and print the rows, with ``share`` of their prompts; return what is missed."""
    for way in (by_pool, by_hand):  # a first request can take long
        asyncio.run(way(ROWS[0], [ROWS[0].make(random.Random(0), number) for number in range(4)], fleet))
    cells, missed = [], []
    with beside(others):
        for row in rows:
            draw = random.Random(1)
            count = max(2 * SERVERS, round(row.prompts * share))
            pools: list[Turn] = []
            hands: list[Turn] = []
            for number in range(rounds):
                turns = [(by_pool, pools), (by_hand, hands)]
                # New prompts each time: what the prefix cache still holds costs nothing.
                for way, found in turns if number % 2 == 0 else turns[::-1]:
                    prompts = [row.make(draw, index) for index in range(count)]
                    found.append(asyncio.run(way(row, prompts, fleet)))
                pool, hand = pools[-1], hands[-1]
                say(
                    f"{row.name}: pool {pool.seconds:.1f} s in {pool.requests} requests, {pool.hedged} hedged; "
                    f"by hand {hand.seconds:.1f} s"
                )
            ratios = [hand.seconds / pool.seconds for pool, hand in zip(pools, hands, strict=True)]
            ratio = statistics.median(ratios)
            hedged = sum(pool.hedged for pool in pools) / (count * rounds)
            cells.append(
                (
                    row.name,
                    str(count),
                    f"{statistics.median(hand.seconds for hand in hands):.1f}",
                    f"{statistics.median(pool.seconds for pool in pools):.1f}",
                    f"{ratio:.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
                    f"{hedged:.1%}",
                    f"{count * rounds / sum(pool.requests for pool in pools):.1f}",
                )
            )
            if ratio < GOAL:
                missed.append(f"{row.name}: {ratio:.3f} of lists by hand, expected at least {GOAL}")
            if hedged > MOST_HEDGED:
                missed.append(f"{row.name}: {hedged:.1%} hedged, expected at most {MOST_HEDGED:.0%}")
    print(f"two servers, {others} other programs computing beside them; medians of {rounds} rounds (least-most)")
    print(table(("row", "prompts", "by hand, s", "pool, s", "by hand / pool", "hedged", "prompts a request"), cells))
    return missed
