"""Every option is documented, in the words of its help."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from aurora_pool.cli.app import app

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"
COMMANDS: dict[str, Any] = vars(typer.main.get_command(app))["commands"]


def rows_of(command: Any) -> list[str]:
    """Give a command's options as the rows of a table."""
    rows = []
    for parameter in command.params:
        names = [*parameter.opts, *parameter.secondary_opts]
        if not names[0].startswith("-") or parameter.name == "help":
            continue
        default = "needed" if parameter.required else parameter.default
        shown = "" if default is None or default is False or default == [] else str(default)
        names.sort(key=lambda name: (not name.startswith("--"), name.startswith("--no-")))
        rows.append(f"| {', '.join(f'`{name}`' for name in names)} | {parameter.help} | {shown} |")
    return rows


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_documented_and_every_documented_option_exists(name: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    section = page.partition(f"\n## aurora-pool {name}\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `-.*\|$", section, re.MULTILINE) == rows_of(COMMANDS[name])


def test_every_argument_is_documented() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, command in COMMANDS.items():
        for parameter in command.params:
            if not parameter.opts[0].startswith("-"):
                label = (parameter.metavar or parameter.name.upper()).removesuffix("...")
                section = page.partition(f"\n## aurora-pool {name}\n")[2].partition("\n## ")[0]
                assert f"`{label}`" in section, (name, label)
