"""How long a fleet takes, against the least that it could take: in virtual time, for healthy, mixed and failing fleets.

    python -m benchmarks.makespan            # all rows; --quick for the main ones
    python -m benchmarks.makespan --scale    # 4,000 agents, 1,000,000 prompts: what the policy costs

Model: an agent works on 256 sequences at once, a step takes (8 ms + 0.03 ms x running) / speed; answers have lognormal
lengths (median 200 tokens, sigma 0.8, 8 to 2048). The bound is the time in which the agents that serve could generate
all tokens with every slot full; what a fault takes away is taken away from the bound too. *Wasted* tokens are those
generated at the servers that ended in no delivered answer.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import random
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from aurora_pool.testing.virtual import VirtualFleet, VirtualPrompt
from aurora_pool.testing.virtual_pool import VirtualPool
from benchmarks.printing import machine
from benchmarks.virtual_baselines import OneByOne, StaticLists

PROMPTS = 96_000
SLOTS = 256
EQUAL = [1.0] * 16
SEED = 1


def lengths(count: int, seed: int = SEED) -> Iterator[int]:
    """Draw lengths of answers."""
    draw = random.Random(seed)
    for _ in range(count):
        yield min(2048, max(8, round(draw.lognormvariate(math.log(200), 0.8))))


@dataclass(frozen=True)
class Case:
    """One row: a fleet, what happens to it, and the most that makespan / bound may be (None: no promise)."""

    name: str
    speeds: list[float] = field(default_factory=lambda: list(EQUAL))
    happens: Callable[[VirtualFleet], None] | None = None
    limit: float | None = None
    bad: int = 0
    poison: int = 0
    strict: bool = False

    def prompts(self, count: int) -> list[VirtualPrompt]:
        """Make the prompts, the faulty ones among them."""
        prompts = [VirtualPrompt(length) for length in lengths(count)]
        for number in range(self.bad):
            prompts[count * (number + 1) // (self.bad + 2)].bad = True
        for number in range(self.poison):
            prompts[count * (number + 2) // (self.poison + 3)].poison = True
        return prompts

    def fleet(self) -> VirtualFleet:
        """Make the fleet, its faults scheduled."""
        fleet = VirtualFleet(self.speeds, slots=SLOTS)
        for agent in fleet.agents:
            agent.restarts_after = 15.0
        if self.happens is not None:
            self.happens(fleet)
        return fleet


def cases() -> list[Case]:
    """List the rows."""

    def at(seconds: float, index: int, name: str, **arguments: float) -> Callable[[VirtualFleet], None]:
        def happens(fleet: VirtualFleet) -> None:
            fleet.at(seconds, lambda: getattr(fleet.agents[index], name)(**arguments))

        return happens

    def everything(fleet: VirtualFleet) -> None:
        for one in (
            at(0, 3, "slow", factor=5),
            at(0, 4, "die"),
            at(33, 5, "die"),
            at(10, 6, "hang"),
            at(20, 7, "drain"),
            at(10, 8, "flap", up=10, down=5),
            at(30, 10, "sleep"),
            at(60, 10, "revive"),
        ):
            one(fleet)
        fleet.agents[9].max_queued = 100

    def limit_queue(fleet: VirtualFleet) -> None:
        fleet.agents[3].max_queued = 100

    return [
        Case("16 equal", limit=1.15),
        Case("14 x1, one x0.5, one x0.25", [1.0] * 14 + [0.5, 0.25], limit=1.18),
        Case("8 x1, 8 x0.5", [1.0] * 8 + [0.5] * 8, limit=1.18),
        Case("16 equal, balance=strict", strict=True),
        Case("one 5x slow", happens=at(0, 3, "slow", factor=5)),
        Case("one dead from the start", happens=at(0, 3, "die")),
        Case("one dies at 30%", happens=at(33, 3, "die"), limit=1.20),
        Case("one hangs at 10 s", happens=at(10, 3, "hang"), limit=1.30),
        Case("one terminated (silent)", happens=at(20, 3, "terminate")),
        Case("one drains", happens=at(20, 3, "drain")),
        Case("one sleeps", happens=at(20, 3, "sleep")),
        Case("one flaps (10 s up, 5 s down)", happens=at(10, 3, "flap", up=10, down=5)),
        Case("one takes 100 at most (503)", happens=limit_queue),
        Case("one bad prompt", bad=1),
        Case("one poison prompt", poison=1),
        Case("all of these at once", happens=everything, bad=1, poison=1),
    ]


COLUMNS = "{:32}{:>10}{:>9}{:>7}{:>6}{:>8}{:>8}{:>8}{:>6}  {}"
HEADER = COLUMNS.format("case", "makespan", "/ bound", "lost", "dup.", "failed", "wasted", "req/p", "us/p", "")


def run_pool(case: Case, prompts: list[VirtualPrompt]) -> tuple[str, float]:
    """Run a case with the pool's dispatcher; return its row and makespan / bound."""
    fleet = case.fleet()
    report = VirtualPool(fleet, seed=SEED, balance="strict" if case.strict else "adaptive").run(prompts)
    ratio = report.makespan / fleet.bound(sum(prompt.length for prompt in prompts))
    assert report.lost == report.duplicated == 0
    assert report.failed["rejected"] == case.bad
    assert report.failed["poison"] >= case.poison
    row = COLUMNS.format(
        case.name,
        f"{report.makespan:.1f}",
        f"{ratio:.3f}",
        report.lost,
        report.duplicated,
        sum(report.failed.values()),
        f"{report.wasted_share:.2%}",
        f"{report.requests / len(prompts):.4f}",
        f"{report.policy_seconds / len(prompts) * 1e6:.1f}",
        ", ".join(f"{count} {kind}" for kind, count in report.failed.items()),
    )
    return row, ratio


