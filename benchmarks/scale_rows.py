"""A hundred million rows, four drivers, a thousand agents each: ``python -m benchmarks.scale --rows``.

What is real here: the plan of 10,000 pieces, leases and heartbeats in a folder, every line read, every record written,
and the merge; and in each driver the pool's dispatcher, which a thousand virtual agents keep busy in virtual time. The
pieces are smaller than they would be. Whatever is said about a hundred million rows is computed from these figures.
"""

from __future__ import annotations

import multiprocessing
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aurora_pool.jobs.claims import Claims
from aurora_pool.jobs.merge import merge
from aurora_pool.jobs.options import JobOptions
from aurora_pool.jobs.pieces import PieceFile, Plan, agree_on_plan
from aurora_pool.jobs.records import encode_record
from aurora_pool.messages import Response
from aurora_pool.sharing import Roster
from aurora_pool.testing.virtual import VirtualFleet, VirtualPrompt
from aurora_pool.testing.virtual_pool import VirtualPool
from benchmarks.jobs import write_input
from benchmarks.printing import machine, table

ROWS = 2_400_000
"""Rows by default: enough for a driver to have as many open as it ever has."""
WHOLE = 100_000_000
DRIVERS = 4
PIECES = 10_000
LENGTHS = (20, 60)
"""Tokens of the shortest and of the longest answer."""
PROMPT_TOKENS = 60
ROUND_TRIP = 0.02
NAMES = 38
"""Operations on names for each piece that `aurora-pool run --claim` answers, counted with strace; so are the syncs."""
SYNCS = 2
KEEPS_UP = 20_900
"""Rows a second that one driver has answered by agents that answer at once, in `benchmarks.jobs`."""


@dataclass(frozen=True)
class Driven:
    """What one driver came to; memory in MB, and times in seconds."""

    pieces: int
    rows: int
    claiming: float
    dispatching: float
    virtual: float
    open: int
    before: float
    peak: float


class Driver:
    """Takes pieces as its agents have room, and writes a record for each line, as if it had been answered."""

    def __init__(self, plan: Plan, folder: Path, roster: Roster) -> None:
        self._plan = plan
        self._claims = Claims(folder, len(plan.offsets), roster)
        self.pieces = self.rows = 0
        self.claiming = 0.0

    def prompts(self) -> Iterator[VirtualPrompt]:
        """Yield what the rows ask of the agents, until no piece is left."""
        rng = random.Random(0)
        reader = self._plan.reader()
        response = Response(True, "One short answer.", finish_reason="stop", prompt_tokens=50, completion_tokens=4)
        while True:
            began = time.process_time()
            lease = self._claims.take(lambda: None)
            self.claiming += time.process_time() - began
            if lease is None:
                return
            piece = PieceFile(self._plan, self._plan.piece(lease.number))
            with lease.output.open("wb") as file:
                for number, line in piece.lines():
                    request = reader.read(line, piece.before + number)
                    lease.check()
                    file.write(encode_record(request, response, model="simulated-model", created=0, agent="a:1"))
                    self.rows += 1
                    yield VirtualPrompt(rng.randint(*LENGTHS), PROMPT_TOKENS)
            began = time.process_time()
            self._claims.finish(lease)
            self.claiming += time.process_time() - began
            self.pieces += 1


def drive(source: str, folder: str, agents: int, results: multiprocessing.Queue[Driven]) -> None:
    """Run one driver in this process."""
    roster = Roster(Path(folder) / "drivers")
    driver = Driver(agree_on_plan(Path(folder), source, JobOptions(), name=roster.name), Path(folder), roster)
    before = peak_memory()
    pool = VirtualPool(VirtualFleet([1.0] * agents, round_trip=ROUND_TRIP))
    report = pool.run(driver.prompts())
    assert report.answered == driver.rows
    results.put(
        Driven(
            driver.pieces,
            driver.rows,
            driver.claiming,
            report.policy_seconds,
            report.makespan,
            report.most_open,
            before,
            peak_memory(),
        )
    )


