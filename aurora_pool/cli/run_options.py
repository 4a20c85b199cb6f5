"""Options of ``aurora-pool run``: who answers, and its limits of time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from aurora_pool.cli.panels import FLEET, LIMITS

Walltime: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Time left, as 11:30:00, 90m or seconds; by default, what PBS or Slurm allow.",
        rich_help_panel=LIMITS,
    ),
]
RunPatience: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        min=0.1,
        help="Seconds to wait for the hostfile to appear, and for an agent while none is in service.",
        rich_help_panel=LIMITS,
    ),
]
RunTimeout: TypeAlias = Annotated[
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
SpillAfter: TypeAlias = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=0.0,
        help="Seconds without an own agent, or of waiting for one, after which hosted agents are asked.",
        rich_help_panel=FLEET,
    ),
]

FOR_FLEETS = (
    "tag",
    "balance",
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
    if engine is None and _is_given(context, "engine_args"):
        raise typer.BadParameter("--engine-args: expected --engine beside it")
    if engine is not None and model is None:
        raise typer.BadParameter("--engine needs --model: the name or the folder of a model")
    useless = [f"--{name.replace('_', '-')}" for name in FOR_FLEETS if engine and _is_given(context, name)]
    if useless:
        raise typer.BadParameter(f"--engine asks no fleet, and has no use for {', '.join(useless)}")
    return hostfile or Path()


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name in {"COMMANDLINE", "DEFAULT_MAP"}
