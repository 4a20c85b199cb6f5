"""Drivers that share one input: what claiming costs, what a hundred million rows come to, and agents that are lent.

    python -m benchmarks.claims overhead                  one driver with and without --claim, in turns
    python -m benchmarks.claims rows --rows 1000000       claims and merge at 10,000 pieces, 4 drivers
    python -m benchmarks.claims kills                     4 drivers, each killed 10 times, on a fleet that loses agents
    python -m benchmarks.claims share                     4 drivers, one with 4 times the work, against one alone

``rows`` has no fleet: each of its drivers takes pieces and writes a record for each line, so what is left is what the
folder costs. 100 million rows are 10,000 pieces of 10,000; the pieces are as many here, and smaller.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from aurora_pool.jobs.claims import Claims
from aurora_pool.jobs.merge import merge
from aurora_pool.jobs.options import JobOptions
from aurora_pool.jobs.pieces import PieceFile, agree_on_plan
from aurora_pool.jobs.records import encode_record
from aurora_pool.messages import Response
from aurora_pool.sharing import Roster
from benchmarks.jobs import run, write_input
from benchmarks.printing import machine

COMMAND = [sys.executable, "-m", "aurora_pool"]
DRIVERS = 4
ROUNDS = 5


@contextmanager
def fleet(folder: Path, *options: object) -> Iterator[Path]:
    """Run a simulated fleet; gives its hostfile."""
    hostfile = folder / "fleet.hostfile"
    command = [*COMMAND, "sim", "--hostfile", str(hostfile), *map(str, options)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while not hostfile.exists():
            time.sleep(0.05)
        yield hostfile
    finally:
        process.terminate()
        process.wait()


def measure_overhead(folder: Path, lines: int) -> None:
    """Run a job both ways in turns; say what claiming adds."""
    source = folder / "in.jsonl"
    write_input(source, lines)
    ratios = []
    with fleet(folder, "--agents", 4, "--instant") as hostfile:
        for number in range(ROUNDS):
            _, plain, _, _ = run(source, folder / f"plain{number}.jsonl", hostfile, "--no-run-log")
            claimed = time_claimed(source, folder / f"claimed{number}", hostfile)
            ratios.append(claimed / plain)
            print(f"round {number + 1}: CPU {plain:.2f} s plain, {claimed:.2f} s with --claim", flush=True)
    print(f"--claim / plain, CPU: median {statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})")


def time_claimed(source: Path, folder: Path, hostfile: Path) -> float:
    """Run one driver; give the seconds of its CPU."""
    command = [*COMMAND, "run", str(source), "--claim", str(folder), "--hostfile", str(hostfile), "--quiet"]
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return usage.ru_utime + usage.ru_stime


def measure_rows(folder: Path, rows: int, pieces: int) -> None:
    """Have four processes take all pieces and write records for their lines; then merge."""
    source, shared = folder / "in.jsonl", folder / "shared"
    write_input(source, rows)
    began = time.perf_counter()
    agree_on_plan(shared, str(source), JobOptions(), name="benchmark", piece_lines=rows // pieces)
    print(f"plan of {rows:,} rows in {pieces:,} pieces: {time.perf_counter() - began:.2f} s")
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    drivers = [context.Process(target=drive, args=(str(source), str(shared), results)) for _ in range(DRIVERS)]
    began = time.perf_counter()
    for driver in drivers:
        driver.start()
    found = [results.get() for _ in drivers]
    for driver in drivers:
        driver.join()
    seconds = time.perf_counter() - began
    taken = sum(count for count, _, _ in found)
    assert taken == pieces
    claims = sum(spent for _, spent, _ in found) / pieces * 1000
    print(
        f"{DRIVERS} drivers: {seconds:.1f} s; {claims:.2f} ms of CPU per piece to take it and to say that it is done;",
        end=" ",
    )
    print(f"peak memory {max(peak for _, _, peak in found):.0f} MB a driver")
    began = time.perf_counter()
    merged = merge(shared, folder / "out.jsonl")
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert merged.requests == rows
    print(f"merge: {seconds:.1f} s, {seconds / rows * 1e6:.1f} us a row, peak memory {peak:.0f} MB")


def drive(source: str, folder: str, results: multiprocessing.Queue[tuple[int, float, float]]) -> None:
    """Take pieces and write a record for each line, as a driver does whose fleet answers at once."""
    roster = Roster(Path(folder) / "drivers")
    plan = agree_on_plan(Path(folder), source, JobOptions(), name=roster.name)
    claims = Claims(Path(folder), len(plan.offsets), roster)
    reader = plan.reader()
    response = Response(True, "One short answer.", finish_reason="stop", prompt_tokens=50, completion_tokens=4)
    taken, spent = 0, 0.0
    while True:
        began = time.process_time()
        lease = claims.take(lambda: None)
        spent += time.process_time() - began
        if lease is None:
            break
        piece = PieceFile(plan, plan.piece(lease.number))
        with lease.output.open("wb") as file:
            for number, line in piece.lines():
                request = reader.read(line, piece.before + number)
                lease.check()
                file.write(encode_record(request, response, model="simulated-model", created=0, agent="a:1"))
        began = time.process_time()
        claims.finish(lease)
        spent += time.process_time() - began
        taken += 1
    results.put((taken, spent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def measure_kills(folder: Path, lines: int, kills: int, seed: int) -> None:
    """Kill each of four drivers ten times at random moments; see that every id is there once."""
    rng = random.Random(seed)
    source, shared = folder / "in.jsonl", folder / "shared"
    prompts = [{"id": f"p{number}", "prompt": f"Say {number}.", "max_tokens": 40} for number in range(lines)]
    source.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts), encoding="utf-8")
    faults: list[object] = []
    for number in range(300):
        action = rng.choice(["die", "hang", "terminate", "refuse"])
        faults += ["--fault", f"{rng.randrange(1, 6)}:{action}@{1 + 2 * number}+{rng.uniform(1, 4):.1f}"]
    command = ["run", source, "--claim", shared, "--piece-lines", 200, "--takeover-after", 2, "--quiet"]
    with fleet(folder, "--agents", 6, "--slots", 16, "--median-length", 30, *faults) as hostfile:
        line = [*COMMAND, *map(str, command), "--hostfile", str(hostfile)]
        drivers = [subprocess.Popen(line) for _ in range(DRIVERS)]
        left = [kills] * DRIVERS
        early = 0
        while any(left):
            victim = rng.choice([number for number in range(DRIVERS) if left[number]])
            while drivers[victim].poll() is None and not holds_a_piece(shared, drivers[victim].pid):
                time.sleep(0.05)  # it is still starting
            time.sleep(rng.uniform(0.2, 1.0))
            drivers[victim].send_signal(signal.SIGKILL)
            early += drivers[victim].wait() == 0
            left[victim] -= 1
            drivers[victim] = subprocess.Popen(line)
        codes = [driver.wait() for driver in drivers]
    assert codes == [0] * DRIVERS, codes
    merged = merge(shared, folder / "out.jsonl")
    assert (merged.requests, merged.failed) == (lines, 0)
    leases = len(list((shared / "leases").iterdir()))
    pieces = -(-lines // 200)
    print(
        f"{DRIVERS * kills - early} of {DRIVERS * kills} kills hit a driver at work: {lines:,} ids, each exactly once;"
    )
    print(f"{leases - pieces} times one of {pieces} pieces was taken over")


def holds_a_piece(shared: Path, process: int) -> bool:
    """Whether a driver has taken a piece: leases name their drivers as ``HOST-PID-...``."""
    return any(str(lease.readlink()).split("-")[-2] == str(process) for lease in (shared / "leases").glob("*"))


def measure_share(folder: Path, least: int, agents: int) -> None:
    """Give four drivers a quarter of the agents each, and one of them four times the work of another."""
    counts = [least] * (DRIVERS - 1) + [4 * least]
    lines = iter(range(sum(counts)))
    for driver, count in enumerate(counts):
        with (folder / f"in{driver}.jsonl").open("w", encoding="utf-8") as file:
            for number, _ in zip(lines, range(count), strict=False):
                file.write(json.dumps({"id": f"p{number}", "prompt": f"Say {number}.", "max_tokens": 1000}) + "\n")
    whole = folder / "all.jsonl"
    whole.write_bytes(b"".join((folder / f"in{driver}.jsonl").read_bytes() for driver in range(DRIVERS)))
    with fleet(folder, "--agents", agents) as hostfile:
        options = ["--hostfile", str(hostfile), "--quiet"]
        began = time.perf_counter()
        subprocess.run([*COMMAND, "run", str(whole), "-o", str(folder / "all.out"), *options], check=True)
        alone = time.perf_counter() - began
        began = time.perf_counter()
        drivers = [
            subprocess.Popen(
                [
                    *(*COMMAND, "run", str(folder / f"in{driver}.jsonl"), "-o", str(folder / f"{driver}.out")),
                    *(*options, "--share", f"{driver}/{DRIVERS}"),
                ]
            )
            for driver in range(DRIVERS)
        ]
        assert [driver.wait() for driver in drivers] == [0] * DRIVERS
        shared = time.perf_counter() - began
    print(
        f"{agents} agents, work 1:1:1:4: one driver {alone:.1f} s, four drivers {shared:.1f} s: {shared / alone:.2f} x"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["overhead", "rows", "kills", "share"])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--pieces", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--agents", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.what == "overhead":
            measure_overhead(folder, min(given.rows, 200_000))
        elif given.what == "rows":
            measure_rows(folder, given.rows, given.pieces)
        elif given.what == "kills":
            measure_kills(folder, min(given.rows, 12_000), given.kills, given.seed)
        else:
            measure_share(folder, 2700, given.agents)


if __name__ == "__main__":
    main()
