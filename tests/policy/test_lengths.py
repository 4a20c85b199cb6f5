"""What hedging reckons with."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurora_pool.policy.lengths import Lengths, Pace, seconds_saved


@given(tokens=st.lists(st.integers(1, 100_000), min_size=1))
def test_quantiles_are_ordered_and_within_what_was_seen(tokens: list[int]) -> None:
    lengths = Lengths()
    for length in tokens:
        lengths.add([length])
    assert min(tokens) <= lengths.quantile(0.1) <= lengths.quantile(0.9) <= max(tokens)
    assert lengths.mean == pytest.approx(sum(tokens) / len(tokens))
    assert lengths.quantile(0.5, done=max(tokens) * 2) > max(tokens)


def test_new_lengths_count_at_once() -> None:
    lengths = Lengths()
    lengths.add([100])
    assert lengths.quantile(1.0) == 100
    lengths.add([5000])
    assert lengths.quantile(1.0) == 5000


FAST = Pace(latency=0.1, decode=50.0, rate=10.0, seconds=6.0, best=50.0)
SLOW = Pace(latency=0.1, decode=5.0, rate=1.0, seconds=60.0, best=5.0)


@pytest.fixture
def lengths() -> Lengths:
    lengths = Lengths()
    lengths.add([300])
    return lengths


def test_what_is_overdue_is_worth_any_second_agent(lengths: Lengths) -> None:
    assert seconds_saved(1000.0, 1000.0, 0.0, 0, FAST, FAST, lengths) == math.inf
    # Not where longer ones may still be among those in flight: to begin it again takes longer than to wait.
    assert seconds_saved(1000.0, 1000.0, 0.0, 0, FAST, FAST, lengths, typical=False) == 0.0


def test_what_an_equal_agent_works_on_stays_there(lengths: Lengths) -> None:
    assert seconds_saved(1.0, 1.1, 0.0, 0, FAST, FAST, lengths) == 0.0
    assert seconds_saved(None, 5.0, 0.0, 3, FAST, FAST, lengths) == 0.0


def test_what_a_slow_agent_works_on_is_worth_a_fast_one(lengths: Lengths) -> None:
    assert seconds_saved(1.0, 1.1, 0.0, 0, SLOW, FAST, lengths) == pytest.approx((300 - 5) / 5 - (0.1 + 300 / 50))
    assert seconds_saved(None, 1.1, 0.0, 10, SLOW, FAST, lengths) == pytest.approx(10 + 300 / 5 - (0.1 + 300 / 50))


def test_no_token_yet_is_no_slowness(lengths: Lengths) -> None:
    short = Lengths()
    short.add([2])
    prefill = Pace(latency=0.3, decode=20.0, rate=40.0, seconds=3.0, best=20.0)
    assert seconds_saved(None, 3.0, 0.1, 10, prefill, prefill, short) == 0.0


def test_of_agents_that_are_not_known_nothing_is_thought(lengths: Lengths) -> None:
    assert seconds_saved(None, 100.0, 0.0, 10, Pace(), FAST, lengths) == 0.0
    assert seconds_saved(1.0, 1.1, 0.0, 0, SLOW, Pace(), lengths) == 0.0


def test_a_server_that_has_been_quiet_for_long_will_stay_so(lengths: Lengths) -> None:
    assert seconds_saved(1.0, 1.1, 2.0, 0, FAST, FAST, lengths) == 0.0
    assert seconds_saved(1.0, 20.0, 20.0, 0, FAST, FAST, lengths) == pytest.approx(20 - (0.1 + 300 / 50))


def test_a_list_that_is_not_streamed_is_judged_by_its_whole_time(lengths: Lengths) -> None:
    unstreamed = Pace(latency=10.0, decode=0.0, rate=10.0, seconds=10.0)
    assert seconds_saved(None, 9.0, 0.5, 100, unstreamed, unstreamed, lengths) == 0.0
    assert seconds_saved(None, 60.0, 60.0, 100, unstreamed, unstreamed, lengths) == 60.0 - (10.0 + 10.0)
    assert seconds_saved(None, 60.0, 0.5, 100, unstreamed, unstreamed, lengths) == 60.0 - (10.0 + 10.0)
