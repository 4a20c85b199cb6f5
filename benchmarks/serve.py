"""What ``aurora-pool serve`` costs: ``python -m benchmarks.serve [cpu] [batch] [upload] [small] [latency] [streams]``.

Everything runs on simulated agents in a process of their own. Ratios are of one run, the two sides taking turns; CPU is
the server process's own, so other load on the machine hardly matters.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import openai

MODEL = "simulated-model"
AT_ONCE = 32
ROUNDS = 4
MIB = 1 << 20


class Process:
    """A process that is measured from outside."""

    def __init__(self, command: list[str], port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command], stderr=subprocess.DEVNULL if not os.environ.get("DEBUG") else None
        )

    @property
    def cpu(self) -> float:
        """Seconds of CPU that its threads have used, as the scheduler counts them."""
        threads = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9

    @property
    def peak(self) -> float:
        """MiB that it has had in memory at most."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def fleet(folder: Path, *options: str) -> Iterator[Path]:
    """Simulated agents in a process of their own; gives their hostfile."""
    hostfile = folder / "fleet.hostfile"
    command = [sys.executable, "-m", "aurora_pool", "sim", "--hostfile", str(hostfile), *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL if not os.environ.get("DEBUG") else None)
    try:
        while not hostfile.exists():
            time.sleep(0.05)
        yield hostfile
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def server(folder: Path, hostfile: Path, *options: str) -> Iterator[Process]:
    """The server under measurement."""
    port = free_port()
    data = str(folder / f"data-{port}")
    command = ["aurora_pool", "serve", "--hostfile", str(hostfile), "--data", data, "--port", str(port), *options]
    process = Process(command, port)
    try:
        yield process
    finally:
        process.stop()


async def ready(*processes: Process) -> None:
    """Wait until servers answer."""
    async with aiohttp.ClientSession() as session:
        for process in processes:
            while True:
                try:
                    async with session.get(f"{process.url}/v1/models") as reply:
                        if reply.status == 200:
                            break
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.1)


async def load(url: str, count: int, *, stream: bool) -> None:
    """Make requests, some at once."""
    messages = [{"role": "user", "content": "Say something of about twenty words about the sea."}]
    body = {"model": MODEL, "messages": messages, "max_tokens": 20, "stream": stream, "ignore_eos": True}
    numbers = iter(range(count))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def work() -> None:
            for _ in numbers:
                async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
                    await reply.read()
                    assert reply.status == 200, (url, await reply.text())

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))


async def cpu(folder: Path) -> None:
    """CPU a request, beside a bare proxy."""
    with fleet(folder, "--agents", "4", "--instant") as hostfile, server(folder, hostfile) as ours:
        port = free_port()
        bare = Process(["benchmarks.serve_proxy", "--hostfile", str(hostfile), "--port", str(port)], port)
        try:
            await ready(ours, bare)
            for stream, count in ((False, 2000), (True, 1000)):
                costs: dict[Process, list[float]] = {ours: [], bare: []}
                for process in (ours, bare):
                    await load(process.url, 200, stream=stream)
                for _ in range(ROUNDS):
                    for process, spent in costs.items():
                        before = process.cpu
                        await load(process.url, count, stream=stream)
                        spent.append((process.cpu - before) / count * 1e6)
                mine, least = (statistics.median(costs[process]) for process in (ours, bare))
                what = "streamed, 20 tokens" if stream else "not streamed"
                print(f"{what}: {mine:.0f} us of CPU a request, a bare proxy {least:.0f}: {mine / least:.2f}x")
        finally:
            bare.stop()


def write_batch(path: Path, lines: int) -> None:
    """Write a batch file."""
    with path.open("w") as file:
        for number in range(lines):
            body = {"model": MODEL, "prompt": f"Say number {number}.", "max_tokens": 8}
            request = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/completions", "body": body}
            file.write(json.dumps(request) + "\n")


async def run_batch(client: openai.AsyncOpenAI, file_id: str) -> Any:
    """Create a batch, and wait for its end."""
    window: Any = "7d"
    batch = await client.batches.create(input_file_id=file_id, endpoint="/v1/completions", completion_window=window)
    while batch.status not in {"completed", "failed", "expired", "cancelled"}:
        await asyncio.sleep(0.1)
        batch = await client.batches.retrieve(batch.id)
    assert batch.status == "completed", batch
    return batch


async def batch(folder: Path, lines: int) -> None:
    """A large batch, beside ``aurora-pool run`` on the same file."""
    source = folder / "in.jsonl"
    write_batch(source, lines)
    with fleet(folder, "--agents", "4", "--instant") as hostfile, server(folder, hostfile) as ours:
        await ready(ours)
        async with openai.AsyncOpenAI(base_url=f"{ours.url}/v1", api_key="none", timeout=600) as client:
            with source.open("rb") as content:
                file = await client.files.create(file=content, purpose="batch")
            served, ran = [], []
            for turn in range(2):
                began = time.monotonic()
                command = [
                    sys.executable,
                    "-m",
                    "aurora_pool",
                    "run",
                    str(source),
                    "-o",
                    str(folder / f"out{turn}.jsonl"),
                ]
                await asyncio.to_thread(
                    subprocess.run, [*command, "--hostfile", str(hostfile), "--quiet", "--no-run-log"], check=True
                )
                ran.append(time.monotonic() - began)
                began = time.monotonic()
                done = await run_batch(client, file.id)
                served.append(time.monotonic() - began)
                assert done.request_counts.completed == lines
        ratio = min(served) / min(ran)
        print(
            f"a batch of {lines:,}: {min(served):.1f} s, aurora-pool run {min(ran):.1f} s: {ratio:.2f}x; "
            f"server memory at most {ours.peak:.0f} MiB"
        )


