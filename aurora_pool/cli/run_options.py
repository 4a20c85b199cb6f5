"""Options of ``aurora-pool run``: who answers, and its limits of time."""

from __future__ import annotations

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
