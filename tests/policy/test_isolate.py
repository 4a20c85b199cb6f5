"""Poison: a prompt that kills agents is found, and does not tour the fleet."""

from __future__ import annotations

from aurora_pool.errors import ServerError
from aurora_pool.policy.isolate import halve
from tests.policy.rig import Rig


def kill_until_suspected(rig: Rig, poison: int) -> list[int]:
    """Have agents die under a prompt until it is under suspicion; return which."""
    ticket = rig.tickets[poison]
    killed = []
    while ticket.deaths < 2:
        assert ticket.request is not None
        killed.append(ticket.request.agent)
        rig.die(ticket.request.agent)
        rig.plan()
    return killed


def test_halves_hold_everything_in_order() -> None:
    assert halve([1]) == [[1]]
    assert halve([]) == []
    assert halve([1, 2, 3]) == [[1], [2, 3]]


def test_a_suspect_runs_alone_and_is_convicted_by_the_next_death() -> None:
    rig = Rig(6)
    rig.admit(12, work=["poison"])
    rig.plan()
    kill_until_suspected(rig, 0)
    rig.finish()
    (failure,) = rig.failures.values()
    assert failure.ticket.index == 0
    assert failure.kind == "poison"
    assert failure.ticket.deaths == 3
    assert rig.results.total() == 12


def test_an_innocent_suspect_is_answered() -> None:
    rig = Rig(6)
    rig.admit(12)
    rig.plan()
    kill_until_suspected(rig, 0)
    assert rig.books.quarantined >= 1
    rig.finish()
    assert not rig.failures


def test_a_suspect_that_fails_otherwise_stays_alone() -> None:
    rig = Rig(3)
    rig.admit(3)
    rig.plan()
    kill_until_suspected(rig, 0)
    ticket = rig.tickets[0]
    while not ticket.isolated:
        for request in list(rig.open):
            rig.answer_all(request)
        rig.wait(0.3)
    assert ticket.request is not None
    rig.fail(ticket.request, ServerError(500, "Internal server error"))
    rig.admit(30)
    rig.finish()
    alone = [a for a in rig.sent if ticket in a.tickets or a.sent_at == ticket.first_sent]
    assert alone
    assert not rig.failures


def test_an_agent_kept_for_a_withdrawn_suspect_serves_others_again() -> None:
    rig = Rig(4)
    rig.admit(12)
    rig.plan()
    kill_until_suspected(rig, 0)
    rig.wait(0.3)
    rig.withdraw(rig.tickets)
    rig.plan()
    assert not rig.books.wards
    assert all(agent.ward_of is None for agent in rig.agents)
    rig.admit(100)
    rig.finish()
