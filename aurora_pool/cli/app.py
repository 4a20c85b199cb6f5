"""All commands in one application."""

from __future__ import annotations

from typing import Annotated

import typer

from aurora_pool.cli import (
    agent,
    ask,
    batches,
    check,
    demo,
    merge,
    report,
    run,
    serve,
    sim,
    status,
    summarize,
    top,
    up,
)
from aurora_pool.cli.console import give
from aurora_pool.cli.exit_codes import SERVE_TABLE, SUBMIT_TABLE, TABLE


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        give(f"aurora-pool {version('aurora-pool')}")
        raise typer.Exit


_SAVED = "what was answered is saved, whatever the code"

app = typer.Typer(
    name="aurora-pool",
    help="Answer prompts on many vLLM servers: every prompt exactly once, as fast as the fleet allows.",
    epilog=f"Exit codes of run ({_SAVED}):\n{TABLE}",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version.")
    ] = False,
) -> None:
    """Answer prompts on many vLLM servers: every prompt exactly once, as fast as the fleet allows."""


app.command("run", epilog=f"Exit codes ({_SAVED}):\n{TABLE}")(run.run)
app.command("merge")(merge.merge)
app.command("ask")(ask.ask)
app.command("summarize")(summarize.summarize)
app.command("demo")(demo.demo)
app.command("report")(report.report)
app.command("sim")(sim.sim)
app.command("serve", epilog=f"Exit codes:\n{SERVE_TABLE}")(serve.serve)
app.command("keys")(serve.keys)
app.command("submit", epilog=f"Exit codes:\n{SUBMIT_TABLE}")(batches.submit)
app.command("jobs")(batches.jobs)
app.command("fetch")(batches.fetch)
app.command("cancel")(batches.cancel)
app.command("up")(up.up)
app.command("status")(status.status)
app.command("top")(top.top)
app.command("logs")(status.logs)
app.command("down")(up.down)
app.command("check")(check.check)
app.command("wait")(check.wait)
app.command("agent", hidden=True)(agent.agent)

command = typer.main.get_command(app)
"""The same, made once: from the types of 200 options it takes longer than to parse what is given."""
