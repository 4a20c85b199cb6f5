"""From a hostfile to a pool that is ready: waiting for the file, for the first agents, and watching for changes."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aurora_pool.errors import ConfigError, HostfileError, NoAgentsError, PoolError, counted
from aurora_pool.hostfile import AgentEndpoint
from aurora_pool.hostfile_source import is_followed_by_reading, parse_hostfile
from aurora_pool.messages import Prompt

if TYPE_CHECKING:
    from aurora_pool.cli.min_agents import MinAgents
    from aurora_pool.jobs.run import JobPool
    from aurora_pool.pool import VLLMPool

AGAIN = 1.0
"""Seconds between polls of a hostfile that is not there yet, and of agents that don't answer yet."""

PATIENCE = 60.0
"""Seconds that a pool waits for an agent to come into service, where ``--patience`` does not say."""

logger = logging.getLogger("aurora_pool")


def having(endpoints: Sequence[AgentEndpoint], tags: Mapping[str, str]) -> list[AgentEndpoint]:
    """Select the agents that have all of these tags. Raises :class:`~aurora_pool.errors.NoAgentsError` if none has."""
    found = [endpoint for endpoint in endpoints if tags.items() <= endpoint.tags.items()]
    if not found:
        wanted = " and ".join(f"{key}={value}" for key, value in tags.items())
        raise NoAgentsError(f"none of {counted(len(endpoints), 'agent')} in the hostfile has {wanted}")
    return found


def own_agents(endpoints: Sequence[AgentEndpoint]) -> list[AgentEndpoint]:
    """Select the agents that are not hosted: only these are asked anything but prompts of a job."""
    return [endpoint for endpoint in endpoints if endpoint.hosted is None]


def describe_hosted(count: int) -> str:
    """Say how many hosted agents were left out.

    >>> describe_hosted(1), describe_hosted(2)
    ('1 hosted agent not asked', '2 hosted agents not asked')
    """
    return f"{counted(count, 'hosted agent')} not asked"


async def wait_for_hostfile(path: str | Path, *, within: float) -> list[AgentEndpoint]:
    """Read a hostfile, waiting up to ``within`` seconds for one that is not there yet or is being written.

    Raises :class:`~aurora_pool.errors.HostfileError` for what is still wrong then.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    told = False
    while True:
        try:
            return await _read(path)
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


async def wait_for_agents(pool: VLLMPool, least: MinAgents, *, within: float) -> None:
    """Wait until enough own agents have answered a one-token prompt; hosted ones are not asked.

    The pool may get other agents meanwhile. Raises :class:`~aurora_pool.errors.NoAgentsError` if fewer have answered
    after ``within`` seconds.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    answered: set[AgentEndpoint] = set()
    while True:
        asked = [each for each in pool.endpoints if each.hosted is None and each not in answered]
        views = [pool.select([pool.endpoints.index(each)]) for each in asked]
        replies = await asyncio.gather(*map(_answers, views))
        answered |= {each for each, reply in zip(asked, replies, strict=True) if reply}
        own = own_agents(pool.endpoints)
        answered &= set(own)
        needed = least.of(len(own))
        if len(answered) >= needed:
            return
        if loop.time() + AGAIN > deadline:
            hosted = f"; {describe_hosted(pool.size - len(own))}" if pool.size > len(own) else ""
            found = f"{len(answered)} of {counted(len(own), 'agent answers', 'agents answer')}"
            raise NoAgentsError(f"{found}, and {counted(needed, 'is needed', 'are needed')}{hosted}")
        await asyncio.sleep(AGAIN)


async def _answers(agent: VLLMPool) -> bool:
    """Whether the only agent of a view answers; one that has left the pool does not."""
    try:
        (reply,) = await agent.post_batch(0, [Prompt("ping", max_tokens=1)])
    except PoolError:
        return False
    return reply.success


async def watch_hostfile(
    path: str | Path,
    update: Callable[[list[AgentEndpoint]], None],
    *,
    known: Sequence[AgentEndpoint] | None = None,
    every: float = 2.0,
) -> None:
    """Watch a hostfile for ever, and hand over its agents whenever they are not the ``known`` ones any more.

    One that is gone or broken changes nothing: it is most likely being written.
    """
    endpoints = None if known is None else list(known)
    seen = None if known is not None else _signature(path)
    told = ""
    while True:
        await asyncio.sleep(every)
        before, seen = seen, _signature(path)
        if seen is None or (seen == before and not is_followed_by_reading(path)):
            continue
        try:
            found = await _read(path)
        except HostfileError as error:
            if str(error) != told:
                logger.warning("%s; going on with the agents of before", error)
            told = str(error)
            continue
        told = ""
        if found != endpoints:
            endpoints = found
            update(found)


async def _read(path: str | Path) -> list[AgentEndpoint]:
    # Thousands of files on a shared disk, or a slow name server, must not hold up the event loop.
    return await asyncio.to_thread(parse_hostfile, path) if is_followed_by_reading(path) else parse_hostfile(path)


def _signature(path: str | Path) -> tuple[int, int, int] | None:
    if is_followed_by_reading(path):
        return 0, 0, 0
    try:
        status = os.stat(path)  # noqa: PTH116 - one call for what may be gone the next moment
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
