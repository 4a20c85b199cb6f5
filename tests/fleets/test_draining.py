"""Requests in flight when a fleet goes down are finished first."""

from __future__ import annotations

import http.client
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from aurora_pool.fleets.launchers.ssh import Ssh
from aurora_pool.fleets.network import nobody_is_connected
from aurora_pool.fleets.run_folder import RunFolder
from aurora_pool.fleets.spec import make_fleet
from tests.cli.conftest import Call, call  # noqa: F401 - a fixture
from tests.fleets.draining import engine, request_in_flight
from tests.fleets.shared import aurora_pool, processes_of, up, wait_for_phases

LONG = 300.0
"""Seconds to drain: longer than anything takes here, so what is waited for is the request."""


@pytest.mark.parametrize("counters", [True, False], ids=["with counters", "without counters"])
def test_a_request_in_flight_is_finished_first(run: Path, counters: bool) -> None:
    up(run, agents=1, drain=LONG, engine=engine(counters=counters))
    wait_for_phases(run, "ready")
    with request_in_flight((run / "agents.d" / "agent-000").read_text()) as reply:
        aurora_pool("down", run)
        assert reply.result() == b"whole"
    assert processes_of(run) == []


def test_a_request_that_takes_longer_than_the_drain_is_cut(run: Path) -> None:
    up(run, agents=1, drain=0, engine=engine(counters=True))
    wait_for_phases(run, "ready")
    with request_in_flight((run / "agents.d" / "agent-000").read_text()) as reply:
        aurora_pool("down", run)
        assert isinstance(reply.exception(), http.client.HTTPException | OSError)
    assert processes_of(run) == []


def test_connections_are_those_that_the_kernel_shows() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert nobody_is_connected(port)
        with socket.create_connection(("127.0.0.1", port)), server.accept()[0]:
            assert not nobody_is_connected(port)
    assert not nobody_is_connected(port)  # who does not listen here may be connected in another network


def test_over_ssh_the_patience_follows_the_drain(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Call,  # noqa: F811
) -> None:
    run = RunFolder(tmp_path / "fleet.run")
    run.create(make_fleet({"engine": "sim", "where": "ssh", "hosts": ["gpu01"], "drain": LONG}))
    run.close()
    waited: list[float] = []

    def ran(command: list[str], *, timeout: float, **_: Any) -> subprocess.CompletedProcess[str]:
        waited.append(timeout)
        return subprocess.CompletedProcess(command, 0, "", "")

    def swept(_: RunFolder, *, within: float) -> list[int]:
        waited.append(within)
        return []

    monkeypatch.setattr(subprocess, "run", ran)
    monkeypatch.setattr("aurora_pool.fleets.sweep.sweep", swept)
    assert Ssh().stop(run, ["", "gpu01"]) == []
    assert call("agent", run.path, "--sweep").code == 0
    here, there = waited
    assert here > there > LONG
