"""Questions about documents on two real servers: what each of ``benchmarks.real --prefix`` has computed.

The same pool with ``prefix="auto"`` and ``"off"``, and *by hand*: bare aiohttp, one list request to each server with
its half of the documents. In each round each of them gets documents of its own, which no server has seen, with the same
questions and as many tokens; they take turns, the first changing every round. Computed are the tokens of prompts that
the servers did not find in their prefix caches, by their own counters.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import aiohttp

from aurora_pool import AgentEndpoint, PromptOptions, Sampling, VLLMPool
from aurora_pool.policy.prefix import Prefix
from benchmarks.printing import table
from tests.integration.local_fleet import MODEL, say
from tests.integration.servers import read_idle

MOST_COMPUTED = 1.10
LEAST_SPEED = 0.97
SERVERS = 2
DOCUMENTS = 10
QUESTIONS = 8
WORDS = ("red", "green", "blue", "house", "tree", "river", "stone", "seven", "eight", "north", "south", "light")
DOCUMENT_WORDS = 150
MAX_TOKENS = 8
SAMPLING = Sampling(temperature=0.0, extra={"ignore_eos": True})

Way = Callable[[Sequence[AgentEndpoint], Sequence[str]], Awaitable[int]]
"""Has all prompts answered; returns how many tokens were generated."""


@dataclass(frozen=True)
class Turn:
    """What one turn came to."""

    computed: int
    seconds: float


def make_prompts(draw: random.Random) -> list[str]:
    """Write documents and their questions, in the order of a file."""
    prompts = []
    for _ in range(DOCUMENTS):
        document = " ".join(draw.choices(WORDS, k=DOCUMENT_WORDS))
        prompts += [f"{document}. Question {number}: which word comes next?" for number in range(QUESTIONS)]
    return prompts


def with_pool(prefix: Prefix) -> Way:
    """Ask with a new pool."""

    async def ask(endpoints: Sequence[AgentEndpoint], prompts: Sequence[str]) -> int:
        prompting = PromptOptions(prompt_format="raw")
        async with VLLMPool(endpoints, sampling=SAMPLING, prefix=prefix, prompting=prompting) as pool:
            responses = await pool.send_all_batched(prompts, MAX_TOKENS)
            return sum(response.completion_tokens or 0 for response in responses)

    return ask


async def by_hand(endpoints: Sequence[AgentEndpoint], prompts: Sequence[str]) -> int:
    """Send each server its half of the documents, in one list request."""
    share = len(prompts) // len(endpoints)

    async def send(session: aiohttp.ClientSession, server: int) -> int:
        own = list(prompts[server * share : (server + 1) * share])
        body = {"model": MODEL, "prompt": own, "max_tokens": MAX_TOKENS, "temperature": 0.0, "ignore_eos": True}
        async with session.post(f"{endpoints[server].base_url}/v1/completions", json=body) as response:
            return int((await response.json())["usage"]["completion_tokens"])

    async with aiohttp.ClientSession(raise_for_status=True) as session:
        return sum(await asyncio.gather(*(send(session, server) for server in range(len(endpoints)))))


HAND = "by hand, each document on one"
AUTO = 'pool, prefix="auto"'
WAYS: dict[str, Way] = {HAND: by_hand, AUTO: with_pool("auto"), 'pool, prefix="off"': with_pool("off")}


async def take_turn(endpoints: Sequence[AgentEndpoint], way: Way, prompts: Sequence[str]) -> Turn:
    """Have all prompts answered; see what the servers have computed for it."""
    before = await read_idle(endpoints)
    began = time.perf_counter()
    tokens = await way(endpoints, prompts)
    seconds = time.perf_counter() - began
    assert tokens == len(prompts) * MAX_TOKENS
    after = await read_idle(endpoints)
    return Turn(sum(now.computed - then.computed for now, then in zip(after, before, strict=True)), seconds)


def measure(endpoints: Sequence[AgentEndpoint], *, rounds: int) -> list[str]:
    """Measure all in turns and print the table; return what is missed of the goals."""
    found: dict[str, list[Turn]] = {name: [] for name in WAYS}
    draw = random.Random(1)
    for number in range(rounds):
        for name in [*WAYS][number % len(WAYS) :] + [*WAYS][: number % len(WAYS)]:
            found[name].append(asyncio.run(take_turn(endpoints, WAYS[name], make_prompts(draw))))
        say(f"round {number + 1} of {rounds}: " + ", ".join(f"{turns[-1].computed}" for turns in found.values()))
    rows = []
    for name, turns in found.items():
        share, speed = _to_hand(found, name)
        computed = statistics.median(turn.computed for turn in turns)
        seconds = statistics.median(turn.seconds for turn in turns)
        rows.append((name, f"{computed:,.0f}", f"{share:.3f}", f"{seconds:.1f}", f"{speed:.3f}"))
    about = (
        f"{DOCUMENTS} documents of {DOCUMENT_WORDS} words, {QUESTIONS} questions each, {MAX_TOKENS} tokens an answer"
    )
    print(f"{about}; medians of {rounds} rounds, ratios within rounds")
    print(table(("", "computed tokens", "/ by hand", "seconds", "speed / by hand"), rows))
    share, speed = _to_hand(found, AUTO)
    missed = []
    if share > MOST_COMPUTED:
        missed.append(f"{AUTO}: {share:.3f} of the tokens computed by hand, expected at most {MOST_COMPUTED}")
    if speed < LEAST_SPEED:
        missed.append(f"{AUTO}: {speed:.3f} of the speed by hand, expected at least {LEAST_SPEED}")
    return missed


def _to_hand(found: dict[str, list[Turn]], name: str) -> tuple[float, float]:
    """Tokens computed and speed, over those by hand in the same round."""
    pairs = [*zip(found[name], found[HAND], strict=True)]
    computed = statistics.median(mine.computed / hand.computed for mine, hand in pairs)
    return computed, statistics.median(hand.seconds / mine.seconds for mine, hand in pairs)
