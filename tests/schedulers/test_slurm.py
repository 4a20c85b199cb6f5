"""Fleets on a real Slurm: job arrays, nodes that die, allocations."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from aurora_pool.hostfile_source import parse_hostfile
from tests.fleets.draining import engine, request_in_flight
from tests.fleets.shared import (
    COMMAND,
    answered,
    aurora_pool,
    fleet_file,
    processes_of,
    prompts,
    wait_for,
    wait_for_phases,
)
from tests.schedulers.slurm_cluster import SlurmCluster, missing

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    if missing():
        pytest.fail(f"a real Slurm needs {', '.join(missing())}; on Debian: apt-get install slurm-wlm munge")
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _no_jobs_left(cluster: SlurmCluster) -> Iterator[None]:
    """Free the nodes after a test that failed, for the next one."""
    yield
    cluster.cancel_all()


def lines_of(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "agents.d").iterdir() if not path.name.startswith("."))


def states_of(run: Path, environment: dict[str, str]) -> dict[str, dict[str, object]]:
    said = aurora_pool("status", run, "--json", environment=environment, code=None).stdout
    return {row["name"]: row for row in map(json.loads, said.splitlines())}


def test_a_job_outlives_a_node_and_the_node_comes_back(cluster: SlurmCluster, tmp_path: Path) -> None:
    run, environment = tmp_path / "fleet.run", cluster.environment
    aurora_pool("up", fleet_file(tmp_path, where="slurm", gpus_per_agent=2), "--run", run, environment=environment)
    hostfile, output = run / "agents.d", tmp_path / "answers.jsonl"
    aurora_pool("wait", "--hostfile", hostfile, "--min-agents", "100%", environment=environment)
    assert len(lines_of(run)) == 4

    command = [*COMMAND, "run", prompts(tmp_path, 1500), "-o", output, "--hostfile", hostfile, "--json"]
    job = subprocess.Popen(
        list(map(str, command)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: output.exists() and output.stat().st_size > 20_000, "the job does not begin")
    cluster.kill_node("n2")
    said, told = job.communicate(timeout=300)
    assert job.returncode == 0, told
    assert sorted(answered(output)) == sorted(f"p{number}" for number in range(1500))
    assert json.loads(said)["failed"] == 0

    # What was on the node disappears by itself, and comes back when the node does.
    wait_for(lambda: len(parse_hostfile(hostfile)) == 3, "the dead node's line does not disappear")

    def ready() -> int:
        return [row["phase"] for row in states_of(run, environment).values()].count("ready")

    wait_for(lambda: ready() == 3, "the dead node's agent counts as ready")
    cluster.start_node("n2")
    wait_for(lambda: "n2" in cluster.nodes("idle") or len(cluster.nodes("alloc")) == 4, "the node does not come back")

    def is_back() -> bool:
        cluster.start_pending()
        return len(parse_hostfile(hostfile)) == 4

    wait_for(is_back, "the agent of the node does not come back")
    aurora_pool("wait", "--hostfile", hostfile, "--min-agents", "100%", "--timeout", 200, environment=environment)

    aurora_pool("down", run, environment=environment)
    assert processes_of(run) == []
    assert lines_of(run) == []
    wait_for(lambda: not cluster.jobs(), "jobs are left in the queue")


def test_gpus_are_those_that_slurm_gives(cluster: SlurmCluster, tmp_path: Path) -> None:
    run, environment = tmp_path / "fleet.run", cluster.environment
    engine = {"kind": "sim", "setup": f'echo "$CUDA_VISIBLE_DEVICES" > {tmp_path}/gpus-${{AURORA_POOL_AGENT##*:}}'}
    fleet = fleet_file(tmp_path, where="slurm", engine=engine, agents=4, agents_per_node=2, gpus_per_agent=1)
    aurora_pool("up", fleet, "--run", run, environment=environment)
    aurora_pool("wait", "--hostfile", run / "agents.d", "--min-agents", "100%", environment=environment)
    found = sorted((path.name.partition("-")[2], path.read_text().strip()) for path in tmp_path.glob("gpus-*"))
    assert found == [("agent-000", "0"), ("agent-001", "1"), ("agent-002", "0"), ("agent-003", "1")]
    aurora_pool("down", run, environment=environment)
    assert processes_of(run) == []


@pytest.mark.parametrize("where", ["a job array", "the allocation's own nodes"])
def test_fleet_job_and_clean_up_in_one_command(cluster: SlurmCluster, tmp_path: Path, where: str) -> None:
    fleet = fleet_file(tmp_path, where="slurm", agents=3, gpus_per_agent=2)
    output = tmp_path / "answers.jsonl"
    command = [*COMMAND, "run", str(prompts(tmp_path, 300)), "-o", str(output), "--up", str(fleet), "--min-agents", "3"]
    if where == "the allocation's own nodes":
        command = ["salloc", "--nodes=3", "--gres=gpu:2", "--quiet", *command]
    ran = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=200, check=False)
    assert ran.returncode == 0, ran.stderr
    assert sorted(answered(output)) == sorted(f"p{number}" for number in range(300))
    assert processes_of(tmp_path / "answers.jsonl.fleet") == []
    wait_for(lambda: not cluster.jobs(), "jobs are left in the queue")


def test_a_command_that_is_killed_takes_its_fleet_with_it(cluster: SlurmCluster, tmp_path: Path) -> None:
    run, output = tmp_path / "answers.jsonl.fleet", tmp_path / "answers.jsonl"
    fleet = fleet_file(tmp_path, where="slurm", agents=2)
    command = [*COMMAND, "run", str(prompts(tmp_path, 100_000)), "-o", str(output), "--up", str(fleet), "--quiet"]
    job = subprocess.Popen(command, env=cluster.environment)
    wait_for(lambda: output.exists() and output.stat().st_size > 2000, "the job does not begin")
    wait_for(lambda: len(processes_of(run)) >= 6, "the second agent does not come up")
    job.send_signal(signal.SIGKILL)
    job.wait()
    wait_for(lambda: not processes_of(run), "the fleet outlives its owner")
    wait_for(lambda: not cluster.jobs(), "jobs are left in the queue")


def test_status_says_what_is_queued_and_down_takes_it_back(cluster: SlurmCluster, tmp_path: Path) -> None:
    run, environment = tmp_path / "fleet.run", cluster.environment
    fleet = fleet_file(tmp_path, where="slurm", agents=6, options=["--exclusive"])
    aurora_pool("up", fleet, "--run", run, environment=environment)
    aurora_pool("wait", "--hostfile", run / "agents.d", "--min-agents", 4, environment=environment)
    wait_for_phases(run, *["ready"] * 4)  # an agent says so after its line is in the hostfile
    rows = states_of(run, environment)
    assert [row["phase"] for row in rows.values()] == ["ready"] * 4 + ["pending"] * 2
    assert all(str(row["reason"]).startswith("in the queue") for row in rows.values() if row["phase"] == "pending")
    aurora_pool("down", run, environment=environment)
    assert processes_of(run) == []
    assert not cluster.jobs()
    # Nodes that became free on the way are not given to what was queued.
    assert [path.name for path in (run / "logs").glob("*.out") if path.stem in {"agent-4", "agent-5"}] == []


def test_a_request_in_flight_is_finished_before_the_job_is_cancelled(cluster: SlurmCluster, tmp_path: Path) -> None:
    run, environment = tmp_path / "fleet.run", cluster.environment
    fleet = fleet_file(tmp_path, where="slurm", agents=1, drain=300, engine=engine(counters=True))
    aurora_pool("up", fleet, "--run", run, environment=environment)
    wait_for_phases(run, "ready")
    with request_in_flight((run / "agents.d" / "agent-000").read_text()) as reply:
        aurora_pool("down", run, environment=environment)
        assert reply.result() == b"whole"
    assert processes_of(run) == []
    wait_for(lambda: not cluster.jobs(), "jobs are left in the queue")
