"""How agents come onto machines: one launcher for each place, and what they have in common.

Every launcher writes one readable script for each group; the script starts ``aurora-pool agent`` on each machine.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from typing import Protocol

from aurora_pool.errors import NoAgentsError
from aurora_pool.fleets.engines import ADDRESS, PORT, engine_command
from aurora_pool.fleets.processes import MARK
from aurora_pool.fleets.run_folder import RunFolder
from aurora_pool.fleets.spec import Fleet, Group

ASKING = 120.0
"""Seconds that a scheduler has to answer."""


class Launcher(Protocol):
    """Starts and stops the agents of a group. A handle is what :meth:`start` gives."""

    def script(self, run: RunFolder, fleet: Fleet, group: Group) -> str:
        """Write the script that starts a group."""

    def start(self, run: RunFolder, fleet: Fleet, group: Group) -> list[str]:
        """Start a group by its script, and give what :meth:`stop` needs. Raises :class:`NoAgentsError`."""

    def waiting(self, handle: list[str]) -> str:
        """Say in a word or two what becomes of agents that have not been heard of; empty if nothing will come."""

    def stop(self, run: RunFolder, handle: list[str]) -> list[str]:
        """Ask all agents of a group to end; gives what could not be asked."""


def agent_command(run: RunFolder, group: Group, element: str) -> str:
    """Write the shell command that looks after one machine's agents; ``element`` is a number or a shell variable."""
    words = [sys.executable, "-P", "-m", "aurora_pool", "agent", str(run.path), group.name]
    return f"{shlex.join(words)} {element}"


def mark(run: RunFolder) -> str:
    """Write the variable by which all processes of a fleet are known: see :func:`aurora_pool.fleets.sweep.sweep`."""
    return f"{MARK}={shlex.quote(f'{run.path}:')}"


def opening(run: RunFolder, group: Group, what: str) -> str:
    """Write the first lines of every script: what it is, and what runs on each machine in the end."""
    count = f"{group.agents} agent{'s' if group.agents > 1 else ''}"
    engine = engine_command(group.engine, f"${ADDRESS}", f"${PORT}").splitlines()
    lines = [
        f"# {count} of group {group.name!r}, {what}.",
        "# `aurora-pool agent` starts each, announces it in agents.d when it is ready, and ends it. An agent runs:",
        *(f"#     {line}" for line in engine),
        f"export {mark(run)}",
    ]
    return "\n".join(lines) + "\n"


def call(*command: str, given: str | None = None) -> str:
    """Run a scheduler's command and give what it prints. Raises :class:`NoAgentsError` with its own words."""
    try:
        ran = subprocess.run(  # noqa: S603 - the schedulers' own commands
            command, input=given, capture_output=True, text=True, timeout=ASKING, check=False
        )
    except FileNotFoundError:
        raise NoAgentsError(f"{command[0]}: no such command on this machine") from None
    except subprocess.TimeoutExpired:
        raise NoAgentsError(f"{command[0]} has not answered within {ASKING:.0f} s") from None
    if ran.returncode:
        said = " ".join((ran.stderr or ran.stdout).split())
        raise NoAgentsError(f"{command[0]} failed with exit code {ran.returncode}: {said}")
    return ran.stdout


def launcher_name(fleet: Fleet) -> str:
    """Say which launcher a fleet needs: that of its place, or in an allocation of Slurm that of its nodes."""
    return "allocation" if fleet.where == "slurm" and "SLURM_JOB_ID" in os.environ else fleet.where


def make_launcher(name: str) -> Launcher:
    """Make the launcher of that name."""
    from aurora_pool.fleets.launchers import kubernetes, local, pbs, slurm, ssh  # noqa: PLC0415 (they import this)

    launchers: dict[str, type[Launcher]] = {
        "local": local.Local,
        "slurm": slurm.Slurm,
        "allocation": slurm.Allocation,
        "pbs": pbs.Pbs,
        "ssh": ssh.Ssh,
        "kubernetes": kubernetes.Kubernetes,
    }
    return launchers[name]()
