"""Ask the same question about every text five times over, and let the majority decide.

::

    python examples/sample_and_vote.py                           # the texts here, on a simulated fleet
    python examples/sample_and_vote.py FOLDER --hostfile FILE    # your texts, on your fleet
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aurora_pool import Response, Sampling
from aurora_pool.aggregators import failure_report, majority_vote
from aurora_pool.patterns import sample_many
from shared import open_pool, parse_arguments, read_texts

QUESTION = "{text}\n\nIs this text about work done by hand? Answer yes or no:"
SAMPLES = 5


def first_word(response: Response) -> str | None:
    """Take the first word for the vote."""
    words = response.text.split()
    return words[0].strip(".,!").lower() if words else None


async def main(folder: Path, hostfile: Path | None) -> int:
    """Print how the vote on each text went; give the exit code, 1 if a vote is missing."""
    texts = read_texts(folder)
    prompts = [QUESTION.replace("{text}", text) for text in texts.values()]
    async with open_pool(hostfile) as pool:
        sampling = Sampling(temperature=0.8, seed=1)
        answers = await sample_many(pool, prompts, SAMPLES, max_tokens=8, sampling=sampling)
    for name, samples in zip(texts, answers, strict=True):
        vote = majority_vote(samples, key=first_word)
        print(f"{name}: {vote.winner} ({vote.share:.0%} of {sum(vote.counts.values())} votes)")
    report = failure_report([sample for samples in answers for sample in samples])
    print(report)
    return 1 if report.failed else 0


if __name__ == "__main__":
    arguments = parse_arguments("Let samples vote on every text in a folder.")
    sys.exit(asyncio.run(main(arguments.folder, arguments.hostfile)))
