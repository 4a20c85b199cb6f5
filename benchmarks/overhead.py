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
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from aurora_pool import ConfigError
from aurora_pool.runtime.open_files import ensure_open_files
from benchmarks.peers.shared import CASES, IN_FLIGHT, Case
from benchmarks.printing import machine, table

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "out" / "bench" / "peers"
REQUIREMENTS = ROOT / "benchmarks" / "requirements-peers.txt"
FLOOR = "floor: aiohttp + msgspec by hand"
POOL = "aurora-pool"


@dataclass(frozen=True)
class Peer:
    """A client to measure: the module of :mod:`benchmarks.peers` that has it, and how its process is started."""

    name: str
    module: str
    uvloop: bool = False
    own_environment: bool = False


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

GOALS = (
    ("openai SDK", "single chat", 10.0),
    ("openai SDK", "lists", 3.0),
    ("LiteLLM Router", "single chat", 40.0),
)
"""How many times cheaper aurora-pool is to be than a peer, in cases whose name begins so."""
FLOOR_GOAL = 1.5
REQUESTS_GOAL = 2.0

ROUNDS, QUICK_ROUNDS, CHECK_AGAIN_ROUNDS = 9, 15, 45


class Process:
    """A child that is spoken to line by line, in JSON, and pinned to one core."""

    def __init__(self, command: Sequence[str], core: int | None, errors: IO[bytes]) -> None:
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        if core is not None:
            os.sched_setaffinity(self._child.pid, {core})

    def ask(self, question: object) -> Any:
        """Write a line, and return what the next line says."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(question).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            return None
        return self.hear()

    def hear(self) -> Any:
        """Return what the next line says; None if the child has ended."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        return json.loads(line) if line else None

    def end(self) -> None:
        """End the child and wait for it."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()
        try:
            self._child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()


@dataclass
class Measured:
    """What came of one peer: microseconds per prompt by case and round."""

    peer: Peer
    versions: str
    skips: Sequence[str]
    process: Process
    prompts: dict[str, int] = field(default_factory=dict)
    cost: dict[str, dict[int, float]] = field(default_factory=dict)
    requests: dict[str, list[float]] = field(default_factory=dict)
    """How many times the least number of requests it has sent, by case."""
    strayed: dict[str, str] = field(default_factory=dict)
    """What it last sent in a round in which it sent other requests than asked."""
    helper: dict[str, list[float]] = field(default_factory=dict)
    """The same for a process beside the client (a router), which ``cost`` contains."""


class Bench:
    """The server, the clients, and what they have told."""

    def __init__(self, seconds_per_run: float, errors: IO[bytes]) -> None:
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._server_core = cores[0] if len(cores) > 1 else None
        self._client_core = cores[-1] if len(cores) > 1 else None
        self._seconds = seconds_per_run
        self._errors = errors
        self.missing: dict[str, str] = {}
        self.measured: list[Measured] = []
        self._server = Process([sys.executable, "-m", "benchmarks.overhead_server"], self._server_core, errors)
        self._urls = [f"http://127.0.0.1:{port}" for port in self._server.hear()]

    def start(self, peers: Sequence[Peer]) -> None:
        """Start the clients' processes; note which can't be had, and why."""
        for peer in peers:
            python = str(PEERS / "bin" / "python") if peer.own_environment else sys.executable
            command = [python, "-m", "benchmarks.overhead_worker", peer.module, *self._urls]
            process = Process([*command, "--uvloop"] if peer.uvloop else command, self._client_core, self._errors)
            hello = process.hear()
            if hello is None:
                self.missing[peer.name] = "it does not start; see the errors below"
                process.end()
            else:
                self.measured.append(Measured(peer, hello["versions"], hello["skips"], process))

    def round(self, number: int) -> None:
        """Let each client do each case once, the clients in another order each time."""
        for case in CASES:
            shift = number % len(self.measured)
            for one in self.measured[shift:] + self.measured[:shift]:
                if case.name not in one.skips and one.peer.name not in self.missing:
                    self._measure(one, case, number)

    def _measure(self, one: Measured, case: Case, number: int) -> None:
        unit = case.in_call
        count = one.prompts.get(case.name, unit)
        told = one.process.ask({"case": CASES.index(case), "prompts": count})
        shape = self._server.ask("shapes")
        if told is None:
            self.missing[one.peer.name] = f"it failed at {case.name}; see the errors below"
            return
        cpu = told["cpu"] + told["helper_cpu"]
        least = count // case.size
        requests = sum(shape.values())
        if case.name not in one.prompts:  # the first run warms up and tells how many prompts make a run
            one.prompts[case.name] = unit * max(1, round(self._seconds / cpu * count / unit))
            return
        if requests != least:  # a pool may take a server that the machine starves for a slow one, and ask a second
            one.strayed[case.name] = f"{shape} instead of {least} of {case.size}"
        if requests >= least or case.lists > 1:
            one.cost.setdefault(case.name, {})[number] = cpu / count * 1e6
            one.helper.setdefault(case.name, []).append(told["helper_cpu"] / count * 1e6)
            one.requests.setdefault(case.name, []).append(requests / least)

    def end(self) -> None:
        """End all processes."""
        for one in self.measured:
            one.process.end()
        self._server.end()


def ratios(one: Measured, other: Measured, case: str) -> list[float]:
    """How many times the other's cost one has had, round by round."""
    mine, its = one.cost.get(case, {}), other.cost.get(case, {})
    return [mine[number] / its[number] for number in mine.keys() & its.keys()]


