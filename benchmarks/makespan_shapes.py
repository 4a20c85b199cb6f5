"""Shapes of work: lengths of prompts and answers, round trips, on equal, mixed and failing fleets, in virtual time.

What is sent simply, as *static lists*, is the floor that every fault-free row must reach: the whole job at the start,
assigned round-robin, one list per agent in requests of at most 1,024, on the same engines and network.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from aurora_pool.testing.profile import AgentProfile
from aurora_pool.testing.virtual import VirtualFleet, VirtualPrompt
from aurora_pool.testing.virtual_load import ForeignLoad
from aurora_pool.testing.virtual_network import Pauses
from aurora_pool.testing.virtual_pool import VirtualPool
from benchmarks.virtual_baselines import StaticLists

SEED = 1
LONG = 275
"""Stands for lognormal answers of 275 tokens in the mean: median 200, sigma 0.8, 8 to 2048."""
ANSWERS = (1, 4, 16, 64, LONG)
PROMPTS = (50, 200, 1000, 4000)
ROUND_TRIPS = (1, 20, 100)
SPREAD = 0.3
"""Sigma of the lognormal lengths of prompts, and of answers between 1 token and the long ones."""
LEAST_SECONDS = 12.0
LEAST_SECONDS_LONG = 100.0
"""Long answers need a longer job, or what is measured is how long the longest of them takes."""
LEAST_WINDOWS = 4
WINDOW = 272

FLEETS: dict[str, list[float]] = {
    "equal": [1.0] * 4,
    "14+0.5+0.25": [1.0] * 14 + [0.5, 0.25],
    "8+8x0.5": [1.0] * 8 + [0.5] * 8,
}
EVENTS: dict[str, Callable[[VirtualFleet, float], None]] = {
    "dies": lambda fleet, end: fleet.at(0.3 * end, fleet.agents[1].die),
    "hangs": lambda fleet, end: fleet.at(0.3 * end, fleet.agents[1].hang),
    "slows": lambda fleet, end: fleet.at(0.3 * end, lambda: fleet.agents[1].slow(5)),
    "flaps": lambda fleet, end: fleet.at(0.2 * end, lambda: fleet.agents[1].flap(up=5, down=3)),
    "foreign": lambda fleet, _: _foreign(fleet),
}
FAULTS = ("dies", "hangs", "slows", "flaps")


def _foreign(fleet: VirtualFleet) -> None:
    ForeignLoad(fleet, 1, seed=SEED, sequences=400)


@dataclass(frozen=True)
class Cell:
    """One row: tokens in and out, milliseconds of a round trip, the fleet, and what disturbs it.

    ``event`` is one of :data:`EVENTS`; ``late`` has the client run late at times, ``fixed`` makes all lengths equal,
    ``kv_blocks`` makes caches small. ``prompts`` is the size of the job; 0 for one that lasts long enough.
    """

    read: int
    written: int
    round_trip: int
    fleet: str = "equal"
    event: str = ""
    late: bool = False
    fixed: bool = False
    kv_blocks: int = 0
    prompts: int = 0
    seed: int = SEED

    @classmethod
    def parse(cls, text: str) -> Cell:
        """Read a row's name, such as ``100in,16out,20ms`` or ``200in,4out,1ms,8+8x0.5,late,foreign,5000prompts``."""
        cell = cls(100, 16, 20)
        for word in text.split(","):
            name = word.lstrip("0123456789")
            number = int(word[: len(word) - len(name)] or 0)
            match name:
                case "in":
                    cell = replace(cell, read=number)
                case "out":
                    cell = replace(cell, written=number)
                case "ms":
                    cell = replace(cell, round_trip=number)
                case "late":
                    cell = replace(cell, late=True)
                case "fixed":
                    cell = replace(cell, fixed=True)
                case "blocks":
                    cell = replace(cell, kv_blocks=number)
                case "prompts":
                    cell = replace(cell, prompts=number)
                case "seed":
                    cell = replace(cell, seed=number)
                case _ if word in EVENTS:
                    cell = replace(cell, event=word)
                case _ if word in FLEETS:
                    cell = replace(cell, fleet=word)
                case _:
                    known = ", ".join((*FLEETS, *EVENTS))
                    raise ValueError(
                        f"{word!r} is no part of a row: expected Nin, Nout, Nms, late, fixed, Nblocks, Nprompts, "
                        f"Nseed or one of {known}"
                    )
        return cell

    @property
    def name(self) -> str:
        """The row's name, as :meth:`parse` reads it."""
        words = [f"{self.read}in", f"{self.written}out", f"{self.round_trip}ms"]
        words += [self.fleet] * (self.fleet != "equal") + [self.event] * bool(self.event)
        words += ["late"] * self.late + ["fixed"] * self.fixed + [f"{self.kv_blocks}blocks"] * bool(self.kv_blocks)
        words += [f"{self.prompts}prompts"] * bool(self.prompts) + [f"{self.seed}seed"] * (self.seed != SEED)
        return ",".join(words)

    @property
    def faulty(self) -> bool:
        """Whether something fails in it."""
        return self.event in FAULTS

    def make_fleet(self, *, streamed: bool = True) -> VirtualFleet:
        """Make the fleet."""
        return VirtualFleet(
            FLEETS[self.fleet],
            profile=AgentProfile(kv_blocks=self.kv_blocks or None),
            streamed=streamed,
            round_trip=self.round_trip / 1000,
            pauses=Pauses(seed=self.seed) if self.late else None,
        )

    def make_prompts(self) -> list[VirtualPrompt]:
        """Make a job that lasts long enough, and is at least four times what the agents' first windows hold."""
        draw = random.Random(self.seed)
        long = self.written == LONG and not self.fixed

        def lengths(mean: int) -> int:
            if self.fixed or mean == 1:
                return mean
            return max(1, round(mean * draw.lognormvariate(-(SPREAD**2) / 2, SPREAD)))

        def prompt() -> VirtualPrompt:
            written = round(draw.lognormvariate(math.log(200), 0.8)) if long else lengths(self.written)
            return VirtualPrompt(min(2048, max(8, written)) if long else written, lengths(self.read))

        if self.prompts:
            return [prompt() for _ in range(self.prompts)]
        sample = [VirtualPrompt(self.written, self.read)] * 100_000
        fleet = self.make_fleet()
        rate = len(sample) / fleet.bound(sample)
        least = LEAST_SECONDS_LONG if long else LEAST_SECONDS
        count = max(math.ceil(least * rate), LEAST_WINDOWS * WINDOW * len(fleet.agents))
        return [prompt() for _ in range(count)]


