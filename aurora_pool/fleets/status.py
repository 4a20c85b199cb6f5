"""What each agent of a fleet is doing, and how fast."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aurora_pool.fleets.launchers import make_launcher
from aurora_pool.fleets.load import LoadWatch
from aurora_pool.fleets.run_folder import AgentState, RunFolder
from aurora_pool.hostfile import AgentEndpoint
from aurora_pool.hostfile_source import STALE_AFTER


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """One agent: ``phase`` is ``pending``, a phase of its supervisor, or ``lost`` when nothing is heard of it.

    ``seconds`` is how long it has been so, None while it is pending. ``tokens_per_second`` is measured between two
    looks; None where there is nothing to measure yet. ``tail`` is what its engine wrote last when it failed last.
    """

    name: str
    phase: str
    seconds: float | None = None
    where: str = ""
    restarts: int = 0
    tokens_per_second: float | None = None
    reason: str = ""
    tail: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Give it as what ``--json`` prints."""
        return asdict(self)


class FleetWatch:
    """Measures a fleet between two calls of :meth:`measure`. Raises :class:`ConfigError`."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._fleet = run.fleet()
        self._launch = run.launch()
        self._loads = LoadWatch()

    def measure(self) -> list[AgentStatus]:
        """Measure all agents, in the order of their names."""
        found = {name: self._run.state(name) for name in self._fleet.agent_names}
        ready = [state for state, age in filter(None, found.values()) if state.phase == "ready" and age <= STALE_AFTER]
        speeds = self._speeds(ready)
        waiting = self._waiting([name for name, state in found.items() if state is None])
        rows = []
        for name, state in found.items():
            if state is None:
                rows.append(AgentStatus(name, "pending", reason=waiting[name]))
            else:
                rows.append(_status(*state, speeds.get(name)))
        return rows

    def _waiting(self, names: list[str]) -> dict[str, str]:
        launcher = make_launcher(self._launch.launcher)
        said: dict[str, str] = {}
        for group in self._fleet.groups:
            own = [name for name in map(group.agent_name, range(group.agents)) if name in names]
            if own:
                handle = self._launch.handles.get(group.name)
                words = (launcher.waiting(handle) or "nothing of it is running") if handle is not None else ""
                said |= dict.fromkeys(own, words)
        return said

    def _speeds(self, states: Sequence[AgentState]) -> dict[str, float | None]:
        endpoints = [AgentEndpoint(state.address, state.port) for state in states]
        loads = asyncio.run(self._loads.measure(endpoints)) if endpoints else []
        return {state.name: load.tokens_per_second for state, load in zip(states, loads, strict=True)}


def _status(state: AgentState, age: float, speed: float | None) -> AgentStatus:
    over = state.phase in {"failed", "ended"}
    lost = not over and age > STALE_AFTER
    return AgentStatus(
        name=state.name,
        phase="lost" if lost else state.phase,
        seconds=round(age if lost else max(0.0, time.time() - state.since), 1),
        where=f"{state.host} {state.address}:{state.port}" if state.port else state.host,
        restarts=state.restarts,
        tokens_per_second=None if speed is None else round(speed, 1),
        reason=f"no heartbeat from {state.host}" if lost else state.reason,
        tail=tuple(state.tail),
    )
