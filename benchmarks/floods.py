"""How much memory a pool takes where one agent of four never ends its replies: as much as was asked for, and no more.

    python -m benchmarks.floods              # about a minute; --max-tokens for what prompts ask for

The servers are those of tests/hostile, in a process of their own; each flood meets a client of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from aurora_pool import AgentEndpoint, PromptOptions, VLLMPool
from benchmarks.printing import machine, table
from tests.hostile.odd_server import OddServer, good, text_for
from tests.hostile.test_bounds import floods

PROMPTS = 600
AGENTS = 4
MAX_TOKENS = 512
LIMIT_MB = 100.0
NONE = "none"
FLOODS: dict[str, Any] = {NONE: good} | {str(each.id): each.values[0] for each in floods()}


def peak_mb() -> float:
    """The most memory of this process that was in RAM at a time."""
    with Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024 / 1e6


async def serve(name: str) -> None:
    """Serve one agent with that flood, and three good ones, until standard input ends; print their ports."""
    servers = [OddServer(FLOODS[name]), *(OddServer(good) for _ in range(AGENTS - 1))]
    for server in servers:
        await server.start()
    print(*(server.endpoint.port for server in servers), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(getattr(FLOODS[name], "sent", 0))
    for server in servers:
        await server.close()


async def ask(ports: list[int], max_tokens: int) -> dict[str, float]:
    """Answer prompts; return how many were, the peak of memory, and the longest that the loop did not turn."""
    loop, longest = asyncio.get_running_loop(), 0.0

    async def turn() -> None:
        nonlocal longest
        while True:
            before = loop.time()
            await asyncio.sleep(0.01)
            longest = max(longest, loop.time() - before - 0.01)

    turning = asyncio.create_task(turn())
    endpoints = [AgentEndpoint("127.0.0.1", port) for port in ports]
    prompts = [f"prompt {number}" for number in range(PROMPTS)]
    raw = PromptOptions(prompt_format="raw")
    async with VLLMPool(endpoints, model="m", max_tokens=max_tokens, prompting=raw) as pool:
        began = loop.time()
        responses = await pool.send_all_batched(prompts)
        seconds = loop.time() - began
    turning.cancel()
    right = sum(r.success and r.text == text_for(p) for p, r in zip(prompts, responses, strict=True))
    return {"answered": right, "peak": peak_mb(), "lag": longest, "seconds": seconds}


def measure(name: str, max_tokens: int) -> dict[str, float]:
    """Let a client of its own meet a flood."""
    this = [sys.executable, "-m", "benchmarks.floods", "--max-tokens", str(max_tokens)]
    with subprocess.Popen([*this, "--serve", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        ports = server.stdout.readline().split()
        try:
            ran = subprocess.run([*this, "--ask", *ports], capture_output=True, text=True, check=True)
            found: dict[str, float] = json.loads(ran.stdout)
        finally:
            told, _ = server.communicate()
    return {**found, "sent": int(told or 0) / 1e6}


def main() -> int:
    """Print the table; fail where a prompt was not answered, or memory grew too much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--ask", nargs=AGENTS, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve(arguments.serve))
        return 0
    if arguments.ask:
        print(json.dumps(asyncio.run(ask(arguments.ask, arguments.max_tokens))))
        return 0
    print(f"{machine()}\n{PROMPTS} prompts of max_tokens={arguments.max_tokens}, one agent of {AGENTS} floods\n")
    found = {name: measure(name, arguments.max_tokens) for name in FLOODS}
    usual = found[NONE]["peak"]
    header = ("flood", "answered", "sent, MB", "peak, MB", "more than usual, MB", "longest lag, s", "seconds")
    rows = [
        (
            name,
            f"{each['answered']:.0f}",
            f"{each['sent']:.1f}",
            f"{each['peak']:.0f}",
            f"{each['peak'] - usual:.0f}",
            f"{each['lag']:.2f}",
            f"{each['seconds']:.1f}",
        )
        for name, each in found.items()
    ]
    print(table(header, rows))
    return int(any(each["answered"] < PROMPTS or each["peak"] - usual >= LIMIT_MB for each in found.values()))


if __name__ == "__main__":
    sys.exit(main())
