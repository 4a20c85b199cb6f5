"""The window finds the number of slots by itself."""

from __future__ import annotations

import pytest

from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.window import START, STEADY, Window


def test_doubles_while_all_that_it_allows_run() -> None:
    window = Window()
    window.all_run(now=0.0)
    assert window.size == 2 * START


def test_creeps_once_it_has_met_a_limit() -> None:
    window = Window()
    window.queued(running=256, waiting=200)
    assert window.size == 272
    window.all_run(now=0.0)
    assert window.size == 289


@pytest.mark.parametrize(("slots", "size"), [(1, 2), (8, 9), (64, 68), (128, 136)])
def test_shrinks_to_what_runs_and_a_slack(slots: int, size: int) -> None:
    window = Window()
    window.queued(running=slots, waiting=START - slots)
    assert window.size == size


def test_a_short_queue_is_the_slack_it_should_be() -> None:
    window = Window()
    window.queued(running=256, waiting=16)
    assert window.size == START


def test_follows_what_runs() -> None:
    window = Window(start=68)
    window.run(running=200, now=0.0)
    assert window.size == 212


def test_a_refusal_leaves_what_was_accepted() -> None:
    window = Window()
    window.refused(accepted=96, refused=17, now=0.0)
    assert window.size == 96


def test_a_refusal_of_a_first_list_halves_it() -> None:
    window = Window()
    window.refused(accepted=0, refused=272, now=0.0)
    assert window.size == 136
    window.refused(accepted=0, refused=1, now=0.0)
    assert window.size == 1
    window.refused(accepted=0, refused=1, now=0.0)
    assert window.size == 1


def test_does_not_grow_soon_after_a_refusal() -> None:
    window = Window()
    window.refused(accepted=96, refused=17, now=5.0)
    window.all_run(now=5.0 + STEADY - 0.1)
    window.run(running=96, now=5.0 + STEADY - 0.1)
    assert window.size == 96
    window.all_run(now=5.0 + STEADY)
    assert window.size == 102


def test_preemptions_take_off_an_eighth() -> None:
    window = Window(start=80)
    window.preempted(now=0.0)
    assert window.size == 70


def test_never_exceeds_its_ceiling() -> None:
    window = Window(ceiling=300)
    window.all_run(now=0.0)
    window.run(running=1000, now=0.0)
    assert window.size == 300


def test_an_agent_takes_the_engines_word_only_where_its_replies_show_nothing() -> None:
    agent = AgentState(0, requests_limit=256)
    agent.held = START
    agent.sampled(running=START, waiting=0, preemptions=0, now=0.0)
    assert agent.limit == 2 * START
    agent.running = 100
    agent.sampled(running=START, waiting=0, preemptions=0, now=1.0)
    assert agent.limit == 2 * START
    agent.sampled(running=START, waiting=0, preemptions=3, now=2.0)
    assert agent.limit == 2 * START - START // 4


def test_answers_that_make_room_for_the_queue_do_not_widen_the_window() -> None:
    agent = AgentState(0, requests_limit=256)
    agent.held = START
    agent.started(256, now=0.0)
    for _ in range(16):
        agent.held -= 1
        agent.running -= 1
        agent.answered(100, sent_at=0.0, now=1.0)
        agent.started(1, now=1.0)
    assert agent.held == agent.running == 256
    assert agent.limit == START
