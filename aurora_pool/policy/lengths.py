"""How long answers are and how fast agents give them: the basis for planning the end of a job and for hedging.

Lengths of answers are not known beforehand, but their distribution so far is; and each agent's speed (tokens per second
for one prompt) is. ``tail`` decides by them how many of the last prompts an agent takes, ``hedge`` which prompts are
given to a second agent.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

_STEPS = 4
"""Histogram buckets per doubling of the length."""

_UNSORTED = 4096
"""How many lengths are buffered before they are counted."""

_SOME = 64
"""Of more lengths than this that come together, a sample of about this size is counted."""

_BUCKETS = bytes(int(math.log2(max(1, tokens)) * _STEPS) for tokens in range(4096))
"""The buckets of most lengths, worked out beforehand."""

HEDGE_MARGIN = 1.0
LEAST_SAVED = 1.0
"""Seconds that a second copy must save."""
QUIET = 1.0
QUIET_ANSWERS = 4
"""An agent is quiet if it has sent nothing for a second more than it takes for this many answers."""
LONGEST = 0.99
"""The quantile, of the lengths that are still possible, that hedging plans with."""
OVERDUE = 1.5
"""A prompt whose answer should be this many times as long as any other by now is stuck."""


class Lengths:
    """How long answers are, in tokens: a histogram with buckets of equal ratio.

    >>> lengths = Lengths()
    >>> lengths.add([100, 100, 100, 1000])
    >>> round(lengths.mean), round(lengths.quantile(0.5, done=500))
    (325, 1000)
    """

    __slots__ = ("_counts", "_known", "_new", "_totals", "count", "total")

    def __init__(self) -> None:
        self._counts = [0] * (24 * _STEPS)
        self._totals = [0] * (24 * _STEPS)
        self._new: list[int] = []
        self.count = 0
        self.total = 0
        self._known: dict[tuple[float, int], float] = {}

    def add(self, lengths: Sequence[int]) -> None:
        """Record the lengths of answers."""
        self._new += lengths[:: len(lengths) // _SOME + 1]
        self.count += len(lengths)
        self.total += sum(lengths)
        if self._known:
            self._known.clear()
        if len(self._new) >= _UNSORTED:
            self._sort()

    def _sort(self) -> None:
        """Count the buffered lengths in their buckets: many at a time cost less than one by one."""
        counts, totals = self._counts, self._totals
        for tokens, times in Counter(self._new).items():
            bucket = _BUCKETS[tokens] if tokens < 4096 else int(math.log2(tokens) * _STEPS)
            counts[bucket] += times
            totals[bucket] += tokens * times
        self._new.clear()

    @property
    def mean(self) -> float:
        """The mean length; 1 while nothing is known."""
        return self.total / self.count if self.count else 1.0

    def quantile(self, share: float, done: float = 0.0) -> float:
        """The length that this share of the answers stays below, of those that have more than ``done`` tokens."""
        first = int(math.log2(done) * _STEPS) + 1 if done >= 1 else 0
        length = self._known.get((share, first))
        if length is None:
            length = self._known[share, first] = self._lookup(share, first)
        return max(length, done * 1.1)

    def mean_beyond(self, done: float) -> float:
        """The mean length of the answers that have more than ``done`` tokens."""
        first = int(math.log2(done) * _STEPS) + 1 if done >= 1 else 0
        self._sort()
        count = sum(self._counts[first:])
        return max(sum(self._totals[first:]) / count if count else 1.0, done * 1.1)

    def _lookup(self, share: float, first: int) -> float:
        self._sort()
        left = share * sum(self._counts[first:])
        for bucket in range(first, len(self._counts)):
            count = self._counts[bucket]
            left -= count
            if count and left <= 0:
                return max(1.0, self._totals[bucket] / count)
        return 1.0


class Pace(NamedTuple):
    """How fast an agent is, by its own answers. What is not known is 0.

    ``latency`` is the least time until it begins, in seconds; ``decode`` tokens per second and prompt after the first,
    ``best`` the same with little to do;
    ``rate`` prompts a second, over all that it works on; ``seconds`` the mean from sending to answer.
    """

    latency: float = 0.0
    decode: float = 0.0
    rate: float = 0.0
    seconds: float = 0.0
    best: float = 0.0

    def seconds_for(self, tokens: float) -> float:
        """How long it takes for an answer of this many tokens, if it has nothing else to do."""
        return self.latency + (tokens / self.best if self.best else self.seconds)


def seconds_saved(
    shown: float | None,
    age: float,
    quiet: float,
    unstarted: int,
    slow: Pace,
    fast: Pace,
    lengths: Lengths,
    typical: bool = True,
) -> float:
    """Return how much sooner a long answer would end if a second agent began it again; 0 if it is not worth it.

    ``shown`` is how many seconds ago the prompt showed its first token (None: it has not), ``age`` how many ago it was
    sent. ``unstarted`` is how many prompts the first agent holds that have shown none, ``quiet`` for how many seconds
    it has sent nothing. ``typical`` says that the lengths seen are those to expect of what is in flight.

    A server that has been quiet for longer than its rate explains will probably stay so for as
    long again.

    >>> lengths = Lengths(); lengths.add([200])
    >>> slow, fast = Pace(0.1, 10.0, 1.0, 20.0, 10.0), Pace(0.1, 100.0, 10.0, 2.0, 100.0)
    >>> seconds_saved(1.0, 1.5, 0.1, 0, slow, fast, lengths) > 15
    True
    >>> seconds_saved(1.0, 1.5, 0.1, 0, Pace(0.1, 90.0, 9.0, 2.2, 90.0), fast, lengths)
    0.0
    """
    if not slow.seconds or not fast.seconds:
        return 0.0
    waits = unstarted / slow.rate if slow.rate else 0.0
    if shown is not None and slow.decode:
        done = shown * slow.decode
        if typical and done > OVERDUE * lengths.quantile(1.0):
            return math.inf
        long = lengths.quantile(LONGEST, done)
        stay = (long - done) / slow.decode
    elif slow.decode:
        long = lengths.quantile(LONGEST)
        stay = waits + long / slow.decode
    else:
        long = lengths.quantile(LONGEST)
        stay = max(waits, slow.seconds - age)
        if age > OVERDUE * slow.seconds + slow.latency:
            stay = max(stay, age)
    if slow.rate and quiet > QUIET + QUIET_ANSWERS / slow.rate:
        stay = max(stay, quiet)
    again = fast.seconds_for(long)
    return stay - again if stay > again * HEDGE_MARGIN + LEAST_SAVED else 0.0
