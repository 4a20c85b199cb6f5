"""Equal, mixed and failing fleets with long answers: rows of ``python -m benchmarks.makespan``.

Answers have lognormal lengths (median 200 tokens, sigma 0.8, 8 to 2048), prompts 20 tokens. The bound is that of
:meth:`~aurora_pool.testing.virtual.VirtualFleet.bound`: what a fault takes away is taken away from it too.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from aurora_pool.testing.virtual import VirtualFleet, VirtualPrompt
from aurora_pool.testing.virtual_pool import VirtualPool
from benchmarks.virtual_baselines import OneByOne, StaticLists

PROMPTS = 96_000
PROMPT_TOKENS = 20
EQUAL = [1.0] * 16
SEED = 1


def lengths(count: int, seed: int = SEED) -> Iterator[int]:
    """Draw lengths of answers."""
    draw = random.Random(seed)
    for _ in range(count):
        yield min(2048, max(8, round(draw.lognormvariate(math.log(200), 0.8))))


@dataclass(frozen=True)
class Case:
    """One row: a fleet, what happens to it, and the most that makespan / bound may be (None: no promise).

    ``chaos`` says that it is one of the failing fleets, ``quick`` that it is one of the main rows.
    """

    name: str
    speeds: list[float] = field(default_factory=lambda: list(EQUAL))
    happens: Callable[[VirtualFleet], None] | None = None
    limit: float | None = None
    bad: int = 0
    poison: int = 0
    strict: bool = False
    chaos: bool = True
    quick: bool = False

    def prompts(self, count: int) -> list[VirtualPrompt]:
        """Make the prompts, the faulty ones among them."""
        prompts = [VirtualPrompt(length, PROMPT_TOKENS) for length in lengths(count)]
        for number in range(self.bad):
            prompts[count * (number + 1) // (self.bad + 2)].bad = True
        for number in range(self.poison):
            prompts[count * (number + 2) // (self.poison + 3)].poison = True
        return prompts

    def fleet(self) -> VirtualFleet:
        """Make the fleet, its faults scheduled."""
        fleet = VirtualFleet(self.speeds)
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
        Case("16 equal", limit=1.15, chaos=False, quick=True),
        Case("14 x1, one x0.5, one x0.25", [1.0] * 14 + [0.5, 0.25], limit=1.18, chaos=False, quick=True),
        Case("8 x1, 8 x0.5", [1.0] * 8 + [0.5] * 8, limit=1.18, chaos=False, quick=True),
        Case("16 equal, balance=strict", strict=True, chaos=False),
        Case("one 5x slow", happens=at(0, 3, "slow", factor=5)),
        Case("one dead from the start", happens=at(0, 3, "die")),
        Case("one dies at 30%", happens=at(33, 3, "die"), limit=1.20),
        Case("one hangs at 10 s", happens=at(10, 3, "hang"), limit=1.30, quick=True),
        Case("one terminated (hangs)", happens=at(20, 3, "terminate")),
        Case("one drains", happens=at(20, 3, "drain")),
        Case("one sleeps", happens=at(20, 3, "sleep")),
        Case("one flaps (10 s up, 5 s down)", happens=at(10, 3, "flap", up=10, down=5)),
        Case("one takes 100 at most (503)", happens=limit_queue),
        Case("one bad prompt", bad=1),
        Case("one poison prompt", poison=1),
        Case("all of these at once", happens=everything, bad=1, poison=1, quick=True),
    ]


COLUMNS = "{:32}{:>10}{:>9}{:>7}{:>6}{:>8}{:>8}{:>8}{:>6}  {}"
HEADER = COLUMNS.format("case", "makespan", "/ bound", "lost", "dup.", "failed", "wasted", "req/p", "us/p", "")


def run_pool(case: Case, prompts: list[VirtualPrompt]) -> tuple[str, float]:
    """Run a case with the pool's dispatcher; return its row and makespan / bound."""
    fleet = case.fleet()
    report = VirtualPool(fleet, seed=SEED, balance="strict" if case.strict else "adaptive").run(prompts)
    ratio = report.makespan / fleet.bound(prompts)
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
    ratio = client.ended_at / client.fleet.bound(prompts)
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


def run_case(name: str, baselines: bool) -> tuple[list[str], str | None]:
    """Run a case; return its rows, and what it misses of what is promised."""
    case = next(case for case in cases() if case.name == name)
    prompts = case.prompts(PROMPTS)
    row, ratio = run_pool(case, prompts)
    rows = [row]
    if baselines and not case.strict:
        rows.append(run_baseline("static lists, wait for all", StaticLists(case.fleet()), prompts))
        rows.append(run_baseline("semaphore, one by one", OneByOne(case.fleet()), prompts))
    missed = case.limit is not None and ratio > case.limit
    return rows, f"{name}: {ratio:.3f}, expected at most {case.limit}" if missed else None