async def upload(folder: Path, size: int = 200 * MIB) -> None:
    """Memory while a large file comes in."""
    source = folder / "big.jsonl"
    with source.open("wb") as file:
        for _ in range(size // MIB):
            file.write(b"x" * (MIB - 1) + b"\n")
    with fleet(folder, "--agents", "1", "--instant") as hostfile, server(folder, hostfile) as ours:
        await ready(ours)
        before = ours.peak
        async with aiohttp.ClientSession() as session:
            data = aiohttp.FormData()
            data.add_field("purpose", "batch")
            data.add_field("file", source.open("rb"), filename="big.jsonl")
            began = time.monotonic()
            async with session.post(f"{ours.url}/v1/files", data=data) as reply:
                assert (await reply.json())["bytes"] == size
        seconds = time.monotonic() - began
        print(f"an upload of {size // MIB} MiB: {seconds:.1f} s, memory from {before:.0f} to {ours.peak:.0f} MiB")


async def small(folder: Path, batches: int = 1000) -> None:
    """Many small batches at once, of two users' kind of sizes."""
    source = folder / "small.jsonl"
    write_batch(source, 20)
    options = ("--batches-queued", str(batches + 10))
    with fleet(folder, "--agents", "4", "--instant") as hostfile, server(folder, hostfile, *options) as ours:
        await ready(ours)
        async with openai.AsyncOpenAI(base_url=f"{ours.url}/v1", api_key="none", timeout=600) as client:
            file = await client.files.create(file=source, purpose="batch")
            began = time.monotonic()
            turn = asyncio.Semaphore(50)

            async def one() -> str:
                async with turn:
                    window: Any = "7d"
                    return (
                        await client.batches.create(
                            input_file_id=file.id, endpoint="/v1/completions", completion_window=window
                        )
                    ).id

            ids = set(await asyncio.gather(*(one() for _ in range(batches))))
            created = time.monotonic() - began
            states: dict[str, str] = {}
            while sum(status == "completed" for status in states.values()) < batches:
                await asyncio.sleep(0.5)
                async for each in client.batches.list(limit=100):
                    states[each.id] = each.status
            assert ids <= set(states)
            seconds = time.monotonic() - began
        print(f"{batches} batches of 20: created in {created:.1f} s, all done in {seconds:.1f} s")


async def latency(folder: Path, lines: int) -> None:
    """Online latency with and without a large batch beside it."""
    source = folder / "in.jsonl"
    with source.open("w") as file:
        for number in range(lines):
            body = {"model": MODEL, "prompt": f"Say number {number}.", "max_tokens": 100}
            request = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/completions", "body": body}
            file.write(json.dumps(request) + "\n")

    async def measure(url: str) -> float:
        found = []
        body = {"model": MODEL, "prompt": "Say something.", "max_tokens": 100, "ignore_eos": True}
        async with aiohttp.ClientSession() as session:
            for _ in range(40):
                began = time.monotonic()
                async with session.post(f"{url}/v1/completions", json=body) as reply:
                    await reply.read()
                found.append(time.monotonic() - began)
        return sorted(found)[int(0.95 * len(found))]

    with fleet(folder, "--agents", "4", "--slots", "64") as hostfile, server(folder, hostfile) as ours:
        await ready(ours)
        idle = await measure(ours.url)
        async with openai.AsyncOpenAI(base_url=f"{ours.url}/v1", api_key="none", timeout=600) as client:
            with source.open("rb") as content:
                file_object = await client.files.create(file=content, purpose="batch")
            running = asyncio.create_task(run_batch(client, file_object.id))
            await asyncio.sleep(5)
            busy = await measure(ours.url)
            still = not running.done()
            running.cancel()
        print(
            f"p95 of a request: idle {idle:.2f} s, beside a batch {busy:.2f} s: {busy / idle:.2f}x (running: {still})"
        )


async def streams(folder: Path, count: int = 2000) -> None:
    """Many streams open at once."""
    options = ("--agents", "8", "--slots", "512", "--speed", "0.2")
    with fleet(folder, *options) as hostfile, server(folder, hostfile) as ours:
        await ready(ours)
        body = {"model": MODEL, "prompt": "p", "max_tokens": 64, "stream": True, "ignore_eos": True}
        timeout = aiohttp.ClientTimeout(total=600)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:

            async def one() -> str:
                async with session.post(f"{ours.url}/v1/completions", json=body) as reply:
                    content = await reply.read()
                    if not content.endswith(b"data: [DONE]\n\n"):
                        return "lost"
                    # Where one process simulates all agents on a busy machine, agents themselves break streams off.
                    return "whole" if content.count(b'"text"') >= 64 else "ended by the agent"

            began = time.monotonic()
            ends = Counter(await asyncio.gather(*(one() for _ in range(count))))
        print(f"{count} streams at once: {dict(ends)}, {time.monotonic() - began:.1f} s, {ours.peak:.0f} MiB")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["cpu", "batch", "upload", "small", "latency", "streams"])
    parser.add_argument("--lines", type=int, default=100_000, help="of the large batch")
    arguments = parser.parse_args()
    parts: dict[str, Callable[[Path], Awaitable[None]]] = {
        "cpu": cpu,
        "batch": lambda folder: batch(folder, arguments.lines),
        "upload": upload,
        "small": small,
        "latency": lambda folder: latency(folder, arguments.lines),
        "streams": streams,
    }
    for name in arguments.what:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(parts[name](Path(folder)))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
