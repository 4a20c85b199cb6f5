"""StallDetector: busy is not dead, hung is not busy."""

from __future__ import annotations

import pytest

from aurora_pool.errors import ConnectFailed
from aurora_pool.policy.callers import PromptQueue
from aurora_pool.policy.outcome import Outcome
from aurora_pool.policy.stall import CHECK_AFTER, Finding
from tests.policy.rig import Rig


def stalled(agents: int = 1) -> Rig:
    rig = Rig(agents)
    rig.queue.unbounded = True
    rig.admit(4, queue=PromptQueue([0]) if agents == 1 else None)
    rig.plan()
    rig.wait(CHECK_AFTER + 0.1)
    return rig


def test_an_agent_that_sends_nothing_is_checked_and_gets_nothing() -> None:
    rig = stalled()
    assert rig.load_checks == [0]
    rig.admit(4)
    rig.plan()
    assert len(rig.sent) == 1


def test_bytes_end_the_suspicion() -> None:
    rig = stalled()
    rig.admit(4)
    rig.dispatcher.progress(rig.sent[0], rig.now)
    rig.plan()
    assert len(rig.sent) == 2
    rig.load_checked(0, Finding.IDLE)
    rig.finish()


def test_one_whose_counters_move_is_busy_for_as_long_as_it_likes() -> None:
    rig = stalled()
    for _ in range(100):
        while rig.load_checks:
            rig.load_checked(0, Finding.PROGRESSING)
        rig.wait(CHECK_AFTER)
    assert rig.in_service(0)
    assert rig.held(0) == 4


@pytest.mark.parametrize(
    ("finding", "seconds"),
    [(Finding.IDLE, 30), (Finding.UNRESPONSIVE, 30), (Finding.NO_METRICS, 300)],
)
def test_one_that_shows_nothing_is_given_up_at_the_limit(finding: Finding, seconds: float) -> None:
    rig = stalled()
    given_up_at = None
    for _ in range(400):
        while rig.load_checks:
            rig.load_checked(0, finding)
        rig.wait(1.0)
        if not rig.in_service(0):
            given_up_at = rig.now
            break
    assert given_up_at is not None
    assert seconds <= given_up_at <= seconds + 1.5
    assert rig.sent[0].closed
    assert rig.statistics.agents[0].failures == {Outcome.DEAD.value: 1}
    rig.finish()


def test_one_without_counters_is_tried_by_a_small_request_and_may_stall_while_it_answers_that() -> None:
    rig = stalled()
    for _ in range(1000):
        while rig.load_checks:
            rig.load_checked(0, Finding.NO_METRICS)
        rig.plan()
        while rig.probes:
            assert rig.now >= 30
            rig.probed(0)
        rig.wait(1.0)
    (request,) = rig.open
    rig.load_checked(0, Finding.NO_METRICS)
    for _ in range(400):
        while rig.load_checks:
            rig.load_checked(0, Finding.NO_METRICS)
        rig.plan()
        while rig.probes:
            rig.probed(0, Outcome.DEAD)
        rig.wait(1.0)
    assert request.closed
    rig.finish()


def test_an_engine_may_take_long_for_a_step_before_what_it_holds_goes_to_another() -> None:
    rig = Rig(2)
    rig.admit(4)
    rig.plan()
    rig.now = 1.0
    rig.answer_all(rig.sent[1])
    while not rig.statistics.hedged and rig.now < 60.0:
        rig.wait(0.5)
        while rig.load_checks:
            rig.load_checked(0, Finding.IDLE)
    assert 15.0 <= rig.now <= 15.0 + CHECK_AFTER + 1.0  # half the limit, the next look and the next hedging
    assert rig.in_service(0)


def test_one_that_refuses_connections_loses_what_it_holds_at_once() -> None:
    rig = stalled(2)
    assert sorted(rig.load_checks) == [0, 1]
    rig.load_checked(1, Finding.PROGRESSING)
    rig.load_checked(0, Finding.REFUSED)
    rig.plan()
    assert not rig.in_service(0)
    assert rig.held(1) == 4
    assert all(item.deaths == 0 for item in rig.items)
    rig.finish()


def test_a_refused_connection_brings_the_look_forward() -> None:
    rig = Rig(1)
    rig.queue.unbounded = True
    rig.admit(4)
    rig.plan()
    rig.now = 1.0
    rig.dispatcher.progress(rig.sent[0], rig.now)
    rig.admit(2)
    rig.plan()
    rig.now = 1.1
    rig.fail(rig.sent[1], ConnectFailed("connection refused"))
    rig.wait(1.1)
    assert rig.load_checks == [0]


def test_an_agent_that_owes_nothing_is_not_suspected() -> None:
    rig = stalled()
    rig.load_checked(0, Finding.IDLE)
    rig.withdraw(rig.items)
    rig.plan()
    rig.admit(3)
    rig.plan()
    assert len(rig.sent) == 2
    rig.finish()


def test_counters_are_asked_for_rarely() -> None:
    rig = Rig(1)
    rig.queue.unbounded = True
    rig.admit(50)
    rig.plan()
    rig.start(rig.sent[0])
    for slot in range(40):
        rig.wait(1.0)
        rig.answer(rig.sent[0], slot)
    assert len(rig.samples) == 2  # in 40 s, at the first tick after each 15


def test_time_in_which_this_process_did_not_keep_up_is_no_stall() -> None:
    rig = Rig(1)
    rig.queue.unbounded = True
    rig.admit(4)
    rig.plan()
    rig.now += 100.0  # nothing was run: neither replies read nor timers run
    rig.plan()
    assert rig.load_checks == []
    rig.wait(CHECK_AFTER + 0.1)
    assert rig.load_checks == [0]
    rig.load_checked(0, Finding.UNRESPONSIVE)
    rig.wait(20.0)
    assert rig.in_service(0)
    while rig.load_checks:
        rig.load_checked(0, Finding.UNRESPONSIVE)
    rig.wait(CHECK_AFTER + 6.0)
    while rig.load_checks:
        rig.load_checked(0, Finding.UNRESPONSIVE)
    assert not rig.in_service(0)


def test_what_is_assigned_and_not_sent_runs_no_clock() -> None:
    """It waits on this side for its turn: no look, no failure, no deadline; each begins when it is sent."""
    rig = Rig(2, timeout=20.0)
    rig.waits_here = True
    rig.admit(4)
    rig.plan()
    rig.wait(100.0)
    assert (rig.load_checks, rig.failures, rig.statistics.hedged, rig.statistics.requests) == ([], {}, 0, 0)
    for request in rig.open:
        assert request.sent_at is None
        rig.dispatcher.sent(request, rig.now)
    rig.wait(19.0)
    assert sorted(rig.load_checks) == [0, 1]
    assert not rig.failures
    rig.wait(1.0)
    assert {failure.kind for failure in rig.failures.values()} == {"timeout"}


def test_what_was_never_sent_is_given_up_without_a_trace() -> None:
    rig = Rig(1)
    rig.waits_here = True
    items = rig.admit(3)
    rig.plan()
    rig.wait(10.0)
    rig.withdraw(items)
    rig.plan()
    assert rig.statistics.requests == 0
    assert rig.statistics.wasted_tokens == 0
