"""How busy engines are, measured between two readings of their metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from aurora_pool.hostfile import AgentEndpoint
from aurora_pool.options import ConnectionOptions, Timeouts
from aurora_pool.runtime.health import read_load
from aurora_pool.runtime.transport import Transport
from aurora_pool.wire.metrics import EngineLoad

AT_ONCE = 64
"""How many agents are asked at the same time."""


@dataclass(frozen=True, slots=True)
class AgentLoad:
    """How busy one agent is; ``now`` is None where it shows no metrics, and speeds are None after one reading."""

    endpoint: AgentEndpoint
    now: EngineLoad | None = None
    tokens_per_second: float | None = None
    prompt_tokens_per_second: float | None = None


class LoadWatch:
    """Reads engines' metrics again and again."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, EngineLoad]] = {}

    async def measure(self, endpoints: Sequence[AgentEndpoint]) -> list[AgentLoad]:
        """Read all of them, many at a time."""
        transport = Transport(
            endpoints, connect_timeout=Timeouts().connect, connector_limit=None, connection=ConnectionOptions()
        )
        transport.open()
        turn = asyncio.Semaphore(AT_ONCE)

        async def measure(index: int) -> AgentLoad:
            async with turn:
                load = await read_load(transport, index, within=Timeouts().probe)
            return self._compare(endpoints[index], load)

        try:
            return list(await asyncio.gather(*map(measure, range(len(endpoints)))))
        finally:
            await transport.close()

    def _compare(self, endpoint: AgentEndpoint, load: EngineLoad | None) -> AgentLoad:
        before = self._before.pop(str(endpoint), None)
        if load is None:
            return AgentLoad(endpoint)
        now = time.monotonic()
        self._before[str(endpoint)] = (now, load)
        if before is None or load.generation_tokens < before[1].generation_tokens:  # it was started again
            return AgentLoad(endpoint, load)
        seconds = max(1e-3, now - before[0])
        return AgentLoad(
            endpoint,
            load,
            (load.generation_tokens - before[1].generation_tokens) / seconds,
            (load.prompt_tokens - before[1].prompt_tokens) / seconds,
        )
