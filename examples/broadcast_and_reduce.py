"""Have every agent of the fleet read the same text, and merge what they say into a consensus.

::

    python examples/broadcast_and_reduce.py                           # a text from here, on a simulated fleet
    python examples/broadcast_and_reduce.py FOLDER --hostfile FILE    # your first text, on your fleet
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aurora_pool.patterns import broadcast_and_reduce
from shared import open_pool, parse_arguments, read_texts

CONSENSUS = "Several readers each named the main point of the same text:\n\n{responses}\n\nWhat they agree on:"


async def main(folder: Path, hostfile: Path | None) -> int:
    """Print the consensus, and the agents that did not take part; give the exit code, 1 if there are any."""
    name, text = next(iter(read_texts(folder).items()))
    async with open_pool(hostfile) as pool:
        result = await broadcast_and_reduce(pool, f"{text}\n\nThe main point of this text:", CONSENSUS, max_tokens=32)
    print(f"{name}, as read by {result.leaves - len(result.lost)} agents:\n    {result.text.strip()}")
    for agent in result.lost:
        print(f"not heard: {agent}")
    return 0 if result.success else 1


if __name__ == "__main__":
    arguments = parse_arguments("Have every agent read the first text of a folder.")
    sys.exit(asyncio.run(main(arguments.folder, arguments.hostfile)))
