"""The quota of a hosted agent: kept exactly, corrected downwards only; money is reserved before it is spent."""

from __future__ import annotations

import random

import pytest

from aurora_pool.hosted import HostedTerms, Left
from aurora_pool.policy.quota import Budget, Quota


def send_for(
    seconds: float, quota: Quota, *, tokens: int = 0, at_once: int = 1000, latency: float = 0.0
) -> list[float]:
    """Send as soon as it may be, for so long; return when."""
    now = 0.0
    sent: list[float] = []
    ends: list[float] = []
    while True:
        ends = sorted(end for end in ends if end > now)
        ready = quota.ready_at(tokens, now)
        if len(ends) >= at_once:
            ready = max(ready, ends[0])
        if ready > seconds:
            return sent
        if ready > now:
            now = ready
            continue
        quota.reserve(tokens, now)
        sent.append(now)
        ends.append(now + latency)


def most_in_a_minute(sent: list[float]) -> int:
    """The most that any 60 s hold, both ends among them."""
    return max(sum(start <= at <= start + 60.0 for at in sent[index : index + 400]) for index, start in enumerate(sent))


@pytest.mark.parametrize("limit", [1, 2, 3, 60, 100, 350])
def test_no_minute_of_an_hour_holds_more_requests_than_are_allowed(limit: int) -> None:
    sent = send_for(3600.0, Quota(HostedTerms(requests=limit)))
    assert most_in_a_minute(sent) <= limit
    assert len(sent) >= 0.98 * limit * 60


def test_a_hundred_a_minute_and_two_at_once() -> None:
    sent = send_for(3600.0, Quota(HostedTerms(requests=100, at_once=2)), at_once=2, latency=1.0)
    assert most_in_a_minute(sent) <= 100
    assert len(sent) >= 5880
    assert all(later - earlier >= 1.0 for earlier, later in zip(sent, sent[2:], strict=False))


@pytest.mark.parametrize("seed", range(5))
def test_no_minute_holds_more_tokens_than_are_allowed(seed: int) -> None:
    rng = random.Random(seed)
    quota = Quota(HostedTerms(tokens=10_000))
    now, sent = 0.0, []
    while now < 3600.0:
        tokens = rng.randrange(1, 4000)
        now = quota.ready_at(tokens, now)
        quota.reserve(tokens, now)
        sent.append((now, tokens))
    for start, _ in sent:
        assert sum(tokens for at, tokens in sent if start <= at <= start + 60.0) <= 10_000
    assert sum(tokens for _, tokens in sent) >= 0.5 * 60 * 10_000


def test_it_starts_without_a_burst() -> None:
    assert sum(at < 6.0 for at in send_for(60.0, Quota(HostedTerms(requests=600)))) <= 60
    assert sum(at < 6.0 for at in send_for(60.0, Quota(HostedTerms(tokens=60_000)), tokens=100)) <= 120


def test_what_was_not_used_is_given_back() -> None:
    quota = Quota(HostedTerms(tokens=6000))
    quota.reserve(600, 0.0)
    assert quota.ready_at(600, 0.0) > 6.0
    quota.charge(600, 10, 0.0)
    assert quota.ready_at(590, 0.0) == 0.0


def test_a_prompt_beyond_a_whole_minutes_tokens_is_never_sent() -> None:
    quota = Quota(HostedTerms(tokens=1000))
    assert quota.takes(1000)
    assert not quota.takes(1001)


def test_the_agents_own_words_correct_downwards_only() -> None:
    quota = Quota(HostedTerms(requests=60, tokens=6000))
    quota.reserve(600, 0.0)
    free = quota.ready_at(600, 0.0)
    quota.update_limits(Left(1e6, 0.0), Left(1e9, 0.0), 0.0)
    assert quota.ready_at(600, 0.0) == free > 1.0
    quota.update_limits(Left(0, 20.0), None, 1.0)
    assert quota.ready_at(1, 1.0) == 21.0
    quota.update_limits(None, Left(0, 50.0), 1.0)
    assert quota.ready_at(1, 1.0) == 51.0


def test_a_limit_that_only_the_agent_knows_is_heeded() -> None:
    quota = Quota(HostedTerms())
    assert quota.ready_at(100, 0.0) == 0.0
    quota.update_limits(Left(0, 12.0), None, 0.0)
    assert quota.ready_at(100, 0.0) == 12.0


def test_no_more_is_reserved_than_there_is() -> None:
    budget = Budget(1.0)
    assert [budget.reserve(0.4) for _ in range(3)] == [True, True, False]
    budget.charge(0.4, cost=0.1)
    assert budget.reserve(0.4)
    assert budget.spent + budget.reserved == pytest.approx(0.9)


def test_what_is_drawn_always_covers_what_is_out() -> None:
    drawn: list[float] = []
    budget = Budget(1.0, spent=0.2, on_draw=drawn.append)
    rng = random.Random(1)
    while True:
        amount = rng.random() / 50
        if not budget.reserve(amount):
            break
        assert drawn[-1] >= budget.spent + budget.reserved
        budget.charge(amount, cost=amount * rng.random())
    assert drawn[-1] <= 1.0
    assert len(drawn) <= 120
