"""``aurora-pool top``: what the engines of a fleet are busy with, as it happens."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aurora_pool.cli.console import cell
from aurora_pool.cli.panels import DISPLAY, Hostfile
from aurora_pool.errors import counted
from aurora_pool.terminal import is_terminal

if TYPE_CHECKING:
    from rich.table import Table

    from aurora_pool.fleets.load import AgentLoad

SHOWN = 40
"""How many agents are shown, the slowest first; the rest counts in the sums."""


def top(
    hostfile: Hostfile,
    every: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.2, help="Seconds between refreshes.", rich_help_panel=DISPLAY)
    ] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Measure once, even on a terminal.", rich_help_panel=DISPLAY)
    ] = False,
) -> None:
    """Show what every engine is busy with: on a terminal, until Ctrl-C.

    Example:
      aurora-pool top --hostfile fleet.run/agents.d

    Hosted agents are not asked.
    """
    try:
        asyncio.run(_show(hostfile, every, once=once or not is_terminal(sys.stdout)))
    except KeyboardInterrupt:
        return


async def _show(hostfile: Path, every: float, *, once: bool) -> None:
    from rich.console import Console
    from rich.live import Live

    from aurora_pool.cli.fleet import describe_hosted, own_agents
    from aurora_pool.errors import HostfileError
    from aurora_pool.fleets.load import LoadWatch
    from aurora_pool.hostfile_source import parse_hostfile

    watch = LoadWatch()
    endpoints = parse_hostfile(hostfile)

    async def measure() -> Table:
        nonlocal endpoints
        notes = []
        try:
            endpoints = parse_hostfile(hostfile)
        except HostfileError as error:  # the only engine is being started again, or the file is being written
            notes.append(f"the agents of before, as {error}")
        own = own_agents(endpoints)
        if len(own) < len(endpoints):
            notes.append(describe_hosted(len(endpoints) - len(own)))
        return _table(await watch.measure(own), notes)

    await measure()
    if once:
        await asyncio.sleep(every)
        Console().print(await measure())
        return
    with Live(auto_refresh=False) as live:
        while True:
            await asyncio.sleep(every)
            live.update(await measure(), refresh=True)


def _table(loads: Sequence[AgentLoad], notes: Sequence[str]) -> Table:
    from rich.table import Table

    generated = sum(load.tokens_per_second or 0.0 for load in loads)
    read = sum(load.prompt_tokens_per_second or 0.0 for load in loads)
    running = sum(load.now.running for load in loads if load.now is not None)
    waiting = sum(load.now.waiting for load in loads if load.now is not None)
    caption = f"{counted(len(loads), 'agent')}: {generated:,.0f} tokens/s, {read:,.0f} prompt tokens/s, "
    caption = "; ".join([f"{caption}{running:.0f} running, {waiting:.0f} waiting", *notes])
    table = Table(box=None, caption=cell(caption), caption_justify="left")
    table.add_column("agent", no_wrap=True)
    for heading in ("running", "waiting", "tokens/s", "prompt tokens/s", "cache"):
        table.add_column(heading, justify="right")
    for load in sorted(loads, key=lambda each: (each.now is not None, each.tokens_per_second or 0.0))[:SHOWN]:
        if load.now is None:
            table.add_row(cell(load.endpoint), "[red]no metrics[/]")
            continue
        table.add_row(
            cell(load.endpoint),
            f"{load.now.running:.0f}",
            f"{load.now.waiting:.0f}",
            "" if load.tokens_per_second is None else f"{load.tokens_per_second:,.0f}",
            "" if load.prompt_tokens_per_second is None else f"{load.prompt_tokens_per_second:,.0f}",
            f"{load.now.cache_usage:.0%}",
        )
    if len(loads) > SHOWN:
        table.add_row(f"and {len(loads) - SHOWN} more")
    return table
