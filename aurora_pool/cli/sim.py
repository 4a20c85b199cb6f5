"""``aurora-pool sim``: a simulated fleet, to try things on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

if TYPE_CHECKING:
    from aurora_pool.testing import Fault

_FAULT = re.compile(r"(?P<agent>\d+):(?P<action>[a-z_]+)@(?P<at>[\d.]+)(\+(?P<lasting>[\d.]+))?")


def sim(
    hostfile: Annotated[Path, typer.Option(help="Written when all agents listen, removed at the end.")],
    agents: Annotated[int, typer.Option(min=1, help="How many.")] = 4,
    model: Annotated[str, typer.Option(help="The model's name.")] = "simulated-model",
    base_port: Annotated[int | None, typer.Option(help="Count ports up from here; by default, any free ones.")] = None,
    time_scale: Annotated[float, typer.Option(min=0.001, help="Simulated seconds per real second.")] = 1.0,
    speed: Annotated[float, typer.Option(min=0.001, help="How fast the agents are; 1 is a usual GPU.")] = 1.0,
    slots: Annotated[int, typer.Option(min=1, help="Prompts that an agent works on at a time.")] = 256,
    median_length: Annotated[float, typer.Option(min=1, help="Tokens in the median answer.")] = 200.0,
    instant: Annotated[bool, typer.Option("--instant", help="Answer everything at once, to measure clients.")] = False,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="AGENT:ACTION@SECONDS[+LASTING], such as 0:die@12+5; may be given again."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is random.")] = 0,
) -> None:
    """Start a simulated fleet that speaks as vLLM does, until Ctrl-C."""
    from aurora_pool.testing import AgentProfile, serve

    faults: dict[int, list[Fault]] = {}
    for text in fault or []:
        agent, parsed = _parse_fault(text)
        if agent >= agents:
            raise typer.BadParameter(f"there is no agent {agent}: they count from 0 to {agents - 1}")
        faults.setdefault(agent, []).append(parsed)
    try:
        profile = AgentProfile(model=model, speed=speed, slots=slots, median_length=median_length, instant=instant)
        serve(
            agents,
            hostfile,
            profile=profile,
            faults=faults,
            base_port=base_port,
            time_scale=time_scale,
            seed=seed,
            ready=lambda fleet: typer.echo(f"{len(fleet.endpoints)} agents listen; hostfile: {hostfile}", err=True),
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
