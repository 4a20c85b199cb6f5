"""Look at every text from three sides at once, and merge what was seen into one review.

::

    python examples/fan_out_fan_in.py                           # the texts here, on a simulated fleet
    python examples/fan_out_fan_in.py FOLDER --hostfile FILE    # your texts, on your fleet
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aurora_pool.patterns import fan_out_fan_in
from shared import open_pool, parse_arguments, read_texts

SIDES = {
    "facts": "{item}\n\nName the most important fact in this text:",
    "style": "{item}\n\nDescribe the style of this text in one sentence:",
    "gaps": "{item}\n\nWhat does this text leave out? In one sentence:",
}
MERGE = "Three remarks about the same text:\n\n{responses}\n\nA short review that says all of this:"


async def main(folder: Path, hostfile: Path | None) -> int:
    """Print a review of every text; give the exit code, 1 if one of them is incomplete."""
    texts = read_texts(folder)
    async with open_pool(hostfile) as pool:
        reviews = await fan_out_fan_in(pool, texts.values(), SIDES, MERGE, max_tokens=48)
    for name, review in zip(texts, reviews, strict=True):
        print(f"{name}:\n    {review.text.strip()}\n")
        for lost in review.lost:
            print(f"    without {lost}")
    return 0 if all(review.success for review in reviews) else 1


if __name__ == "__main__":
    arguments = parse_arguments("Review every text from three sides.")
    sys.exit(asyncio.run(main(arguments.folder, arguments.hostfile)))
