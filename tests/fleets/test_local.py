"""Fleets on this machine: real supervisors and processes, simulated engines."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from aurora_pool.cli import check, status
from aurora_pool.hostfile_source import parse_hostfile
from tests.cli.conftest import Call, call  # noqa: F401 - a fixture
from tests.fleets.shared import (
    answered,
    aurora_pool,
    fleet_file,
    processes_of,
    prompts,
    states,
    up,
    wait_for,
    wait_for_phases,
)


def test_a_fleet_comes_up_answers_and_goes_down(
    run: Path,
    tmp_path: Path,
    call: Call,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(check, "AGAIN", 0.05)
    monkeypatch.setattr(status, "MEASURING", 0.05)
    up(run, agents=2, tags={"role": "small"})
    hostfile = run / "agents.d"
    assert call("wait", "--hostfile", hostfile, "--min-agents", "100%", "-o", tmp_path / "ready.hostfile").code == 0
    endpoints = parse_hostfile(hostfile)
    assert parse_hostfile(tmp_path / "ready.hostfile") == endpoints
    assert [endpoint.tags["role"] for endpoint in endpoints] == ["small"] * 2
    output = tmp_path / "answers.jsonl"
    assert call("run", prompts(tmp_path, 200), "-o", output, "--hostfile", hostfile, "--quiet").code == 0
    assert sorted(answered(output)) == sorted(f"p{number}" for number in range(200))

    rows = [json.loads(line) for line in call("status", run, "--json").out.splitlines()]
    assert [(row["name"], row["phase"]) for row in rows] == [(f"agent-00{n}", "ready") for n in range(2)]
    assert "2 agents" in call("top", "--hostfile", hostfile, "--every", 0.2).out
    assert "aurora_pool sim --agents 1" in call("logs", "agent-001", run).out
    told = call("logs", "agent-009", run)
    assert (told.code, "there are agent-000" in told.err) == (2, True)
    told = call("up", "m", "--engine", "sim", "--run", run)
    assert (told.code, "take it down first" in told.err) == (2, True)

    assert call("down", run).code == 0
    assert processes_of(run) == []
    assert list(hostfile.iterdir()) == []
    told = call("down", run)
    assert (told.code, "nothing was started" in told.err) == (2, True)


def test_an_engine_that_fails_is_told_at_once_with_its_last_words(run: Path) -> None:
    command = "echo loading; echo 'CUDA out of memory' >&2; exit 3"
    up(run, agents=1, engine={"kind": "command", "command": command}, restarts=0)
    wait_for_phases(run, "failed")
    said = aurora_pool("status", run, "--json", code=1).stdout
    row = json.loads(said)
    assert row["reason"] == "ended with exit code 3: CUDA out of memory"
    assert row["tail"] == ["loading", "CUDA out of memory"]
    wait_for(lambda: not processes_of(run), "a supervisor without agents stays")


def test_fleet_job_and_clean_up_in_one_command(tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    fleet = fleet_file(tmp_path, agents=2)
    ran = aurora_pool("run", prompts(tmp_path, 100), "-o", output, "--up", fleet, "--min-agents", 2)
    told = next(line for line in ran.stderr.splitlines() if line.startswith("fleet: "))
    assert sum(map(int, re.findall(r"\d+", told))) == 2, told  # they may be further than pending when first seen
    assert len(answered(output)) == 100
    assert processes_of(tmp_path / "answers.jsonl.fleet") == []


def test_a_fleet_that_fails_ends_the_job_with_its_reason(tmp_path: Path) -> None:
    fleet = fleet_file(
        tmp_path,
        agents=1,
        restarts=0,
        engine={"kind": "command", "command": "echo loading; echo no such model; exit 1"},
    )
    ran = aurora_pool("run", prompts(tmp_path, 10), "-o", tmp_path / "out.jsonl", "--up", fleet, code=5)
    assert "1 agent has failed; agent-000 on " in ran.stderr
    assert "ended with exit code 1: no such model; below is the end of " in ran.stderr
    assert "agent-000.log\n  loading\n  no such model\n" in ran.stderr
    assert processes_of(tmp_path / "out.jsonl.fleet") == []


def test_either_a_hostfile_or_a_fleet_is_named(tmp_path: Path) -> None:
    assert "one of --hostfile, --up and --engine" in aurora_pool("run", prompts(tmp_path, 1), "-o", "-", code=2).stderr


def test_an_agent_that_can_t_be_where_it_should_says_so(run: Path) -> None:
    up(run, agents=1, network="nosuch0")
    wait_for_phases(run, "failed")
    assert "no interface 'nosuch0'" in states(run)[0].reason
