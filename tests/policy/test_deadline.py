"""The time that a caller allows for one prompt."""

from __future__ import annotations

from aurora_pool.errors import ConnectFailed
from tests.policy.rig import Rig


def test_a_prompt_that_takes_too_long_fails_and_its_request_is_closed() -> None:
    rig = Rig(1, timeout=20.0)
    rig.queue.unbounded = True
    first, second = rig.admit(2)
    rig.plan()
    rig.wait(19.0)
    rig.answer(rig.sent[0], 0)
    rig.wait(1.1)
    assert rig.results == {first: 1, second: 1}
    assert rig.failures[second].kind == "timeout"
    assert rig.sent[0].closed


def test_moving_does_not_buy_time() -> None:
    rig = Rig(2, timeout=20.0)
    rig.queue.unbounded = True
    (item,) = rig.admit(1)
    rig.plan()
    rig.wait(10.0)
    rig.fail(rig.sent[0], ConnectFailed("connection refused"))
    rig.wait(9.0)
    assert not item.done
    rig.wait(1.1)
    assert rig.failures[item].kind == "timeout"


def test_waiting_for_a_lost_fleet_counts_once_it_was_sent() -> None:
    rig = Rig(1, timeout=20.0)
    (item,) = rig.admit(1)
    rig.plan()
    rig.wait(1.0)
    rig.fail(rig.sent[0], ConnectFailed("connection refused"))
    rig.wait(19.1)
    assert rig.failures[item].kind == "timeout"


def test_a_queue_is_no_timeout() -> None:
    rig = Rig(1, timeout=20.0, window=1)
    rig.admit(20)
    rounds = 0
    while rig.unended():
        rig.wait(15.0)
        for request in list(rig.open):
            rig.answer_all(request)
        rounds += 1
    assert rounds == 7, "the last ones have waited for longer than the timeout"
    assert not rig.failures


def test_nothing_is_kept_of_what_has_ended() -> None:
    rig = Rig(1, timeout=1000.0)
    rig.queue.unbounded = True
    for _ in range(50):
        rig.admit(10)
        rig.plan()
        for request in list(rig.open):
            rig.answer_all(request)
    assert not any(item for request in rig.sent for item in request.items)


def test_the_cause_is_in_the_error_of_a_prompt_that_waits_for_an_agent() -> None:
    rig = Rig(2, timeout=2.0)
    rig.admit(2)
    rig.plan()
    for agent in (0, 1):
        rig.die(agent)
    rig.wait(3.0)
    assert {failure.kind for failure in rig.failures.values()} == {"timeout"}
    for failure in rig.failures.values():
        assert "no answer within 2 s of sending" in failure.error
        assert "connection lost" in failure.error
        assert "agent" in failure.error
