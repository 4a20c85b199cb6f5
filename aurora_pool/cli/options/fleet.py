"""Options of ``aurora-pool run``: who answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from aurora_pool.cli.options.together import is_given
from aurora_pool.cli.panels import FLEET, HOSTFILE

Hostfile: TypeAlias = Annotated[Path | None, HOSTFILE]
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
Balance: TypeAlias = Annotated[
    Literal["adaptive", "strict"],
    typer.Option(
        help="adaptive gives prompts to agents with capacity; strict keeps to round-robin.", rich_help_panel=FLEET
    ),
]
Prefix: TypeAlias = Annotated[
    Literal["auto", "off"],
    typer.Option(
        help="auto keeps prompts that begin alike on one agent, which computes that once.", rich_help_panel=FLEET
    ),
]
Concurrency: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, help="HTTP requests in flight at most; by default no limit.", rich_help_panel=FLEET
    ),
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
SpillAfter: TypeAlias = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=0.1,
        help="Seconds without an own agent, or of waiting for one, after which hosted agents are asked.",
        rich_help_panel=FLEET,
    ),
]

FOR_FLEETS = (
    "tag",
    "balance",
    "prefix",
    "concurrency",
    "timeout",
    "stall",
    "patience",
    "min_agents",
    "share",
    "spill_after",
    "on_too_long",
)
"""Options that mean nothing where no agent is asked."""


def who_answers(
    context: typer.Context, hostfile: Path | None, up: str | None, engine: str | None, model: str | None
) -> Path:
    """Return the hostfile, if it is agents of a hostfile that answer.

    Raises :class:`typer.BadParameter` where it is not clear who is to answer, and for what --engine has no use for.
    """
    if (up or engine) and hostfile is not None and str(hostfile) == os.environ.get("AURORA_POOL_HOSTFILE"):
        hostfile = None  # what is said here comes before what the environment says
    if sum(each is not None for each in (hostfile, up, engine)) != 1:
        raise typer.BadParameter("expected one of --hostfile, --up and --engine: who is to answer?")
    if engine is not None and model is None:
        raise typer.BadParameter("--engine needs --model: the name or the folder of a model")
    useless = [f"--{name.replace('_', '-')}" for name in FOR_FLEETS if engine and is_given(context, name)]
    if useless:
        raise typer.BadParameter(f"--engine asks no fleet, and has no use for {', '.join(useless)}")
    return hostfile or Path()
