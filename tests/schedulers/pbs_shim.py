"""A stand-in for OpenPBS on one machine: qsub, qstat, qdel, pbsdsh and mpiexec by the name it is called by.

Nodes are pretended: what would run on each of them runs here, and is told its number as the real command tells it. A
job that is deleted gets SIGTERM on all its nodes, and SIGKILL after ten seconds, as PBS does.
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


def install(folder: Path, commands: Sequence[str] = COMMANDS[:4]) -> dict[str, str]:
    """Make the commands; gives the environment in which they are found, and no real scheduler is."""
    (folder / "bin").mkdir(parents=True)
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
    job = f"{len(list(_folder().glob('*.job'))) + 1}.{SERVER}"
    nodefile = _folder() / f"{job}.nodes"
    nodefile.write_text("".join(f"node{number}\n" for number in range(count)))
    environment = os.environ | {"PBS_JOBID": job, "PBS_NODEFILE": str(nodefile)}
    with Path(output[1]).open("ab") as file:
        process = subprocess.Popen(
            ["/bin/bash", script],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    (_folder() / f"{job}.job").write_text(str(process.pid))
    sys.stdout.write(f"{job}\n")
    return 0


def _qstat(*arguments: str) -> int:
    job = arguments[-1]
    if not _members(job):
        sys.stderr.write(f"qstat: {job} Job has finished, use -x or -H to obtain historical job information\n")
        return 35
    sys.stdout.write(json.dumps({"Jobs": {job: {"job_state": "R", "exec_host": "node0/0"}}}))
    return 0


def _qdel(job: str) -> int:
    members = _members(job)
    if not members:
        sys.stderr.write(f"qdel: Unknown Job Id {job}\n")
        return 153
    _send(members, signal.SIGTERM)
    if os.fork() == 0:
        os.setsid()
        for number in range(3):
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        time.sleep(KILL_DELAY)
        _send(_members(job), signal.SIGKILL)
        os._exit(0)
    return 0


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
