"""The tail: a second agent for what is slow, stalled or stuck; the first answer wins."""

from __future__ import annotations

import pytest

from aurora_pool.policy.callers import PromptQueue
from aurora_pool.policy.hedge import READING
from aurora_pool.policy.stall import Finding
from tests.policy.rig import Rig


def slow_and_fast(prompts: int = 20) -> Rig:
    """Two agents, of which the second answers at once and the first takes its time."""
    rig = Rig(2)
    rig.admit(prompts)
    rig.plan()
    rig.now = 1.0
    rig.answer_all(rig.sent[1], tokens=200)
    for slot in range(3):
        rig.now += 3.0
        rig.answer(rig.sent[0], slot, tokens=200)
    return rig


def test_an_idle_agent_takes_what_a_slow_one_holds() -> None:
    rig = slow_and_fast()
    rig.wait(1.0)
    assert rig.statistics.hedged == 1
    hedge = rig.sent[-1]
    assert hedge.agent == 1
    assert all(item.holders == 2 for item in hedge.unreleased())


def test_the_first_answer_wins_and_the_loser_is_closed() -> None:
    rig = slow_and_fast()
    rig.wait(1.0)
    hedged = rig.sent[-1].unreleased()
    slow = rig.sent[0]
    rig.answer_all(rig.sent[-1])
    for slot, item in enumerate(list(slow.items)):
        if item is not None and not item.done and not slow.closed:
            rig.answer(slow, slot)
    assert slow.closed
    rig.plan()
    rig.finish()
    assert all(rig.results[item] == 1 for item in hedged)


def test_the_losers_answer_is_nobodys_result() -> None:
    rig = slow_and_fast()
    rig.wait(1.0)
    hedge, slow = rig.sent[-1], rig.sent[0]
    item = hedge.unreleased()[0]
    before = rig.statistics.prompts_done
    rig.answer(hedge, hedge.items.index(item))
    rig.answer(slow, slow.items.index(item), tokens=70)
    assert rig.statistics.prompts_done == before + 1
    assert rig.statistics.wasted_tokens == 70


def test_a_hedged_prompt_survives_either_agent() -> None:
    for victim in (0, 1):
        rig = slow_and_fast()
        rig.wait(1.0)
        hedged = rig.sent[-1].unreleased()
        rig.die(victim)
        rig.plan()
        assert all(item.holders == 1 and item.request is not None for item in hedged)
        rig.finish()


def test_an_input_that_stays_open_may_wait_for_what_is_slow() -> None:
    rig = slow_and_fast()
    rig.queue.unbounded = True
    rig.wait(1.0)
    assert rig.statistics.hedged == 1


def test_nothing_is_hedged_while_others_of_its_queue_wait() -> None:
    rig = Rig(2, window=10)
    rig.admit(60)
    rig.plan()
    slow = rig.sent[0]
    while rig.statistics.queued:
        rig.wait(3.0)
        assert rig.statistics.hedged == 0
        for request in list(rig.open):
            if request is not slow:
                rig.answer_all(request, tokens=200)
        rig.answer(slow, next(slot for slot, item in enumerate(slow.items) if item is not None), tokens=200)
        rig.plan()
    while rig.statistics.in_flight > slow.open:
        for request in list(rig.open):
            if request is not slow:
                rig.answer_all(request, tokens=200)
        rig.plan()
    rig.wait(6.0)
    assert rig.statistics.hedged == 2  # 3 % of them


@pytest.mark.parametrize("pinned", [True, False])
def test_nothing_is_hedged_outside_of_its_view(pinned: bool) -> None:
    rig = Rig(2)
    rig.admit(4, queue=PromptQueue([0], pinned=pinned))
    rig.admit(4, queue=PromptQueue([1]))
    rig.plan()
    rig.now = 1.0
    rig.answer_all(rig.sent[1])
    rig.answer(rig.sent[0], 0)
    rig.stay_idle(until=20.0)
    assert rig.statistics.hedged == 0


def test_what_a_stalled_agent_holds_goes_to_an_idle_one() -> None:
    rig = Rig(2)
    rig.admit(4)
    rig.plan()
    rig.now = 1.0
    rig.answer_all(rig.sent[1])
    rig.wait(5.0)
    assert 0 in rig.load_checks
    rig.load_checked(0, Finding.IDLE)
    rig.wait(3.0)
    assert rig.statistics.hedged == 0  # it may be in a long step
    rig.stay_idle(until=16.0)
    rig.wait(1.0)
    assert rig.statistics.hedged == 2
    rig.finish()


def test_what_is_overdue_is_stuck_whatever_its_agent_says() -> None:
    rig = Rig(2)
    rig.admit(4)
    rig.plan()
    rig.now = 1.0
    rig.answer_all(rig.sent[1])
    rig.answer(rig.sent[0], 0)
    for _ in range(20):
        rig.wait(0.5)
        rig.dispatcher.progress(rig.sent[0], rig.now)  # its connection lives
    assert rig.statistics.hedged == 1


@pytest.mark.parametrize(("prompts", "hedges"), [(20, 1), (100, 4), (500, 8)])
def test_hedges_keep_to_their_budget(prompts: int, hedges: int) -> None:
    """3 % of the prompts, and what 4 answers and 1.8 % of the tokens pay for: 4 + 0.018 * 253 at last."""
    rig = slow_and_fast(prompts=prompts)
    rig.wait(30.0)
    assert rig.statistics.hedged == hedges


def test_what_goes_to_its_caller_already_gets_no_second_agent() -> None:
    rig = slow_and_fast()
    rig.dispatcher.commit(rig.sent[0], rig.now)
    rig.wait(30.0)
    assert rig.statistics.hedged == 0


def test_a_look_that_comes_late_says_nothing_of_the_agents() -> None:
    rig = slow_and_fast()
    rig.plan()
    while rig.dispatcher.wake_at > rig.now + 1.01 * READING:
        rig.now = rig.dispatcher.wake_at
        rig.plan()
    rig.now += 1.0  # it is this process that did not keep up: answers may lie unread
    rig.plan()
    assert rig.statistics.hedged == 0
    rig.wait(1.0)
    assert rig.statistics.hedged == 1


def test_a_slow_agent_is_no_second_agent() -> None:
    rig = Rig(3)
    rig.admit(12)
    rig.plan()
    rig.now = 1.0
    rig.answer_all(rig.sent[1])
    rig.now = 3.0
    rig.answer_all(rig.sent[2])
    rig.stay_idle(until=20.0)
    assert rig.statistics.hedged == 4
    assert {request.agent for request in rig.sent[3:]} == {1}


def test_strict_hedges_nothing() -> None:
    rig = Rig(2, balance="strict")
    rig.admit(4)
    rig.plan()
    rig.now = 1.0
    rig.answer_all(rig.sent[1])
    rig.wait(7.0)
    assert rig.statistics.hedged == 0
