"""The process of one client of the overhead benchmark: runs what it is told, line by line, and says what it cost.

``python -m benchmarks.overhead_worker CLIENT [--uvloop] URL...``; the first line out says that it is ready, or why not.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import sys
import time

from benchmarks.peers.shared import CASES, Case, Client, answer, prompt


async def measure(client: Client, case: Case, first: int, count: int) -> dict[str, float]:
    """Run a number of prompts of a case, check the answers, and return the CPU seconds and seconds that it took."""
    numbers = range(first, first + count)
    prompts = [prompt(number) for number in numbers]
    helper = client.helper_cpu()
    started, cpu = time.perf_counter(), time.process_time()
    answers = await client.run(case, prompts)
    cpu, seconds = time.process_time() - cpu, time.perf_counter() - started
    helper = client.helper_cpu() - helper
    results = [client.result(answer) for answer in answers]
    if len(results) != count:
        raise AssertionError(f"{case.name}: {count} prompts, {len(results)} answers")
    for number, result in zip(numbers, results, strict=True):
        if result.text != answer(number) or result.finish_reason != "stop":
            raise AssertionError(f"{case.name}, prompt {number}: expected {answer(number)[:40]!r}..., got {result}")
    return {"cpu": cpu, "helper_cpu": helper, "seconds": seconds, "prompts": count}


async def work(name: str, urls: list[str]) -> None:
    """Answer each line on standard input, ``{"case": 0, "prompts": 800}``, until it ends."""
    peer = importlib.import_module(f"benchmarks.peers.{name}")
    async with peer.open_client(urls) as client:
        say({"ready": True, "versions": client.versions, "skips": client.left_out})
        sent = 0
        while line := await asyncio.to_thread(sys.stdin.readline):
            task = json.loads(line)
            say(await measure(client, CASES[task["case"]], sent, task["prompts"]))
            sent += task["prompts"]  # no prompt twice: a pool would send it to the agent that knows it


def say(value: object) -> None:
    """Write a line."""
    print(json.dumps(value), flush=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("client")
    parser.add_argument("urls", nargs="+")
    parser.add_argument("--uvloop", action="store_true")
    arguments = parser.parse_args()
    if arguments.uvloop:
        import uvloop  # noqa: PLC0415 (not in the peers' environment)

        uvloop.run(work(arguments.client, arguments.urls))
    else:
        asyncio.run(work(arguments.client, arguments.urls))


if __name__ == "__main__":
    main()
