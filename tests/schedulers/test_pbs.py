"""Fleets under PBS, by a stand-in for its commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aurora_pool.hostfile_source import parse_hostfile
from tests.fleets.draining import engine, request_in_flight
from tests.fleets.shared import aurora_pool, fleet_file, processes_of, wait_for, wait_for_phases
from tests.schedulers import pbs_shim


@pytest.mark.parametrize("starter", ["pbsdsh", "mpiexec"])
def test_one_job_brings_agents_to_all_nodes_and_down_deletes_it(run: Path, tmp_path: Path, starter: str) -> None:
    environment = pbs_shim.install(tmp_path / "pbs", ["qsub", "qstat", "qdel", starter])
    fleet = fleet_file(tmp_path, where="pbs", agents=4, agents_per_node=2, options=["-A project", "-q debug"])
    aurora_pool("up", fleet, "--run", run, environment=environment)
    wait_for_phases(run, "ready", "ready", "ready", "ready")
    assert len(parse_hostfile(run / "agents.d")) == 4
    assert "#PBS -A project\n" in (run / "agent.sh").read_text()
    aurora_pool("down", run, environment=environment)
    assert processes_of(run) == []
    assert list((run / "agents.d").iterdir()) == []


def test_status_asks_the_queue(run: Path, tmp_path: Path) -> None:
    environment = pbs_shim.install(tmp_path / "pbs", ["qsub", "qstat", "qdel"])
    # Neither pbsdsh nor mpiexec nor a node that ssh reaches: no agent will ever say a word.
    aurora_pool("up", fleet_file(tmp_path, where="pbs", agents=1), "--run", run, environment=environment)

    def said() -> str:
        row = json.loads(aurora_pool("status", run, "--json", environment=environment, code=1).stdout)
        assert row["phase"] == "pending"
        return str(row["reason"])

    wait_for(lambda: said() == "nothing of it is running", "the job does not end")
    aurora_pool("down", run, environment=environment)


def test_what_is_queued_does_not_begin_when_the_fleet_ends(run: Path, tmp_path: Path) -> None:
    environment = pbs_shim.install(tmp_path / "pbs", nodes=1)
    groups = {name: {"agents": 1} for name in ("first", "second")}
    aurora_pool("up", fleet_file(tmp_path, where="pbs", groups=groups), "--run", run, environment=environment)

    def states() -> dict[str, str]:
        said = aurora_pool("status", run, "--json", environment=environment, code=None).stdout
        return {row["name"]: row["phase"] + row["reason"] for row in map(json.loads, said.splitlines())}

    wait_for(lambda: states()["first-000"] == "ready", "the first group does not begin")
    assert states() == {"first-000": "ready", "second-000": "pendingin the queue"}
    aurora_pool("down", run, environment=environment)
    assert processes_of(run) == []
    assert not (run / "logs" / "second.out").exists()


def test_a_request_in_flight_is_finished_before_the_job_is_deleted(run: Path, tmp_path: Path) -> None:
    environment = pbs_shim.install(tmp_path / "pbs")
    fleet = fleet_file(tmp_path, where="pbs", agents=1, drain=300, engine=engine(counters=True))
    aurora_pool("up", fleet, "--run", run, environment=environment)
    wait_for_phases(run, "ready")
    with request_in_flight((run / "agents.d" / "agent-000").read_text()) as reply:
        aurora_pool("down", run, environment=environment)
        assert reply.result() == b"whole"
    assert processes_of(run) == []
