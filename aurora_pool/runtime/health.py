"""Check single agents: whether one that is out works again, and whether one that sends nothing works.

``/health`` is not asked: it answers 200 while a server drains, sleeps or is paused. A tiny request of the pool's own
kind shows whether an agent answers; its engine's counters show whether it moves. Busy is not dead: where other clients'
work is queued before that request, counters that change are as good a sign of life as an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from aurora_pool.errors import ConnectFailed, PoolError, TimedOut, TransportError, WrongModel
from aurora_pool.policy.outcome import Outcome, classify
from aurora_pool.policy.stall import Finding
from aurora_pool.wire import chat, completions, embeddings
from aurora_pool.wire.answer import Reader, guarded
from aurora_pool.wire.metrics import METRICS_PATH, EngineLoad, parse_load
from aurora_pool.wire.model_list import MODELS_PATH, ServedModel, parse_models

if TYPE_CHECKING:
    from aurora_pool.runtime.served_names import ServedNames
    from aurora_pool.runtime.transport import Transport

WAITS_AFTER = 1.0
"""Seconds after which a tiny request that has no reply may wait behind other work: the engine's counters are noted."""

_READERS: Mapping[str, Callable[[], Reader]] = {
    completions.PATH: lambda: completions.CompletionsReader(1),
    chat.PATH: chat.ChatReader,
    embeddings.PATH: lambda: embeddings.EmbeddingsReader(1),
}


async def fetch(transport: Transport, agent: int, path: str, body: bytes | None = None, *, within: float) -> bytes:
    """Make one request; return the body of a 200. ``within`` counts from when there may be a connection for it.

    Raises :class:`TransportError`, :class:`TimedOut` after ``within`` seconds among them, and :class:`ServerError`.
    """
    try:
        async with transport.turn, asyncio.timeout(within):
            with await transport.request(agent, path, body) as reply:
                if reply.status != 200:
                    raise await reply.error()
                return reply.without_secret(await reply.read())
    except TimeoutError as error:
        raise TimedOut(f"no whole reply within {within:g} s") from error


async def try_agent(
    transport: Transport, names: ServedNames, agent: int, path: str, body: bytes | None, *, within: float
) -> tuple[Outcome, str]:
    """Send the smallest request that the pool could send; return what it came to, and in words.

    It is answered only by what can be read as an answer, of the right model: a proxy's page has a status of 200 too.
    One that waits while the engine is at work counts as ``OVERLOADED``, which is no fault.
    """
    try:
        if body is None:
            await fetch(transport, agent, path, within=within)
            return Outcome.ANSWERED, ""
        content = await _fetch_unless_busy(transport, agent, path, body, within=within)
        if content is None:
            return Outcome.OVERLOADED, "its engine is busy"
        if path in _READERS:
            reader = _READERS[path]()
            guarded(reader.whole, content)
            try:
                names.check(agent, _model_in(body), reader.model)
            except WrongModel:  # unless it has been given other names since
                names.list(agent, await served_models(transport, agent, within=within))
                names.check(agent, _model_in(body), reader.model)
    except PoolError as error:
        return classify(error, 1), str(error)
    return Outcome.ANSWERED, ""


async def _fetch_unless_busy(
    transport: Transport, agent: int, path: str, body: bytes, *, within: float
) -> bytes | None:
    """Make one request, as :func:`fetch` does; None if it has no reply in time, but the engine works meanwhile."""
    before: EngineLoad | None = None
    asked = asyncio.ensure_future(fetch(transport, agent, path, body, within=within))
    try:
        await asyncio.wait([asked], timeout=WAITS_AFTER)
        if not asked.done():
            before = await read_load(transport, agent, within=within)
        return await asked
    except TimedOut:
        finding, _ = await check_load(transport, agent, before, within=within)
        if finding is Finding.PROGRESSING:
            return None
        raise
    finally:
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)


async def served_models(transport: Transport, agent: int, *, within: float) -> list[ServedModel]:
    """Ask an agent for its models. Raises :class:`TransportError`, :class:`ServerError` and :class:`BadReply`."""
    return guarded(parse_models, await fetch(transport, agent, MODELS_PATH, within=within))


def _model_in(body: bytes) -> str:
    model = msgspec.json.decode(body).get("model")
    return model if isinstance(model, str) else ""


async def read_load(transport: Transport, agent: int, *, within: float) -> EngineLoad | None:
    """Read the counters of an agent; None where it does not show them now."""
    try:
        return guarded(parse_load, await fetch(transport, agent, METRICS_PATH, within=within))
    except PoolError:
        return None


async def check_load(
    transport: Transport, agent: int, before: EngineLoad | None, *, within: float
) -> tuple[Finding, EngineLoad | None]:
    """Read the counters of an agent; return what they show against those of the check before.

    Where there was none before, they show nothing yet.
    """
    try:
        load = guarded(parse_load, await fetch(transport, agent, METRICS_PATH, within=within))
    except ConnectFailed:
        return Finding.REFUSED, before
    except TransportError:
        return Finding.UNRESPONSIVE, before
    except PoolError:
        return Finding.NO_METRICS, before
    if load is None:
        return Finding.NO_METRICS, before
    if before is not None and load.began_after(before):
        return Finding.RESTARTED, load
    return (Finding.PROGRESSING if before is not None and load != before else Finding.IDLE), load
