"""Agents on this machine."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from aurora_pool.errors import NoAgentsError
from aurora_pool.fleets.gpus import VARIABLES, free_gpus, mask
from aurora_pool.fleets.launchers.common import Launcher, agent_command, opening
from aurora_pool.fleets.processes import process_of
from aurora_pool.fleets.run_folder import RunFolder
from aurora_pool.fleets.spec import Fleet, Group


class Local(Launcher):
    """Starts one supervisor for each group, in a session of its own: it outlives the terminal."""

    def script(self, run: RunFolder, fleet: Fleet, group: Group) -> str:
        """Write the script; GPUs are those that are free now, each group has its own."""
        lines = ["#!/bin/bash\n", opening(run, group, "on this machine")]
        gpus = _gpus_of(fleet, group)
        if gpus:
            lines.append(f"export {VARIABLES[group.gpus]}={','.join(gpus)}\n")
        lines.append(f"exec {agent_command(run, group, '0')}\n")
        return "".join(lines)

    def start(self, run: RunFolder, fleet: Fleet, group: Group) -> list[str]:
        """Start the script and don't wait for it."""
        return spawn(run, fleet, group)

    def waiting(self, handle: list[str]) -> str:
        """Say whether the supervisor is there."""
        return "starting" if is_running(handle) else ""

    def stop(self, run: RunFolder, handle: list[str]) -> list[str]:
        """Ask the supervisor to end; what does not end is killed by the sweep over this machine."""
        if is_running(handle):
            with suppress(ProcessLookupError):
                os.kill(int(handle[0]), signal.SIGTERM)
        return []


def spawn(run: RunFolder, fleet: Fleet, group: Group) -> list[str]:
    """Start a group's script in a session of its own; gives its process and when that began, which tells it apart."""
    output = str(run.path / "logs" / f"{group.name}.out")
    pid = os.posix_spawn(
        "/bin/bash",
        ["bash", str(run.script(fleet, group))],
        os.environ,
        setsid=True,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )
    process = process_of(pid)
    return [str(pid), str(process.started if process else 0)]


def is_running(handle: list[str]) -> bool:
    """Whether a process of :func:`spawn` still runs."""
    with suppress(ChildProcessError):
        os.waitpid(int(handle[0]), os.WNOHANG)  # if it is this process's own child
    process = process_of(int(handle[0]))
    return process is not None and process.started == int(handle[1])


def _gpus_of(fleet: Fleet, group: Group) -> list[str]:
    if not group.gpus_per_agent:
        return []
    wanted = [each for each in fleet.groups if each.gpus_per_agent and each.gpus == group.gpus]
    needed = sum(each.agents * each.gpus_per_agent for each in wanted)
    if group.gpus == "xpu":  # no tool tells which are free
        named = mask("xpu")
        free = [str(number) for number in range(needed)] if named is None else named
    else:
        kind, free = free_gpus()
        free = free if kind == group.gpus else []
    if len(free) < needed:
        among = f", among those of {VARIABLES[group.gpus]}" if mask(group.gpus) is not None else ""
        raise NoAgentsError(f"{needed} {group.gpus} GPUs are needed, and {len(free)} of this machine are free{among}")
    first = sum(each.agents * each.gpus_per_agent for each in wanted[: wanted.index(group)])
    return free[first : first + group.agents * group.gpus_per_agent]
