"""How long importing the package and ``aurora-pool --help`` take: seconds, and seconds of CPU, in interleaved rounds.

    python benchmarks/startup.py

Other work on the machine shows in the seconds and hardly in the CPU seconds. The goals are for seconds, and are judged
by the least of the rounds, which is what a command takes when nothing disturbs it; the first round, which reads files
that are not cached yet, does not count. Which packages must not be imported at all is tested in tests/test_startup.py.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.printing import machine, table

COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "import aurora_pool": [sys.executable, "-c", "import aurora_pool"],
    "import aurora_pool, make a pool": [
        sys.executable,
        "-c",
        "import aurora_pool; aurora_pool.VLLMPool([aurora_pool.AgentEndpoint('127.0.0.1', 8000)])",
    ],
    "import openai": [sys.executable, "-c", "import openai"],
    "aurora-pool --help": [str(Path(sys.executable).with_name("aurora-pool")), "--help"],
}
GOALS = {"import aurora_pool": 0.25, "aurora-pool --help": 0.5}
"""Seconds at most; an import is counted without the start of the interpreter."""


def run(command: Sequence[str]) -> tuple[float, float]:
    """Run a command; return its seconds and its CPU seconds."""
    # What is installed is compiled already: a setting that forbids to keep what is compiled would be measured instead.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, started = os.times(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    seconds, after = time.perf_counter() - started, os.times()
    return seconds, after.children_user + after.children_system - before.children_user - before.children_system


def main() -> int:
    """Run the command line; return the exit code, 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    if rounds < 2:
        parser.error("--rounds must be 2 or more")
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, command in COMMANDS.items():
            times = run(command)
            if number:  # the first round fills the caches
                found[name].append(times)
    print(machine())
    rows = []
    for name, runs in found.items():
        clock = [seconds for seconds, _ in runs]
        rows.append((name, f"{min(clock):.3f}", _spread(clock), _spread([cpu for _, cpu in runs])))
    print(table((f"{rounds} rounds", "seconds: least", "median (quartiles)", "CPU seconds: median (quartiles)"), rows))
    missed = False
    for name, goal in GOALS.items():
        less = min(found["python"])[0] if name.startswith("import") else 0.0
        seconds = min(found[name])[0] - less
        print(f"{'reached' if seconds <= goal else 'missed '}  {name}: at most {goal} s: {seconds:.3f} s")
        missed = missed or seconds > goal
    return 1 if missed else 0


def _spread(values: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


if __name__ == "__main__":
    sys.exit(main())