def run_baseline(name: str, client: StaticLists | OneByOne, prompts: list[VirtualPrompt]) -> str:
    """Run a case in a simpler way; return its row."""
    lost = client.run(prompts)
    ratio = client.ended_at / client.fleet.bound(sum(prompt.length for prompt in prompts))
    return COLUMNS.format(
        f"  {name}",
        "never" if client.never_ends else f"{client.ended_at:.1f}",
        "" if client.never_ends else f"{ratio:.3f}",
        lost,
        0,
        0,
        f"{1 - client.delivered_tokens / max(1, client.fleet.tokens):.2%}",
        f"{client.requests / len(prompts):.4f}",
        "",
        "",
    )


QUICK = ("16 equal", "14 x1, one x0.5, one x0.25", "8 x1, 8 x0.5", "one hangs at 10 s", "all of these at once")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only the main rows; with --scale, a tenth of the size")
    parser.add_argument("--scale", action="store_true", help="only 4,000 agents x 1,000,000 prompts")
    arguments = parser.parse_args()
    if arguments.scale:
        print_scale(100_000 if arguments.quick else 1_000_000, 400 if arguments.quick else 4000)
        return
    missed = []
    print(HEADER)
    for case in cases():
        if arguments.quick and case.name not in QUICK:
            continue
        prompts = case.prompts(PROMPTS)
        row, ratio = run_pool(case, prompts)
        print(row, flush=True)
        if case.limit is not None and ratio > case.limit:
            missed.append(f"{case.name}: {ratio:.3f}, expected at most {case.limit}")
        if not arguments.quick and not case.strict:
            print(run_baseline("static lists, wait for all", StaticLists(case.fleet()), prompts), flush=True)
            print(run_baseline("semaphore, one by one", OneByOne(case.fleet()), prompts), flush=True)
    print("\n".join(["missed:", *missed]) if missed else "every promised figure is reached")


SCALE_COLUMNS = "{:24}{:>6}{:>10}{:>6}{:>8}{:>7}{:>11}{:>9}{:>10}{:>8}"


def print_scale(prompts: int, agents: int) -> None:
    """Print what the policy costs for a large fleet, in processor time and memory.

    All rows have as many prompts, made as they are asked for. The first fleet is a hundredth of the others and holds a
    hundredth of the prompts at a time, so its memory shows that what grows with the job is next to nothing.
    """
    print(machine())
    print(
        SCALE_COLUMNS.format(
            "agents x prompts",
            "slots",
            "makespan",
            "lost",
            "req/p",
            "us/p",
            "most open",
            "grew MB",
            "KB / open",
            "wall s",
        )
    )
    for size, slots in ((agents // 100, 256), (agents, 256), (agents, 64)):
        # A process for each row, because the peak of a process's memory never goes down.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(pool.apply(scale_row, (prompts, size, slots)), flush=True)


def scale_row(prompts: int, agents: int, slots: int) -> str:
    """Run a large job; return its row. Memory is that of pool and simulated servers together."""
    began = time.perf_counter()
    memory_before = _peak_memory()
    fleet = VirtualFleet([1.0] * agents, slots=slots)
    source = (VirtualPrompt(length) for length in lengths(prompts))
    report = VirtualPool(fleet, seed=SEED).run(source, total=prompts)
    grew = _peak_memory() - memory_before
    return SCALE_COLUMNS.format(
        f"{agents:,} x {prompts:,}",
        slots,
        f"{report.makespan:.1f}",
        report.lost,
        f"{report.requests / prompts:.4f}",
        f"{report.policy_seconds / prompts * 1e6:.2f}",
        f"{report.most_open:,}",
        f"{grew / 1e6:.0f}",
        f"{grew / 1e3 / report.most_open:.1f}",
        f"{time.perf_counter() - began:.0f}",
    )


def _peak_memory() -> int:
    """The most memory that this process has had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
