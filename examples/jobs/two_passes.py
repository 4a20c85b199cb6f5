"""Two passes over rows of text: the first cleans them, the second extracts from what the first made.

    python examples/jobs/two_passes.py rows.txt --hostfile fleet.hostfile

Each pass is a job of its own, with an output of its own: kill it in either, start it again, and it goes on there.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aurora_pool import VLLMPool
from aurora_pool.jobs import read_answers, run_job

ROWS = Path(__file__).parent / "rows.txt"
CLEAN = "Correct the spelling of this line, and write nothing else:\n{row}"
EXTRACT = "Name the place and the year in this line, as 'place, year':\n{row}"


def clean(rows: list[str]) -> Iterator[dict[str, Any]]:
    """Make the requests of the first pass, one for each row."""
    for number, row in enumerate(rows, start=1):
        yield {"id": f"row-{number}", "prompt": CLEAN.format(row=row), "max_tokens": 100, "temperature": 0}


def extract(cleaned: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Make the requests of the second pass; the ids are those of the rows. Rows that failed stay out."""
    for name, row in cleaned.items():
        yield {"id": name, "prompt": EXTRACT.format(row=row), "max_tokens": 20, "temperature": 0}


async def main() -> None:
    """Clean, extract, and print what was found beside each row."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("rows", type=Path, nargs="?", default=ROWS)
    parser.add_argument("--hostfile", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("two-passes"))
    arguments = parser.parse_args()
    rows = arguments.rows.read_text(encoding="utf-8").splitlines()
    arguments.folder.mkdir(exist_ok=True)
    first, second = arguments.folder / "clean.jsonl", arguments.folder / "extract.jsonl"
    async with VLLMPool.from_hostfile(arguments.hostfile) as pool:
        await run_job(pool, clean(rows), first)
        cleaned = {answer.id: answer.text for answer in read_answers(first) if answer.text is not None}
        await run_job(pool, extract(cleaned), second)
    found = {answer.id: answer.text for answer in read_answers(second)}
    for number, row in enumerate(rows, start=1):
        print(f"{row} -> {found.get(f'row-{number}') or 'failed'}")


if __name__ == "__main__":
    asyncio.run(main())
