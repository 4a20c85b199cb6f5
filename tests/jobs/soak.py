"""Kill jobs until they are done, and let disks fill up under them, again and again: ``make soak``."""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time

from tests.jobs.full_disk import command
from tests.jobs.killing import KILLS, STOPS, check_exactly_once


def main() -> None:
    """Go on for as long as asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    mounting = command()
    if mounting is None:
        sys.exit("this needs a file system of its own for the full disk: run it as root, or where `unshare -Urm` works")
    deadline = time.monotonic() + 60 * arguments.minutes
    seed = arguments.seed
    while time.monotonic() < deadline:
        endings = [KILLS * 3, STOPS * 2, random.Random(seed).sample(KILLS + STOPS, k=40)][seed % 3]
        cut = check_exactly_once(seed, requests=arguments.requests, endings=endings, tables=seed % 4 >= 2)
        names = " ".join(sorted({number.name for ending in endings for number in ending}))
        say(f"seed {seed}, {names}: {cut} runs of {arguments.requests} requests cut short, every answer once")
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([*mounting, folder], check=True)
        say("the disk was full three times, and nothing lost")
        seed += 1


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
