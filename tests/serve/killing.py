"""Kills servers at random moments while batches run, and checks that nothing is lost or doubled.

``python -m tests.serve.killing --kills 20`` with SQLite, ``--replicas 2 --database postgresql://...`` with PostgreSQL.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
from aiohttp import web

from aurora_pool.testing import AgentProfile, SimulatedFleet
from tests.forked import Run
from tests.serve.running import ENDED, line, submit

STARTING = 60.0


@dataclass
class Outcome:
    """What a run came to."""

    kills: int = 0
    answered_again: int = 0
    problems: list[str] = field(default_factory=list)


class Replica:
    """One ``aurora-pool serve`` process."""

    def __init__(self, folder: Path, hostfile: Path, port: int, database: str | None) -> None:
        self.port = port
        self._said = folder / f"server-{port}"
        self._said.mkdir()
        self._command = [
            "serve", "--hostfile", hostfile, "--data", folder / "data", "--port", port, "--private-webhooks",
            "--lease", "3", *(["--database", database] if database else []),
        ]  # fmt: skip
        self._process: Run | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        self._process = Run(self._said, *self._command)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            if self._process.alive:
                self._process.send(number)
            if number != signal.SIGSTOP:
                self._process.end()
                self._process = None

    def wake(self) -> None:
        if self._process is not None and self._process.alive:
            self._process.send(signal.SIGCONT)

    async def ready(self) -> None:
        """Wait until the server answers."""
        async with asyncio.timeout(STARTING):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    assert self._process is None or self._process.alive, self._process.said
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return


async def run(
    *, kills: int, batches: int = 5, requests: int = 300, replicas: int = 1, database: str | None = None, seed: int = 0,
    stops: bool = False,
) -> Outcome:  # fmt: skip
    """Run batches while servers are killed; return what was found."""
    rng = random.Random(seed)
    outcome = Outcome()
    events: Counter[tuple[str, str]] = Counter()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        profile = AgentProfile(slots=8, median_length=60.0)
        fleet = await stack.enter_async_context(SimulatedFleet(3, profile=profile, seed=seed))
        hostfile = fleet.write_hostfile(folder / "fleet.hostfile")
        hook = await _receive(stack, events)
        servers = [Replica(folder, hostfile, _kept_port(stack), database) for _ in range(replicas)]
        for server in servers:
            server.start()
            stack.callback(server.kill)
            stack.callback(server.wake)
            await server.ready()
        client = await stack.enter_async_context(
            openai.AsyncOpenAI(base_url=servers[0].url, api_key="none", max_retries=0, timeout=STARTING)
        )
        types: Any = ["batch.completed", "batch.failed", "batch.cancelled", "batch.expired"]
        await client.webhooks.create(name="tests", url=hook, event_types=types)
        names = [f"r{i}" for i in range(requests)]
        lines = [line(name, f"Say {name}.", max_tokens=40) for name in names]
        created = [await submit(client, lines) for _ in range(batches)]
        while outcome.kills < kills:
            await asyncio.sleep(rng.uniform(0.2, 1.2))
            victim = rng.choice(servers)
            if stops and rng.random() < 0.5:
                # As good as dead for longer than its lease; then it wakes up, and must not write anything twice.
                victim.kill(signal.SIGSTOP)
                await asyncio.sleep(5)
                victim.wake()
            else:
                victim.kill()
                victim.start()
            outcome.kills += 1
            for server in servers:
                await server.ready()
        await _check(client, [batch.id for batch in created], names, outcome)
        deadline = time.monotonic() + 120
        wanted = {("batch.completed", batch.id) for batch in created}
        while not wanted <= set(events) and time.monotonic() < deadline:  # noqa: ASYNC110 - two places are looked at
            await asyncio.sleep(0.1)
        outcome.problems += [f"no webhook of {kind} {batch}" for kind, batch in wanted - set(events)]
        outcome.problems += [f"a wrong webhook: {event}" for event in set(events) - wanted]
        outcome.answered_again = fleet.prompts_answered - batches * requests
    return outcome


async def _check(client: openai.AsyncOpenAI, ids: Sequence[str], names: Sequence[str], outcome: Outcome) -> None:
    for batch_id in ids:
        async with asyncio.timeout(300):
            while (batch := await client.batches.retrieve(batch_id)).status not in ENDED:  # noqa: ASYNC110 - elsewhere
                await asyncio.sleep(0.1)
        if batch.status != "completed" or batch.error_file_id or not batch.output_file_id:
            outcome.problems.append(f"{batch_id} is {batch.status}, errors {batch.error_file_id}")
            continue
        content = await client.files.content(batch.output_file_id)
        found = Counter(json.loads(each)["custom_id"] for each in content.text.splitlines())
        outcome.problems += [
            f"{batch_id}: {name} stands there {found[name]} times" for name in names if found[name] != 1
        ]
        counts = batch.request_counts
        if counts is None or (counts.completed, counts.failed, counts.total) != (len(names), 0, len(names)):
            outcome.problems.append(f"{batch_id}: counts {counts}")


async def _receive(stack: AsyncExitStack, events: Counter[tuple[str, str]]) -> str:
    async def take(request: web.Request) -> web.Response:
        event = await request.json()
        events[event["type"], event["data"]["id"]] += 1
        return web.Response()

    app = web.Application()
    app.add_routes([web.post("/hook", take)])
    runner = web.AppRunner(app)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}/hook"


def _kept_port(stack: AsyncExitStack) -> int:
    """Give a port that nobody else gets meanwhile: a bound socket that does not listen keeps it for the servers."""
    keeper = stack.enter_context(socket.socket())
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeper.bind(("127.0.0.1", 0))
    port: int = keeper.getsockname()[1]
    return port


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--database")
    parser.add_argument("--stops", action="store_true", help="stop some for longer than their lease, and wake them")
    parser.add_argument("--seed", type=int, default=os.getpid())
    outcome = asyncio.run(run(**vars(parser.parse_args())))
    print(  # noqa: T201 - a command
        f"{outcome.kills} kills, {outcome.answered_again} answers made again; problems: {outcome.problems or 'none'}"
    )
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
