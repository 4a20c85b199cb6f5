"""One client process over 100, 1,000 and 4,000 agents: prompts per second, CPU, memory, sockets, and deaths noticed.

    python benchmarks/scale.py                               three fleets, 100,000 to 400,000 prompts, about 6 minutes
    python benchmarks/scale.py --agents 4000 --per-agent 250 a million prompts on 4,000 agents
    python -m benchmarks.scale --rows                        four drivers of 1,000 agents, 100 million rows

The agents are ports of a few server processes that have every answer ready, so the client is what is measured. Each
agent gets lists of the same size in all fleets; what would cost more with more agents would be the pool's own doing.
Then each agent of a fresh fleet holds a list when the process with a tenth of them is killed: the time until the pool
has taken the last of them out of service, and none of the others, with every prompt answered in the end.

The fleets are measured in turns, each in a process of its own. Figures are medians of the rounds, and what the largest
fleet costs more than the smallest is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from aurora_pool import AgentEndpoint, ConfigError, Observer, VLLMPool, event_loop
from aurora_pool.runtime.open_files import ensure_open_files
from benchmarks import scale_rows
from benchmarks.peers.shared import MAX_TOKENS, MODEL, prompt
from benchmarks.printing import machine, table

ROOT = Path(__file__).resolve().parent.parent
FLEETS = (100, 1000, 4000)
AT_LEAST = 100_000
"""A fleet gets at least this many prompts, in calls of an equal share for each agent."""
ANSWER = 100
"""Characters of an answer: short ones, for the answers to a million prompts are on their way at a time."""
HELD = 8.0
"""Seconds for which the agents hold their lists in the test of deaths."""
GROWTH = 1.15
"""How much more a prompt may cost on the largest fleet than on the smallest."""


@dataclass
class Figures:
    """What one fleet came to."""

    agents: int
    prompts: int = 0
    prompts_per_second: float = 0.0
    cpu_microseconds: float = 0.0
    requests: int = 0
    start: float = 0.0
    first_answer: float = 0.0
    peak_megabytes: float = 0.0
    sockets: int = 0
    dead: int = 0
    noticed: float = 0.0
    moved: int = 0


class Watcher(Observer):
    """Waits until a number of prompts are sent; notes when each agent first went out."""

    def __init__(self, prompts: int) -> None:
        self.unsent = prompts
        self.all_sent = asyncio.Event()
        self.out: dict[int, float] = {}

    def request_sent(self, agent: int, prompts: int) -> None:
        """Count."""
        self.unsent -= prompts
        if self.unsent <= 0:
            self.all_sent.set()

    def agent_state(self, agent: int, endpoint: AgentEndpoint, state: str, reason: str) -> None:
        """Note the time."""
        if state == "out":
            self.out.setdefault(agent, time.perf_counter())


class Servers:
    """Server processes with a number of ports each."""

    def __init__(self, ports: Sequence[int], delay: float) -> None:
        options = ["--answer", str(ANSWER), "--delay", str(delay)]
        command = [sys.executable, "-m", "benchmarks.overhead_server", *options]
        self._ports = ports
        self.processes = [
            subprocess.Popen(
                [*command, "--ports", str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
            )
            for count in ports
        ]
        self.endpoints: list[AgentEndpoint] = []
        for process in self.processes:
            assert process.stdout is not None
            self.endpoints += [AgentEndpoint("127.0.0.1", port) for port in json.loads(process.stdout.readline())]

    def last(self) -> set[int]:
        """Which agents are those of the last process."""
        return set(range(len(self.endpoints) - self._ports[-1], len(self.endpoints)))

    def stop(self) -> None:
        """End all processes."""
        for process in self.processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def prompts(count: int) -> Iterator[str]:
    """Yield prompts, one by one."""
    return (prompt(number) for number in range(count))


async def throughput(endpoints: Sequence[AgentEndpoint], per_agent: int, figures: Figures) -> None:
    """Answer prompts call by call."""
    a_call = per_agent * len(endpoints)
    calls = -(-AT_LEAST // a_call)
    began = time.perf_counter()
    async with VLLMPool(endpoints, model=MODEL) as pool:
        figures.start = time.perf_counter() - began
        await count_answers(pool, len(endpoints), figures)  # connects, and learns
        began, cpu = time.perf_counter(), time.process_time()
        for _ in range(calls):
            figures.prompts += await count_answers(pool, a_call, figures)
        seconds = time.perf_counter() - began
        figures.cpu_microseconds = (time.process_time() - cpu) / figures.prompts * 1e6
        figures.prompts_per_second = figures.prompts / seconds
        figures.requests = pool.statistics().requests
        figures.sockets = _open_sockets()
    figures.peak_megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def count_answers(pool: VLLMPool, count: int, figures: Figures) -> int:
    """Make one call; return how many prompts it answered, which are all."""
    began = time.perf_counter()
    done = 0
    async for _, response in pool.iter_responses(prompts(count), MAX_TOKENS, total=count):
        assert response.success, response.error
        if not done:
            figures.first_answer = time.perf_counter() - began
        done += 1
    assert done == count
    return done


async def deaths(servers: Servers, figures: Figures) -> None:
    """Kill the last server process while its agents, like all others, hold prompts."""
    count = 20 * len(servers.endpoints)
    observer = Watcher(count)
    async with VLLMPool(servers.endpoints, model=MODEL, observer=observer) as pool:
        call = asyncio.ensure_future(pool.send_all_batched(list(prompts(count)), MAX_TOKENS))
        await observer.all_sent.wait()
        await asyncio.sleep(1.0)
        killed = time.perf_counter()
        servers.processes[-1].kill()
        responses = await call
        figures.dead, figures.noticed = len(observer.out), max(observer.out.values()) - killed
        figures.moved = pool.statistics().moved
    assert observer.out.keys() == servers.last(), "the agents that went out are not those that were killed"
    assert len(responses) == count
    failed = [response.error for response in responses if not response.success]
    assert not failed, f"{len(failed)} prompts failed: {failed[0]}"


def _open_sockets() -> int:
    files = (file for file in Path("/proc/self/fd").iterdir() if file.is_symlink())
    return sum(str(file.readlink()).startswith("socket:") for file in files)


def measure(agents: int, per_agent: int) -> Figures:
    """Measure one fleet, in this process."""
    figures = Figures(agents)
    servers = Servers([agents // 4] * 4, 0.0)
    try:
        event_loop.run(throughput(servers.endpoints, per_agent, figures))
    finally:
        servers.stop()
    tenth = agents // 10
    servers = Servers([agents // 2, agents - agents // 2 - tenth, tenth], HELD)
    try:
        event_loop.run(deaths(servers, figures))
    finally:
        servers.stop()
    return figures


def main() -> int:
    """Run the command line; return the exit code, 1 if the cost grows with the fleet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, nargs="+", default=list(FLEETS))
    parser.add_argument("--per-agent", type=int, default=100, help="prompts for each agent in each call")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="?", const=scale_rows.ROWS, help="this number of rows, four drivers")
    parser.add_argument("--json", action="store_true", help="measure one fleet in this process and write JSON")
    arguments = parser.parse_args()
    if arguments.rows:
        scale_rows.measure_rows(arguments.rows, 1000)
        return 0
    try:
        ensure_open_files(4 * max(arguments.agents) + 200)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        logging.getLogger("aurora_pool").setLevel(logging.ERROR)  # each death is a warning
        print(json.dumps(asdict(measure(arguments.agents[0], arguments.per_agent))))
        return 0
    found: dict[int, list[Figures]] = {agents: [] for agents in arguments.agents}
    for number in range(arguments.rounds):
        for agents, figures in found.items():  # each in a process of its own: peak memory is a process's
            command = [sys.executable, __file__, "--json", "--agents", str(agents)]
            command += ["--per-agent", str(arguments.per_agent)]
            child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            figures.append(Figures(**json.loads(child.stdout)))
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
    print(machine())
    medians = [asdict(figures[0]) for figures in found.values()]
    for median, figures in zip(medians, found.values(), strict=True):
        median |= {name: statistics.median(getattr(one, name) for one in figures) for name in median}
    header = [f"agents; median of {arguments.rounds} rounds", *(f"{agents:,}" for agents in found)]
    print(table(header, [(label, *(form.format(**median) for median in medians)) for label, form in ROWS.items()]))
    smallest, largest = min(found), max(found)
    growths = [
        large.cpu_microseconds / small.cpu_microseconds
        for small, large in zip(found[smallest], found[largest], strict=True)
    ]
    growth = statistics.median(growths)
    reached = growth <= GROWTH
    print(f"{'reached' if reached else 'missed '}  cost per prompt, largest to smallest fleet: {growth:.2f} x", end=" ")
    print(f"({min(growths):.2f}-{max(growths):.2f}) of {GROWTH}")
    return 0 if reached else 1


ROWS = {
    "prompts": "{prompts:,}",
    "prompts per second": "{prompts_per_second:,.0f}",
    "CPU of the client, microseconds per prompt": "{cpu_microseconds:.1f}",
    "requests": "{requests:,}",
    "seconds to start": "{start:.2f}",
    "seconds to the first answer of a call": "{first_answer:.3f}",
    "peak memory, MB": "{peak_megabytes:,.0f}",
    "open sockets": "{sockets:,}",
    "agents killed while they held prompts": "{dead:,}",
    "seconds until all of them were out": "{noticed:.3f}",
    "prompts moved, all answered": "{moved:,}",
}

if __name__ == "__main__":
    sys.exit(main())
