"""Label examples without any labels: search for the labels that explain each other best.

::

    python examples/label_search.py                     # on a simulated fleet, whose labels mean nothing
    python examples/label_search.py --hostfile FILE     # on your fleet: a base model does best

Iterative label search, or internal coherence maximisation: the coherence of a labelling is the mean log-probability
that the model gives each example's label when it sees all the others with theirs (leave-one-out demonstrations). The
search starts from random labels. Each round flips a few labels that the model doubts, and scores all examples anew in
one batch; a labelling that is less coherent than before is taken back, the more surely the later it comes
(simulated annealing).

Prompts are put together so that they share long beginnings, which the servers' prefix caches then skip: the examples
stand in as many blocks as there are agents, and a prompt has its own example's block last. Prompt ``i`` goes to
agent ``i % size``, and so each agent gets one block. Examples whose labels have not changed for long come first, so
that most of the beginning holds from round to round.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from aurora_pool import PoolError, PromptOptions, VLLMPool, parse_hostfile
from aurora_pool.patterns import choose
from aurora_pool.testing import SimulatedFleet

CLAIMS = {
    "Water boils at a lower temperature on a high mountain.": True,
    "A dozen is thirteen.": False,
    "Whales breathe air.": True,
    "The moon gives off its own light.": False,
    "Seven times eight is fifty-six.": True,
    "Glass is made from sand.": True,
    "Spiders have six legs.": False,
    "The Nile flows into the Black Sea.": False,
    "Sound travels faster in water than in air.": True,
    "Ninety-one is a prime number.": False,
    "Copper conducts electricity.": True,
    "A triangle's angles add up to 360 degrees.": False,
    "Penguins live in the wild at the North Pole.": False,
    "Bread rises because yeast gives off gas.": True,
    "The French Revolution began in 1789.": True,
    "Gold is lighter than aluminium.": False,
}
ANSWERS = {" yes": True, " no": False}
NAMES = {label: answer for answer, label in ANSWERS.items()}


@dataclass
class Labelling:
    """Labels, and the round in which each was last changed."""

    labels: list[bool]
    changed: list[int]

    def flipped(self, examples: Sequence[int], now: int) -> Labelling:
        """Give the labelling with some labels turned over."""
        labels, changed = self.labels.copy(), self.changed.copy()
        for example in examples:
            labels[example] = not labels[example]
            changed[example] = now
        return Labelling(labels, changed)


def demonstrations(claims: Sequence[str], labelling: Labelling, blocks: int) -> dict[int, str]:
    """Write each example's prompt, all others labelled; the examples of the blocks come in turn."""
    order = sorted(range(len(claims)), key=lambda example: labelling.changed[example])
    size = -(-len(order) // blocks)
    parts = [order[start : start + size] for start in range(0, len(order), size)]

    def shown(example: int) -> str:
        return f"Claim: {claims[example]}\nTrue:{NAMES[labelling.labels[example]]}\n\n"

    def prompt(part: Sequence[int], example: int) -> str:
        before = "".join(shown(other) for block in parts if block is not part for other in block)
        rest = "".join(shown(other) for other in part if other != example)
        return f"{before}{rest}Claim: {claims[example]}\nTrue:"

    return {
        example: prompt(part, example)
        for row in zip_longest(*parts)
        for part, example in zip(parts, row, strict=True)
        if example is not None
    }


async def score(pool: VLLMPool, claims: Sequence[str], labelling: Labelling) -> list[float]:
    """Give the log-probability of each example's label, given all the others."""
    prompts = demonstrations(claims, labelling, blocks=pool.size)
    found = dict(zip(prompts, await choose(pool, list(prompts.values()), list(ANSWERS)), strict=True))
    scores = []
    for example, label in enumerate(labelling.labels):
        choice = found[example]
        if not choice.success:
            raise PoolError(f"example {example} could not be scored: {choice.error}")
        scores.append(-math.log1p(math.exp(choice.logprobs[NAMES[not label]] - choice.logprobs[NAMES[label]])))
    return scores


async def search(pool: VLLMPool, claims: Sequence[str], rounds: int, rng: random.Random) -> Labelling:
    """Search for the most coherent labelling."""
    count = len(claims)
    current = Labelling([rng.random() < 0.5 for _ in claims], [0] * count)
    scores = await score(pool, claims, current)
    best, highest = current, sum(scores)
    for now in range(1, rounds + 1):
        temperature = count / 4 * (1 - now / (rounds + 1)) ** 2
        doubtful = [example for example in range(count) if scores[example] < math.log(0.5)] or list(range(count))
        chosen = rng.sample(doubtful, min(len(doubtful), max(1, count // 8)))
        tried = current.flipped(chosen, now)
        new_scores = await score(pool, claims, tried)
        gain = sum(new_scores) - sum(scores)
        taken = gain >= 0 or rng.random() < math.exp(gain / temperature)
        print(
            f"round {now}: coherence {sum(new_scores) / count:.3f}, {len(chosen)} flipped"
            + ("" if taken else ", undone")
        )
        if taken:
            current, scores = tried, new_scores
        if sum(scores) > highest:
            best, highest = current, sum(scores)
    return best


async def main(hostfile: Path | None, rounds: int, seed: int) -> int:
    """Search for labels, and print them beside the truth."""
    claims = list(CLAIMS)
    async with AsyncExitStack() as stack:
        endpoints = (
            parse_hostfile(hostfile)
            if hostfile is not None
            else (await stack.enter_async_context(SimulatedFleet(4))).endpoints
        )
        pool = await stack.enter_async_context(VLLMPool(endpoints, prompting=PromptOptions(prompt_format="raw")))
        found = await search(pool, claims, rounds, random.Random(seed))
    for claim, label in zip(claims, found.labels, strict=True):
        print(f"{NAMES[label].strip():4} {claim}")
    # Nothing says which of the two answers is the true one: a labelling and its opposite are equally coherent.
    right = sum(label == truth for label, truth in zip(found.labels, CLAIMS.values(), strict=True))
    print(f"{max(right, len(claims) - right)} of {len(claims)} agree with the truth")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Label examples without any labels.")
    parser.add_argument("--hostfile", type=Path, help="the fleet to use; without it, 4 simulated agents")
    parser.add_argument("--rounds", type=int, default=6, help="how many times to flip labels and score again")
    parser.add_argument("--seed", type=int, default=0, help="for the first labels and the annealing")
    arguments = parser.parse_args()
    sys.exit(asyncio.run(main(arguments.hostfile, arguments.rounds, arguments.seed)))
