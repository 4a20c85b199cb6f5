"""``aurora-pool check`` and ``wait``: is a fleet fit for a job, and when is it."""

from __future__ import annotations

import asyncio
import dataclasses
import json as json_module
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aurora_pool.cli.console import cell
from aurora_pool.cli.exit_codes import ExitCode
from aurora_pool.cli.min_agents import MinAgents, MinAgentsOption, parse_min_agents
from aurora_pool.cli.panels import DISPLAY, FLEET, LIMITS, OUTPUT, Hostfile
from aurora_pool.errors import counted
from aurora_pool.terminal import one_line

if TYPE_CHECKING:
    from rich.table import Table

    from aurora_pool.fleets.check import AgentCheck
    from aurora_pool.hostfile import AgentEndpoint

AGAIN = 1.0
"""Seconds between rounds of asking agents that did not answer."""
ANSWERING, LEAST = 30.0, 5.0
"""Seconds that an agent has to answer one token, where it is waited for: at most, and however near the end is."""


def check(
    hostfile: Hostfile,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The model to ask for; agents of other models are not asked.", rich_help_panel=FLEET
        ),
    ] = None,
    burst: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Short prompts that each agent gets at once; 0 sends none.", rich_help_panel=LIMITS
        ),
    ] = 64,
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.1, help="Seconds that each answer may take.", rich_help_panel=LIMITS),
    ] = 60.0,
    json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON for each agent.", rich_help_panel=DISPLAY)
    ] = False,
) -> None:
    """Ask every agent what a job needs of it, and say what is wrong.

    Example:
      aurora-pool check --hostfile fleet.hostfile

    Hosted agents are not asked. The exit code is 0 if nothing serious is wrong.
    """
    from rich.console import Console

    from aurora_pool.cli.fleet import describe_hosted, own_agents
    from aurora_pool.fleets.check import check_agents
    from aurora_pool.fleets.findings import find
    from aurora_pool.hostfile_source import parse_hostfile

    endpoints = parse_hostfile(hostfile)
    own = own_agents(endpoints)
    checks = asyncio.run(check_agents(own, model=model, burst=burst, within=timeout))
    findings = find(checks)
    if json:
        for each in checks:
            typer.echo(json_module.dumps(dataclasses.asdict(each)))
    else:
        Console().print(_table(checks))
    for finding in findings:
        typer.echo(one_line(f"{'problem' if finding.serious else 'note'}: {finding.text}"), err=json)
    if len(own) < len(endpoints):
        typer.echo(f"note: {describe_hosted(len(endpoints) - len(own))}", err=json)
    usable = sum(each.usable for each in checks)
    if not json:
        asked = sum(each.asked for each in checks)
        typer.echo(
            f"{usable} of {counted(asked, 'agent answers', 'agents answer')}"
            + ("" if findings else "; nothing stands out")
        )
    if not usable:
        raise typer.Exit(ExitCode.FLEET)
    raise typer.Exit(ExitCode.SOME_FAILED if any(finding.serious for finding in findings) else ExitCode.DONE)


_COLUMNS: tuple[tuple[str, Callable[[AgentCheck], object]], ...] = (
    ("model", lambda each: each.model),
    ("version", lambda each: each.version),
    ("context", lambda each: each.max_model_len),
    ("template", lambda each: each.template),
    ("prefix cache", lambda each: {True: "on", False: "off", None: None}[each.prefix_caching]),
    ("fingerprint", lambda each: each.fingerprint),
    ("clock (s)", lambda each: None if each.clock is None else format(each.clock, "+.0f")),
)


def _table(checks: list[AgentCheck]) -> Table:
    from rich.table import Table

    usable = [each for each in checks if each.usable]
    values = {heading: {value(each) for each in usable} for heading, value in _COLUMNS}
    common = {heading: found.pop() for heading, found in values.items() if len(found) == 1}
    differing = [(heading, value) for heading, value in _COLUMNS if heading not in common]
    told = ", ".join(f"{heading} {value}" for heading, value in common.items() if value is not None)
    table = Table(box=None, title=cell(f"the same everywhere: {told}") if told else None, title_justify="left")
    table.add_column("agent", no_wrap=True)
    for heading, _ in differing:
        table.add_column(heading, overflow="fold")
    for heading in ("one token (s)", "prompts/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in checks:
        cells = [cell(value(each)) for _, value in differing]
        missing = "[red]no answer[/]" if each.asked else "not asked"
        latency = missing if each.latency is None else f"{each.latency:.3f}"
        speed = "" if each.prompts_per_second is None else f"{each.prompts_per_second:,.1f}"
        table.add_row(cell(each.agent), *cells, latency, speed)
    return table


def wait(
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The hostfile to write, of the agents that answer; by default, print it.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    hostfile: Hostfile,
    min_agents: MinAgentsOption = "1",
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0.1,
            help="Seconds to wait; agents asked near the end still have 5 s to answer.",
            rich_help_panel=LIMITS,
        ),
    ] = 600.0,
) -> None:
    """Wait until enough agents answer a prompt, and write the hostfile of those that do.

    Example:
      aurora-pool wait --hostfile agents.d --min-agents 80% -o ready.hostfile

    Hosted agents are not asked and don't count; their lines are written unchanged.
    """
    from aurora_pool.cli.fleet import describe_hosted, own_agents
    from aurora_pool.errors import JobError, NoAgentsError
    from aurora_pool.hostfile import format_hostfile

    usable, needed = asyncio.run(_wait(hostfile, parse_min_agents(min_agents, hostfile), timeout))
    answering = len(own_agents(usable))
    hosted = f"; {describe_hosted(len(usable) - answering)}" if answering < len(usable) else ""
    found = counted(answering, "agent answers", "agents answer")
    if answering < needed:
        raise NoAgentsError(f"{found}, and {counted(needed, 'is needed', 'are needed')}{hosted}")
    text = format_hostfile(usable)
    if output is None:
        typer.echo(text, nl=False)
    else:
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise JobError(f"{output}: the hostfile can't be written ({error.strerror})") from error
    typer.echo(f"{found}{hosted}", err=True)


async def _wait(hostfile: Path, least: MinAgents, timeout: float) -> tuple[list[AgentEndpoint], int]:
    """Give the agents that answer, and the hosted ones, and how many of the former are needed."""
    from aurora_pool.cli.fleet import own_agents
    from aurora_pool.errors import HostfileError
    from aurora_pool.fleets.check import check_agents
    from aurora_pool.hostfile_source import parse_hostfile

    deadline = time.monotonic() + timeout
    answering: list[AgentEndpoint] = []
    while True:
        endpoints: list[AgentEndpoint] = []
        problem: HostfileError | None = None
        try:
            endpoints = parse_hostfile(hostfile)
        except HostfileError as error:
            problem = error
        own = own_agents(endpoints)
        needed = least.of(len(own))
        known = [endpoint for endpoint in own if endpoint in answering]
        new = [endpoint for endpoint in own if endpoint not in answering]
        within = min(ANSWERING, max(LEAST, deadline - time.monotonic()))
        checks = await check_agents(new, burst=0, within=within)
        answered = {each.agent for each in checks if each.usable} | {str(endpoint) for endpoint in known}
        answering = [endpoint for endpoint in own if str(endpoint) in answered]
        usable = [endpoint for endpoint in endpoints if str(endpoint) in answered or endpoint.hosted is not None]
        if len(answering) >= needed and answering:
            return usable, needed
        if time.monotonic() + AGAIN > deadline:
            if problem is not None:
                raise problem
            return usable, needed
        await asyncio.sleep(AGAIN)
