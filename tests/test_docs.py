"""The documentation is true: its Python runs against a simulated fleet, and its commands exist."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
import yaml

from aurora_pool import AgentEndpoint, AgentStatistics, Response, VLLMPool, format_hostfile
from aurora_pool.cli import exit_codes
from aurora_pool.cli.app import app
from aurora_pool.messages import ErrorKind
from aurora_pool.policy.agent import RATE_LIMITED
from aurora_pool.policy.breaker import State
from aurora_pool.policy.outcome import Outcome
from aurora_pool.testing import AgentProfile, SimulatedFleet
from tests.bare_pytest import BARE

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INI = re.compile(r"^```ini\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TAGS = ({"tier": "large"}, {"tier": "large"}, {"tier": "small"}, {"tier": "small"})


def python_of(page: Path) -> list[str]:
    """Give a page's blocks of Python, each preceded by as many blank lines as the page has above it."""
    text = page.read_text(encoding="utf-8")
    return ["\n" * text.count("\n", 0, block.start(1)) + block[1] for block in PYTHON.finditer(text)]


def run_tests(block: str, page: Path, folder: Path) -> None:
    """Run a block that shows tests, with the page's configuration and the fixtures of the installed package."""
    (folder / "test_of_the_page.py").write_text(block, encoding="utf-8")
    (folder / "pytest.ini").write_text("".join(INI.findall(page.read_text(encoding="utf-8"))), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", *BARE]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def endpoints() -> Iterator[list[AgentEndpoint]]:
    """Four simulated agents in a thread of their own: what a page runs may block, or start an event loop itself."""
    started: list[AgentEndpoint] = []
    ready = threading.Event()
    done = asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with SimulatedFleet(len(TAGS), tags=TAGS, profile=AgentProfile(instant=True)) as fleet:
            started.extend(fleet.endpoints)
            ready.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    assert ready.wait(30)
    yield started
    loop.call_soon_threadsafe(done.set)
    thread.join(30)
    loop.close()


@pytest.mark.parametrize("page", [page for page in PAGES if python_of(page)], ids=lambda page: page.stem)
def test_the_python_runs(
    page: Path, endpoints: list[AgentEndpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run a page's blocks one after the other, as in a notebook, in a folder that holds what the pages name."""
    (tmp_path / "hostfiles").mkdir()
    (tmp_path / "hostfiles" / "fleet.hostfile").write_text(format_hostfile(endpoints))
    prompts = (ROOT / "examples" / "prompts.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "prompts.jsonl").write_text("".join(prompts[:20]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    async def open_pool() -> VLLMPool:
        return VLLMPool(endpoints)

    with asyncio.Runner(debug=True) as runner:
        pool = runner.run(open_pool())
        names: dict[str, Any] = {"__name__": "__docs__"}
        try:
            for block in python_of(page):
                names["pool"] = pool  # a block may have used the name for a pool of its own
                if "def test_" in block:
                    run_tests(block, page, tmp_path)
                    continue
                code = compile(block, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                result = eval(code, names)  # noqa: S307  (the project's own documentation)
                if inspect.iscoroutine(result):
                    runner.run(result)
        finally:
            runner.run(pool.close())


def commands_of(page: Path) -> list[list[str]]:
    """Give every ``aurora-pool ...`` that a page has in a block, as words."""
    blocks = re.findall(r"^```\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line.partition("#")[0] for block in blocks for line in block.splitlines()]
    found = [re.search(r"(?:^|\| )aurora-pool (.*?)(?: > .*)?$", line) for line in lines]
    return [shlex.split(match[1]) for match in found if match]


COMMANDS: dict[str, Any] = vars(typer.main.get_command(app))["commands"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_exist(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AURORA_POOL_HOSTFILE", str(ROOT / "hostfiles" / "fleet.hostfile"))
    for name, *words in commands_of(page):
        # Parsed as it would be when it runs, options and all, except that --config would find no file.
        COMMANDS[name].make_context(name, [word for word in words if word not in {"--config", "fleet.yaml"}])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name: str) -> None:
    assert f"\n## aurora-pool {name}\n" in (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")


def test_outcomes_have_the_names_by_which_they_are_counted() -> None:
    page = (ROOT / "docs" / "dispatch.md").read_text(encoding="utf-8")
    _, _, table = page.partition("| outcome |")
    names = [line.split("|")[1].strip() for line in table.split("\n\n")[0].splitlines()[2:]]
    assert names == [outcome.value for outcome in Outcome]


def test_every_kind_of_failure_is_documented() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    _, _, table = page.partition("| `error_kind` |")
    assert set(re.findall(r"^\| `(\w+)` \|", table.partition("\n\n")[0], re.MULTILINE)) == set(get_args(ErrorKind))


def test_the_exit_codes_are_documented() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\d+) +\| (.*?) +\|$", page, re.MULTILINE))
    table = dict(re.findall(r"^(\d+)  +(.*)$", exit_codes.TABLE, re.MULTILINE))
    assert {code: meaning.replace("`", "") for code, meaning in rows.items()} == table
    assert rows.keys() == {str(int(code)) for code in exit_codes.ExitCode}


def test_the_configuration_file_is_one() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    [example] = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    options = {option for parameter in COMMANDS["run"].params for option in parameter.opts}
    assert {f"--{key}" for key in yaml.safe_load(example)} <= options


def test_every_argument_of_the_pool_is_documented() -> None:
    page = (ROOT / "docs" / "pool.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|(.*?)\|", page, re.MULTILINE))))
    assert set(inspect.signature(VLLMPool).parameters) - {"endpoints"} <= documented


def test_every_field_of_a_response_is_documented() -> None:
    page = (ROOT / "docs" / "prompts.md").read_text(encoding="utf-8")
    _, _, section = page.partition("## What comes back")
    documented = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|(.*?)\|", section, re.MULTILINE))))
    properties = {name for name, value in vars(Response).items() if isinstance(value, property)}
    assert {*Response.__struct_fields__, *properties} <= documented


def test_every_extra_is_documented() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    page = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|(.*?)\|", page, re.MULTILINE))))
    assert {name for name in extras if not re.match("bench|dev|docs|test", name)} == documented


def test_every_state_of_an_agent_is_documented() -> None:
    page = (ROOT / "docs" / "dispatch.md").read_text(encoding="utf-8")
    for state in (RATE_LIMITED, *(state.value for state in State)):
        assert f"``{state}``" in str(AgentStatistics.__doc__)
        assert f"`{state}`" in page
