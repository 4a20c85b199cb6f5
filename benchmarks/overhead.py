"""What a client costs: CPU microseconds per prompt of its process, beside other clients on the same server.

    python benchmarks/overhead.py               every client, about 8 minutes
    python benchmarks/overhead.py --quick       aurora-pool and the floor only, under a minute
    python benchmarks/overhead.py --check 2.0   the same, and fail if aurora-pool costs more than that times the floor

Prompts have about 300 characters, answers about 1,100. One server process, pinned to a core of its own, has every
answer ready; each client is a process on another core and is told, in turns, to send prompts. Its process CPU
time is what counts, not the wall clock, so other work on the machine disturbs little, and ratios are taken within
rounds, so that what does disturb disturbs both sides. The server counts the requests, and a round in which a client has
sent fewer than asked does not count. The answers' texts, order and finish reasons are checked, outside of what is
measured. In the rows of ten windows, a call has ten times as many prompts as an agent is given at a time, and opens a
client of its own, whose start is measured too.

The check is for every case on its own, with the median of its rounds' ratios. If one is above what is allowed, all is
measured once more, in new processes and with three times the rounds, and that decides.
"""

from __future__ import annotations

import argparse
import sys
import time

from aurora_pool import ConfigError
from aurora_pool.runtime.open_files import ensure_open_files
from benchmarks.overhead_clients import Bench, Peer
from benchmarks.overhead_report import FLOOR, POOL, goals, report, too_dear
from benchmarks.peers.environment import ROOT, prepare_peers
from benchmarks.peers.shared import IN_FLIGHT
from benchmarks.printing import machine

QUICK = (Peer(FLOOR, "floor"), Peer(POOL, "pool"))
FULL = (
    *QUICK,
    Peer("floor, uvloop", "floor", uvloop=True),
    Peer("aurora-pool, uvloop", "pool", uvloop=True),
    Peer("openai SDK", "openai_sdk"),
    Peer("openai SDK, its aiohttp client", "openai_aiohttp"),
    Peer("LiteLLM Router", "litellm_router", own_environment=True),
    Peer("flexllm", "flexllm_pool", own_environment=True),
    Peer("async-batch-llm", "async_batch_llm", own_environment=True),
    Peer("the floor behind vllm-router", "vllm_router", own_environment=True),
)

ROUNDS, QUICK_ROUNDS, CHECK_AGAIN_ROUNDS = 9, 15, 45


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="aurora-pool and the floor only")
    parser.add_argument("--check", type=float, metavar="RATIO", help="quick, and fail above this ratio to the floor")
    parser.add_argument("--rounds", type=int, help=f"default: {ROUNDS}, or {QUICK_ROUNDS} with --quick or --check")
    arguments = parser.parse_args()
    quick = arguments.quick or arguments.check is not None
    if not quick:
        prepare_peers()
    try:
        ensure_open_files(2 * IN_FLIGHT * len(FULL))  # for the server, which inherits the limit
    except ConfigError as error:
        sys.exit(f"error: {error}")
    print(machine())
    bench = run(quick=quick, rounds=arguments.rounds or (QUICK_ROUNDS if quick else ROUNDS))
    if arguments.check is None:
        return 0
    above = too_dear(bench, arguments.check)
    if above:
        print(f"\nabove {arguments.check:g} x the floor: {', '.join(above)}; measuring once more\n", flush=True)
        above = too_dear(run(quick=True, rounds=CHECK_AGAIN_ROUNDS), arguments.check)
    print(f"\nabove {arguments.check:g} x the floor: {', '.join(above) or 'no case'}")
    return 1 if above else 0


def run(*, quick: bool, rounds: int) -> Bench:
    """Measure with new processes, and print what came of it."""
    error_log = ROOT / "out" / "bench" / "overhead-errors.txt"
    error_log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with error_log.open("wb") as errors:
        bench = Bench(0.12 if quick else 0.25, errors)
        try:
            bench.start(QUICK if quick else FULL)
            if {POOL, FLOOR} & bench.missing.keys():
                sys.exit(f"error: a client does not start: {error_log.relative_to(ROOT)} says why")
            for number in range(1 + rounds):
                bench.round(number)
        finally:
            bench.end()
    for part in report(bench):
        print(f"\n{part}")
    print("\n" + "\n".join(goals(bench)))
    print(f"\n{rounds} rounds, {time.monotonic() - started:.0f} s")
    if bench.missing:
        print(f"errors: {error_log.relative_to(ROOT)}")
    return bench


if __name__ == "__main__":
    sys.exit(main())
