"""Summarise a folder of texts into one: every paragraph by itself, then summaries of summaries.

::

    python examples/tree_reduce_summary.py                             # the texts here, on a simulated fleet
    python examples/tree_reduce_summary.py FOLDER --hostfile FILE      # your texts, on your fleet
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from aurora_pool.patterns import tree_reduce
from shared import open_pool, parse_arguments, read_texts

PROMPT = "Summarise the following paragraph in one sentence.\n\n{item}\n\nSummary:"
REDUCE_PROMPT = "Merge the following summaries into one paragraph.\n\n{responses}\n\nMerged summary:"


def show_level(level: int, texts: Sequence[str]) -> None:
    """Print how far the reduction has come."""
    print(f"level {level}: {len(texts)} texts")


async def main(folder: Path, hostfile: Path | None) -> int:
    """Print one summary of all texts; give the exit code, 1 if the summary lacks a paragraph."""
    paragraphs = [paragraph for text in read_texts(folder).values() for paragraph in text.split("\n\n")]
    async with open_pool(hostfile) as pool:
        result = await tree_reduce(
            pool, PROMPT, REDUCE_PROMPT, fanin=4, items=paragraphs, max_tokens=64, on_level=show_level
        )
    print(f"\n{result.text.strip()}\n")
    print(f"{result.leaves} paragraphs, {result.levels} levels, {result.calls} prompts")
    for leaf in result.lost:
        print(f"lost: {leaf}")
    return 0 if result.success else 1


if __name__ == "__main__":
    arguments = parse_arguments("Summarise a folder of texts into one.")
    sys.exit(asyncio.run(main(arguments.folder, arguments.hostfile)))
