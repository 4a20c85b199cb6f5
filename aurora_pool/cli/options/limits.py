"""Options of ``aurora-pool run``: limits of time."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from aurora_pool.cli.panels import LIMITS

Walltime: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Time left, as 11:30:00, 90m or seconds; by default, what PBS or Slurm allow.",
        rich_help_panel=LIMITS,
    ),
]
Patience: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        min=0.1,
        help="Seconds to wait for the hostfile, by default 0, and while no agent is in service, by default 60.",
        rich_help_panel=LIMITS,
    ),
]
Timeout: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        min=0.1,
        help="Seconds a prompt may take from its first sending; by default no limit.",
        rich_help_panel=LIMITS,
    ),
]
Stall: TypeAlias = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=0.1,
        help="Seconds an agent with prompts may show no activity before they move to others.",
        rich_help_panel=LIMITS,
    ),
]
Grace: TypeAlias = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=0.0,
        help="Seconds to finish what is in flight after SIGTERM.",
        rich_help_panel=LIMITS,
    ),
]
