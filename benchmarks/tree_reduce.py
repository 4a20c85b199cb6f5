"""tree_reduce over 1,000 items on simulated fleets, against the same tree reduced level by level.

No schedule can beat the longer of two times: the tree's critical path (every answer alone on a fast agent, the longest
way from a leaf to the root), and all tokens at the fleet's full throughput. The table gives makespans, added up over
several trees, and as multiples of that bound. Run it with ``python benchmarks/tree_reduce.py``; time is simulated, so
the figures are the same on any machine.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

from aurora_pool import VLLMPool
from aurora_pool.messages import Prompt, Response
from aurora_pool.options import Observer
from aurora_pool.patterns import scatter_gather, tree_reduce
from aurora_pool.testing import AgentProfile, SimulatedFleet, run_simulated

ITEMS = 1000
TREES = 3
FANIN = 8
PROMPT = "Summarise:\n{item}"
REDUCE_PROMPT = "Merge:\n{responses}"
MAX_TOKENS = 2048
AT_MOST = 1.10
PROFILE = AgentProfile(max_model_len=65536)


@dataclass(frozen=True)
class Scenario:
    """A fleet; those that are ``held`` to it have room for all items at once, and must come close to the bound."""

    name: str
    profiles: Sequence[AgentProfile]
    held: bool = False


SCENARIOS = (
    Scenario("4 agents", [PROFILE] * 4, held=True),
    Scenario("16 agents", [PROFILE] * 16, held=True),
    Scenario("64 agents", [PROFILE] * 64, held=True),
    Scenario("4 agents of 32 slots", [replace(PROFILE, slots=32)] * 4),
    Scenario("8 agents, 1 at quarter speed", [PROFILE] * 7 + [replace(PROFILE, speed=0.25)]),
    Scenario("56 agents, 8 at half speed", [PROFILE] * 56 + [replace(PROFILE, speed=0.5)] * 8),
)


class Tokens(Observer):
    """Remembers how many tokens each answer had."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}

    def prompt_done(self, response: Response) -> None:
        """Record an answer."""
        self.of[response.text] = response.completion_tokens or 0


async def without_barriers(pool: VLLMPool, items: Sequence[str]) -> list[list[str]]:
    """Reduce with tree_reduce; return the texts of each level."""
    levels: list[list[str]] = []
    result = await tree_reduce(
        pool,
        PROMPT,
        REDUCE_PROMPT,
        FANIN,
        items,
        max_tokens=MAX_TOKENS,
        on_level=lambda _, texts: levels.append(list(texts)),
    )
    assert result.success, result.error
    return levels


async def level_by_level(pool: VLLMPool, items: Sequence[str]) -> list[list[str]]:
    """Reduce the same tree, each level only when the one below is complete; return the texts of each level."""
    levels = [await answers(pool, [PROMPT.replace("{item}", item) for item in items])]
    while len(levels[-1]) > 1:
        merged = ["\n\n".join(levels[-1][first:end]) for first, end in groups(len(levels[-1]))]
        levels.append(await answers(pool, [REDUCE_PROMPT.replace("{responses}", text) for text in merged]))
    return levels


async def answers(pool: VLLMPool, prompts: Sequence[str]) -> list[str]:
    """Answer prompts that are all expected to succeed."""
    responses = await scatter_gather(pool, [Prompt(prompt, max_tokens=MAX_TOKENS) for prompt in prompts])
    assert all(response.success for response in responses)
    return [response.text for response in responses]


def groups(size: int) -> list[tuple[int, int]]:
    """Say which runs of a level are merged: as even as can be, at most FANIN each."""
    count = -(-size // FANIN)
    return [(group * size // count, (group + 1) * size // count) for group in range(count)]


def critical_path(levels: Sequence[Sequence[str]], tokens: Tokens, profile: AgentProfile) -> float:
    """Return the seconds of the longest way from a leaf to the root, each answer alone on an agent."""
    longest = [0] * len(levels[0])
    for number, texts in enumerate(levels):
        if number:
            longest = [max(longest[first:end]) for first, end in groups(len(longest))]
        longest = [before + tokens.of[text] for before, text in zip(longest, texts, strict=True)]
    return longest[0] * (profile.step_base + profile.step_per_sequence) / profile.speed


def throughput(profile: AgentProfile) -> float:
    """Return an agent's tokens per second with all slots taken."""
    return profile.slots * profile.speed / (profile.step_base + profile.step_per_sequence * profile.slots)


async def measure(scenario: Scenario, items: Sequence[str]) -> list[float]:
    """Return critical path, throughput bound, and the makespans without and with barriers, in simulated seconds."""
    clock = asyncio.get_running_loop()
    makespans = []
    for reduce in (without_barriers, level_by_level):
        tokens = Tokens()
        async with (
            SimulatedFleet(len(scenario.profiles), profile=scenario.profiles) as fleet,
            VLLMPool(fleet.endpoints, observer=tokens, max_tokens_aggregation=MAX_TOKENS, rng=random.Random(1)) as pool,
        ):
            begun = clock.time()
            levels = await reduce(pool, items)
            makespans.append(clock.time() - begun)
    fastest = max(scenario.profiles, key=lambda profile: profile.speed)
    work = sum(tokens.of[text] for texts in levels for text in texts)
    return [critical_path(levels, tokens, fastest), work / sum(map(throughput, scenario.profiles)), *makespans]


async def main(items: int) -> int:
    """Measure all scenarios and print them; return 1 if a promise is broken."""
    table = Table(title=f"tree_reduce, {TREES} trees of {items} items, fanin {FANIN}: simulated seconds")
    table.add_column("fleet", no_wrap=True)
    for column in ("critical path", "all tokens", "tree_reduce", "of bound", "promised", "by level", "of bound"):
        table.add_column(column, justify="right")
    broken = False
    for scenario in SCENARIOS:
        trees = [[f"page {number} of book {tree}" for number in range(items)] for tree in range(TREES)]
        measured = [await measure(scenario, tree) for tree in trees]
        path, work, free, barred = map(sum, zip(*measured, strict=True))
        bound = max(path, work)
        broken |= scenario.held and free > AT_MOST * bound
        table.add_row(
            scenario.name,
            *(f"{seconds:.1f}" for seconds in (path, work, free)),
            f"{free / bound:.2f}",
            f"{AT_MOST:.2f}" if scenario.held else "",
            f"{barred:.1f}",
            f"{barred / bound:.2f}",
        )
    Console(width=120).print(table)
    return 1 if broken else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--items", type=int, default=ITEMS, help="how many items to reduce")
    sys.exit(run_simulated(main(parser.parse_args().items)))