def _spread(values: Sequence[float]) -> str:
    """The median and the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    digits = 0 if middle >= 100 else 1
    return f"{middle:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def report(bench: Bench) -> Iterator[str]:
    """Write the tables."""
    names = [case.name for case in CASES]
    rows = [
        [one.peer.name, *(_spread([*one.cost[name].values()]) if one.cost.get(name) else "-" for name in names)]
        for one in bench.measured
    ]
    yield "CPU microseconds per prompt: median of the rounds (quartiles)"
    yield table(["client", *names], rows)
    floor = bench.measured[0]
    compared = [[one.peer.name, *(_times(ratios(one, floor, name)) for name in names)] for one in bench.measured[1:]]
    yield "Times the floor: median of the rounds' ratios"
    yield table(["client", *names], compared)
    for one in bench.measured:
        if any(map(any, one.helper.values())):
            shares = ", ".join(f"{name}: {statistics.median(values):.1f}" for name, values in one.helper.items())
            yield f"{one.peer.name}: of which the process beside the client, {shares}"
        for name, sent in one.strayed.items():
            times = _times(one.requests.get(name, ()))
            yield f"{one.peer.name}, {name}: {times} x the least number of requests; it last sent {sent}"
    for name, reason in bench.missing.items():
        yield f"{name}: not measured to the end, {reason}"
    yield "; ".join(dict.fromkeys(one.versions for one in bench.measured))


def _times(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f}" if values else "-"


def goals(bench: Bench) -> Iterator[str]:
    """Write which goals are reached and which are missed."""
    by_name = {one.peer.name: one for one in bench.measured}
    pool, floor = by_name[POOL], by_name[FLOOR]
    for case in CASES:
        found = statistics.median(ratios(pool, floor, case.name) or [math.inf])
        yield _verdict(f"{case.name}: at most {FLOOR_GOAL} x the floor", f"{found:.2f} x", found <= FLOOR_GOAL)
        if case.lists > 1:
            found = statistics.median(pool.requests.get(case.name) or [math.inf])
            goal = f"{case.name}: at most {REQUESTS_GOAL:.0f} x the least number of requests"
            yield _verdict(goal, f"{found:.2f} x", found <= REQUESTS_GOAL)
    for name, prefix, times in GOALS:
        for case in CASES:
            if name in by_name and case.name.startswith(prefix) and by_name[name].cost.get(case.name):
                found = statistics.median(ratios(by_name[name], pool, case.name))
                goal = f"{case.name}: at least {times:.0f} x cheaper than the {name}"
                yield _verdict(goal, f"{found:.1f} x", found >= times)


def _verdict(goal: str, found: str, reached: bool) -> str:
    return f"{'reached' if reached else 'missed '}  {goal}: {found}"


def prepare_peers() -> None:
    """Install the peers into an environment of their own, one by one, so that one that can't be had spoils no other."""
    stamp = PEERS / ".installed"
    if stamp.exists() and stamp.stat().st_mtime >= REQUIREMENTS.stat().st_mtime:
        return
    print(f"installing the peers into {PEERS.relative_to(ROOT)} (once, about two minutes)", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
    pip = [str(PEERS / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    if subprocess.run([*pip, "-r", str(REQUIREMENTS)], check=False, stderr=subprocess.DEVNULL).returncode:
        lines = (line.partition("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines())
        for requirement in filter(None, lines):
            if subprocess.run([*pip, requirement], check=False, stderr=subprocess.DEVNULL).returncode:
                print(f"can't install {requirement}", flush=True)
    stamp.touch()


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


def too_dear(bench: Bench, allowed: float) -> list[str]:
    """Name the cases in which the pool costs more than ``allowed`` times the floor, or half the rounds do not count."""
    by_name = {one.peer.name: one for one in bench.measured}
    pool, floor = by_name[POOL], by_name[FLOOR]
    found = []
    for case in CASES:
        values = ratios(pool, floor, case.name)
        median = statistics.median(values) if 2 * len(values) > len(floor.cost.get(case.name, ())) else math.inf
        if median > allowed:
            found.append(f"{case.name} ({median:.2f})")
    return found


if __name__ == "__main__":
    sys.exit(main())
