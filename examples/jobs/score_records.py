"""Score thousands of records: structured answers, one JSON object each, collected into a table.

    python examples/jobs/score_records.py --hostfile fleet.hostfile

Kill it and start it again: it goes on. ``aurora-pool sim -o fleet.hostfile`` gives a fleet to try it on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aurora_pool import VLLMPool
from aurora_pool.jobs import read_answers, run_job

COLOURS = ("red", "green", "blue", "black", "white")
FAULTS = ("arrived late", "works as described", "broke after a week", "is louder than expected", "is a bargain")
SCHEMA = {
    "type": "object",
    "properties": {"score": {"enum": [1, 2, 3, 4, 5]}, "complaint": {"type": "boolean"}},
    "required": ["score", "complaint"],
    "additionalProperties": False,
}


def requests(count: int) -> Iterator[dict[str, Any]]:
    """Make one request for each record, its id among them."""
    schema = {"type": "json_schema", "json_schema": {"name": "score", "schema": SCHEMA}}
    for number in range(count):
        review = f"The {COLOURS[number % 5]} kettle, number {number}, {FAULTS[number // 5 % 5]}."
        question = f"Score this review from 1 (angry) to 5 (delighted) and say if it is a complaint, as JSON: {review}"
        yield {
            "custom_id": f"review-{number:05}",
            "messages": [{"role": "user", "content": question}],
            "response_format": schema,
            "temperature": 0,
            "max_tokens": 64,
        }


async def main() -> None:
    """Score, then count what the scores say."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--hostfile", type=Path, required=True)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=Path("scores.jsonl"))
    arguments = parser.parse_args()
    async with VLLMPool.from_hostfile(arguments.hostfile) as pool:
        summary = await run_job(pool, requests(arguments.records), arguments.output)
    scores: Counter[Any] = Counter()
    for answer in read_answers(arguments.output):
        try:
            scores[json.loads(answer.text or "")["score"]] += 1
        except (ValueError, KeyError, TypeError):
            scores["unusable"] += 1  # cut off at max_tokens, or failed
    print(f"{summary.answered} of {summary.total} answered, {summary.prompts_per_second:.0f} records/s")
    for score, count in sorted(scores.items(), key=str):
        print(f"{score}: {count}")


if __name__ == "__main__":
    asyncio.run(main())
