"""How much memory a pool takes for a million prompts from a generator: as much as is in flight, and no more.

    python -m benchmarks.memory              # 1,000,000 prompts, some minutes; --prompts for another number

The servers are simulated ones that answer at once, in a process of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aurora_pool import VLLMPool
from aurora_pool.testing import AgentProfile, serve
from benchmarks.printing import machine

PROMPTS = 1_000_000
AGENTS = 2
LIMIT_MB = 50.0
SAMPLE_EVERY = 5_000


def resident_mb() -> float:
    """The memory of this process that is in RAM now."""
    with Path("/proc/self/statm").open() as statm:
        return int(statm.read().split()[1]) * 4096 / 1e6


@contextmanager
def instant_servers(agents: int) -> Iterator[Path]:
    """Serve agents that answer at once from another process; give their hostfile."""
    with tempfile.TemporaryDirectory() as scratch:
        hostfile = Path(scratch) / "hostfile"
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.memory", "--serve", str(hostfile), str(agents)])
        try:
            while not hostfile.exists():
                if process.poll() is not None:
                    raise RuntimeError(f"the servers ended with code {process.returncode}")
                time.sleep(0.02)
            yield hostfile
        finally:
            process.terminate()
            process.wait()


async def measure(hostfile: Path, prompts: int) -> tuple[int, float, float]:
    """Answer prompts from a generator; return how many were, MB at the start, and the most MB after that."""
    source = (f"Tell me about the number {number}, as briefly as you can." for number in range(prompts))
    answered = 0
    async with VLLMPool.from_hostfile(hostfile, max_tokens=4) as pool:
        before = most = resident_mb()
        async for index, response in pool.iter_responses(source):
            answered += response.success
            if not index % SAMPLE_EVERY:
                most = max(most, resident_mb())
        most = max(most, resident_mb())
    return answered, before, most


def main() -> int:
    """Print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(int(arguments.serve[1]), arguments.serve[0], profile=AgentProfile(instant=True, longest=8))
        return 0
    print(machine(), flush=True)
    began = time.perf_counter()
    with instant_servers(AGENTS) as hostfile:
        answered, before, most = asyncio.run(measure(hostfile, arguments.prompts))
    seconds = time.perf_counter() - began
    growth = most - before
    rate = answered / seconds
    print(f"{answered:,} of {arguments.prompts:,} prompts answered in {seconds:.0f} s, {rate:,.0f} a second")
    print(f"resident memory: {before:.0f} MB before, {most:.0f} MB at most; {growth:.0f} MB more, limit {LIMIT_MB:.0f}")
    return 0 if answered == arguments.prompts and growth < LIMIT_MB else 1


if __name__ == "__main__":
    sys.exit(main())
