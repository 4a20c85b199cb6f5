"""Options of ``aurora-pool run`` for a job that several drivers share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from aurora_pool.cli.panels import FLEET, LIMITS, OUTPUT

Claim: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Instead of -o: share the input with all drivers that name this folder; merge joins their answers.",
        rich_help_panel=OUTPUT,
    ),
]
Shard: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="K/N",
        help="Answer part K (from 0 on) of N of the ids, into the folder -o; auto is the rank of this process.",
        rich_help_panel=OUTPUT,
    ),
]
PieceLines: TypeAlias = Annotated[
    int,
    typer.Option(metavar="N", min=1, help="Lines that a driver takes at a time, with --claim.", rich_help_panel=OUTPUT),
]
Share: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="K/N",
        help="Use part K (from 0 on) of N of the agents, and idle ones of other drivers; auto is the rank.",
        rich_help_panel=FLEET,
    ),
]
TakeoverAfter: TypeAlias = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=1.0,
        help="Seconds without a heartbeat after which another driver is taken for dead.",
        rich_help_panel=LIMITS,
    ),
]
