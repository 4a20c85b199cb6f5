"""Options of ``aurora-pool run``: what is shown."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from aurora_pool.cli.panels import DISPLAY

DryRun: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Ask a few requests, and say what the job would do and take.", rich_help_panel=DISPLAY
    ),
]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print the summary as one line of JSON.", rich_help_panel=DISPLAY)
]
WarnAfter: TypeAlias = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=0.1,
        help="Seconds without any answer before a warning is shown.",
        rich_help_panel=DISPLAY,
    ),
]
RunLog: TypeAlias = Annotated[
    bool,
    typer.Option("--run-log/--no-run-log", help="Write OUTPUT.runlog for the command report.", rich_help_panel=DISPLAY),
]
MetricsPort: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="PORT", min=0, max=65535, help="Serve Prometheus metrics on this port.", rich_help_panel=DISPLAY
    ),
]
MetricsHost: TypeAlias = Annotated[
    str, typer.Option(metavar="ADDRESS", help="The address to serve them on.", rich_help_panel=DISPLAY)
]