COLUMNS = "{:36}{:>8}{:>9}{:>8}{:>12}{:>9}{:>7}{:>8}{:>7}{:>8}{:>7}{:>7}"
HEADER = COLUMNS.format(
    "row", "prompts", "makespan", "/ bound", "static", "/ static", "p/req", "hedged", "twice", "wasted", "lost", "us/p"
)


def run_cell(cell: Cell) -> tuple[str, list[str]]:
    """Run one row; return it, and what it misses of the goals."""
    prompts = cell.make_prompts()
    fleet = cell.make_fleet()
    static = StaticLists(cell.make_fleet(streamed=False))
    bound = fleet.bound(prompts)
    if cell.event:
        EVENTS[cell.event](fleet, bound)
        EVENTS[cell.event](static.fleet, bound)
    lost = static.run(prompts)
    report = VirtualPool(fleet, seed=cell.seed).run(prompts)
    assert report.lost == report.duplicated == 0, report
    if not cell.event:
        assert report.answered == len(prompts), report
    bound = fleet.bound(prompts)  # what failed meanwhile is taken away from it
    count = len(prompts)
    to_static = math.nan if static.never_ends or lost else report.makespan / static.ended_at
    row = COLUMNS.format(
        cell.name,
        count,
        f"{report.makespan:.2f}",
        f"{report.makespan / bound:.3f}",
        "never" if static.never_ends else f"{lost} lost" if lost else f"{static.ended_at / bound:.3f}",
        "" if math.isnan(to_static) else f"{to_static:.3f}",
        f"{count / report.requests:.1f}",
        f"{report.hedged / count:.2%}",
        report.hedged_twice,
        f"{report.wasted_share:.2%}",
        f"{report.tokens_lost / report.tokens:.2%}",
        f"{report.policy_seconds / count * 1e6:.1f}",
    )
    missed = []
    if to_static > 1.03:
        missed.append(f"{to_static:.3f} of static lists, expected at most 1.03")
    if not cell.faulty:
        if count < 15 * report.requests:
            missed.append(f"{count / report.requests:.1f} prompts per request, expected at least 15")
        if report.hedged > 0.05 * count or report.hedged_twice:
            missed.append(f"{report.hedged} of {count} hedged, {report.hedged_twice} twice, expected at most 5%, none")
    if report.wasted_share > (0.03 if cell.faulty else 0.02):
        missed.append(f"{report.wasted_share:.2%} of tokens wasted")
    return row, [f"{cell.name}: {miss}" for miss in missed]


def shapes(*, quick: bool = False) -> list[Cell]:
    """List the rows of shapes on four equal agents."""
    if quick:
        return [Cell(100, 16, 2), Cell(100, 16, 20), Cell(200, 4, 20), Cell(50, 1, 100), Cell(1000, 64, 20)]
    return [Cell(read, written, ms) for written in ANSWERS for read in PROMPTS for ms in ROUND_TRIPS]


def disturbed(*, quick: bool = False) -> list[Cell]:
    """List the rows of three shapes on mixed, failing, shared and small fleets, and with a client that runs late."""
    three = [Cell(200, 4, 20), Cell(200, 64, 20), Cell(1000, LONG, 20)]
    rows = []
    for cell in three[: 1 if quick else 3]:
        rows += [replace(cell, fleet=fleet) for fleet in FLEETS if fleet != "equal"]
        rows += [replace(cell, event=event) for event in (FAULTS[:2] if quick else EVENTS)]
        rows += [replace(cell, late=True)]
        if not quick:
            rows += [replace(cell, fixed=True), replace(cell, kv_blocks=4096)]
    return rows


def main_cell(text: str) -> None:
    """Run and print one row by its name."""
    began = time.process_time()
    row, missed = run_cell(Cell.parse(text))
    print(HEADER, row, *missed, f"({time.process_time() - began:.1f} s)", sep="\n")
