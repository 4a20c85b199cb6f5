"""What all launchers have in common: the lines of a group's script, and how a scheduler's command is called."""

from __future__ import annotations

import shlex
import subprocess
import sys
from abc import ABC, abstractmethod

from aurora_pool.errors import NoAgentsError, counted
from aurora_pool.fleets.engines import ADDRESS, PORT, engine_command
from aurora_pool.fleets.processes import MARK
from aurora_pool.fleets.run_folder import RunFolder
from aurora_pool.fleets.spec import Fleet, Group

ASKING = 120.0
"""Seconds that a scheduler has to answer."""

IN_PASSING = 10.0
"""The same where what is asked for is done once more later: agents that are to end don't wait for more than that."""


class Launcher(ABC):
    """Starts and stops the agents of a group. A handle is what :meth:`start` gives.

    ``scheduled`` tells that a scheduler runs them. Its :meth:`stop` ends engines with what they have in flight: first
    their supervisors are waited for, who see within a heartbeat that the fleet is not wanted any more.
    """

    scheduled: bool = False

    @abstractmethod
    def script(self, run: RunFolder, fleet: Fleet, group: Group) -> str:
        """Write the script that starts a group."""

    @abstractmethod
    def start(self, run: RunFolder, fleet: Fleet, group: Group) -> list[str]:
        """Start a group by its script, and give what :meth:`stop` needs. Raises :class:`NoAgentsError`."""

    @abstractmethod
    def waiting(self, handle: list[str]) -> str:
        """Say in a word or two what becomes of agents that have not said anything; empty if nothing runs or will.

        A scheduler that can't be asked is what it says then: its job may run.
        """

    def stop_queued(self, handle: list[str]) -> None:  # noqa: B027 - only a scheduler has a queue
        """Take what has not begun out of the scheduler's queue, or it would begin as soon as nodes become free."""

    @abstractmethod
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
    count = counted(group.agents, "agent")
    engine = engine_command(group.engine, f"${ADDRESS}", f"${PORT}").splitlines()
    lines = [
        f"# {count} of group {group.name!r}, {what}.",
        "# `aurora-pool agent` starts each, announces it in agents.d when it is ready, and ends it. An agent runs:",
        *(f"#     {line}" for line in engine),
        f"export {mark(run)}",
    ]
    return "\n".join(lines) + "\n"


def call(*command: str, given: str | None = None, within: float = ASKING, apart: bool = False) -> str:
    """Run a scheduler's command and give what it prints. Raises :class:`NoAgentsError` with its own words.

    With ``apart``, Ctrl-C does not reach it: what starts agents may be done when it does, and not have said so.
    """
    try:
        ran = subprocess.run(  # noqa: S603 - the schedulers' own commands
            command,
            input=given,
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
            process_group=0 if apart else None,
        )
    except FileNotFoundError:
        raise NoAgentsError(f"{command[0]}: no such command on this machine") from None
    except subprocess.TimeoutExpired:
        raise NoAgentsError(f"{command[0]} has not answered within {within:.0f} s") from None
    if ran.returncode:
        said = " ".join((ran.stderr or ran.stdout).split())
        raise NoAgentsError(f"{command[0]} failed with exit code {ran.returncode}: {said}")
    return ran.stdout
