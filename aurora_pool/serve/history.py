"""Figures over time, for the dashboard's charts: a point every few seconds, for the last two hours."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from aurora_pool.serve.fleet import ServedFleet
from aurora_pool.serve.gateway import Gateway

SAMPLE_EVERY = 5.0
_KEPT = 1440


class Point(msgspec.Struct, frozen=True, array_like=True):
    """The fleet at one ``time`` (seconds since 1970), and what it did since the point before.

    Latencies are seconds; None where nothing was answered. ``latency`` is the mean over all prompts, by Little's law
    (prompts in flight / prompts answered a second); the percentiles are of online requests.
    """

    time: float
    tokens_per_second: float
    prompts_per_second: float
    in_flight: int
    queued: int
    in_service: int
    latency: float | None
    online_p50: float | None
    online_p95: float | None


class History:
    """Takes the points and keeps the newest."""

    def __init__(self, fleet: ServedFleet, gateway: Gateway, now: Callable[[], float] = time.time) -> None:
        self._fleet = fleet
        self._gateway = gateway
        self._now = now
        self._before: tuple[float, int, int] | None = None
        self.points: deque[Point] = deque(maxlen=_KEPT)

    async def take(self) -> None:
        """Take a point."""
        now = self._now()
        agents = self._fleet.statistics()
        tokens = sum(agent.tokens_done for agent in agents)
        prompts = sum(agent.prompts_done for agent in agents)
        in_flight = sum(agent.in_flight for agent in agents)
        then, old_tokens, old_prompts = self._before or (now - SAMPLE_EVERY, tokens, prompts)
        self._before = (now, tokens, prompts)
        elapsed = max(now - then, 1e-3)
        # Agents that have left took their counts with them: a rate is never below 0.
        rate = max(0, prompts - old_prompts) / elapsed
        latencies = sorted(self._gateway.take_latencies())
        self.points.append(
            Point(
                time=round(now, 1),
                tokens_per_second=round(max(0, tokens - old_tokens) / elapsed, 1),
                prompts_per_second=round(rate, 2),
                in_flight=in_flight,
                queued=sum(pool.statistics().queued for pool in self._fleet.pools()),
                in_service=sum(agent.state == "in service" for agent in agents),
                latency=round(in_flight / rate, 3) if rate else None,
                online_p50=_percentile(latencies, 0.5),
                online_p95=_percentile(latencies, 0.95),
            )
        )


def _percentile(values: Sequence[float], share: float) -> float | None:
    """Give the value that ``share`` of them do not exceed (nearest rank)."""
    return round(values[min(len(values) - 1, int(share * len(values)))], 3) if values else None
