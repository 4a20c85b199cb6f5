"""What a supervisor makes of engines that end, drain or are replaced, moment by moment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aurora_pool.fleets import leash, supervisor
from aurora_pool.fleets.run_folder import RunFolder
from aurora_pool.fleets.spec import Fleet, make_fleet
from aurora_pool.fleets.supervisor import Agent
from aurora_pool.wire.metrics import METRICS_PATH

# Of two engines that have ended, at first only one is seen, as if the other ended a moment later.
ENDING = """
import os, sys, time
from pathlib import Path
from aurora_pool.fleets import supervisor
from aurora_pool.fleets.run_folder import RunFolder

def reap_one():
    children = [pid for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]
    for pid in children:
        os.waitid(os.P_PID, int(pid), os.WEXITED | os.WNOWAIT)
    return {int(pid): os.waitstatus_to_exitcode(os.waitpid(int(pid), 0)[1]) for pid in children[:1]}

supervisor.reap = reap_one
run = RunFolder(Path(sys.argv[1]))
fleet = run.fleet()
both = supervisor.Supervisor(run, fleet, fleet.groups[0], 0)
while both.tick(time.monotonic()):
    pass
"""


def created(folder: Path, **keys: object) -> tuple[RunFolder, Fleet]:
    """Give the folder of a fleet that is to come up, and the fleet."""
    run = RunFolder(folder / "fleet.run")
    run.create(make_fleet({"engine": "sim", **keys}))
    return run, run.fleet()


def test_the_exit_code_of_an_engine_that_ends_between_two_looks_is_told(tmp_path: Path) -> None:
    engine = {"kind": "command", "command": "exit 3"}
    run, fleet = created(tmp_path, agents=2, agents_per_node=2, engine=engine, restarts=0)
    subprocess.run([sys.executable, "-c", ENDING, str(run.path)], check=True)
    found = [run.state(name) for name in fleet.agent_names]
    assert [each[0].reason for each in found if each is not None] == ["ended with exit code 3"] * 2


def test_an_engine_is_drained_once_it_is_idle_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, fleet = created(tmp_path)
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    running = iter((1, 0, 1, 0, 0))

    def ask(address: str, port: int, path: str, *, within: float) -> tuple[int, bytes]:
        return 200, b"vllm:num_requests_running %d\n" % next(running) if path == METRICS_PATH else b""

    monkeypatch.setattr(leash, "start", lambda *_, **__: (0, writing))
    monkeypatch.setattr(supervisor, "ask", ask)
    agent = Agent(run, fleet, fleet.groups[0], 0)
    for phase in ("starting", "ready"):
        agent.tick(0.0, [])
        assert agent.phase == phase
    agent.stop(0.0)
    for _ in range(4):
        agent.tick(0.0, [])
        with pytest.raises(BlockingIOError):
            os.read(reading, 1)
    agent.tick(0.0, [])
    assert os.read(reading, 1) == b"t"
    agent.ended(0, 0.0)
    os.close(reading)


@pytest.mark.parametrize("seen", ["when it starts", "when it ends", "when it is stopped"])
def test_what_another_supervisor_has_announced_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: str
) -> None:
    run, fleet = created(tmp_path)
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(leash, "start", lambda *_, **__: (0, writing))
    monkeypatch.setattr(supervisor, "ask", lambda *_, **__: (200, b""))
    lost = Agent(run, fleet, fleet.groups[0], 0)
    lost.tick(0.0, [])
    if seen != "when it starts":
        lost.tick(0.0, [])
    Agent(run, fleet, fleet.groups[0], 0)
    name = fleet.agent_names[0]
    run.announce(name, "elsewhere 8000\n")
    own = run.state(name)
    if seen == "when it starts":
        lost.tick(0.0, [])
    elif seen == "when it is stopped":
        lost.stop(0.0)
    else:
        lost.ended(1, 0.0)
    assert (run.agents / name).read_text() == "elsewhere 8000\n"
    found = run.state(name)
    assert own is not None
    assert found is not None
    assert found[0] == own[0]
    if lost.pipe is not None:
        lost.ended(1, 0.0)


def test_an_agent_that_was_replaced_starts_no_engine_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, fleet = created(tmp_path)
    started: list[int] = []

    def start(*_: object, **__: object) -> tuple[int, int]:
        reading, writing = os.pipe()
        os.close(reading)
        started.append(writing)
        return 0, writing

    monkeypatch.setattr(leash, "start", start)
    lost = Agent(run, fleet, fleet.groups[0], 0)
    lost.tick(0.0, [])
    lost.ended(1, 0.0)
    assert (lost.phase, len(started)) == ("restarting", 1)
    Agent(run, fleet, fleet.groups[0], 0)
    own = run.state(fleet.agent_names[0])
    lost.tick(1e9, [])
    assert (lost.phase, len(started)) == ("ended", 1)
    found = run.state(fleet.agent_names[0])
    assert own is not None
    assert found is not None
    assert found[0] == own[0]
