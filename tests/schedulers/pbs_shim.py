"""A stand-in for OpenPBS on one machine: qsub, qstat, qdel, pbsdsh and mpiexec by the name it is called by.

Nodes are pretended: what would run on each of them runs here, and is told its number as the real command tells it. A
job that is deleted gets SIGTERM on all its nodes, and SIGKILL after ten seconds, as PBS does. A job that needs more
nodes than are free is queued until they are.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

COMMANDS = ("qsub", "qstat", "qdel", "pbsdsh", "mpiexec")
SERVER = "pbs.example.org"
KILL_DELAY = 10.0


def install(folder: Path, commands: Sequence[str] = COMMANDS[:4], *, nodes: int = 100) -> dict[str, str]:
    """Make the commands; gives the environment in which they are found, and no real scheduler is."""
    (folder / "bin").mkdir(parents=True)
    (folder / "nodes").write_text(str(nodes))
    for name in commands:
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} {name} "$@"\n')
        script.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PBS_", "SLURM_"))}
    return kept | {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "PBS_SHIM": str(folder)}


def _folder() -> Path:
    return Path(os.environ["PBS_SHIM"])


def _qsub(script: str) -> int:
    text = Path(script).read_text()
    options = " ".join(re.findall(r"^#PBS (.*)$", text, re.MULTILINE))
    count = int(re.search(r"select=(\d+)", options)[1])  # type: ignore[index]
    output = re.search(r"-o (\S+)", options)
    assert output is not None, "PBS copies the output somewhere"
    job = f"{len(list(_folder().glob('*.nodes'))) + 1}.{SERVER}"
    nodefile = _folder() / f"{job}.nodes"
    nodefile.write_text("".join(f"node{number}\n" for number in range(count)))
    sys.stdout.write(f"{job}\n")
    if _begin(job, script, Path(output[1])):
        return 0
    _queued(job).touch()
    sys.stdout.flush()
    if _in_background():
        while _queued(job).exists() and not _begin(job, script, Path(output[1])):
            time.sleep(0.02)
        _queued(job).unlink(missing_ok=True)
        os._exit(0)
    return 0


def _queued(job: str) -> Path:
    """Give the file that is there for as long as a job is queued."""
    return _folder() / f"{job}.queued"


def _begin(job: str, script: str, output: Path) -> bool:
    """Start a job if enough nodes are free."""
    others = [path.name.removesuffix(".job") for path in _folder().glob("*.job")]
    nodefile = _folder() / f"{job}.nodes"
    taken = [_folder() / f"{other}.nodes" for other in others if _members(other)]
    if sum(len(path.read_text().split()) for path in [*taken, nodefile]) > int((_folder() / "nodes").read_text()):
        return False
    environment = os.environ | {"PBS_JOBID": job, "PBS_NODEFILE": str(nodefile)}
    with output.open("ab") as file:
        process = subprocess.Popen(
            ["/bin/bash", script],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    (_folder() / f"{job}.job").write_text(str(process.pid))
    return True


def _qstat(*arguments: str) -> int:
    job = arguments[-1]
    state = "Q" if _queued(job).exists() else "R" if _members(job) else ""
    if not state:
        sys.stderr.write(f"qstat: {job} Job has finished, use -x or -H to obtain historical job information\n")
        return 35
    sys.stdout.write(json.dumps({"Jobs": {job: {"job_state": state, "exec_host": "node0/0"}}}))
    return 0


def _qdel(job: str) -> int:
    members = _members(job)
    if _queued(job).exists():
        _queued(job).unlink()
        return 0
    if not members:
        sys.stderr.write(f"qdel: Unknown Job Id {job}\n")
        return 153
    _send(members, signal.SIGTERM)
    if _in_background():
        time.sleep(KILL_DELAY)
        _send(_members(job), signal.SIGKILL)
        os._exit(0)
    return 0


def _in_background() -> bool:
    """Go on in two processes: true in the one that the caller does not wait for."""
    if os.fork():
        return False
    os.setsid()
    for number in range(3):
        os.dup2(os.open(os.devnull, os.O_RDWR), number)
    return True


def _start_everywhere(command: Sequence[str], variable: str) -> int:
    nodes = Path(os.environ["PBS_NODEFILE"]).read_text().split()
    tasks = [
        subprocess.Popen(command, env=os.environ | {variable: str(number), "PBS_O_HOST": node})
        for number, node in enumerate(nodes)
    ]
    signal.signal(signal.SIGTERM, lambda *_: _send([task.pid for task in tasks], signal.SIGTERM))
    return max(task.wait() for task in tasks)


def _members(job: str) -> list[int]:
    """Give the processes of a job's session: that is how PBS knows them."""
    try:
        session = (_folder() / f"{job}.job").read_text()
    except FileNotFoundError:
        return []
    found = []
    for path in Path("/proc").iterdir():
        with suppress(OSError):
            if path.name.isdigit():
                fields = (path / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if fields[3] == session and fields[0] != "Z":
                    found.append(int(path.name))
    return found


def _send(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _main(name: str, *arguments: str) -> int:
    match name:
        case "qsub":
            return _qsub(*arguments)
        case "qstat":
            return _qstat(*arguments)
        case "qdel":
            return _qdel(*arguments)
        case "pbsdsh":
            return _start_everywhere(arguments[1:], "PBS_NODENUM")  # after the --
        case "mpiexec":
            return _start_everywhere(arguments[4:], "PALS_RANKID")  # after -n COUNT --ppn 1
    raise AssertionError(name)


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
