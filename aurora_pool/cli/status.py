"""``aurora-pool status`` and ``logs``: what a fleet is doing, and what its engines say."""

from __future__ import annotations

import json as json_module
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aurora_pool.cli.console import cell
from aurora_pool.cli.exit_codes import ExitCode
from aurora_pool.cli.panels import DISPLAY
from aurora_pool.cli.up import RUN, Run
from aurora_pool.terminal import is_terminal, printable

if TYPE_CHECKING:
    from rich.table import Table

    from aurora_pool.fleets.status import AgentStatus

POLL_EVERY = 2.0
"""Seconds between refreshes, on a terminal."""
MEASURING = 1.0
"""Seconds between the two readings that a speed needs."""
SHOWN = 40
"""How many agents are shown, the ones in trouble first; the rest is counted."""
STYLES = {"ready": "green", "failed": "red", "lost": "red", "restarting": "yellow"}
_TROUBLE = ("failed", "lost", "restarting", "starting", "pending", "draining", "ready", "ended")


def status(
    run: Run = RUN,
    once: Annotated[
        bool, typer.Option("--once", help="Show the state once, even on a terminal.", rich_help_panel=DISPLAY)
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON for each agent.", rich_help_panel=DISPLAY)
    ] = False,
) -> None:
    """Show what each agent of a fleet is doing: on a terminal, until Ctrl-C.

    Example:
      aurora-pool status fleet.run

    The exit code is 0 if all agents are ready.
    """
    from rich.console import Console
    from rich.live import Live

    from aurora_pool.fleets.run_folder import RunFolder
    from aurora_pool.fleets.status import FleetWatch

    watch = FleetWatch(RunFolder(run.absolute()))
    agents = watch.measure()
    if json or once or not is_terminal(sys.stdout):
        if any(agent.phase == "ready" for agent in agents):
            time.sleep(MEASURING)
            agents = watch.measure()
        if json:
            for agent in agents:
                typer.echo(json_module.dumps(agent.as_dict()))
        else:
            Console().print(table_of(agents))
    else:
        with Live(table_of(agents), screen=False) as live:
            try:
                while True:
                    time.sleep(POLL_EVERY)
                    agents = watch.measure()
                    live.update(table_of(agents), refresh=True)
            except KeyboardInterrupt:
                pass
    raise typer.Exit(ExitCode.DONE if all(agent.phase == "ready" for agent in agents) else ExitCode.SOME_FAILED)


def table_of(agents: Sequence[AgentStatus]) -> Table:
    """Draw agents, the ones in trouble first, with a line that counts them all."""
    from rich.table import Table

    from aurora_pool.cli.display import duration

    counts = {phase: sum(agent.phase == phase for agent in agents) for phase in _TROUBLE}
    speed = sum(agent.tokens_per_second or 0.0 for agent in agents)
    caption = ", ".join(f"{count} {phase}" for phase, count in counts.items() if count)
    table = Table(box=None, caption=f"{caption}; {speed:,.0f} tokens/s", caption_justify="left")
    for heading in ("agent", "is", "for", "where", "tokens/s", "restarts"):
        table.add_column(
            heading, justify="right" if heading in {"for", "tokens/s", "restarts"} else "left", no_wrap=True
        )
    table.add_column("why", overflow="fold")
    for agent in sorted(agents, key=lambda each: (_TROUBLE.index(each.phase), each.name))[:SHOWN]:
        style = STYLES.get(agent.phase, "")
        table.add_row(
            cell(agent.name),
            f"[{style}]{agent.phase}[/]" if style else agent.phase,
            "" if agent.seconds is None else duration(agent.seconds),
            cell(agent.where),
            "" if agent.tokens_per_second is None else f"{agent.tokens_per_second:,.0f}",
            str(agent.restarts or ""),
            cell(agent.reason),
        )
    if len(agents) > SHOWN:
        table.add_row(f"and {len(agents) - SHOWN} more")
    return table


def logs(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Its name, as status shows it.")],
    run: Run = RUN,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print what is added, until Ctrl-C.", rich_help_panel=DISPLAY)
    ] = False,
    lines: Annotated[
        int,
        typer.Option("--lines", "-n", metavar="N", min=0, help="How many of the last lines.", rich_help_panel=DISPLAY),
    ] = 100,
) -> None:
    """Print what an agent's engine has written last.

    Example:
      aurora-pool logs agent-000 fleet.run --follow
    """
    from aurora_pool.errors import ConfigError
    from aurora_pool.fleets.run_folder import RunFolder

    log = RunFolder(run.absolute()).log(agent)
    if not log.exists():
        known = sorted(path.stem for path in log.parent.glob("*.log"))
        raise ConfigError(f"no log of {agent!r} in {run}; there are {', '.join(known) or 'none'}")
    try:
        _print_log(log, lines, follow=follow)
    except (KeyboardInterrupt, BrokenPipeError):
        raise typer.Exit(ExitCode.DONE) from None


def _print_log(log: Path, lines: int, *, follow: bool) -> None:
    shown = is_terminal(sys.stdout)

    def put(content: bytes) -> None:
        # On a terminal what engines write is shown, and obeyed by none; a pipe gets it unchanged.
        sys.stdout.buffer.write(printable(content.decode(errors="replace")).encode() if shown else content)
        sys.stdout.flush()

    with log.open("rb") as file:
        content = file.read()
        put(b"".join(content.splitlines(keepends=True)[-lines:] if lines else []))
        while follow:
            new = file.read()
            put(new)
            if not new:
                time.sleep(0.2)
