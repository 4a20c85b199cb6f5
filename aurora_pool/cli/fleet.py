"""From a hostfile to a pool that is ready: waiting for the file, for the first agents, and watching for changes."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from aurora_pool.errors import ConfigError, HostfileError, NoAgentsError
from aurora_pool.hostfile import AgentEndpoint, parse_hostfile
from aurora_pool.messages import Prompt

if TYPE_CHECKING:
    from aurora_pool.jobs.run import JobPool
    from aurora_pool.pool import VLLMPool

AGAIN = 1.0
"""Seconds between looks at a hostfile that is not there yet, and at agents that don't answer yet."""

PATIENCE = 60.0
"""Seconds that a pool waits for an agent to come into service, where ``--patience`` does not say."""

logger = logging.getLogger("aurora_pool")


async def wait_for_hostfile(path: Path, *, within: float) -> list[AgentEndpoint]:
    """Read a hostfile, waiting up to ``within`` seconds for one that is not there yet or is being written.

    Raises :class:`~aurora_pool.errors.HostfileError` for what is still wrong then.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    told = False
    while True:
        try:
            return parse_hostfile(path)
        except HostfileError as error:
            if loop.time() + AGAIN > deadline:
                raise
            if not told:
                logger.warning("%s; waiting up to %.0f s for it", error, within)
                told = True
        await asyncio.sleep(AGAIN)


async def start(pool: JobPool) -> None:
    """Start a pool, and take it that what the fleet does not serve is the fleet's fault.

    Raises :class:`~aurora_pool.errors.NoAgentsError`.
    """
    try:
        await pool.start()
    except ConfigError as error:
        raise NoAgentsError(str(error)) from error


async def wait_for_agents(pool: VLLMPool, least: int, *, within: float) -> None:
    """Wait until at least ``least`` agents have answered a one-token prompt.

    Raises :class:`~aurora_pool.errors.NoAgentsError` if fewer have after ``within`` seconds.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    ping = [Prompt("ping", max_tokens=1)]
    answered: set[AgentEndpoint] = set()
    while True:
        silent = [index for index, endpoint in enumerate(pool.endpoints) if endpoint not in answered]
        replies = await asyncio.gather(*(pool.post_batch(index, ping) for index in silent))
        answered |= {pool.endpoints[index] for index, (reply,) in zip(silent, replies, strict=True) if reply.success}
        if len(answered) >= least:
            return
        if loop.time() + AGAIN > deadline:
            raise NoAgentsError(f"{len(answered)} of {pool.size} agents answer, and {least} are needed")
        await asyncio.sleep(AGAIN)


async def watch_hostfile(path: Path, update: Callable[[list[AgentEndpoint]], None], *, every: float = 2.0) -> None:
    """Look at a hostfile for ever, and hand over its agents whenever they change.

    A file that is gone or broken changes nothing: it is most likely being written.
    """
    known = _look(path)
    endpoints: list[AgentEndpoint] | None = None
    while True:
        await asyncio.sleep(every)
        seen = _look(path)
        if seen == known or seen is None:
            continue
        known = seen
        try:
            found = parse_hostfile(path)
        except HostfileError as error:
            logger.warning("%s; going on with the agents of before", error)
            continue
        if found != endpoints:
            endpoints = found
            update(found)


def _look(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - one look at what may be gone the next moment
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
