"""The window follows the flow: generous, quick to grow, slow to shrink."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.flow import Flow
from aurora_pool.policy.window import LEAST_REFILL, START, STEADY, Window


def flowing(rate: float, running: int, latency: float = 0.02, seconds: int = 10) -> Flow:
    """The flow of an agent that has answered at this rate for so long, with so many running."""
    flow = Flow()
    flow.began(0.0)
    flow.first_byte(latency, 0.0)
    for tick in range(1, 4 * seconds + 1):
        flow.running(running)
        flow.answered(max(1, round(rate / 4)), tick / 4, held=running + 100)
    return flow


def test_doubles_while_the_server_runs_dry() -> None:
    window = Window()
    window.ran_dry(rate=0.0, running=START, now=0.0)
    assert window.size == 2 * START
    window.ran_dry(rate=0.0, running=2 * START, now=1.0)
    assert window.size == 4 * START


def test_creeps_where_growth_brings_nothing() -> None:
    window = Window()
    window.ran_dry(rate=100.0, running=0, now=0.0)
    window.ran_dry(rate=101.0, running=0, now=1.0)
    assert window.size == 2 * START * 9 // 8
    window.ran_dry(rate=300.0, running=0, now=2.0)  # too soon to tell
    assert window.size == 2 * START * 9 // 8
    window.ran_dry(rate=300.0, running=0, now=1.0 + STEADY)
    assert window.size == 2 * (2 * START * 9 // 8)


@pytest.mark.parametrize(("slots", "rate"), [(8, 2.0), (64, 30.0), (128, 60.0)])
def test_shrinks_to_what_runs_and_what_begins_meanwhile(slots: int, rate: float) -> None:
    window = Window()
    window.fit(flowing(rate, slots))
    assert slots + LEAST_REFILL < window.size < 1.6 * slots + 2 * LEAST_REFILL


@given(rate=st.floats(1.0, 5000.0), running=st.integers(0, 1024), latency=st.floats(0.001, 0.5))
def test_never_shrinks_below_what_the_rate_needs(rate: float, running: int, latency: float) -> None:
    window = Window(start=8192)
    window.fit(flowing(rate, running, latency))
    assert window.size >= min(8192, running + rate * latency)


def test_short_answers_are_no_sign_of_too_much() -> None:
    window = Window()
    window.fit(flowing(rate=800.0, running=0, latency=0.3))  # one token each: nothing is ever seen to run
    assert window.size == START


def test_does_not_shrink_before_enough_is_known() -> None:
    window = Window()
    window.fit(flowing(rate=4.0, running=1, seconds=1))
    assert window.size == START


def test_an_overload_leaves_what_was_accepted() -> None:
    window = Window()
    window.overloaded(accepted=96, refused=17, now=0.0)
    assert window.size == 96


def test_an_overload_by_a_first_list_halves_it() -> None:
    window = Window()
    window.overloaded(accepted=0, refused=272, now=0.0)
    assert window.size == 136
    window.overloaded(accepted=0, refused=1, now=0.0)
    assert window.size == 1
    window.overloaded(accepted=0, refused=1, now=0.0)
    assert window.size == 1


def test_does_not_grow_soon_after_an_overload() -> None:
    window = Window()
    window.overloaded(accepted=96, refused=17, now=5.0)
    window.ran_dry(rate=10.0, running=96, now=5.0 + STEADY - 0.1)
    assert window.size == 96
    window.ran_dry(rate=10.0, running=96, now=5.0 + STEADY)
    assert window.size == 192


def test_preemptions_take_off_an_eighth() -> None:
    window = Window(start=80)
    window.preempted(now=0.0)
    assert window.size == 70


def test_never_exceeds_its_ceiling() -> None:
    window = Window(ceiling=300)
    window.ran_dry(rate=10.0, running=START, now=0.0)
    assert window.size == 300


@pytest.mark.parametrize(
    ("size", "rate", "refill"), [(272, 10.0, 17), (1024, 10.0, 64), (272, 20_000.0, 136), (6, 1.0, 3)]
)
def test_a_refill_is_worth_a_request(size: int, rate: float, refill: int) -> None:
    assert Window().min_refill(size, rate, 1 / 16) == refill


def test_an_agent_of_which_all_prompts_run_gets_more() -> None:
    agent = AgentState(0, requests_limit=256)
    agent.held = START
    agent.started(START, now=1.0)
    assert agent.limit == 2 * START


def test_answers_that_make_way_for_the_queue_do_not_widen_the_window() -> None:
    agent = AgentState(0, requests_limit=256)
    agent.held = START
    agent.started(200, now=0.0)
    agent.answers_since_send = START // 2 + 1
    agent.held -= START // 2 + 1
    agent.running = agent.held
    agent.started(0, now=1.0)
    assert agent.limit == START


def test_what_waits_at_the_server_by_its_own_counters_is_no_dry_server() -> None:
    agent = AgentState(0, requests_limit=256)
    agent.held = START
    agent.sampled(running=64, waiting=START - 64, preemptions=0, now=0.0)
    agent.started(START, now=1.0)
    assert agent.limit == START
    agent.sampled(running=START, waiting=0, preemptions=0, now=2.0)
    agent.check_dry(now=2.0)
    assert agent.limit == 2 * START
    agent.sampled(running=START, waiting=0, preemptions=3, now=3.0)
    assert agent.limit == 2 * START - START // 4


def test_a_bad_state_heals_within_seconds() -> None:
    agent = AgentState(0, requests_limit=256)
    agent.window.overloaded(accepted=4, refused=1, now=-STEADY)
    agent.refresh()
    flow, now = agent.flow, 0.0
    flow.first_byte(0.02, now)
    while agent.window.size < START and now < 60.0:
        now += 0.5
        agent.held = agent.window.size  # every half second all that it may hold is answered, and nothing waits there
        agent.answered(10, now - 0.5, now, answers=agent.held)
        agent.answers_since_send = 0
        agent.running = agent.held
        agent.check_dry(now)
    assert now <= 10.0


def test_a_window_that_was_never_full_does_not_shrink() -> None:
    agent = AgentState(0, requests_limit=256)
    now = 0.0
    for _ in range(40):  # short calls to a server, or of a process, that hardly gets the processor
        agent.held = 64
        agent.flow.holds(agent.held)
        for _ in range(2):
            now += 0.6
            agent.held -= 32
            agent.answered(32, now - 0.6, now, answers=32)
    assert agent.limit == START


def test_a_small_window_grows_where_whole_lists_are_answered_at_once() -> None:
    agent = AgentState(0, requests_limit=256)
    agent.window.size = 8
    agent.refresh()
    now = 0.0
    while agent.limit < START and now < 60.0:
        now += 0.1
        size = agent.limit
        agent.flow.began(now - 0.1)
        agent.answers_since_send, agent.held = 0, size
        agent.flow.holds(size)
        agent.held = 0
        agent.answered(10 * size, now - 0.1, now, answers=size)
        agent.check_dry(now)
    assert now < 60.0
