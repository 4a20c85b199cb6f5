"""Every option is documented, in the words of its help."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from aurora_pool.cli import panels
from aurora_pool.cli.app import app

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "command-line.md"
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


def texts_of(path: Path) -> list[str]:
    """Give every text that stands in a module, but for the arguments of other programs."""
    texts = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    return [text for text in texts if isinstance(text, str) and (" " in text or not text.startswith("--"))]


@pytest.mark.parametrize("house", ["cli", "jobs", "sharing"])
def test_what_is_said_names_options_that_exist(house: str) -> None:
    parameters = [parameter for command in COMMANDS.values() for parameter in command.params]
    options = {"--help"} | {name for each in parameters for name in [*each.opts, *each.secondary_opts]}
    named = {
        (path.name, option)
        for path in (ROOT / "aurora_pool" / house).rglob("*.py")
        for text in texts_of(path)
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+[a-z]", text)
    }
    assert {each for each in named if each[1] not in options} == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_what_stands_under_the_options_names_options_of_the_command(name: str) -> None:
    command = COMMANDS[name]
    named = set(re.findall(r"--[a-z][a-z-]+", command.epilog or ""))
    assert named <= {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize("name", COMMANDS)
def test_groups_of_options_are_in_the_same_order_everywhere(name: str) -> None:
    order = [value for constant, value in vars(panels).items() if constant.isupper()]
    shown = dict.fromkeys(getattr(each, "rich_help_panel", None) for each in COMMANDS[name].params)
    shown.pop(None, None)
    assert list(shown) == sorted(shown, key=order.index)
