"""Backoff, and the budget that keeps a broken fleet from being hammered."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from aurora_pool.policy.retry import RetryBudget, backoff


@given(attempt=st.integers(1, 5000), seed=st.integers())
def test_backoff_is_jittered_and_bounded(attempt: int, seed: int) -> None:
    assert 0 <= backoff(attempt, random.Random(seed)) <= min(15.0, 0.25 * 2 ** min(attempt - 1, 10))


def test_retries_within_the_reserve_need_not_wait() -> None:
    budget = RetryBudget(reserve=3.0)
    assert [budget.withdraw(0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.1]


def test_what_goes_beyond_is_paid_by_time() -> None:
    budget = RetryBudget(per_second=10.0, reserve=0.0)
    assert budget.withdraw(0.0, retries=50) == 5.0
    assert budget.withdraw(5.0) == 0.1


def test_successes_pay_for_a_share() -> None:
    budget = RetryBudget(reserve=0.0)
    budget.deposit(100)
    assert budget.balance == 0.0  # at most ten times the reserve
    budget = RetryBudget(reserve=10.0)
    budget.deposit(50)
    assert budget.withdraw(0.0, retries=20) == 0.0
    assert budget.withdraw(0.0) == 0.1


@given(withdrawals=st.lists(st.tuples(st.floats(0, 10), st.integers(1, 20)), max_size=50))
def test_time_never_fills_it_beyond_the_reserve(withdrawals: list[tuple[float, int]]) -> None:
    budget = RetryBudget(reserve=5.0)
    now = 0.0
    for seconds, retries in withdrawals:
        now += seconds
        assert budget.withdraw(now, retries) >= 0.0
        assert budget.balance <= 5.0
