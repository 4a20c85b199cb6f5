"""``aurora-pool agent``: what the scripts of a fleet start on each machine. People need not call it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from aurora_pool.cli.panels import FLEET

TIDYING = 5.0
"""Seconds that the leashes of a supervisor that was killed have to end their engines and to say so."""
SWEEP_PATIENCE = 60.0
"""Seconds that supervisors have to end their engines by themselves, once these have had the time to drain."""


def agent(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The fleet's folder.")],
    group: Annotated[str, typer.Argument(metavar="GROUP", help="Which group of it.")] = "",
    element: Annotated[int, typer.Argument(metavar="ELEMENT", help="The number of this machine in the group.")] = 0,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="End all of the fleet that runs on this machine.", rich_help_panel=FLEET)
    ] = False,
) -> None:
    """Look after the agents of one machine, until they have ended or failed.

    Example:
      aurora-pool agent fleet.run agent 0
    """
    from aurora_pool.fleets.run_folder import RunFolder

    folder = RunFolder(run)
    if sweep:
        from aurora_pool.errors import ConfigError
        from aurora_pool.fleets.sweep import sweep as end_all

        drain = 0.0
        with suppress(ConfigError):  # the folder is gone, or not shared: what runs here is ended all the same
            drain = folder.last_fleet().drain
        left = end_all(folder, within=SWEEP_PATIENCE + drain)
        if left:
            typer.echo(f"processes {', '.join(map(str, left))} can't be killed", err=True)
        raise typer.Exit(1 if left else 0)
    from aurora_pool.cli.exit_codes import told
    from aurora_pool.fleets.keeper import keep
    from aurora_pool.fleets.supervisor import supervise

    restarts = folder.fleet().group(group).restarts
    code = keep(lambda: told(lambda: supervise(folder, group, element)), restarts=restarts, tidying=TIDYING)
    raise typer.Exit(code)
