"""How a job goes: counts, measured rates, time left, standstills. Pure: ``now`` is handed in, in seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from aurora_pool.statistics import PoolStatistics

__all__ = ["OnProgress", "Progress", "Standstill"]

_WINDOW = 30.0
"""Seconds over which rates are measured: long enough to even out lists that end together."""

_LATENCIES = 512


@dataclass(frozen=True, slots=True)
class Standstill:
    """Nothing has finished for ``seconds``; ``agents`` says what some do, those with the oldest prompts first."""

    seconds: float
    agents: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A job at one moment. Rates are per second, over the last half minute; times are seconds.

    ``total`` counts the input's requests, ``earlier`` those that an earlier run finished, ``done`` (``failed`` among
    them) what this run finished, ``in_flight`` what it has handed to the pool. ``tokens`` are generated,
    ``prompt_tokens`` read. ``eta`` is None while unknown,
    and so is ``drain``, the time until what is in flight is done.
    ``exhausted`` is whether nothing more is there to be taken from the input. ``statistics`` are the pool's.
    """

    total: int
    earlier: int
    done: int
    failed: int
    in_flight: int
    seconds: float
    tokens: int
    prompts_per_second: float
    tokens_per_second: float
    eta: float | None
    agents: int
    agents_in_service: int
    statistics: PoolStatistics
    moved: int
    hedged: int
    standstill: Standstill | None = None
    ending: str | None = None
    drain: float | None = None
    exhausted: bool = False
    prompt_tokens: int = 0


OnProgress = Callable[[Progress], None]
"""Is called with how far a job is."""


class Meter:
    """Counts what finishes.

    >>> meter = Meter(now=0.0)
    >>> for second in range(1, 11):
    ...     meter.finished(success=True, tokens=20, latency=2.0, now=float(second))
    >>> meter.rates(now=10.0)
    (1.0, 20.0)
    """

    def __init__(self, *, now: float) -> None:
        self.started = now
        self.done = 0
        self.failed = 0
        self.tokens = 0
        self.prompt_tokens = 0
        self._last = now
        self._samples: deque[tuple[float, int, int]] = deque([(now, 0, 0)])
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)

    def finished(self, *, success: bool, tokens: int, latency: float, now: float, prompt_tokens: int = 0) -> None:
        """Count one prompt. ``latency`` is in seconds, from its first sending."""
        self.done += 1
        self.failed += not success
        self.tokens += tokens
        self.prompt_tokens += prompt_tokens
        self._last = now
        if success:
            self._latencies.append(latency)
        # A sample a second is enough, however many prompts finish in it.
        if now - self._samples[-1][0] >= 1.0:
            self._samples.append((now, self.done, self.tokens))
            while len(self._samples) > 2 and self._samples[1][0] < now - _WINDOW:
                self._samples.popleft()

    def wasted(self, *, tokens: int, prompt_tokens: int) -> None:
        """Count the tokens of an answer that is asked for again."""
        self.tokens += tokens
        self.prompt_tokens += prompt_tokens

    def rates(self, *, now: float) -> tuple[float, float]:
        """Prompts and tokens per second, measured lately."""
        since, done, tokens = self._samples[0]
        seconds = now - since
        if seconds <= 0:
            return 0.0, 0.0
        return (self.done - done) / seconds, (self.tokens - tokens) / seconds

    def eta(self, remaining: int, *, now: float) -> float | None:
        """Seconds until ``remaining`` prompts are done at the measured rate; None while there is none."""
        rate, _ = self.rates(now=now)
        if remaining == 0:
            return 0.0
        return remaining / rate if rate > 0 else None

    def quiet_for(self, *, now: float, factor: float, at_least: float) -> float | None:
        """Seconds without an answer, if they are more than ``factor`` times the usual latency and ``at_least``."""
        usual = sorted(self._latencies)[len(self._latencies) // 2] if self._latencies else 0.0
        quiet = now - self._last
        return quiet if quiet > max(at_least, factor * usual) else None
