"""The end of a job: which agents get no last prompts, and which prompts are given to a second agent.

On a mixed fleet the tail decides the makespan: a prompt that a slow agent takes last ends last. Lengths of answers are
not known beforehand, but their distribution so far is; and each agent's speed (tokens per second for one prompt) is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

_STEPS = 4
"""Histogram buckets per doubling of the length."""

_BUCKETS = bytes(int(math.log2(max(1, tokens)) * _STEPS) for tokens in range(4096))
"""The buckets of most lengths, worked out beforehand."""

GUARD_MARGIN = 1.15
HEDGE_MARGIN = 1.0
LONG = 0.9
"""The quantile of lengths that the guard reckons with: it is the long answers that end last."""
LONGEST = 0.99
"""The quantile that the hedge reckons with, of the lengths that are still possible."""
OVERDUE = 1.5
"""A prompt whose answer should be this many times as long as any other by now is stuck."""


class Lengths:
    """How long answers are, in tokens: a histogram with buckets of equal ratio.

    >>> lengths = Lengths()
    >>> for tokens in (100, 100, 100, 1000): lengths.add(tokens)
    >>> round(lengths.mean), round(lengths.quantile(0.5, done=500))
    (325, 1000)
    """

    __slots__ = ("_known", "count", "counts", "total", "totals")

    def __init__(self) -> None:
        self.counts = [0] * (24 * _STEPS)
        self.totals = [0] * (24 * _STEPS)
        self.count = 0
        self.total = 0
        self._known: dict[tuple[float, int], float] = {}

    def add(self, *lengths: int) -> None:
        """Record the lengths of answers."""
        counts, totals = self.counts, self.totals
        for tokens in lengths:
            bucket = _BUCKETS[tokens] if tokens < 4096 else int(math.log2(tokens) * _STEPS)
            counts[bucket] += 1
            totals[bucket] += tokens
        self.count += len(lengths)
        self.total += sum(lengths)
        if self._known:
            self._known.clear()

    @property
    def mean(self) -> float:
        """The mean length; 1 while nothing is known."""
        return self.total / self.count if self.count else 1.0

    def quantile(self, share: float, done: float = 0.0) -> float:
        """The length that this share of the answers stays below, of those that have more than ``done`` tokens."""
        first = int(math.log2(done) * _STEPS) + 1 if done >= 1 else 0
        length = self._known.get((share, first))
        if length is None:
            length = self._known[share, first] = self._look_up(share, first)
        return max(length, done * 1.1)

    def _look_up(self, share: float, first: int) -> float:
        left = share * sum(self.counts[first:])
        for bucket in range(first, len(self.counts)):
            count = self.counts[bucket]
            left -= count
            if count and left <= 0:
                return max(1.0, self.totals[bucket] / count)
        return 1.0


def slowest_worthwhile(speeds_and_loads: Iterable[tuple[float, int]], remaining: float, lengths: Lengths) -> float:
    """Return the least speed with which an agent should still be given prompts.

    A long answer begun now on an agent of speed v ends after ``long / v`` seconds. The rest of the fleet needs
    ``remaining x mean / throughput`` seconds to have taken all that waits, and then ``long / fastest``. An agent that
    would end later than that gets nothing more. ``speeds_and_loads`` holds (tokens per second and prompt, prompts
    held) for each agent in service; ``remaining`` is counted in prompts.

    >>> lengths = Lengths(); lengths.add(1000)
    >>> 80 < slowest_worthwhile([(100.0, 10), (25.0, 10)], remaining=0, lengths=lengths) < 100
    True
    """
    fastest = throughput = 0.0
    for speed, held in speeds_and_loads:
        fastest = max(fastest, speed)
        throughput += speed * held
    if not throughput or not lengths.count or math.isinf(remaining):
        return 0.0
    long = lengths.quantile(LONG)
    return long / (remaining * lengths.mean / throughput + GUARD_MARGIN * long / fastest)


def seconds_saved(age: float, slow: float, fast: float, lengths: Lengths) -> float:
    """Return how much sooner a long answer would end if a second agent began it afresh; 0 if it is not worth it.

    ``age`` is how many seconds the first agent has had it; ``slow`` and ``fast`` are tokens per second for one prompt
    at the first and the second agent; ``slow`` is 0 for an agent that has fallen silent.

    >>> lengths = Lengths(); lengths.add(200)
    >>> seconds_saved(1.0, slow=10.0, fast=100.0, lengths=lengths) > 15
    True
    >>> seconds_saved(1.0, slow=90.0, fast=100.0, lengths=lengths)
    0.0
    """
    done = age * slow
    if slow <= 0 or done > OVERDUE * lengths.quantile(1.0):
        return math.inf
    if fast <= 0:
        return 0.0
    long = lengths.quantile(LONGEST, done)
    stay = (long - done) / slow
    again = long / fast
    return stay - again if again * HEDGE_MARGIN < stay else 0.0
