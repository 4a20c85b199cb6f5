"""Nothing that a server, a model or a file says changes the terminal, or forges a line."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from aurora_pool import Timeouts
from aurora_pool.cli.console import cell
from aurora_pool.terminal import one_line, printable
from aurora_pool.testing import AgentProfile, SimulatedFleet
from tests.cli.conftest import Call
from tests.forked import Run, on_terminal, simulated
from tests.pool.gateway import gateway

ATTACKS = {
    "title": "\x1b]0;owned\x07",
    "title, C1": "\x9d0;owned\x9c",
    "clipboard": "\x1b]52;c;ZXZpbA==\x1b\\",
    "clear": "\x1b[2J\x1b[H",
    "colour, C1": "\x9b31m",
    "device": "\x1bP1$r0m\x1b\\",
    "reset": "\x1bc",
    "charset": "\x1b(0",
    "unfinished": "\x1b]0;never ends",
    "bell and back": "\x07\x08\x0b\x0c\r",
    "order": "\u202egnp.exe\u2066",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_no_control_character_is_left(attack: str) -> None:
    created = printable(f"before {attack}after\n")
    assert created.startswith("before ")
    assert created.endswith("after\n")
    assert not any(ord(c) < 32 and c not in "\n\t" for c in created)
    assert not any(0x7F <= ord(c) < 0xA0 or c in "\u202e\u2066" for c in created)
    assert "\n" not in one_line(f"a\n{attack}\nb")


@given(st.text())
def test_no_text_at_all_can_do_anything(text: str) -> None:
    created = printable(text)
    assert not any((ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 for c in created)
    assert printable(created) == created
    created.encode()


@given(st.text(alphabet=st.characters(exclude_categories=["Cc", "Cf", "Cs"])))
def test_what_is_plain_stays_unchanged(text: str) -> None:
    assert printable(f"{text}\n\t{text}") == f"{text}\n\t{text}"


def test_a_name_in_a_table_is_no_markup() -> None:
    shown = io.StringIO()
    table = Table("agent")
    for name in ("[fd00::1]:8000", "[link=x]here[/y]", "\x1b]0;owned\x1b[2J"):
        table.add_row(cell(name))
    Console(file=shown, width=60).print(table)
    for name in ("[fd00::1]:8000", "[link=x]here[/y]", r"\x1b]0;owned\x1b[2J"):
        assert name in shown.getvalue()


EVIL = "\x1b]52;c;ZXZpbA==\x07\x1b[2Jbad\nWARNING aurora_pool: forged"


@pytest.mark.simulated_clock
async def test_a_servers_message_forges_no_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    from aurora_pool import PromptOptions, VLLMPool

    def answer() -> web.Response:
        return web.json_response({"error": {"message": EVIL, "code": 404}}, status=404)

    caplog.set_level(logging.INFO)
    async with (
        SimulatedFleet(1, profile=AgentProfile(instant=True)) as fleet,
        gateway(fleet.endpoints[0], {"/v1/completions": answer}) as proxy,
        VLLMPool([proxy], prompting=PromptOptions(prompt_format="raw"), timeouts=Timeouts(patience=2.0)) as pool,
    ):
        await pool.send_all_batched(["a"], max_tokens=4)
    told = [record.getMessage() for record in caplog.records]
    assert any("bad" in line for line in told)
    assert not any("\n" in line or "\x1b" in line for line in told)


@pytest.mark.skipif(sys.platform == "win32", reason="no pty there")
@pytest.mark.parametrize("command", ["ask", "run", "summarize"])
def test_errors_and_paths_on_a_terminal(command: str, tmp_path: Path) -> None:
    odd = tmp_path / "\x1b]0;owned\x07[red]file"
    arguments = {
        "ask": ("ask", "Hi", "--hostfile", str(odd)),
        "run": ("run", str(odd), "-o", str(tmp_path / "out"), "--hostfile", str(odd)),
        "summarize": ("summarize", str(odd), "--hostfile", str(odd)),
    }
    _, shown = on_terminal(tmp_path, *arguments[command])
    assert "[red]file" in shown
    assert "\x1b]" not in shown
    assert "\x07" not in shown


@pytest.mark.skipif(sys.platform == "win32", reason="no pty there")
def test_a_models_answer_on_a_terminal_and_in_a_pipe(tmp_path: Path) -> None:
    server = tmp_path / "server.py"
    hostfile = tmp_path / "fleet.hostfile"
    server.write_text(
        "import asyncio, sys\n"
        "from aurora_pool.testing import AgentProfile, SimulatedFleet\n"
        "async def main():\n"
        f"    profile = AgentProfile(reply={EVIL!r})\n"
        "    async with SimulatedFleet(1, profile=profile, time_scale=50) as fleet:\n"
        f"        fleet.write_hostfile({str(hostfile)!r})\n"
        "        print('ready', flush=True)\n"
        "        await asyncio.to_thread(sys.stdin.read)\n"
        "asyncio.run(main())\n"
    )
    process = subprocess.Popen([sys.executable, str(server)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    ask = ("ask", "Hi", "--hostfile", hostfile)
    _, shown = on_terminal(tmp_path, *ask)
    run = Run(tmp_path, *ask)
    assert run.end()[0] == 0
    process.communicate("")
    assert "bad" in shown
    assert "\x1b" not in shown
    assert run.gave == f"{EVIL}\n"


def test_a_report_shows_names_unchanged(tmp_path: Path, call: Call) -> None:
    """Rich's markup in a name is text: no error, no live link, nothing invisible."""
    with simulated(tmp_path, "--agents", "1", "--instant") as hostfile:
        source = tmp_path / "in.jsonl"
        source.write_text(json.dumps({"prompt": "a"}) + "\n")
        for name in ("[link=http:evil]x", "[bold]", "[fd00::1]"):
            output = tmp_path / name
            assert call("run", source, "-o", output, "--hostfile", hostfile).code == 0
            ended = call("report", output)
            assert ended.code == 0
            assert name in ended.out
