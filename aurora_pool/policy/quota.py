"""Quota and budget of hosted agents: reserved before a request is sent, charged after it.

Two token buckets (over requests, over tokens), filled so that no minute ever holds more than the agent allows: a bucket
that holds ``size`` and gains ``rate`` a second gives at most ``size + 60 x rate`` in any 60 s. There is no burst at the
start: requests come one by one, and of the tokens a tenth is there. What the agent itself reports as left can only
lower the bucket.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from aurora_pool.hosted import HostedTerms, Left

MINUTE = 60.0
FIRST_SHARE = 0.1
"""The share of a minute's tokens that a bucket holds; more where one prompt needs more."""
SPARE = 1.01
"""The requests of a minute are spread over this many minutes, so that jitter of the network does not make one more."""
LEAST_SHARE = 0.01
"""The least share of a minute's tokens that a bucket gains in a minute, however large a single prompt is."""
UNLIMITED = 1e9
"""What a bucket gains in a second where no limit is known."""
_EPSILON = 1e-9
DRAWS = 100
"""In how many parts a limited budget is drawn: after a kill, at most one part counts as spent in vain."""


class Bucket:
    """A token bucket.

    >>> bucket = Bucket(size=1.0, rate=2.0)
    >>> bucket.take(1.0, now=0.0)
    >>> bucket.ready_at(1.0, now=0.0)
    0.5
    """

    __slots__ = ("_at", "_closed_until", "_level", "rate", "size")

    def __init__(self, size: float, rate: float) -> None:
        self.size = size
        self.rate = rate
        self._level = size
        self._at = 0.0
        self._closed_until = -math.inf

    def ready_at(self, amount: float, now: float) -> float:
        """When this amount may be taken; infinity for more than it ever holds."""
        if amount > self.size:
            return math.inf
        missing = amount - self._filled(now)
        return max(now if missing <= _EPSILON else now + missing / self.rate, self._closed_until)

    def take(self, amount: float, now: float) -> None:
        """Take this amount, or put back what is negative."""
        self._level = min(self.size, self._filled(now) - amount)

    def update(self, left: Left, now: float) -> None:
        """Lower the bucket to what the agent says is left, if that is less."""
        self._level = min(self._filled(now), max(0.0, left.amount))
        if left.amount < 1:
            self._closed_until = max(self._closed_until, now + left.reset)

    def _filled(self, now: float) -> float:
        self._level = min(self.size, self._level + max(0.0, now - self._at) * self.rate)
        self._at = max(self._at, now)
        return self._level


class Quota:
    """The limits of one hosted agent.

    >>> quota = Quota(HostedTerms(requests=60, tokens=1000))
    >>> quota.reserve(80, now=0.0)
    >>> round(quota.ready_at(100, now=0.0), 1)
    5.3
    """

    def __init__(self, terms: HostedTerms) -> None:
        self.terms = terms
        self.cost = 0.0
        """What its answers have cost so far."""
        self.unpaid = False
        """Whether it is out since the budget is spent."""
        requests, tokens = terms.requests, terms.tokens
        self._requests = None if requests is None else Bucket(1.0, requests / (MINUTE * SPARE))
        self._limit = math.inf if tokens is None else tokens
        self._tokens: Bucket | None = None
        if tokens is not None:
            self._tokens = Bucket(0.0, 0.0)
            self._resize(self._tokens, FIRST_SHARE * tokens)
            self._tokens.take(-self._tokens.size, 0.0)

    def takes(self, tokens: float) -> bool:
        """Whether a request of this many tokens may ever be sent."""
        return tokens <= self._limit

    def ready_at(self, tokens: float, now: float) -> float:
        """When a request of this many tokens may be sent."""
        ready = now
        if self._requests is not None:
            ready = self._requests.ready_at(1.0, now)
        if self._tokens is not None:
            if tokens > self._tokens.size and self.takes(tokens):
                self._resize(self._tokens, tokens)
            ready = max(ready, self._tokens.ready_at(tokens, now))
        return ready

    def reserve(self, tokens: float, now: float) -> None:
        """Record that a request of this many tokens is sent."""
        if self._requests is not None:
            self._requests.take(1.0, now)
        if self._tokens is not None:
            self._tokens.take(tokens, now)

    def charge(self, reserved: float, used: float, now: float) -> None:
        """Record how many tokens a request has used."""
        if self._tokens is not None:
            self._tokens.take(used - reserved, now)

    def update_limits(self, requests: Left | None, tokens: Left | None, now: float) -> None:
        """Record what the agent says is left."""
        if requests is not None:
            if self._requests is None:  # a limit that the hostfile does not name: heeded where nothing is left
                self._requests = Bucket(1.0, UNLIMITED)
            self._requests.update(requests, now)
        if tokens is not None and self._tokens is not None:
            self._tokens.update(tokens, now)

    def _resize(self, bucket: Bucket, size: float) -> None:
        bucket.size = size
        bucket.rate = max(self._limit - size, LEAST_SHARE * self._limit) / MINUTE


class Budget:
    """Money, in whatever currency the prices are: no more is reserved than there is.

    >>> budget = Budget(limit=1.0)
    >>> budget.reserve(0.7), budget.reserve(0.7)
    (True, False)
    >>> budget.charge(0.7, cost=0.1)
    >>> budget.spent
    0.1

    ``on_draw`` is called before anything is sent, with how much counts as spent should the process be killed now.
    """

    def __init__(
        self, limit: float = math.inf, *, spent: float = 0.0, on_draw: Callable[[float], None] | None = None
    ) -> None:
        self.limit = limit
        self.spent = spent
        self.reserved = 0.0
        self._on_draw = on_draw
        self._drawn = spent

    def reserve(self, amount: float) -> bool:
        """Reserve an amount; return whether there is as much."""
        if self.spent + self.reserved + amount > self.limit:
            return False
        self.reserved += amount
        self._draw()
        return True

    def charge(self, reserved: float, *, cost: float) -> None:
        """Record the cost of a request for which an amount was reserved."""
        self.reserved = max(0.0, self.reserved - reserved)
        self.spent += cost
        self._draw()

    def _draw(self) -> None:
        if self._on_draw is not None and self.spent + self.reserved > self._drawn:
            part = self.limit / DRAWS if self.limit < math.inf else self.spent / DRAWS
            self._drawn = min(self.limit, self.spent + self.reserved + part)
            self._drawn = max(self._drawn, self.spent + self.reserved)
            self._on_draw(self._drawn)
