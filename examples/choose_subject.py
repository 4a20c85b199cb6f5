"""Sort texts by subject: the probability of each of a few answers, without generating any.

::

    python examples/choose_subject.py                           # the texts here, on a simulated fleet
    python examples/choose_subject.py FOLDER --hostfile FILE    # your texts, on your fleet
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aurora_pool.patterns import choose
from shared import open_pool, parse_arguments, read_texts

QUESTION = "{text}\n\nWhat is this text about: nature, technology or history? Answer with one word."
SUBJECTS = ["Nature", "Technology", "History"]


async def main(folder: Path, hostfile: Path | None) -> int:
    """Print the subject of every text; give the exit code, 1 if a text could not be judged."""
    texts = read_texts(folder)
    async with open_pool(hostfile) as pool:
        found = await choose(pool, [QUESTION.replace("{text}", text) for text in texts.values()], SUBJECTS)
    for name, choice in zip(texts, found, strict=True):
        shares = ", ".join(f"{subject} {share:.0%}" for subject, share in choice.probabilities.items())
        print(f"{name}: {choice.answer} ({shares})" if choice.success else f"{name}: failed: {choice.error}")
    return 0 if all(choice.success for choice in found) else 1


if __name__ == "__main__":
    arguments = parse_arguments("Sort the texts of a folder by subject.")
    sys.exit(asyncio.run(main(arguments.folder, arguments.hostfile)))