def peak_memory() -> float:
    """The most memory that this process has had so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def merged_in(folder: str, output: str, rows: int, results: multiprocessing.Queue[tuple[float, float]]) -> None:
    """Merge in this process; tell its seconds and its memory."""
    began = time.perf_counter()
    assert merge(folder, output).requests == rows
    results.put((time.perf_counter() - began, peak_memory()))


def measure_rows(rows: int, agents: int) -> None:
    """Measure, and print what a hundred million rows come to."""
    print(machine(), flush=True)
    context = multiprocessing.get_context("spawn")  # a process each: its peak of memory is its own
    with tempfile.TemporaryDirectory() as name:
        source, shared = Path(name) / "in.jsonl", Path(name) / "shared"
        write_input(source, rows)
        began = time.perf_counter()
        plan = agree_on_plan(shared, str(source), JobOptions(), name="benchmark", piece_lines=max(1, rows // PIECES))
        planning = time.perf_counter() - began
        results: multiprocessing.Queue[Driven] = context.Queue()
        drivers = [
            context.Process(target=drive, args=(str(source), str(shared), agents, results)) for _ in range(DRIVERS)
        ]
        began = time.perf_counter()
        for driver in drivers:
            driver.start()
        found = [results.get() for _ in drivers]
        driving = time.perf_counter() - began
        for driver in drivers:
            driver.join()
        pieces = sum(driven.pieces for driven in found)
        assert (pieces, sum(driven.rows for driven in found)) == (len(plan.offsets), rows)
        times: multiprocessing.Queue[tuple[float, float]] = context.Queue()
        merging = context.Process(target=merged_in, args=(str(shared), str(Path(name) / "out.jsonl"), rows, times))
        merging.start()
        seconds, merge_memory = times.get()
        merging.join()
    claim = sum(driven.claiming for driven in found) / pieces
    rate = rows / max(driven.virtual for driven in found)
    answered = min(rate, DRIVERS * KEEPS_UP)
    piece = WHOLE / PIECES
    dispatching = sum(driven.dispatching for driven in found) / rows * 1e6
    measured = [
        ("plan", f"{planning / rows * 1e6:.1f} us a row"),
        ("all drivers, on the cores of this machine", f"{driving:.0f} s"),
        ("take a piece and say that it is done, CPU", f"{claim * 1000:.2f} ms"),
        ("dispatcher, CPU", f"{dispatching:.1f} us a row"),
        ("most rows open in a driver", f"{max(driven.open for driven in found):,}"),
        ("memory of a driver before it has agents", f"{max(driven.before for driven in found):.0f} MB"),
        ("its peak, the virtual agents' own included", f"{max(driven.peak for driven in found):.0f} MB"),
        ("merge", f"{seconds / rows * 1e6:.1f} us a row, {merge_memory:.0f} MB"),
        (f"rows a second of {DRIVERS} x {agents:,} agents, in virtual time", f"{rate:,.0f}"),
    ]
    computed = [
        ("plan", f"{planning / rows * WHOLE / 60:.0f} min"),
        ("CPU of all claims", f"{claim * PIECES:.0f} s"),
        ("merge, one process", f"{seconds / rows * WHOLE / 60:.0f} min"),
        (f"rows a second: what agents and drivers ({KEEPS_UP:,} each) can", f"{answered:,.0f}"),
        ("all rows, so", f"{WHOLE / answered / 60:.0f} min"),
        ("the file system then: pieces a second", f"{answered / piece:.1f}"),
        ("operations on names a second", f"{answered / piece * NAMES:,.0f}"),
        ("syncs a second", f"{answered / piece * SYNCS:,.0f}"),
        ("records written a second", f"{answered:,.0f}"),
    ]
    print(table([f"measured: {rows:,} rows, {pieces:,} pieces, {DRIVERS} drivers x {agents:,} agents", ""], measured))
    print(table([f"computed from it: {WHOLE:,} rows in {PIECES:,} pieces", ""], computed))
