"""What ``--help`` shows beside typer's own: no type of Python, and every example set off alike."""

from __future__ import annotations

import re
from typing import Any

from typer.core import HAS_RICH, TyperArgument, TyperCommand, TyperGroup, TyperOption


class PlainCommand(TyperCommand):
    """A command with plain help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        _make_plain(self, ctx)
        super().format_help(ctx, formatter)


class PlainGroup(TyperGroup):
    """A group of commands with plain help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        _make_plain(self, ctx)
        super().format_help(ctx, formatter)


def _make_plain(command: TyperCommand | TyperGroup, context: Any) -> None:
    for parameter in command.get_params(context):
        if isinstance(parameter, TyperOption) and parameter.is_flag:
            parameter.metavar = ""
        if isinstance(parameter, TyperArgument) and not parameter.type_descriptor.is_choice:
            parameter.display_type_rich = _nothing  # type: ignore[method-assign] # typer has no option for it
    if command.help is not None and HAS_RICH:  # markup keeps the space before a line, which typer takes away from some
        command.help = re.sub(r"^ *(aurora-pool .*)$", r"[bold]  \1[/bold]", command.help, flags=re.MULTILINE)


def _nothing(ctx: Any) -> None:
    """Show no type."""
