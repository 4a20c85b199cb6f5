"""The other commands, and what holds for all of them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from aurora_pool import VLLMPool
from aurora_pool.cli.app import app
from aurora_pool.cli.display import LogDisplay, describe
from aurora_pool.cli.exit_codes import TABLE, ExitCode, code_of
from aurora_pool.errors import BadRecord, ConfigError, HostfileError, JobError, NoAgentsError
from aurora_pool.jobs.meter import Progress, Standstill
from tests.cli.conftest import Call
from tests.jobs.shared import texts_of


def test_ask_prints_the_answer(call: Call, hostfile: Path) -> None:
    ended = call("ask", "What is a mill?", "--hostfile", hostfile, "--max-tokens", "5", "--temperature", "0")
    assert (ended.code, ended.err) == (0, "")
    assert len(ended.out.split()) in range(1, 6)


@pytest.mark.parametrize("command", ["ask", "summarize"])
def test_only_agents_with_a_tag_are_asked(call: Call, hostfile: Path, tmp_path: Path, command: str) -> None:
    agent = hostfile.read_text().splitlines()[0]
    mixed = tmp_path / "mixed.hostfile"
    mixed.write_text(f"127.0.0.1 1 role=other\n{agent} role=chat\n")
    source = tmp_path / "a.txt"
    source.write_text("The lamp was lit at four.")
    ended = call(command, source, "--hostfile", mixed, "--tag", "role=chat", "--max-tokens", "5")
    assert (ended.code, ended.err) == (0, "")
    ended = call(command, source, "--hostfile", mixed, "--tag", "role=none")
    assert (ended.code, "none of 2 agents in the hostfile has role=none" in ended.err) == (5, True)


def test_ask_tells_what_is_wrong(call: Call, hostfile: Path, tmp_path: Path) -> None:
    ended = call("ask", "Hi", "--hostfile", hostfile, "--model", "other")
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (5, "", 1)
    dead = tmp_path / "h"
    dead.write_text("127.0.0.1 1\n")
    assert call("ask", "Hi", "--hostfile", dead, "--patience", "1").code == 5


def test_summarize_prints_one_summary_of_all_files(call: Call, hostfile: Path, tmp_path: Path) -> None:
    texts = [tmp_path / "one.txt", tmp_path / "two.txt"]
    for text in texts:
        text.write_text("The lamp was lit at four. The wind rose all evening.\n\n" * 40)
    ended = call("summarize", *texts, "--hostfile", hostfile, "--max-tokens", "20", "--chunk-tokens", "200", "-v")
    assert ended.code == 0
    assert 1 <= len(ended.out.split()) <= 20
    assert "level 0:" in ended.err or "level 1:" in ended.err


def test_summarize_tells_what_is_wrong(call: Call, hostfile: Path, tmp_path: Path) -> None:
    ended = call("summarize", tmp_path / "none.txt", "--hostfile", hostfile)
    assert (ended.code, len(ended.err.splitlines())) == (3, 1)
    (tmp_path / "chats.json").write_text("{}")
    ended = call("summarize", tmp_path / "chats.json", "--input-format", "chatgpt-export", "--hostfile", hostfile)
    assert (ended.code, len(ended.err.splitlines())) == (3, 1)


def test_the_demo_runs_and_leaves_nothing_running(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "prompts.txt"
    source.write_text("Say one.\nSay two.\n")
    ended = call("demo", "--input", source, "--agents", "2")
    assert ended.code == 0
    assert len(texts_of(tmp_path / "demo" / "answers.jsonl")) == 2
    assert "2 simulated agents listen" in ended.err
    report = ended.err.partition("where the time went: ")[2]
    assert "2 of 2" in subprocess.run(shlex.split(report), capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("die", "AGENT:ACTION"), ("0:explode@1", "AGENT:ACTION"), ("7:die@1", "there is no agent 7")],
)
def test_sim_refuses_invalid_faults(call: Call, tmp_path: Path, fault: str, reason: str) -> None:
    ended = call("sim", "-o", tmp_path / "h", "--fault", fault)
    assert (ended.code, reason in ended.err) == (2, True)


def test_help_names_every_command_and_exit_code(call: Call) -> None:
    ended = call("--help")
    for word in ("run", "ask", "summarize", "demo", "report", "sim"):
        assert re.search(rf"^\W*{word} ", ended.out, re.MULTILINE)
    for code in ExitCode:
        assert re.search(rf"^ *{int(code)} ", ended.out, re.MULTILINE)
        assert f"\n{int(code)} " in f"\n{TABLE}"


@pytest.mark.parametrize("name", [None, *(command.name for command in app.registered_commands if not command.hidden)])
def test_help_fits_a_terminal_of_80_columns(name: str | None, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ended = call(*([name] if name else []), "--help")
    assert max(map(len, ended.out.splitlines())) <= 80
    assert "\u2026" not in ended.out, "an option's name is cut"
    assert not re.search(r"<(bool|str|int|float|path|list\[.*|.* range)>", ended.out), "it shows a type of Python"
    if name is not None:
        before, _, options = ended.out.partition("--help ")
        assert "Example:" in before
        assert re.search(rf"Example: *\n +aurora-pool {name}\b.*\n *\n", before), "the example fits a line"
        assert not re.search(r"<[\w|-]*[\w-] ", ended.out), "a choice is broken over two lines"
        assert re.search(rf"^   aurora-pool {name}\b", before, re.MULTILINE), "examples are set off alike"
        assert options.count("\u256d\u2500 Options") == 0, "every option has its group"


def test_commands_are_shown_in_groups_below_an_example(call: Call) -> None:
    page = call("--help").out
    assert re.findall(r"^\u256d\u2500 (.*?) \u2500", page, re.MULTILINE) == [
        "Options", "Jobs", "Questions", "Fleets", "Server and batches", "Looking at jobs and fleets", "Trying out",
    ]  # fmt: skip
    assert "aurora-pool run prompts.jsonl" in page.partition("\u256d")[0]


def test_the_command_imports_nothing_heavy_for_its_help() -> None:
    heavy = ("rich", "openai", "yaml", "aurora_pool.testing", "prometheus_client", "plotly")
    code = f"import sys, aurora_pool.cli.app; print([name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadRecord("x", path="f"), 3),
        (JobError("x"), 6),
        (HostfileError("x"), 4),
        (ConfigError("x"), 2),
        (NoAgentsError("x"), 5),
    ],
)
def test_every_error_has_its_exit_code(error: BadRecord, code: int) -> None:
    assert code_of(error) == code


def progress(seconds: float, **changes: object) -> Progress:
    fields = {
        "total": 100, "earlier": 10, "done": 40, "failed": 2, "in_flight": 8, "seconds": seconds, "tokens": 900,
        "prompts_per_second": 4.0, "tokens_per_second": 90.0, "eta": 12.5, "agents": 4, "agents_in_service": 3,
        "moved": 5, "hedged": 0, "statistics": VLLMPool(["gpu01"]).statistics(),
    }  # fmt: skip
    return Progress(**(fields | changes))  # type: ignore[arg-type]


def test_progress_tells_all_that_matters() -> None:
    assert describe(progress(1)) == "4.0/s, 90 tok/s, ETA 0:13, 2 failed, 5 retried, 3/4 agents"


def test_a_log_has_a_line_now_and_then_and_tells_of_standstills_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = LogDisplay()
    for second in range(60):
        standstill = (
            Standstill(
                float(second), ("gpu01:8000 (8 prompts in flight, the oldest for 31 s)", "gpu02:8000 (out: 429)")
            )
            if 30 <= second < 40
            else None
        )
        lines.update(progress(float(second), standstill=standstill))
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" ")[0] for line in said] == ["50/100", "50/100", "standstill:", "going", "50/100"]
    assert said[2] == (
        "standstill: nothing has finished for 30 s; gpu01:8000 (8 prompts in flight, the oldest for 31 s), "
        "gpu02:8000 (out: 429)"
    )
