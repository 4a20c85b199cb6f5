"""Kill supervisors, engines, drivers and nodes in turn on a real Slurm: every prompt once, and nothing left running.

``python -m tests.schedulers.test_kills 20`` does it as many times as wished.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fleets.shared import COMMAND, answered, aurora_pool, fleet_file, processes_of, prompts, roles_of, wait_for
from tests.schedulers.slurm_cluster import NODES, SlurmCluster, missing

VICTIMS = ("supervisor", "engine", "leash", "driver", "node", "keeper")
PER_KILL = 250
"""Prompts for each kill: each falls while some are in flight."""


@pytest.mark.timeout(600)
def test_whatever_is_killed_every_prompt_is_answered_once(tmp_path: Path) -> None:
    if missing():
        pytest.fail(f"a real Slurm needs {', '.join(missing())}; on Debian: apt-get install slurm-wlm munge")
    kill_in_turn(tmp_path, len(VICTIMS), random.Random(5))


def kill_in_turn(folder: Path, times: int, rng: random.Random) -> None:
    """Run one job on a fleet of four, and kill this many times while it runs."""
    with SlurmCluster(folder / "cluster") as cluster:
        run, output = folder / "fleet.run", folder / "answers.jsonl"
        source = prompts(folder, times * PER_KILL)
        # Slow enough for the job to outlast the kills.
        engine = {"kind": "sim", "args": "--slots 4 --median-length 60"}
        aurora_pool(
            "up", fleet_file(folder, where="slurm", engine=engine), "--run", run, environment=cluster.environment
        )
        command = [*COMMAND, "run", source, "-o", output, "--hostfile", run / "agents.d", "--patience", 300, "--quiet"]
        job = _start(command, cluster)
        for number in range(times):
            victim = VICTIMS[number % len(VICTIMS)]
            wait_for(lambda: _is_further(output, number * PER_KILL, job), "the job does not go on")  # noqa: B023
            if victim == "driver":
                job.kill()
                job.wait()
                job = _start(command, cluster)
            elif victim == "node":
                node = rng.choice(NODES)
                cluster.kill_node(node)
                cluster.start_node(node)
            else:
                _kill(victim, run, rng)
            _hurry(cluster, run, folder)
        assert job.wait(300) == 0
        assert sorted(answered(output)) == sorted(f"p{number}" for number in range(times * PER_KILL))
        aurora_pool("down", run, environment=cluster.environment)
        assert processes_of(run) == []
        wait_for(lambda: not cluster.jobs(), "jobs are left in the queue")


def _kill(role: str, run: Path, rng: random.Random) -> None:
    found: list[int] = []

    def is_there() -> bool:
        found[:] = roles_of(run)[role]
        return bool(found)

    wait_for(is_there, f"no {role} is left")
    with suppress(ProcessLookupError):
        os.kill(rng.choice(found), signal.SIGKILL)


def _start(command: list[object], cluster: SlurmCluster) -> subprocess.Popen[bytes]:
    return subprocess.Popen([str(word) for word in command], env=cluster.environment)


def _is_further(output: Path, records: int, job: subprocess.Popen[bytes]) -> bool:
    assert job.poll() in {None, 0}, f"the job ended with {job.returncode}"
    return (output.exists() and output.read_bytes().count(b"\n") > records) or job.returncode == 0


def _hurry(cluster: SlurmCluster, run: Path, folder: Path) -> None:
    """Let what Slurm has queued again begin at once; where all agents have ended, bring the fleet up anew."""
    cluster.start_pending()
    if not cluster.jobs():
        aurora_pool("down", run, environment=cluster.environment)
        aurora_pool("up", folder / "fleet.yaml", "--run", run, environment=cluster.environment)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        kill_in_turn(Path(name), int(sys.argv[1]), random.Random())
