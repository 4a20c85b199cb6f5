"""Options of ``aurora-pool run``: who answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from aurora_pool.cli.panels import FLEET

Hostfile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        envvar="AURORA_POOL_HOSTFILE",
        metavar="FILE",
        help="The hostfile: one agent a line; or the folder of a fleet's agents.",
        rich_help_panel=FLEET,
    ),
]
Model: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The model to ask for; by default the input's, else the one that is served.",
        rich_help_panel=FLEET,
    ),
]
ModelMap: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="OLD=NEW",
        help="A model's name in the input, and its name in the fleet; may be repeated.",
        rich_help_panel=FLEET,
    ),
]
MinAgents: TypeAlias = Annotated[
    int, typer.Option(metavar="N", min=1, help="Start when this many agents answer.", rich_help_panel=FLEET)
]
Balance: TypeAlias = Annotated[
    Literal["adaptive", "strict"],
    typer.Option(
        help="adaptive gives prompts to agents with capacity; strict keeps to round-robin.", rich_help_panel=FLEET
    ),
]
Concurrency: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, help="HTTP requests in flight at most; by default no limit.", rich_help_panel=FLEET
    ),
]
Tag: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Use agents with this tag only; may be repeated.", rich_help_panel=FLEET),
]
Up: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="FLEET",
        help="Bring this fleet up for the job, a YAML file or a model, and take it down afterwards.",
        rich_help_panel=FLEET,
    ),
]
EngineName: TypeAlias = Annotated[
    Literal["vllm", "transformers"] | None,
    typer.Option(help="Answer in this process by this engine, without any server.", rich_help_panel=FLEET),
]
EngineArgs: TypeAlias = Annotated[
    str,
    typer.Option(metavar="ARGS", help="Arguments for --engine vllm, as vllm serve takes them.", rich_help_panel=FLEET),
]
