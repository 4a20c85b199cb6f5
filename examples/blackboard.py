"""Let a reader and a critic work on one text, round by round, on a blackboard that both see.

::

    python examples/blackboard.py                           # a text from here, on a simulated fleet
    python examples/blackboard.py FOLDER --hostfile FILE    # your first text, on your fleet

A role can be kept to certain agents: ``Role(..., tag=("role", "critic"))`` works on those that have ``role=critic`` in
the hostfile.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aurora_pool.patterns import Blackboard, Role
from shared import open_pool, parse_arguments, read_texts

ROLES = [
    Role(
        "reader",
        "reading",
        "Text:\n{text}\n\nYour reading so far:\n{reading}\n\nObjections:\n{objections}\n\nA better reading:",
        replace=True,
        max_tokens=64,
    ),
    Role(
        "critic",
        "objections",
        "Text:\n{text}\n\nA reading of it:\n{reading}\n\nWhat is wrong with this reading? One objection:",
        count=2,
        replace=True,
        max_tokens=32,
    ),
]


async def main(folder: Path, hostfile: Path | None) -> int:
    """Print what stands on the board in the end; give the exit code, 1 if a contribution was lost."""
    text = next(iter(read_texts(folder).values()))
    board = Blackboard({"text": text, "reading": "", "objections": ""}, ROLES)
    async with open_pool(hostfile) as pool:
        result = await board.run(pool, rounds=3)
    for section in ("reading", "objections"):
        print(f"{section}:\n    {result.sections[section].strip()}\n")
    print(f"{result.rounds} rounds" + (", converged" if result.converged else ""))
    for contribution in result.lost:
        print(f"lost in round {contribution.round}: {contribution.role}: {contribution.error}")
    return 1 if result.lost else 0


if __name__ == "__main__":
    arguments = parse_arguments("Let a reader and a critic work on the first text of a folder.")
    sys.exit(asyncio.run(main(arguments.folder, arguments.hostfile)))
