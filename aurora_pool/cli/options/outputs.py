"""Options of ``aurora-pool run``: what is written, and when."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from aurora_pool.cli.panels import OUTPUT

Output: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="The file for the answers. If it exists, the job continues. - is standard output.",
        rich_help_panel=OUTPUT,
    ),
]
Ordered: TypeAlias = Annotated[
    bool,
    typer.Option("--ordered", help="Also write a copy in the order of the input, at the end.", rich_help_panel=OUTPUT),
]
FsyncInterval: TypeAlias = Annotated[
    float,
    typer.Option(
        metavar="SECONDS", min=0.1, help="Seconds between syncs of the output to disk.", rich_help_panel=OUTPUT
    ),
]
FsyncEveryRecord: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--fsync-every-record",
        help="Sync after each answer: slow, and safe against a crash of the machine.",
        rich_help_panel=OUTPUT,
    ),
]
