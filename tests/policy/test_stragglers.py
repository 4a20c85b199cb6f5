"""What guard and hedge reckon with."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurora_pool.policy.stragglers import Lengths, seconds_saved, slowest_worthwhile


@given(tokens=st.lists(st.integers(1, 100_000), min_size=1))
def test_quantiles_are_ordered_and_within_what_was_seen(tokens: list[int]) -> None:
    lengths = Lengths()
    for length in tokens:
        lengths.add(length)
    assert min(tokens) <= lengths.quantile(0.1) <= lengths.quantile(0.9) <= max(tokens)
    assert lengths.mean == pytest.approx(sum(tokens) / len(tokens))
    assert lengths.quantile(0.5, done=max(tokens) * 2) > max(tokens)


def test_new_lengths_count_at_once() -> None:
    lengths = Lengths()
    lengths.add(100)
    assert lengths.quantile(1.0) == 100
    lengths.add(5000)
    assert lengths.quantile(1.0) == 5000


def test_the_fastest_agent_is_never_guarded_against() -> None:
    lengths = Lengths()
    lengths.add(300)
    for remaining in (0, 10, 10_000, math.inf):
        assert slowest_worthwhile([(50.0, 10), (10.0, 10), (0.0, 10)], remaining, lengths) < 50.0


def test_slow_agents_are_welcome_while_much_remains() -> None:
    lengths = Lengths()
    lengths.add(300)
    assert slowest_worthwhile([(50.0, 10), (10.0, 10)], 10_000, lengths) < 10.0
    assert slowest_worthwhile([(50.0, 10), (10.0, 10)], 0, lengths) > 10.0


def test_nothing_is_guarded_while_nothing_is_known() -> None:
    lengths = Lengths()
    assert slowest_worthwhile([(50.0, 10)], 0, lengths) == 0.0
    lengths.add(300)
    assert slowest_worthwhile([(50.0, 0), (10.0, 0)], 0, lengths) == 0.0


def test_what_is_overdue_or_on_a_silent_agent_is_worth_any_second_agent() -> None:
    lengths = Lengths()
    lengths.add(300)
    assert seconds_saved(10.0, slow=0.0, fast=0.0, lengths=lengths) == math.inf
    assert seconds_saved(1000.0, slow=50.0, fast=50.0, lengths=lengths) == math.inf
    assert seconds_saved(1.0, slow=50.0, fast=50.0, lengths=lengths) == 0.0
    assert seconds_saved(1.0, slow=50.0, fast=0.0, lengths=lengths) == 0.0
