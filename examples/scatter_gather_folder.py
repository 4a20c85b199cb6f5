"""Ask the same of every text in a folder: one prompt per file, spread over the fleet.

::

    python examples/scatter_gather_folder.py                           # the texts here, on a simulated fleet
    python examples/scatter_gather_folder.py FOLDER --hostfile FILE    # your texts, on your fleet
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aurora_pool.patterns import map_gather
from shared import open_pool, parse_arguments, read_texts

TEMPLATE = "Summarise the following text in two sentences.\n\n{item}\n\nSummary:"


async def main(folder: Path, hostfile: Path | None) -> int:
    """Print a summary of every text; give the exit code, 1 if a text could not be summarised."""
    texts = read_texts(folder)
    async with open_pool(hostfile) as pool:
        responses = await map_gather(pool, TEMPLATE, texts.values(), max_tokens=96)
    for name, response in zip(texts, responses, strict=True):
        answer = response.text.strip() if response.success else f"failed: {response.error}"
        print(f"{name} (agent {response.agent_index}):\n    {answer}\n")
    return 0 if all(response.success for response in responses) else 1


if __name__ == "__main__":
    arguments = parse_arguments("Summarise every text in a folder.")
    sys.exit(asyncio.run(main(arguments.folder, arguments.hostfile)))
