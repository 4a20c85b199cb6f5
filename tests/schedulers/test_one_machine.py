"""What takes its time on one machine: limits, kills, fleets side by side."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from aurora_pool.hostfile_source import parse_hostfile
from tests.fleets.shared import (
    COMMAND,
    SPREADING,
    aurora_pool,
    fleet_file,
    phases,
    processes_of,
    prompts,
    roles_of,
    states,
    up,
    wait_for,
    wait_for_phases,
)


def test_an_engine_that_never_gets_ready_is_ended(run: Path) -> None:
    up(run, agents=1, engine={"kind": "command", "command": "sleep 1000"}, restarts=0, ready_within=0.5)
    wait_for_phases(run, "failed")
    assert "not ready after 0 s" in aurora_pool("status", run, "--json", code=1).stdout
    wait_for(lambda: not processes_of(run), "the engine stays")


def test_an_engine_that_ignores_sigterm_is_killed(run: Path) -> None:
    command = f"trap '' TERM; {SPREADING.replace('& wait', '& while true; do sleep 1; done')}"
    up(run, agents=1, engine={"kind": "command", "command": command})
    wait_for_phases(run, "ready")
    aurora_pool("down", run)
    assert processes_of(run) == []


def test_two_fleets_on_one_machine_don_t_touch_each_other(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "fleet.run2"
    up(run, agents=1)
    up(other, agents=1)
    wait_for_phases(run, "ready")
    wait_for_phases(other, "ready")
    aurora_pool("down", run)
    assert (processes_of(run), len(processes_of(other)) > 0) == ([], True)
    aurora_pool("down", other)
    assert processes_of(other) == []


def test_a_port_that_is_taken_is_passed_over(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.run"
    up(other, agents=1)
    wait_for_phases(other, "ready")
    (taken,) = parse_hostfile(other / "agents.d")
    up(run, agents=1, port=taken.port)
    wait_for_phases(run, "ready")
    (found,) = parse_hostfile(run / "agents.d")
    assert found.port > taken.port
    aurora_pool("down", other)


@pytest.mark.parametrize("victim", ["keeper", "supervisor", "leash", "engine"])
def test_whoever_is_killed_nothing_is_left_without_a_keeper_and_agents_come_back(run: Path, victim: str) -> None:
    up(run, agents=2, engine={"kind": "command", "command": SPREADING})
    wait_for_phases(run, "ready", "ready")
    roles = roles_of(run)
    # Two leashes; of each engine a shell, the server, and a worker in a session of its own.
    whole = {"keeper": 1, "supervisor": 1, "leash": 2, "engine": 6}
    assert {role: len(pids) for role, pids in roles.items()} == whole
    os.kill(roles[victim][0], signal.SIGKILL)
    if victim != "keeper":
        wait_for(lambda: roles[victim][0] not in processes_of(run), "it survives a kill")
        if victim == "supervisor":
            wait_for(lambda: not set(roles["engine"]) & set(processes_of(run)), "engines outlive their supervisor")
        else:
            wait_for(lambda: sum(state.restarts for state in states(run)) == 1, "the engine is not started again")
        wait_for_phases(run, "ready", "ready")
        assert {role: len(pids) for role, pids in roles_of(run).items()} == whole
        os.kill(roles["keeper"][0], signal.SIGKILL)
    wait_for(lambda: not processes_of(run), "engines outlive their keeper")
    assert phases(run) == ["ended", "ended"]
    assert list((run / "agents.d").iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_that_is_stopped_takes_its_fleet_down(tmp_path: Path, number: signal.Signals, code: int) -> None:
    output = tmp_path / "answers.jsonl"
    command = ["run", prompts(tmp_path, 20_000), "-o", output, "--up", fleet_file(tmp_path, agents=1), "--grace", 0.1]
    job = subprocess.Popen([*COMMAND, *map(str, command)], stderr=subprocess.PIPE, text=True)
    wait_for(lambda: output.exists() and output.stat().st_size > 2000, "the job does not begin")
    job.send_signal(number)
    _, told = job.communicate(timeout=60)
    assert job.returncode == code, told
    assert processes_of(tmp_path / "answers.jsonl.fleet") == []
