"""How long importing the package and ``aurora-pool --help`` take: seconds, and seconds of CPU, in interleaved rounds.

    python benchmarks/startup.py

Other work on the machine shows in the seconds and hardly in the CPU seconds. Which packages must not be imported at
all is tested in tests/test_startup.py.
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
    before, started = os.times(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - started, os.times()
    return seconds, after.children_user + after.children_system - before.children_user - before.children_system


def main() -> int:
    """Run the command line; return the exit code, 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, command in COMMANDS.items():
            times = run(command)
            if number:  # the first round fills the caches
                found[name].append(times)
    medians = {
        name: [statistics.median(column) for column in zip(*times, strict=True)] for name, times in found.items()
    }
    print(f"{'':34}{'seconds':>10}{'CPU seconds':>14}")
    for name, (seconds, cpu) in medians.items():
        print(f"{name:34}{seconds:10.3f}{cpu:14.3f}")
    missed = False
    for name, goal in GOALS.items():
        less = medians["python"][1] if name.startswith("import") else 0.0
        cpu = medians[name][1] - less
        print(f"{'reached' if cpu <= goal else 'missed '}  {name}: at most {goal} s of CPU: {cpu:.3f} s")
        missed = missed or cpu > goal
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
