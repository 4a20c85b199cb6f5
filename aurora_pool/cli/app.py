"""All commands in one application."""

from __future__ import annotations

from typing import Annotated

import typer

from aurora_pool.cli import ask, demo, merge, report, run, sim, summarize
from aurora_pool.cli.console import give
from aurora_pool.cli.exit_codes import TABLE


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        give(f"aurora-pool {version('aurora-pool')}")
        raise typer.Exit


_EXIT_CODES = f"Exit codes (what was answered is saved, whatever the code):\n{TABLE}"

app = typer.Typer(
    name="aurora-pool",
    help="Answer prompts on many vLLM servers: every prompt exactly once, as fast as the fleet allows.",
    epilog=_EXIT_CODES,
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


app.command("run", epilog=_EXIT_CODES)(run.run)
app.command("merge")(merge.merge)
app.command("ask")(ask.ask)
app.command("summarize")(summarize.summarize)
app.command("demo")(demo.demo)
app.command("report")(report.report)
app.command("sim")(sim.sim)
