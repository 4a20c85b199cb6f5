"""``aurora-pool up`` and ``down``: a fleet comes and goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from aurora_pool.cli.exit_codes import ExitCode
from aurora_pool.cli.min_agents import MinAgents
from aurora_pool.cli.panels import FLEET as PANEL
from aurora_pool.cli.panels import OUTPUT
from aurora_pool.errors import counted

RUN = Path("fleet.run")
"""Where a fleet's files lie if nobody says."""

Run: TypeAlias = Annotated[Path, typer.Argument(metavar="RUN", help="The fleet's folder.")]


def up(
    what: Annotated[str, typer.Argument(metavar="FLEET", help="A YAML file, or a model to serve on this machine.")],
    run: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="The folder for the fleet's files, which all its machines share.",
            rich_help_panel=OUTPUT,
        ),
    ] = RUN,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the scripts, and start nothing.", rich_help_panel=OUTPUT)
    ] = False,
    engine: Annotated[
        Literal["vllm", "sglang", "llamacpp", "transformers", "sim"],
        typer.Option(
            metavar="ENGINE",
            help="Where FLEET is a model: vllm, sglang, llamacpp, transformers or sim.",
            rich_help_panel=PANEL,
        ),
    ] = "vllm",
    agents: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="How many agents; by default, one for each free GPU.", rich_help_panel=PANEL
        ),
    ] = None,
) -> None:
    """Bring a fleet of servers up, and return at once.

    Example:
      aurora-pool up Qwen/Qwen2.5-7B-Instruct
    """
    from aurora_pool.fleets.lifecycle import bring_up, describe_fleet, scripts_of
    from aurora_pool.fleets.run_folder import RunFolder

    folder = RunFolder(run.absolute())
    fleet = describe_fleet(what, engine=engine, agents=agents)
    if dry_run:
        typer.echo("\n".join(scripts_of(folder, fleet).values()), nl=False)
        return
    bring_up(folder, fleet)
    if fleet.where == "kubernetes":
        for group in fleet.groups:
            typer.echo(f"kubectl apply -f {run / folder.script(fleet, group).name}")
        return
    count = len(fleet.agent_names)
    typer.echo(f"{counted(count, 'agent')} will come up: aurora-pool status {run}", err=True)
    typer.echo(f"use them: aurora-pool run INPUT -o OUTPUT --hostfile {run / 'agents.d'} --patience 600", err=True)


def down(run: Run = RUN) -> None:
    """Take a fleet down, and say what could not be ended.

    Example:
      aurora-pool down fleet.run
    """
    from aurora_pool.fleets.lifecycle import take_down
    from aurora_pool.fleets.run_folder import RunFolder

    folder = RunFolder(run.absolute())
    problems = take_down(folder)
    for problem in problems:
        typer.echo(f"aurora-pool: not ended: {problem}", err=True)
    if problems:
        raise typer.Exit(ExitCode.SOME_FAILED)
    fleet = folder.last_fleet()
    if fleet.where == "kubernetes":
        for group in fleet.groups:
            typer.echo(f"kubectl delete -f {run / folder.script(fleet, group).name}")
        return
    typer.echo(f"the fleet of {run} is down", err=True)


@contextmanager
def fleet_for_a_job(what: str, run: Path, *, least: MinAgents, patience: float | None, quiet: bool) -> Iterator[Path]:
    """Bring a fleet up for one job; gives its hostfile once enough agents are ready, and takes it down in the end.

    Raises :class:`~aurora_pool.errors.PoolError`.
    """
    from aurora_pool.cli.interruptions import Interruptions
    from aurora_pool.errors import ConfigError
    from aurora_pool.fleets.lifecycle import attached, describe_fleet, wait_until_ready
    from aurora_pool.fleets.run_folder import RunFolder

    def say(line: str) -> None:
        typer.echo(line, err=True)

    folder = RunFolder(run.absolute())
    fleet = describe_fleet(what)
    if fleet.where == "kubernetes":
        raise ConfigError("--up: a fleet in Kubernetes is brought up with kubectl; use --hostfile k8s://...")
    tell = say if not quiet else _discard
    interruptions = Interruptions()
    with attached(folder, fleet, tell):
        try:
            wait_until_ready(folder, least.of(len(fleet.agent_names)), within=patience, tell=tell)
            yield folder.agents
        finally:
            interruptions.ignore()  # nothing must cut short what takes the fleet down


def _discard(_: str) -> None:
    pass
