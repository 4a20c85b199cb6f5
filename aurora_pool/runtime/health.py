"""Ask single agents how they are: whether one that is out works again, and whether one that is silent works at all.

``/health`` is not asked: it answers 200 while a server drains, sleeps or is paused. A tiny request of the pool's own
kind shows whether an agent answers; its engine's counters show whether it moves.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aurora_pool.errors import ConnectFailed, PoolError, ServerError, TimedOut, TransportError
from aurora_pool.policy.outcome import Outcome, classify
from aurora_pool.policy.stall import Finding
from aurora_pool.wire.errors import parse_error
from aurora_pool.wire.status import METRICS_PATH, EngineLoad, parse_load

if TYPE_CHECKING:
    from aurora_pool.runtime.transport import Transport


async def fetch(transport: Transport, agent: int, path: str, body: bytes | None = None, *, within: float) -> bytes:
    """Make one request; return the body of a 200. ``within`` counts from when there may be a connection for it.

    Raises :class:`TransportError`, :class:`TimedOut` after ``within`` seconds among them, and :class:`ServerError`.
    """
    try:
        async with transport.turn, asyncio.timeout(within):
            with await transport.request(agent, path, body) as reply:
                content = await reply.read()
    except TimeoutError as error:
        raise TimedOut(f"no whole reply within {within:g} s") from error
    if reply.status != 200:
        raise parse_error(reply.status, content)
    return content


async def try_agent(transport: Transport, agent: int, path: str, body: bytes, *, within: float) -> tuple[Outcome, str]:
    """Send the smallest request that the pool could send; return what it came to, and in words."""
    try:
        await fetch(transport, agent, path, body, within=within)
    except (TransportError, ServerError) as error:
        return classify(error, 1), str(error)
    return Outcome.ANSWERED, ""


async def read_load(transport: Transport, agent: int, *, within: float) -> EngineLoad | None:
    """Read the counters of an agent; None where it does not show them now."""
    try:
        return parse_load(await fetch(transport, agent, METRICS_PATH, within=within))
    except PoolError:
        return None


async def look(
    transport: Transport, agent: int, before: EngineLoad | None, *, within: float
) -> tuple[Finding, EngineLoad | None]:
    """Look at the counters of a silent agent; return what they show against those of the look before."""
    try:
        load = parse_load(await fetch(transport, agent, METRICS_PATH, within=within))
    except ConnectFailed:
        return Finding.REFUSED, before
    except TransportError:
        return Finding.UNRESPONSIVE, before
    except PoolError:
        return Finding.NO_METRICS, before
    if load is None:
        return Finding.NO_METRICS, before
    return (Finding.PROGRESSING if before is not None and load != before else Finding.IDLE), load
