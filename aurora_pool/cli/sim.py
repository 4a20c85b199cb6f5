"""``aurora-pool sim``: a simulated fleet, to try things on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from aurora_pool.cli.panels import ENGINE, FLEET, OUTPUT
from aurora_pool.errors import counted

if TYPE_CHECKING:
    from aurora_pool.testing import Fault

_FAULT = re.compile(r"(?P<agent>\d+):(?P<action>[a-z_]+)@(?P<at>[\d.]+)(\+(?P<lasting>[\d.]+))?")


def sim(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The hostfile to write when all agents listen; removed at the end.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    agents: Annotated[int, typer.Option(metavar="N", min=1, help="How many agents.", rich_help_panel=FLEET)] = 4,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="The model's name.", rich_help_panel=FLEET)
    ] = "simulated-model",
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="The address to listen on.", rich_help_panel=FLEET)
    ] = "127.0.0.1",
    base_port: Annotated[
        int | None,
        typer.Option(metavar="PORT", help="The first agent's port; by default, any free ports.", rich_help_panel=FLEET),
    ] = None,
    slots: Annotated[
        int, typer.Option(metavar="N", min=1, help="Prompts that an agent works on at a time.", rich_help_panel=ENGINE)
    ] = 256,
    speed: Annotated[
        float, typer.Option(metavar="X", min=0.001, help="The agents' speed; 1 is a usual GPU.", rich_help_panel=ENGINE)
    ] = 1.0,
    median_length: Annotated[
        float, typer.Option(metavar="X", min=1, help="Tokens in the median answer.", rich_help_panel=ENGINE)
    ] = 200.0,
    instant: Annotated[
        bool,
        typer.Option("--instant", help="Answer everything at once, to measure clients.", rich_help_panel=ENGINE),
    ] = False,
    time_scale: Annotated[
        float, typer.Option(metavar="X", min=0.001, help="Simulated seconds per real second.", rich_help_panel=ENGINE)
    ] = 1.0,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FAULT",
            help="AGENT:ACTION@SECONDS[+LASTING], such as 0:die@12+5; may be repeated.",
            rich_help_panel=ENGINE,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="The seed of answers, lengths and faults.", rich_help_panel=ENGINE)
    ] = 0,
) -> None:
    """Start a simulated fleet that speaks as vLLM does, until Ctrl-C.

    Example:
      aurora-pool sim --agents 4 -o fleet.hostfile
    """
    from aurora_pool.testing import AgentProfile, serve

    faults: dict[int, list[Fault]] = {}
    for text in fault or []:
        agent, parsed = _parse_fault(text)
        if agent >= agents:
            raise typer.BadParameter(f"there is no agent {agent}: they count from 0 to {agents - 1}")
        faults.setdefault(agent, []).append(parsed)
    written = "" if output is None else f"; hostfile: {output}"
    try:
        profile = AgentProfile(model=model, speed=speed, slots=slots, median_length=median_length, instant=instant)
        serve(
            agents,
            output,
            profile=profile,
            faults=faults,
            host=host,
            base_port=base_port,
            time_scale=time_scale,
            seed=seed,
            ready=lambda fleet: typer.echo(
                f"{counted(len(fleet.endpoints), 'agent listens', 'agents listen')}{written}", err=True
            ),
        )
    except OSError as error:
        typer.echo(f"aurora-pool: the fleet can't be started: {error}", err=True)
        raise typer.Exit(2) from None


def _parse_fault(text: str) -> tuple[int, Fault]:
    from aurora_pool.testing import Fault
    from aurora_pool.testing.faults import Action

    match = _FAULT.fullmatch(text)
    actions = get_args(Action)
    if match is None or match["action"] not in actions:
        raise typer.BadParameter(
            f"expected AGENT:ACTION@SECONDS[+LASTING], ACTION one of {', '.join(actions)}: {text!r}"
        )
    lasting = match["lasting"]
    action = cast("Action", match["action"])
    fault = Fault(action=action, at=float(match["at"]), lasting=None if lasting is None else float(lasting))
    return int(match["agent"]), fault
