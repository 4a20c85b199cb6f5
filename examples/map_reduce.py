"""Summarise every paragraph, and merge the summaries file by file, all files at the same time.

::

    python examples/map_reduce.py                           # the texts here, on a simulated fleet
    python examples/map_reduce.py FOLDER --hostfile FILE    # your texts, on your fleet
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

from aurora_pool.patterns import map_reduce
from shared import open_pool, parse_arguments, read_texts


@dataclass(frozen=True)
class Paragraph:
    """A paragraph, and the file that it stands in."""

    file: str
    text: str

    def __str__(self) -> str:
        return self.text


async def main(folder: Path, hostfile: Path | None) -> int:
    """Print one summary per file; give the exit code, 1 if a paragraph is missing from one."""
    paragraphs = [
        Paragraph(name, paragraph) for name, text in read_texts(folder).items() for paragraph in text.split("\n\n")
    ]
    async with open_pool(hostfile) as pool:
        summaries = await map_reduce(
            pool,
            paragraphs,
            "Summarise in one sentence:\n\n{item}",
            "Merge these sentences from {key} into a short paragraph:\n\n{responses}",
            key=lambda paragraph: paragraph.file,
            max_tokens=32,
        )
    for name, summary in summaries.items():
        print(f"{name} ({summary.leaves} paragraphs):\n    {summary.text.strip()}\n")
    return 0 if all(summary.success for summary in summaries.values()) else 1


if __name__ == "__main__":
    arguments = parse_arguments("Summarise every file, paragraph by paragraph.")
    sys.exit(asyncio.run(main(arguments.folder, arguments.hostfile)))
