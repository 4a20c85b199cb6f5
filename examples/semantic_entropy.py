"""Ask questions about texts ten times over, and see by the meaning of the answers how sure the model is.

::

    python examples/semantic_entropy.py                           # the texts here, on a simulated fleet
    python examples/semantic_entropy.py FOLDER --hostfile FILE    # your texts, on your fleet

A high semantic entropy is a warning: the model gives answers of different meaning (Farquhar et al., Nature 630, 2024).
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aurora_pool import Sampling
from aurora_pool.patterns import semantic_entropy
from shared import open_pool, parse_arguments, read_texts

QUESTION = "{text}\n\nIn one short sentence: what happens in this text?"
SAMPLES = 10


async def main(folder: Path, hostfile: Path | None) -> int:
    """Print how sure the model is of each text; give the exit code, 1 if one could not be found out."""
    texts = read_texts(folder)
    prompts = [QUESTION.replace("{text}", text) for text in texts.values()]
    async with open_pool(hostfile) as pool:
        sampling = Sampling(temperature=1.0, seed=1)
        found = await semantic_entropy(pool, prompts, SAMPLES, max_tokens=40, sampling=sampling)
    for name, one in zip(texts, found, strict=True):
        if not one.success:
            print(f"{name}: {one.error}")
            continue
        meanings = len(set(one.clusters))
        print(f"{name}: {meanings} meanings in {len(one.texts)} answers, semantic entropy {one.semantic_entropy:.2f}")
    return 0 if all(one.success for one in found) else 1


if __name__ == "__main__":
    arguments = parse_arguments("Tell how sure the model is of its answers about every text in a folder.")
    sys.exit(asyncio.run(main(arguments.folder, arguments.hostfile)))
