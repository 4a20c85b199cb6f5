"""A real Slurm on one machine, for tests: four pretended nodes with two pretended GPUs each.

It needs root, and what Debian's packages slurm-wlm and munge bring. All of it lives in one folder and listens on the
loopback; it is up in a few seconds, and needs no /etc/slurm and no other service.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.ports import free_ports

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "squeue", "sinfo", "scontrol")
NODES = ("n1", "n2", "n3", "n4")
STARTING = 180.0
_NODE = "TESTED_NODE"

_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/slurmd/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
InactiveLimit=0
KillWait=5
MessageTimeout=5
SlurmctldTimeout=30
SlurmdTimeout=15
GresTypes=gpu
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
NodeName=n[1-4] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=2 RealMemory=1000 Gres=gpu:2
"""
_GPUS = """\
NodeName=n[1-4] Name=gpu File=/dev/null Count=1
NodeName=n[1-4] Name=gpu File=/dev/zero Count=1
"""


def missing() -> list[str]:
    """Say what this machine lacks to run Slurm."""
    return [name for name in NEEDED if shutil.which(name) is None] + ([] if os.geteuid() == 0 else ["root"])


class SlurmCluster:
    """Slurm's daemons; a context that ends them all, and every job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
        self.environment["SLURM_CONF"] = str(folder / "slurm.conf")
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        for name in ("state", "slurmd", "log"):
            (self.folder / name).mkdir(parents=True)
        first, *_, last = free_ports(5)
        configuration = _CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0],
            folder=self.folder,
            port=first,
            first=first + 1,
            last=last,
        )
        (self.folder / "slurm.conf").write_text(configuration)
        (self.folder / "gres.conf").write_text(_GPUS)
        try:
            self._start_munge()
            self._start("slurmctld", "slurmctld", "-D", "-f", self.environment["SLURM_CONF"])
            for node in NODES:
                self.start_node(node)
            self.wait_for(lambda: len(self.nodes("idle")) == len(NODES), "the nodes don't come up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def run(self, *command: str) -> str:
        """Run a command in the cluster's environment and give what it prints."""
        ran = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=False)
        assert ran.returncode == 0, (command, ran.stdout, ran.stderr)
        return ran.stdout

    def nodes(self, state: str) -> list[str]:
        """Give the nodes that are in a state, such as ``idle``."""
        rows = self.run("sinfo", "--noheader", "--Node", "--format", "%N %t").splitlines()
        return [name for name, found in map(str.split, rows) if found == state]

    def jobs(self) -> list[str]:
        """Give the ids of the jobs and array elements in the queue, running or not."""
        return self.run("squeue", "--noheader", "--array", "--format", "%i").split()

    def start_pending(self) -> None:
        """Let what is queued again begin at once, and not after Slurm's pause."""
        for job in self.run("squeue", "--noheader", "--array", "--states=PENDING", "--format", "%A").split():
            command = ["scontrol", "update", f"JobId={job}", "StartTime=now"]
            ran = subprocess.run(
                command, env=self.environment, capture_output=True, text=True, timeout=120, check=False
            )
            if ran.returncode:  # it may have begun since, or be gone
                assert "no longer pending" in ran.stderr or "Invalid job id" in ran.stderr, (command, ran.stderr)

    def start_node(self, node: str) -> None:
        """Start a node's daemon, for the first time or after it was killed."""
        (self.folder / "slurmd" / node).mkdir(exist_ok=True)
        self._start(node, "slurmd", "-D", "-f", self.environment["SLURM_CONF"], "-N", node)

    def kill_node(self, node: str) -> None:
        """Kill everything that runs on a node at once, as the loss of its power does."""
        # The daemon's own children have its environment, the jobs' processes that of their job.
        marks = {f"{_NODE}={node}".encode(), f"SLURMD_NODENAME={node}".encode()}
        config = f"SLURM_CONF={self.environment['SLURM_CONF']}".encode()
        # All are stopped first, so that none sees another's end; twice, for what was started meanwhile.
        for number in (signal.SIGSTOP, signal.SIGSTOP, signal.SIGKILL):
            for pid in _pids():
                environ = _environ(pid)
                if config in environ and marks.intersection(environ):
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
        self._daemons[node].kill()
        self._daemons[node].wait()

    def cancel_all(self) -> None:
        """End all jobs."""
        subprocess.run(["scancel", "--user=root"], env=self.environment, capture_output=True, check=False)
        self.wait_for(lambda: not self.jobs(), "jobs stay in the queue")

    def close(self) -> None:
        """End all jobs and daemons."""
        if "slurmctld" in self._daemons:
            with suppress(AssertionError):
                self.cancel_all()
        for daemon in self._daemons.values():
            daemon.terminate()
        for daemon in self._daemons.values():
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def wait_for(self, condition: Callable[[], bool], what: str, *, within: float = STARTING) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + within
        while not condition():
            assert time.monotonic() < deadline, what
            for name, daemon in self._daemons.items():
                # A node that was killed is gone on purpose.
                assert daemon.poll() is None or name in NODES, f"{name} ended: {self._log_of(name)}"
            time.sleep(0.2)

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        options = [f"--{name}={self.folder}/munge.{end}" for name, end in (("pid-file", "pid"), ("log-file", "log"))]
        options += [f"--seed-file={self.folder}/munge.seed", f"--key-file={key}", "--force", "--foreground"]
        self._start("munged", "munged", f"--socket={self.folder}/munge.socket", *options)
        self.wait_for((self.folder / "munge.socket").exists, "munged does not come up")

    def _start(self, name: str, *command: str) -> None:
        environment = self.environment | {_NODE: name}
        with (self.folder / f"{name}.said").open("ab") as said:
            self._daemons[name] = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
            )

    def _log_of(self, name: str) -> str:
        return (self.folder / f"{name}.said").read_text(errors="replace")[-2000:]


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _environ(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
