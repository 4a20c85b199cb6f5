"""Summarise a folder of documents of any length into one text.

::

    python examples/summarize_folder.py                           # the texts here, on a simulated fleet
    python examples/summarize_folder.py FOLDER --hostfile FILE    # your documents, on your fleet

``aurora-pool summarize FILES`` does the same from the command line.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aurora_pool.patterns import Document, summarize
from shared import open_pool, parse_arguments, read_texts


async def main(folder: Path, hostfile: Path | None) -> int:
    """Print the summary, and what it lacks; give the exit code, 1 if it lacks anything."""
    documents = [Document(name, text) for name, text in read_texts(folder).items()]
    async with open_pool(hostfile) as pool:
        summary = await summarize(pool, documents, chunk_tokens=200, max_tokens=48)
    print(f"{summary.text.strip()}\n")
    print(f"{len(documents)} documents in {summary.leaves} chunks, {summary.calls} prompts")
    for chunk in summary.lost:
        print(f"not in the summary: {chunk}")
    return 0 if summary.success else 1


if __name__ == "__main__":
    arguments = parse_arguments("Summarise a folder of documents of any length.")
    sys.exit(asyncio.run(main(arguments.folder, arguments.hostfile)))
