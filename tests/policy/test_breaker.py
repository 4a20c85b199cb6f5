"""Agents go out of service, are probed, and come back."""

from __future__ import annotations

import random

import pytest

from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.breaker import (
    BROKEN_LIMIT,
    FIRST_COOLDOWN,
    LONGEST_COOLDOWN,
    WRONG_MODEL_COOLDOWN,
    Breaker,
    State,
)
from aurora_pool.policy.outcome import Outcome

FATAL = [Outcome.UNREACHABLE, Outcome.DRAINING, Outcome.DEAD, Outcome.WRONG_MODEL]
NEUTRAL = [Outcome.PROMPT_REJECTED, Outcome.BATCH_REJECTED, Outcome.OVERLOADED, Outcome.CANCELLED]


@pytest.fixture
def rng() -> random.Random:
    return random.Random(1)


@pytest.mark.parametrize("outcome", FATAL)
def test_goes_out_at_once(outcome: Outcome, rng: random.Random) -> None:
    breaker = Breaker()
    assert breaker.failed(outcome, 0.0, rng)
    assert breaker.state is State.OUT
    wait = WRONG_MODEL_COOLDOWN if outcome is Outcome.WRONG_MODEL else FIRST_COOLDOWN
    assert 0.5 * wait <= breaker.probe_at <= wait


@pytest.mark.parametrize("outcome", NEUTRAL)
def test_what_says_nothing_of_its_health_leaves_it_in_service(outcome: Outcome, rng: random.Random) -> None:
    breaker = Breaker()
    for _ in range(10):
        assert not breaker.failed(outcome, 0.0, rng)
    assert breaker.state is State.IN_SERVICE


def test_is_tried_when_broken_in_a_row_and_goes_out_if_it_fails_that(rng: random.Random) -> None:
    breaker = Breaker()
    trials = []
    for _ in range(BROKEN_LIMIT + 1):
        assert not breaker.failed(Outcome.BROKEN, 1.0, rng)
        trials.append(breaker.begin_trial())
    assert trials == [False, False, True, False]
    assert breaker.tried(Outcome.BROKEN, 2.0, rng)
    assert breaker.state is State.OUT


def test_an_answer_on_trial_shows_that_it_was_the_prompts(rng: random.Random) -> None:
    breaker = Breaker()
    for _ in range(BROKEN_LIMIT):
        breaker.failed(Outcome.BROKEN, 1.0, rng)
    assert breaker.begin_trial()
    assert not breaker.tried(Outcome.ANSWERED, 2.0, rng)
    assert (breaker.state, breaker.broken) == (State.IN_SERVICE, 0)


def test_one_that_rejects_even_a_probe_must_answer_one_to_come_back(rng: random.Random) -> None:
    breaker = Breaker()
    for _ in range(BROKEN_LIMIT):
        breaker.failed(Outcome.BROKEN, 1.0, rng)
    assert breaker.begin_trial()
    assert breaker.tried(Outcome.PROMPT_REJECTED, 2.0, rng)
    breaker.probing()
    assert not breaker.probed(Outcome.PROMPT_REJECTED, 3.0, rng)
    breaker.probing()
    assert breaker.probed(Outcome.ANSWERED, 4.0, rng)


def test_an_answer_forgives_what_came_before_it_was_asked_for(rng: random.Random) -> None:
    breaker = Breaker()
    breaker.failed(Outcome.BROKEN, 1.0, rng)
    breaker.failed(Outcome.BROKEN, 2.0, rng)
    breaker.answered(sent_at=0.0)  # an old request: it says nothing about new ones
    assert breaker.broken == 2
    breaker.answered(sent_at=3.0)
    assert breaker.broken == 0


def test_only_one_failure_takes_it_out(rng: random.Random) -> None:
    breaker = Breaker()
    assert breaker.failed(Outcome.DEAD, 0.0, rng)
    assert not breaker.failed(Outcome.DEAD, 0.0, rng)


@pytest.mark.parametrize(
    "outcome", [Outcome.ANSWERED, Outcome.PROMPT_REJECTED, Outcome.BATCH_REJECTED, Outcome.OVERLOADED]
)
def test_any_sign_of_life_brings_it_back(outcome: Outcome, rng: random.Random) -> None:
    breaker = Breaker()
    breaker.failed(Outcome.DEAD, 0.0, rng)
    breaker.probing()
    assert breaker.probed(outcome, 1.0, rng)
    assert breaker.state is State.IN_SERVICE


def test_cools_down_longer_after_each_failed_probe(rng: random.Random) -> None:
    breaker = Breaker()
    breaker.failed(Outcome.DEAD, 0.0, rng)
    waits = []
    for _ in range(8):
        breaker.probing()
        assert not breaker.probed(Outcome.DRAINING, 0.0, rng)
        waits.append(breaker.cooldown)
    assert waits == [2, 4, 8, 16, 30, 30, 30, 30]
    assert 0.5 * LONGEST_COOLDOWN <= breaker.probe_at <= LONGEST_COOLDOWN


def test_one_that_flaps_cools_down_longer_each_time_and_is_forgiven_later(rng: random.Random) -> None:
    breaker = Breaker()
    now = 0.0
    cooldowns = []
    for _ in range(3):
        breaker.failed(Outcome.DEAD, now, rng)
        cooldowns.append(breaker.cooldown)
        breaker.probing()
        breaker.probed(Outcome.ANSWERED, now + 1, rng)
        now += 5
    assert cooldowns == [1, 2, 4]
    assert not breaker.proven(now)
    assert breaker.proven(now + 100)
    breaker.failed(Outcome.DEAD, now + 100, rng)
    assert breaker.cooldown == 1


def test_one_of_the_wrong_model_is_probed_rarely(rng: random.Random) -> None:
    breaker = Breaker()
    breaker.failed(Outcome.WRONG_MODEL, 0.0, rng)
    assert breaker.wrong_model
    assert breaker.probe_at >= 30


def test_an_agent_that_went_out_again_gets_a_small_part_of_its_window_until_it_is_proven() -> None:
    agent = AgentState(0, requests_limit=256)
    rng = random.Random(1)
    for now in (100.0, 110.0):
        assert agent.limit == 272
        assert agent.breaker.failed(Outcome.DEAD, now, rng)
        agent.breaker.probing()
        agent.breaker.probed(Outcome.ANSWERED, now + 1.0, rng)
        agent.refresh()
    assert agent.limit == 17
    agent.answered(100, 111.5, 200.0)
    agent.refresh()
    assert agent.limit == 272
