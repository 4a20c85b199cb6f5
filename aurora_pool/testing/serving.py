"""A simulated fleet as a process of its own: what ``aurora-pool sim`` runs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from aurora_pool import event_loop
from aurora_pool.testing.faults import Fault
from aurora_pool.testing.fleet import SimulatedFleet
from aurora_pool.testing.profile import AgentProfile

__all__ = ["serve"]

_FILES_PER_AGENT = 64


def serve(
    agents: int = 4,
    hostfile: str | Path | None = None,
    *,
    profile: AgentProfile | Sequence[AgentProfile] | None = None,
    faults: Mapping[int, Sequence[Fault]] | None = None,
    host: str = "127.0.0.1",
    base_port: int | None = None,
    time_scale: float = 1.0,
    seed: int = 0,
    ready: Callable[[SimulatedFleet], None] | None = None,
) -> None:
    """Run a simulated fleet until SIGINT or SIGTERM.

    Writes ``hostfile`` once all agents listen, calls ``ready`` with the fleet, and removes the file at the end. Ports
    count up from ``base_port``; without one they are free ones. Raises ``OSError`` for a port that is taken.

    >>> serve(4, "fleet.hostfile", time_scale=10)  # doctest: +SKIP
    """
    _allow_files(agents * _FILES_PER_AGENT)
    fleet = SimulatedFleet(
        agents,
        profile=profile,
        faults=faults,
        host=host,
        ports=None if base_port is None else range(base_port, base_port + agents),
        time_scale=time_scale,
        seed=seed,
        record=False,
    )
    event_loop.run(_serve(fleet, hostfile, ready))


async def _serve(
    fleet: SimulatedFleet, hostfile: str | Path | None, ready: Callable[[SimulatedFleet], None] | None
) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with fleet:
        written = fleet.write_hostfile(hostfile) if hostfile is not None else None
        try:
            if ready is not None:
                ready(fleet)
            await stopped.wait()
        finally:
            if written is not None:
                written.unlink(missing_ok=True)


def _allow_files(wanted: int) -> None:
    """Raise this process's limit of open files towards ``wanted``, as far as it may."""
    try:
        import resource  # noqa: PLC0415 - it is not there on every platform
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
