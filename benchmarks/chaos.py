"""What becomes of a job when agents fail: over real HTTP on a simulated fleet, in simulated time, beside simpler ways.

    python -m benchmarks.chaos               # all rows, some minutes; --quick for a third of the prompts
    python -m benchmarks.chaos --peers       # and flexllm and LiteLLM's Router, as processes, in real time

Model: 8 agents of 64 slots, a step takes (8 ms + 0.03 ms x running) / speed; answers have lognormal lengths (median 200
tokens, sigma 0.8, 8 to 2048). *Bound*: the time in which the agents that serve could generate all tokens with every
slot full. *Lost* prompts have no result at all, *failed* ones a result that is no answer. *Wasted* tokens were
generated and ended in no delivered answer. *Virtual*: makespan / bound of the same dispatcher without HTTP. Where much
fails at once, what happens first decides a lot: there it is medians over some seeds that are shown and compared.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from aurora_pool import PromptOptions, VLLMPool
from aurora_pool.testing import SimulatedFleet, run_simulated
from aurora_pool.testing.virtual import VirtualFleet, VirtualPrompt
from aurora_pool.testing.virtual_pool import VirtualPool
from benchmarks.chaos_fleet import CASES, RESTART, SEED, SLOTS, Case, prompts_of, serve_case, serving
from benchmarks.peers.environment import PEERS, ROOT, prepare_peers

IN_FLIGHT = SLOTS + SLOTS // 16
"""What clients that have to be told may send to one agent at a time."""
MAX_TOKENS = 2048
MODEL = "simulated-model"
PROMPTS = 8000
"""1,000 for each agent: a server refuses lists of more than 1,024."""
SEEDS = 5
"""Runs of a case in which several agents fail, each with other draws of the pool."""
NEVER = 8.0
"""A job that takes this many times its bound is taken for one that never ends."""


@dataclass
class Row:
    """What one way of sending made of a case."""

    seconds: float
    lost: int
    duplicated: int
    failed: Counter[str]
    wasted: float
    requests: int
    lengths: list[int] = field(default_factory=list)


# -- ways to send -------------------------------------------------------------------------------------------------

Send = Callable[[SimulatedFleet, list[str], Callable[[int, int, str], None]], Awaitable[None]]
"""Sends prompts; reports each result as (prompt, its tokens, why it failed or nothing)."""


async def by_pool(
    fleet: SimulatedFleet, prompts: list[str], report: Callable[[int, int, str], None], *, seed: int
) -> None:
    """The pool."""
    raw, rng = PromptOptions(prompt_format="raw"), random.Random(seed)
    async with VLLMPool(fleet.endpoints, model=MODEL, max_tokens=MAX_TOKENS, prompting=raw, rng=rng) as pool:
        async for index, response in pool.iter_responses(prompts):
            report(index, response.completion_tokens or 0, response.error_kind or "")


async def static_lists(fleet: SimulatedFleet, prompts: list[str], report: Callable[[int, int, str], None]) -> None:
    """One list request per agent, round-robin; wait for all."""
    size = len(fleet.endpoints)
    async with _session() as session:
        shares = [range(agent, len(prompts), size) for agent in range(size)]
        await asyncio.gather(
            *(
                _complete(session, endpoint.base_url, prompts, share, report)
                for endpoint, share in zip(fleet.endpoints, shares, strict=True)
            )
        )


async def one_by_one(fleet: SimulatedFleet, prompts: list[str], report: Callable[[int, int, str], None]) -> None:
    """asyncio.gather with a semaphore over single requests, round-robin."""
    size = len(fleet.endpoints)
    limit = asyncio.Semaphore(IN_FLIGHT * size)
    async with _session() as session:

        async def send(index: int) -> None:
            async with limit:
                await _complete(session, fleet.endpoints[index % size].base_url, prompts, [index], report)

        await asyncio.gather(*map(send, range(len(prompts))))


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0)
    )


async def _complete(
    session: aiohttp.ClientSession,
    url: str,
    prompts: list[str],
    share: Sequence[int],
    report: Callable[[int, int, str], None],
) -> None:
    body = {"model": MODEL, "prompt": [prompts[index] for index in share], "max_tokens": MAX_TOKENS}
    body["return_token_ids"] = True
    try:
        async with session.post(url + "/v1/completions", json=body) as reply:
            choices = (await reply.json())["choices"] if reply.status == 200 else []
    except (aiohttp.ClientError, OSError):
        return
    for choice in choices:
        report(share[choice["index"]], len(choice["token_ids"]), "")


# -- measuring ----------------------------------------------------------------------------------------------------


def measure(case: Case, send: Send, prompts: list[str], healthy: float, limit: float) -> Row:
    """Run a case in simulated time."""
    return run_simulated(_measure(case, send, prompts, healthy, limit), debug=False)


async def _measure(case: Case, send: Send, prompts: list[str], healthy: float, limit: float) -> Row:
    loop = asyncio.get_running_loop()
    results = bytearray(len(prompts))
    lengths = [0] * len(prompts)
    failed: Counter[str] = Counter()
    last = 0.0

    def report(index: int, tokens: int, failure: str) -> None:
        nonlocal last
        last = loop.time()
        results[index] += 1
        lengths[index] = tokens
        if failure:
            failed[failure] += 1

    async with serving(case, healthy) as (fleet, watch):
        try:
            async with asyncio.timeout(limit):
                await send(fleet, prompts, report)
        except TimeoutError:
            last = float("inf")
        tokens = watch.tokens()
        sent = sum(request.path == "/v1/completions" for request in fleet.requests)
    return Row(
        last,
        results.count(0),
        sum(count > 1 for count in results),
        failed,
        1 - sum(lengths) / tokens if tokens else 0.0,
        sent,
        lengths,
    )


def virtually(case: Case, lengths: Sequence[int], healthy: float, seed: int = SEED) -> tuple[float, float]:
    """Run a case without HTTP; return makespan and bound."""
    fleet = VirtualFleet(case.speeds, slots=SLOTS)
    for agent in fleet.agents:
        agent.restarts_after = RESTART
    for event in case.events:
        happen = functools.partial(getattr(fleet.agents[event.agent], event.action), **event.arguments)
        fleet.at(event.at * healthy, happen)
    prompts = [VirtualPrompt(max(8, length)) for length in lengths]
    if case.bad:
        prompts[len(prompts) // 3].bad = True
    if case.poison:
        prompts[len(prompts) // 4].poison = True
    makespan = VirtualPool(fleet, seed=seed).run(prompts).makespan
    return makespan, fleet.bound(prompts)


HEADER = (
    f"{'case':26}{'sent by':28}{'makespan':>9}{'/ bound':>9}{'virtual':>9}{'lost':>6}{'dup.':>6}{'failed':>8}"
    f"{'wasted':>8}{'req/p':>8}"
)


def line(case: str, way: str, row: Row, bound: float, virtual: float | None) -> str:
    """One line of the table."""
    ended = row.seconds < float("inf")
    times = f"{row.seconds:9.1f}{row.seconds / bound:9.3f}" if ended else f"{'never':>9}{'':9}"
    seen = f"{virtual:9.3f}" if virtual is not None else f"{'':9}"
    kinds = "  " + " ".join(f"{count} {kind}" for kind, count in row.failed.items()) if row.failed else ""
    return (
        f"{case:26}{way:28}{times}{seen}{row.lost:6}{row.duplicated:6}{row.failed.total():8}{row.wasted:8.2%}"
        f"{row.requests / max(1, len(row.lengths)):8.4f}{kinds}"
    )


def run_case(case: Case, count: int, known: Sequence[int], healthy: float) -> tuple[list[str], list[int], list[str]]:
    """Run a case in all ways; return its lines, the lengths of its answers, and what it should not have shown."""
    prompts = prompts_of(case, count)
    seeds = range(SEED, SEED + (SEEDS if len({event.agent for event in case.events}) > 1 else 1))
    rows = [
        measure(case, functools.partial(by_pool, seed=seed), prompts, healthy, limit=100 * healthy) for seed in seeds
    ]
    row = sorted(rows, key=lambda row: row.seconds)[len(rows) // 2]
    row.lost, row.duplicated = sum(row.lost for row in rows), sum(row.duplicated for row in rows)
    row.wasted = statistics.median(row.wasted for row in rows)
    lengths = [length or (known[index] if known else 0) for index, length in enumerate(row.lengths)]
    makespans, bounds = zip(*(virtually(case, lengths, healthy, seed) for seed in seeds), strict=True)
    bound, makespan = bounds[0], statistics.median(makespans)
    ratio, virtual = row.seconds / bound, makespan / bound
    lines = [line(case.name, "aurora-pool", row, bound, virtual)]
    if len(rows) > 1:
        over_http = sorted(row.seconds / bound for row in rows)
        lines.append(
            f"{'':26}{f'  of {len(rows)} seeds':28}{over_http[0]:12.3f}-{over_http[-1]:.3f}"
            f"{min(makespans) / bound:9.3f}-{max(makespans) / bound:.3f}"
        )
    missed = []
    if abs(ratio / virtual - 1) > 0.1:
        missed.append(f"{case.name}: {ratio:.3f} over HTTP, {virtual:.3f} in virtual time: not within 10%")
    if row.lost or row.duplicated or row.wasted > 0.03:
        missed.append(f"{case.name}: {row.lost} lost, {row.duplicated} duplicated, {row.wasted:.2%} wasted")
    if row.failed["rejected"] != case.bad or row.failed["poison"] < case.poison:
        missed.append(f"{case.name}: failed {dict(row.failed)}")
    for way, send in (("static list requests", static_lists), ("gather, semaphore, singles", one_by_one)):
        baseline = measure(case, send, prompts, healthy, limit=NEVER * bound)
        lines.append(line("", way, baseline, bound, None))
    return lines, lengths, missed


# -- peers --------------------------------------------------------------------------------------------------------


def run_peers(case: Case, count: int, healthy: float) -> list[str]:
    """Run a case by other libraries, each a process in an environment of its own, in real time."""
    lines = []
    for name in ("flexllm", "litellm"):
        found = _run_peer(name, case, count, healthy)
        if isinstance(found, str):
            lines.append(f"{'':26}{name:28}skipped: {found}")
        else:
            rate = SLOTS / (0.008 + 0.00003 * SLOTS) * sum(case.speeds)
            bound = found["tokens"] / rate
            ended = (
                f"{found['seconds']:9.1f}{found['seconds'] / bound:9.3f}" if found["ended"] else f"{'never':>9}{'':9}"
            )
            lost = count - found["answered"]
            lines.append(f"{'':26}{found['version']:28}{ended}{'':9}{lost:6}   (real time, bound of the whole fleet)")
    return lines


def _run_peer(name: str, case: Case, count: int, healthy: float) -> dict[str, Any] | str:
    with tempfile.TemporaryDirectory() as scratch:
        hostfile = Path(scratch) / "hostfile"
        job = {"hostfile": str(hostfile), "healthy": healthy, "case": CASES.index(case)}
        server = subprocess.Popen([sys.executable, "-m", "benchmarks.chaos", "--serve", json.dumps(job)], cwd=ROOT)
        try:
            deadline = time.monotonic() + 30
            while not hostfile.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            urls = [f"http://{':'.join(text.split())}" for text in hostfile.read_text().splitlines()]
            job = {"urls": urls, "prompts": prompts_of(case, count), "model": MODEL, "max_tokens": MAX_TOKENS}
            job["in_flight"] = IN_FLIGHT * len(urls)
            job["limit"] = NEVER * healthy
            command = [str(PEERS / "bin" / "python"), "-m", "benchmarks.chaos_peer", name]
            done = subprocess.run(
                command,
                cwd=ROOT,
                input=json.dumps(job),
                capture_output=True,
                text=True,
                check=False,
                timeout=20 * healthy + 120,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        finally:
            server.terminate()
            server.wait()
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["it failed"])[-1]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# -- all of it ----------------------------------------------------------------------------------------------------


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a third of the prompts")
    parser.add_argument("--peers", action="store_true", help="flexllm and LiteLLM's Router as well (real time)")
    parser.add_argument("--only", help="only cases whose name contains this")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve_case(json.loads(arguments.serve))
        return
    count = PROMPTS // 3 if arguments.quick else PROMPTS
    if arguments.peers:
        prepare_peers()
    print(HEADER, flush=True)
    lines, lengths, missed = run_case(CASES[0], count, [], 1.0)
    healthy, _ = virtually(CASES[0], lengths, 1.0)
    for case in CASES:
        if arguments.only and arguments.only not in case.name:
            continue
        if case is not CASES[0]:
            lines, _, more = run_case(case, count, lengths, healthy)
            missed += more
        print("\n".join(lines), flush=True)
        if arguments.peers:
            print("\n".join(run_peers(case, count // 3, healthy / 3)), flush=True)
    print("\n".join(["missed:", *missed]) if missed else "every promised figure is reached")


if __name__ == "__main__":
    main()
