"""What benchmarks/overhead.py writes: tables, goals, and which cases cost too much."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from benchmarks.overhead_clients import Bench, Measured
from benchmarks.peers.shared import CASES
from benchmarks.printing import table

FLOOR = "floor: aiohttp + msgspec by hand"
POOL = "aurora-pool"

GOALS = (
    ("openai SDK", "single chat", 10.0),
    ("openai SDK", "lists", 3.0),
    ("LiteLLM Router", "single chat", 40.0),
)
"""How many times cheaper aurora-pool is to be than a peer, in cases whose name begins so."""
FLOOR_GOAL = 1.5
REQUESTS_GOAL = 2.0


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
