"""What the examples share: their command line, their texts, and the fleet they run on."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aurora_pool import VLLMPool
from aurora_pool.testing import SimulatedFleet

TEXTS = Path(__file__).parent / "texts"


def parse_arguments(description: str) -> argparse.Namespace:
    """Read the command line: a folder of texts, and ``--hostfile``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path, nargs="?", default=TEXTS, help="a folder of .txt files")
    parser.add_argument("--hostfile", type=Path, help="the fleet to use; without it, 4 simulated agents")
    return parser.parse_args()


def read_texts(folder: Path) -> dict[str, str]:
    """Read every ``.txt`` file of a folder: texts by file name, in the order of the names."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))}


@asynccontextmanager
async def open_pool(hostfile: Path | None) -> AsyncIterator[VLLMPool]:
    """Give a pool over the agents of a hostfile or, without one, over 4 simulated agents."""
    if hostfile is not None:
        async with VLLMPool.from_hostfile(hostfile) as pool:
            yield pool
    else:
        # Twenty times as fast as servers are: nobody waits for made-up words.
        async with SimulatedFleet(4, time_scale=20) as fleet, VLLMPool(fleet.endpoints) as pool:
            yield pool
