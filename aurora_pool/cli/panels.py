"""The groups in which ``--help`` shows options, in this order, and the options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

INPUT = "Input"
DATA = "Data"
OUTPUT = "Output"
PROMPTS = "Prompts"
SAMPLING = "Sampling"
FLEET = "Fleet"
ENGINE = "Engine"
SERVER = "Server"
STORAGE = "Storage"
ACCESS = "Access"
USER = "User"
LIMITS = "Limits"
CHECKS = "Checks"
COSTS = "Costs"
QUEUE = "Queue"
DISPLAY = "Display"


def hostfile_path(text: str) -> Path:
    """Make a path of what ``--hostfile`` says, which is no empty text: as a path, that would be the current folder."""
    if not text:
        raise typer.BadParameter("expected a file, a folder or a name, got ''")
    return Path(text)


HOSTFILE = typer.Option(
    parser=hostfile_path,
    metavar="FILE",
    envvar="AURORA_POOL_HOSTFILE",
    help="The hostfile: one agent a line; or the folder of a fleet's agents; or dns:// or k8s:// and a name.",
    rich_help_panel=FLEET,
)
Hostfile: TypeAlias = Annotated[Path, HOSTFILE]
Tag: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Use agents with this tag only; may be repeated.", rich_help_panel=FLEET),
]
Model: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="The model to ask for; by default, the one that is served.", rich_help_panel=FLEET
    ),
]
Patience: TypeAlias = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=0.1,
        help="Seconds to wait for an agent while none is in service.",
        rich_help_panel=LIMITS,
    ),
]
Temperature: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="T",
        min=0.0,
        help="0 takes the likeliest token; by default, what the server does.",
        rich_help_panel=SAMPLING,
    ),
]
Quiet: TypeAlias = Annotated[
    bool, typer.Option("--quiet", "-q", help="Show errors and warnings only.", rich_help_panel=DISPLAY)
]
