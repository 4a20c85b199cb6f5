"""The commands, by their names. One is imported only where it is asked for: the others would double its start."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Annotated, NamedTuple

import typer

from aurora_pool.cli.console import give
from aurora_pool.cli.exit_codes import SERVE_TABLE, SUBMIT_TABLE, TABLE
from aurora_pool.cli.plain_help import PlainCommand, PlainGroup

_SAVED = "what was answered is saved, whatever the code"
_HELP = """\
Answer prompts on many vLLM servers: every prompt exactly once, as fast as the fleet allows.

Example:
  aurora-pool run prompts.jsonl -o answers.jsonl --hostfile fleet.hostfile
"""


JOBS = "Jobs"
QUESTIONS = "Questions"
FLEETS = "Fleets"
SERVING = "Server and batches"
LOOKING = "Looking at jobs and fleets"
TRYING = "Trying out"


class Command(NamedTuple):
    """Where a command is: a function of its own name, in a module of this package; and where help shows it."""

    module: str
    panel: str | None = None
    epilog: str | None = None


COMMANDS = {
    "run": Command("run", JOBS, f"Exit codes ({_SAVED}):\n{TABLE}"),
    "merge": Command("merge", JOBS),
    "ask": Command("ask", QUESTIONS),
    "summarize": Command("summarize", QUESTIONS),
    "up": Command("up", FLEETS),
    "down": Command("up", FLEETS),
    "check": Command("check", FLEETS),
    "wait": Command("check", FLEETS),
    "serve": Command("serve", SERVING, f"Exit codes:\n{SERVE_TABLE}"),
    "keys": Command("serve", SERVING),
    "submit": Command("batches", SERVING, f"Exit codes:\n{SUBMIT_TABLE}"),
    "jobs": Command("batches", SERVING),
    "fetch": Command("batches", SERVING),
    "cancel": Command("batches", SERVING),
    "report": Command("report", LOOKING),
    "status": Command("status", LOOKING),
    "top": Command("top", LOOKING),
    "logs": Command("status", LOOKING),
    "demo": Command("demo", TRYING),
    "sim": Command("sim", TRYING),
    "agent": Command("agent"),
}


def application(name: str | None = None) -> typer.Typer:
    """Make the application with the command of this name, or with all of them if there is none of that name."""
    app = typer.Typer(
        name="aurora-pool",
        cls=PlainGroup,
        help=_HELP,
        epilog=f"Exit codes of run ({_SAVED}):\n{TABLE}",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
    )
    app.callback()(common)
    for each in [name] if name in COMMANDS else COMMANDS:
        module, panel, epilog = COMMANDS[each]
        function = getattr(import_module(f"aurora_pool.cli.{module}"), each)
        app.command(each, cls=PlainCommand, epilog=epilog, hidden=panel is None, rich_help_panel=panel)(function)
    return app


@cache
def command(name: str | None) -> Callable[[], int]:
    """Make what runs this command; once, for programs that call :func:`aurora_pool.cli.main` again and again."""
    return typer.main.get_command(application(name))


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        give(f"aurora-pool {version('aurora-pool')}")
        raise typer.Exit


def common(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version.")
    ] = False,
) -> None:
    """Answer prompts on many vLLM servers: every prompt exactly once, as fast as the fleet allows."""
