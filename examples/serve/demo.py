"""A server over a simulated fleet, and a batch by the openai client: run it, then try the printed address."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import tempfile
from pathlib import Path

import openai

from aurora_pool.serve import ServerOptions, serving
from aurora_pool.testing import AgentProfile, SimulatedFleet

MODEL = "simulated-model"
REQUESTS = 500


def questions() -> bytes:
    """A batch file."""
    lines = []
    for number in range(REQUESTS):
        messages = [{"role": "user", "content": f"What is special about the number {number}?"}]
        body = {"model": MODEL, "messages": messages, "max_tokens": 60}
        request = {"custom_id": f"number-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        lines.append(json.dumps(request) + "\n")
    return "".join(lines).encode()


async def run_batch(address: str) -> None:
    """What code written for OpenAI does; only ``base_url`` is another."""
    async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none") as client:
        file = await client.files.create(file=("questions.jsonl", questions()), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        while batch.status not in {"completed", "failed", "expired", "cancelled"}:
            await asyncio.sleep(0.5)
            batch = await client.batches.retrieve(batch.id)
            counts = batch.request_counts
            print(f"{batch.id}: {batch.status}, {counts.completed if counts else 0} of {REQUESTS}")
        assert batch.output_file_id is not None
        answers = await client.files.content(batch.output_file_id)
        print(answers.text.splitlines()[0])


async def main(*, port: int, stay: bool, time_scale: float) -> None:
    """Start everything, run a batch, and stay."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    fleet = SimulatedFleet(4, profile=AgentProfile(slots=16, median_length=60.0), time_scale=time_scale)
    with tempfile.TemporaryDirectory() as folder:
        async with fleet, serving(fleet.endpoints, ServerOptions(data=Path(folder), port=port)) as server:
            print(f"serving 4 simulated agents at {server.address}")
            await run_batch(server.address)
            if stay:
                print(
                    f"the dashboard: {server.address}/ui/   a request: curl {server.address}/v1/models   Ctrl-C ends it"
                )
                await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--once", action="store_true", help="end when the batch has ended")
    parser.add_argument("--time-scale", type=float, default=1.0, help="how many times as fast as real ones agents are")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(port=arguments.port, stay=not arguments.once, time_scale=arguments.time_scale))
