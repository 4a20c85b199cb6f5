"""Drivers that share one input: what claiming costs, drivers that are killed, and agents that are lent.

    python -m benchmarks.claims overhead                  one driver with and without --claim, in turns
    python -m benchmarks.claims kills                     4 drivers, each killed 10 times, on a fleet that loses agents
    python -m benchmarks.claims share                     4 drivers, one with 4 times the work, against one alone

A hundred million rows are in ``python -m benchmarks.scale --rows``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from aurora_pool.jobs.merge import merge
from benchmarks.jobs import run, write_input
from benchmarks.printing import machine

COMMAND = [sys.executable, "-m", "aurora_pool"]
DRIVERS = 4
PIECE_LINES = 200
ROUNDS = 5


@contextmanager
def fleet(folder: Path, *options: object) -> Iterator[Path]:
    """Run a simulated fleet; gives its hostfile."""
    hostfile = folder / "fleet.hostfile"
    command = [*COMMAND, "sim", "-o", str(hostfile), *map(str, options)]
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
    command = ["run", source, "--claim", shared, "--piece-lines", PIECE_LINES, "--takeover-after", 2, "--quiet"]
    with fleet(folder, "--agents", 6, "--slots", 16, "--median-length", 30, "--speed", 0.3, *faults) as hostfile:
        line = [*COMMAND, *map(str, command), "--hostfile", str(hostfile)]
        drivers = [subprocess.Popen(line, stderr=subprocess.DEVNULL) for _ in range(DRIVERS)]
        left = [kills] * DRIVERS
        killed: set[int] = set()
        while any(left) and any(driver.poll() is None for driver in drivers):
            time.sleep(rng.uniform(0.2, 0.6))
            at_work = {holder for holders in held(shared).values() for holder in holders} - killed
            victims = [number for number in range(DRIVERS) if left[number] and drivers[number].pid in at_work]
            if not victims:
                continue  # they are still starting
            victim = rng.choice(victims)
            drivers[victim].kill()
            if drivers[victim].wait() == 0:
                break  # all pieces are done
            killed.add(drivers[victim].pid)
            left[victim] -= 1
            drivers[victim] = subprocess.Popen(line, stderr=subprocess.DEVNULL)
        codes = [driver.wait() for driver in drivers]
    assert codes == [0] * DRIVERS, codes
    merged = merge(shared, folder / "out.jsonl")
    assert (merged.requests, merged.failed) == (lines, 0)
    from_killed = from_living = renewed = 0
    leases = held(shared)
    for holders in leases.values():
        for before, after in itertools.pairwise(holders):
            renewed += before == after
            from_killed += before != after and before in killed
            from_living += before != after and before not in killed
    answered = sum(1 for file in (shared / "answers").glob("*.jsonl") for _ in file.open("rb"))
    copied = answered - lines
    print(f"{len(killed)} of {DRIVERS * kills} kills hit a driver at work: {lines:,} ids, each exactly once;", end=" ")
    print(f"{len(leases)} pieces, {from_killed} times taken over from a driver that was killed, {from_living} times")
    print(f"from one that was slow; {renewed} leases renewed; {copied:,} records copied from an earlier lease's file")


def held(shared: Path) -> dict[str, list[int]]:
    """The processes that have had each piece, in turn: leases name their drivers as ``HOST-PID-...``."""
    pieces: dict[str, list[tuple[int, int]]] = {}
    for lease in (shared / "leases").glob("*"):
        piece, _, generation = lease.name.partition(".")
        pieces.setdefault(piece, []).append((int(generation), int(str(lease.readlink()).split("-")[-2])))
    return {piece: [process for _, process in sorted(turns)] for piece, turns in pieces.items()}


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
    parser.add_argument("what", choices=["overhead", "kills", "share"])
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--agents", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.what == "overhead":
            measure_overhead(folder, 100_000)
        elif given.what == "kills":
            measure_kills(folder, given.rows, given.kills, given.seed)
        else:
            measure_share(folder, 2700, given.agents)


if __name__ == "__main__":
    main()
