"""What ``aurora-pool serve`` costs: ``python -m benchmarks.serve [cpu] [batch] [upload] [small] [latency] [streams]``.

Everything runs on simulated agents in a process of their own. Ratios are of one run, the two sides taking turns; CPU is
the server process's own, so other load on the machine hardly matters.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import openai

from aurora_pool import parse_hostfile
from benchmarks.serve_peers import LITELLM, installed, start_command
from benchmarks.serve_processes import AURORA_POOL, Process, fleet, ready, server
from tests.ports import free_port

MODEL = "simulated-model"
AT_ONCE = 32
ROUNDS = 12
MIB = 1 << 20


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


async def cpu(folder: Path, *, peers: bool) -> None:
    """CPU a request, beside a bare proxy and other gateways."""
    with fleet(folder, "--agents", "4", "--instant") as hostfile, server(folder, hostfile) as ours:
        port = free_port()
        proxy = [sys.executable, "-m", "benchmarks.serve_proxy", "--hostfile", str(hostfile), "--port", str(port)]
        gateways = {"a bare proxy": Process(proxy, port), "aurora-pool serve": ours}
        urls = [endpoint.base_url for endpoint in parse_hostfile(hostfile)]
        for name in installed() if peers else ():
            ports = free_port(), free_port()
            gateways[name] = Process(start_command(name, folder, urls, ports, MODEL), ports[0])
        try:
            await ready(*gateways.values())
            for stream, count in ((False, 1000), (True, 500)):
                costs: dict[str, list[float]] = {name: [] for name in gateways}
                for process in gateways.values():
                    await load(process.url, 200, stream=stream)
                for _ in range(ROUNDS):
                    for name, process in gateways.items():
                        some = count // 10 if name == LITELLM else count
                        before = process.cpu
                        await load(process.url, some, stream=stream)
                        costs[name].append((process.cpu - before) / some * 1e6)
                least = costs["a bare proxy"]
                for name, spent in costs.items():
                    ratio = statistics.median(each / floor for each, floor in zip(spent, least, strict=True))
                    what = "streamed, 20 tokens" if stream else "not streamed"
                    print(
                        f"{what}: {name} {statistics.median(spent):.0f} us of CPU a request, {ratio:.2f}x", flush=True
                    )
        finally:
            for process in gateways.values():
                if process is not ours:
                    process.stop()


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
                command = [*AURORA_POOL, "run", str(source), "-o", str(folder / f"out{turn}.jsonl")]
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
    """Many small batches at once, of two users, one of whom has handed in all of them before the other begins."""
    source = folder / "small.jsonl"
    write_batch(source, 20)
    port = free_port()
    data = ["--data", str(folder / f"data-{port}")]
    options = ("--batches-queued", str(batches))
    users = ("ann", "bob")
    keys = [
        subprocess.run(  # noqa: ASYNC221 - nothing else runs yet
            [*AURORA_POOL, "keys", "create", *data, "--user", user], check=True, capture_output=True, text=True
        ).stdout.strip()
        for user in users
    ]
    with fleet(folder, "--agents", "4", "--slots", "32", "--speed", "2") as hostfile:
        command = [*AURORA_POOL, "serve", "--hostfile", str(hostfile), *data, "--port", str(port), *options]
        ours = Process(command, port)
        try:
            await _small(ours, [await _client(ours, key) for key in keys], source, batches // len(users))
        finally:
            ours.stop()


async def _client(process: Process, key: str) -> openai.AsyncOpenAI:
    client = openai.AsyncOpenAI(base_url=f"{process.url}/v1", api_key=key, timeout=600, max_retries=10)
    while True:
        try:
            await client.models.list()
        except openai.APIError:
            await asyncio.sleep(0.1)
        else:
            return client


async def _small(ours: Process, clients: list[openai.AsyncOpenAI], source: Path, each: int) -> None:
    window: Any = "7d"
    began = time.monotonic()
    for client in clients:
        file = await client.files.create(file=source, purpose="batch")
        turn = asyncio.Semaphore(16)

        async def one(client: openai.AsyncOpenAI, file_id: str, turn: asyncio.Semaphore) -> None:
            async with turn:
                await client.batches.create(input_file_id=file_id, endpoint="/v1/completions", completion_window=window)

        await asyncio.gather(*(one(client, file.id, turn) for _ in range(each)))
    created = time.monotonic() - began

    async def done(client: openai.AsyncOpenAI) -> int:
        return sum([batch.status == "completed" async for batch in client.batches.list(limit=100)])

    at_first = [await done(client) for client in clients]
    shares = None
    while True:
        counts = [await done(client) for client in clients]
        gained = [now - before for now, before in zip(counts, at_first, strict=True)]
        if max(counts) < each:  # both have batches that wait
            shares = gained
        if min(counts) == each:
            break
        await asyncio.sleep(0.3)
    for client in clients:
        await client.close()
    print(
        f"{len(clients) * each} batches of 20 of two users: created in {created:.1f} s, all done in "
        f"{time.monotonic() - began:.1f} s; while both had some waiting they got {shares}; {ours.peak:.0f} MiB"
    )


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

    for slots in (64, 256):
        with fleet(folder, "--agents", "4", "--slots", str(slots)) as hostfile, server(folder, hostfile) as ours:
            await ready(ours)
            idle = await measure(ours.url)
            async with openai.AsyncOpenAI(base_url=f"{ours.url}/v1", api_key="none", timeout=600) as client:
                with source.open("rb") as content:
                    file_object = await client.files.create(file=content, purpose="batch")
                running = asyncio.create_task(run_batch(client, file_object.id))
                await asyncio.sleep(10)
                alone = await _rate(client, 10.0)
                asking = asyncio.create_task(measure(ours.url))
                beside = await _rate(client, 25.0)
                busy = await asking
                still = not running.done()
                running.cancel()
        print(
            f"{slots} slots: p95 idle {idle:.2f} s, beside a batch {busy:.2f} s: {busy / idle:.2f}x; "
            f"the batch {alone:.0f} lines/s alone, {beside:.0f} beside online requests (running: {still})",
            flush=True,
        )


async def _rate(client: openai.AsyncOpenAI, seconds: float) -> float:
    """Lines a second that the newest batch gets."""

    async def done() -> int:
        counts = (await client.batches.list(limit=1)).data[0].request_counts
        return counts.completed if counts else 0

    before, began = await done(), time.monotonic()
    await asyncio.sleep(seconds)
    return (await done() - before) / (time.monotonic() - began)


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
    parser.add_argument("--peers", action="store_true", help="cpu: beside LiteLLM's proxy and vllm-router")
    arguments = parser.parse_args()
    parts: dict[str, Callable[[Path], Awaitable[None]]] = {
        "cpu": lambda folder: cpu(folder, peers=arguments.peers),
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
