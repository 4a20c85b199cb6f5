"""Commands of aurora-pool in processes of their own, and what is left of a fleet."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from aurora_pool.fleets.processes import marked, process_of
from aurora_pool.fleets.run_folder import AgentState, RunFolder
from tests.forked import Run

COMMAND = [sys.executable, "-m", "aurora_pool"]
PATIENCE = 120.0

# An engine whose workers leave its group and its session, as real ones may.
SPREADING = (
    f"(setsid sleep 1000 &) ; {sys.executable} -m aurora_pool sim --agents 1 --host {{host}} --base-port {{port}} "
    "--instant & wait"
)


@dataclass(frozen=True)
class Ran:
    """A command that has ended, and what it wrote."""

    stdout: str
    stderr: str


def aurora_pool(*arguments: object, environment: Mapping[str, str] | None = None, code: int | None = 0) -> Ran:
    """Run a command to its end, in a process of its own; with ``code``, that is how it must end."""
    with tempfile.TemporaryDirectory() as folder:
        with mock.patch.dict(os.environ, environment or {}, clear=environment is not None):
            run = Run(Path(folder), *arguments)
        ended, said = run.end()
        assert code is None or ended == code, (ended, run.gave, said)
        return Ran(run.gave, said)


def fleet_file(folder: Path, **keys: object) -> Path:
    """Write a fleet of simulated engines as YAML, which JSON is."""
    engine = {"kind": "sim", "args": "--slots 16 --median-length 30 --time-scale 4"}
    path = folder / "fleet.yaml"
    path.write_text(json.dumps({"engine": engine, "agents": 4, "network": "lo", **keys}))
    return path


def prompts(folder: Path, count: int) -> Path:
    """Write this many prompts."""
    path = folder / "prompts.jsonl"
    lines = [json.dumps({"id": f"p{number}", "prompt": f"Say {number}.", "max_tokens": 12}) for number in range(count)]
    path.write_text("\n".join(lines) + "\n")
    return path


def answered(output: Path) -> list[str]:
    """Give the ids of all records that have an answer; fails on a torn line."""
    records = [json.loads(line) for line in output.read_text().splitlines()]
    return [record["custom_id"] for record in records if record["error"] is None]


def processes_of(run: Path) -> list[int]:
    """Give every process on this machine that belongs to a fleet, supervisors, leashes and engines."""
    return [pid for pid in marked(f"{run}:") if pid != os.getpid()]


def roles_of(run: Path) -> dict[str, list[int]]:
    """Tell a fleet's processes apart: keepers, supervisors, leashes, each the parent of the next; and engines."""
    own = {}
    ours = []
    for pid in marked(f"{run}:"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it may end just now
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            process = process_of(pid)
            if process is not None:
                own[pid] = process
                ours += [pid] if b"\0agent\0" in command else []
    roles = {"keeper": [pid for pid in ours if own[pid].parent not in ours]}
    roles["supervisor"] = [pid for pid in ours if own[pid].parent in roles["keeper"]]
    roles["leash"] = [pid for pid in ours if own[pid].parent in roles["supervisor"]]
    return roles | {"engine": [pid for pid in own if pid not in ours]}


def wait_for(condition: Callable[[], bool], what: str, *, within: float = PATIENCE) -> None:
    """Wait until something is so; how long that takes is nobody's result."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@contextmanager
def run_folder(folder: Path) -> Iterator[Path]:
    """Name a run folder whose fleet is taken down in the end, and whose processes must all be gone then."""
    run = folder / "fleet.run"
    yield run
    if RunFolder(run).was_started():
        aurora_pool("down", run, code=None)
    left = processes_of(run)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert left == []


def up(run: Path, **keys: object) -> None:
    """Bring a fleet of simulated engines up, with these keys in its file."""
    aurora_pool("up", fleet_file(run.parent, **keys), "--run", run)


def states(run: Path) -> list[AgentState]:
    """Give what is known of each agent, in order."""
    found = [RunFolder(run).state(name) for name in RunFolder(run).last_fleet().agent_names]
    return [each[0] for each in found if each is not None]


def phases(run: Path) -> list[str]:
    """Give what each agent that has been heard of is doing, in order."""
    return [state.phase for state in states(run)]


def wait_for_phases(run: Path, *wanted: str) -> None:
    """Wait until the agents are doing this."""
    wait_for(lambda: phases(run) == list(wanted), f"the agents don't become {wanted}: {phases(run)}")
