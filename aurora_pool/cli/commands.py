"""The commands, by their names. One is imported only where it is asked for: the others would double its start."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Annotated, NamedTuple

import typer

from aurora_pool.cli.console import give
from aurora_pool.cli.exit_codes import SERVE_TABLE, SUBMIT_TABLE, TABLE

_SAVED = "what was answered is saved, whatever the code"


class Command(NamedTuple):
    """Where a command is: a function of its own name, in a module of this package."""

    module: str
    epilog: str | None = None
    hidden: bool = False


COMMANDS = {
    "run": Command("run", f"Exit codes ({_SAVED}):\n{TABLE}"),
    "merge": Command("merge"),
    "ask": Command("ask"),
    "summarize": Command("summarize"),
    "demo": Command("demo"),
    "report": Command("report"),
    "sim": Command("sim"),
    "serve": Command("serve", f"Exit codes:\n{SERVE_TABLE}"),
    "keys": Command("serve"),
    "submit": Command("batches", f"Exit codes:\n{SUBMIT_TABLE}"),
    "jobs": Command("batches"),
    "fetch": Command("batches"),
    "cancel": Command("batches"),
    "up": Command("up"),
    "status": Command("status"),
    "top": Command("top"),
    "logs": Command("status"),
    "down": Command("up"),
    "check": Command("check"),
    "wait": Command("check"),
    "agent": Command("agent", hidden=True),
}


def application(name: str | None = None) -> typer.Typer:
    """Make the application with the command of this name, or with all of them if there is none of that name."""
    app = typer.Typer(
        name="aurora-pool",
        help="Answer prompts on many vLLM servers: every prompt exactly once, as fast as the fleet allows.",
        epilog=f"Exit codes of run ({_SAVED}):\n{TABLE}",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
    )
    app.callback()(common)
    for each in [name] if name in COMMANDS else COMMANDS:
        module, epilog, hidden = COMMANDS[each]
        function = getattr(import_module(f"aurora_pool.cli.{module}"), each)
        app.command(each, epilog=epilog, hidden=hidden)(function)
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
