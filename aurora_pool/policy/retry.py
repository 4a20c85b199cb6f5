"""When a prompt that failed is sent again: backoff with jitter, and a budget for the whole fleet.

The backoff is "full jitter" (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/); the budget
follows tower's: retries are a share of successes plus a small steady rate, so that a broken fleet is not hammered
with the same prompts again and again. Which failures are retried at all, :mod:`aurora_pool.policy.outcome` says.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from aurora_pool.policy.work import WorkItem

MAX_ATTEMPTS = 5
"""A prompt that failed this often for the agents' own reasons is given up as exhausted."""
ALONE = 2
"""Failures of a prompt sent alone without which it is not given up: in a list, another prompt may be at fault."""
RATIO = 0.2
"""Retries that a success pays for."""


def backoff(attempt: int, rng: random.Random, *, base: float = 0.25, cap: float = 15.0) -> float:
    """Draw how many seconds to wait before attempt number ``attempt + 1``.

    >>> 0.0 <= backoff(1, random.Random(1)) <= 0.25
    True
    """
    return rng.uniform(0.0, min(cap, base * 2 ** min(attempt - 1, 32)))


def count_attempt(items: Sequence[WorkItem]) -> bool:
    """Count a failed attempt of prompts that went together; return whether the same had failed before.

    Whatever a prompt failed with in company, it must have failed :data:`ALONE` times by itself before it is given up.
    """
    again = min(item.attempts for item in items) >= 1
    most = MAX_ATTEMPTS if len(items) == 1 else MAX_ATTEMPTS - ALONE
    for item in items:
        item.attempts = max(item.attempts, min(item.attempts + 1, most))
    return again


class RetryBudget:
    """How fast the fleet may retry: :data:`RATIO` retries per success, and ``per_second`` on top.

    No retry is denied; what goes beyond the budget waits until the steady rate has paid for it.

    >>> budget = RetryBudget(per_second=10.0, reserve=1.0)
    >>> budget.withdraw(now=0.0), budget.withdraw(now=0.0)
    (0.0, 0.1)
    """

    __slots__ = ("at", "balance", "per_second", "reserve")

    def __init__(self, per_second: float = 10.0, reserve: float = 100.0) -> None:
        self.per_second = per_second
        self.reserve = reserve
        self.balance = reserve
        self.at = 0.0

    def deposit(self, successes: int) -> None:
        """Record successes."""
        self.balance = min(self.balance + RATIO * successes, 10 * self.reserve)

    def withdraw(self, now: float, retries: int = 1) -> float:
        """Take out retries; return how many seconds the last of them has to wait for being paid."""
        steady = self.balance + max(0.0, now - self.at) * self.per_second
        self.balance = max(self.balance, min(self.reserve, steady)) - retries
        self.at = now
        return max(0.0, -self.balance / self.per_second)
