"""Fleets over ssh: a real sshd on the loopback, with keys of its own."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from aurora_pool.hostfile_source import parse_hostfile
from tests.fleets.shared import answered, aurora_pool, fleet_file, processes_of, prompts, wait_for, wait_for_phases
from tests.ports import free_port

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin")


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Start an sshd for this user alone; gives ssh's options to reach it."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.fail("these tests need ssh and sshd; on Debian: apt-get install openssh-server")
    folder = tmp_path_factory.mktemp("ssh")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    if getpass.getuser() == "root":
        Path("/run/sshd").mkdir(exist_ok=True)  # where it separates its privileges
    port = free_port()
    settings = {
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "authorized_keys",
        "StrictModes": "no",
        "UsePAM": "no",
        "PidFile": "none",
        "PermitRootLogin": "prohibit-password",
    }
    command = [SSHD, "-D", "-e", "-f", "/dev/null", "-p", str(port)]
    for key, value in settings.items():
        command += ["-o", f"{key}={value}"]
    with (folder / "sshd.log").open("wb") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(lambda: _listens(port), f"sshd does not come up: {(folder / 'sshd.log').read_text()}")
        known = f"-o UserKnownHostsFile={folder / 'known_hosts'} -o StrictHostKeyChecking=accept-new"
        yield [f"-p {port}", f"-i {folder / 'user'}", known, "-o LogLevel=ERROR"]
    finally:
        daemon.terminate()
        daemon.wait(20)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


def test_agents_come_up_over_ssh_answer_and_go_down(run: Path, tmp_path: Path, options: list[str]) -> None:
    hosts = ["127.0.0.1", "localhost"]
    fleet = fleet_file(tmp_path, where="ssh", hosts=hosts, agents=4, agents_per_node=2, options=options)
    aurora_pool("up", fleet, "--run", run)
    wait_for_phases(run, "ready", "ready", "ready", "ready")
    assert len(parse_hostfile(run / "agents.d")) == 4
    output = tmp_path / "answers.jsonl"
    aurora_pool("run", prompts(tmp_path, 200), "-o", output, "--hostfile", run / "agents.d", "--quiet")
    assert len(answered(output)) == 200
    aurora_pool("down", run)
    assert processes_of(run) == []


def test_a_host_that_is_not_reached_is_told_and_nothing_is_left(run: Path, tmp_path: Path, options: list[str]) -> None:
    # The second has no sshd of ours on its port.
    fleet = fleet_file(tmp_path, where="ssh", hosts=["127.0.0.1", "127.0.0.2"], agents=2, options=options)
    ran = aurora_pool("up", fleet, "--run", run, code=5)
    assert "not reached: 127.0.0.2" in ran.stderr
    # What the shell over there had just begun is known by its mark only once it runs Python, and ends by itself.
    wait_for(lambda: not processes_of(run), "an agent is left")


def test_groups_on_one_host_get_gpus_of_their_own(run: Path, tmp_path: Path, options: list[str]) -> None:
    engine = {"kind": "sim", "setup": f'echo "$CUDA_VISIBLE_DEVICES" > {tmp_path}/gpus-${{AURORA_POOL_AGENT##*:}}'}
    groups = {"large": {"gpus_per_agent": 2}, "small": {"agents": 2, "agents_per_node": 2, "gpus_per_agent": 1}}
    keys = {"hosts": ["127.0.0.1"], "agents": 1, "options": options, "engine": engine, "groups": groups}
    aurora_pool("up", fleet_file(tmp_path, where="ssh", **keys), "--run", run)
    wait_for_phases(run, "ready", "ready", "ready")
    found = sorted((path.name.partition("-")[2], path.read_text().strip()) for path in tmp_path.glob("gpus-*"))
    assert found == [("large-000", "0,1"), ("small-000", "2"), ("small-001", "3")]
    aurora_pool("down", run)
