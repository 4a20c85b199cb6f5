"""Poison: a prompt that kills agents is found, does not tour the fleet, and no innocent one is convicted for it."""

from __future__ import annotations

from aurora_pool.errors import ServerError
from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.isolate import MAX_DEATHS, PUT_OFF, TOGETHER, halve
from aurora_pool.policy.silence import Finding
from aurora_pool.policy.work import Assignment, Lane, Ticket
from tests.policy.rig import Rig

LONG_ENOUGH = 400.0
"""Seconds after which an answer shows that an agent which has come back does not flap."""


def kill_under(rig: Rig, ticket: Ticket, deaths: int) -> list[int]:
    """Have agents die under a prompt until so many have, the others answering meanwhile; return which died."""
    killed: list[int] = []
    while ticket.deaths < deaths and not ticket.done:
        if ticket.request is not None:
            killed.append(ticket.request.agent)
            rig.die(ticket.request.agent)
            rig.plan()
        else:
            for request in list(rig.open):
                rig.answer_all(request)
            rig.wait(0.3)
    return killed


def bring_back(rig: Rig) -> None:
    """Have every agent that is out answer its probe."""
    while not all(agent.in_service for agent in rig.agents):
        rig.wait(1.0)
        for agent in list(rig.probes):
            rig.probed(agent)
    rig.plan()


def two_deaths(rig: Rig) -> list[Ticket]:
    """Have two agents die one after the other; return the prompts that were under way on both."""
    rig.die(0)
    rig.plan()
    for request in [request for request in rig.open if request.agent == 1]:
        rig.answer_all(request)  # where all were full, its room goes to what agent 0 held
    rig.plan()
    rig.die(1)
    rig.plan()
    return [ticket for ticket in rig.tickets if ticket.suspected]


def answer_until_sent(rig: Rig, ticket: Ticket) -> None:
    """Have everything answered until this prompt is under way."""
    while ticket.request is None:
        for request in list(rig.open):
            rig.answer_all(request)
        rig.wait(0.3)


def wards(rig: Rig) -> list[AgentState]:
    return [agent for agent in rig.agents if agent.ward_of is not None]


def served_in(rig: Rig, ticket: Ticket) -> Assignment:
    assert ticket.request is not None
    return ticket.request


def test_halves_hold_everything_in_order() -> None:
    assert halve([1]) == [[1]]
    assert halve([]) == []
    assert halve([1, 2, 3]) == [[1], [2, 3]]


def test_poison_costs_four_agents() -> None:
    rig = Rig(6)
    rig.admit(12, work=["poison"])
    rig.plan()
    kill_under(rig, rig.tickets[0], 2)
    rig.finish()
    (failure,) = rig.failures.values()
    assert failure.ticket.index == 0
    assert failure.kind == "poison"
    assert failure.ticket.deaths == 4
    assert rig.results.total() == 12


def test_suspects_run_together_first() -> None:
    rig = Rig(8)
    rig.admit(3000)
    rig.plan()
    suspects = two_deaths(rig)
    assert rig.books.quarantined == len(suspects) > 1
    first = rig.lane.suspects[0]
    answer_until_sent(rig, first)
    ward = served_in(rig, first).agent
    together = [ticket for request in rig.open if request.agent == ward for ticket in request.unsettled()]
    assert len(together) >= TOGETHER
    assert set(together) <= set(suspects)
    rig.finish()
    assert not rig.failures
    assert all(ticket.deaths == 2 for ticket in suspects)


def test_each_runs_alone_after_another_death() -> None:
    rig = Rig(8)
    rig.admit(3000)
    rig.plan()
    suspects = two_deaths(rig)
    answer_until_sent(rig, suspects[0])
    group = list(served_in(rig, suspects[0]).unsettled())
    rig.die(served_in(rig, suspects[0]).agent)
    rig.wait(0.3)
    under_way = [ticket for ticket in group if ticket.request is not None]
    assert under_way
    assert all(list(served_in(rig, ticket).unsettled()) == [ticket] for ticket in under_way)
    rig.finish()
    assert not rig.failures


def test_what_is_answered_is_cleared() -> None:
    rig = Rig(8)
    rig.admit(3000)
    rig.plan()
    suspects = two_deaths(rig)
    answer_until_sent(rig, suspects[0])
    first = suspects[0]
    request = served_in(rig, first)
    rig.answer(request, request.tickets.index(first))
    rig.die(request.agent)
    assert first.deaths == 2
    rig.finish()
    assert not rig.failures


def test_a_death_soon_after_coming_back_convicts_nobody() -> None:
    rig = Rig(2)
    (ticket,) = rig.admit()
    rig.plan()
    for deaths in (1, 2, 3):
        kill_under(rig, ticket, deaths)
        bring_back(rig)
    killed = kill_under(rig, ticket, 4)
    assert not rig.agents[killed[0]].proven
    assert not ticket.done
    rig.finish()
    assert not rig.failures


def test_only_answers_prove_that_an_agent_is_sound_again() -> None:
    rig = Rig(1)
    rig.admit(2)
    rig.plan()
    assert [agent.proven for agent in rig.agents] == [True]
    rig.die(0)
    bring_back(rig)
    assert [agent.proven for agent in rig.agents] == [False]
    rig.wait(LONG_ENOUGH)
    assert [agent.proven for agent in rig.agents] == [False]
    rig.finish()
    assert [agent.proven for agent in rig.agents] == [True]


def test_poison_on_an_agent_of_its_own_comes_to_an_end() -> None:
    rig = Rig(1)
    rig.admit(3, work=["poison"])
    rig.finish()
    (failure,) = rig.failures.values()
    assert failure.kind == "poison"
    assert failure.ticket.deaths <= MAX_DEATHS


def test_an_agent_that_fell_silent_convicts_nobody() -> None:
    rig = Rig(8)
    rig.admit(8)
    rig.plan()
    ticket = rig.tickets[0]
    kill_under(rig, ticket, 3)
    while ticket.request is None:
        rig.wait(0.3)
    agent = ticket.request.agent
    assert rig.agents[agent].proven
    for _ in range(20):
        rig.wait(5.0)
        if agent in rig.looks:
            rig.looked(agent, Finding.MUTE)
    assert ticket.deaths == 4
    rig.finish()
    assert not rig.failures


def test_a_suspect_that_fails_otherwise_stays_among_suspects() -> None:
    rig = Rig(3)
    rig.admit(3)
    rig.plan()
    ticket = rig.tickets[0]
    kill_under(rig, ticket, 2)
    answer_until_sent(rig, ticket)
    rig.fail(served_in(rig, ticket), ServerError(500, "Internal server error"))
    rig.admit(30)
    rig.finish()  # the rig checks what every request holds
    assert not rig.failures


def test_few_agents_are_kept_for_suspects_while_others_wait() -> None:
    rig = Rig(24)
    rig.admit(24 * 400)
    rig.plan()
    suspects = two_deaths(rig)
    for _ in range(200):
        if not rig.lane.queue:
            break
        assert len(wards(rig)) <= 22 // 8
        for request in list(rig.open):
            rig.answer_all(request)
        rig.wait(0.01)
    assert suspects
    rig.finish()


def test_the_only_agent_serves_the_others_first() -> None:
    rig = Rig(3)
    rig.admit(900)
    rig.plan()
    suspects = two_deaths(rig)
    assert suspects
    while rig.lane.queue:
        assert not wards(rig)
        for request in list(rig.open):
            rig.answer_all(request)
        rig.plan()
    for request in list(rig.open):
        rig.answer_all(request)
    rig.plan()
    assert wards(rig) == [rig.agents[2]]
    rig.finish()
    assert not rig.failures


def test_suspects_are_not_put_off_for_ever() -> None:
    rig = Rig(3)
    rig.admit(900)
    rig.plan()
    suspects = two_deaths(rig)
    since = rig.now
    while not any(ticket.done for ticket in suspects):
        assert rig.now < since + PUT_OFF + 5.0
        rig.admit(300)  # there is always more to do
        for request in list(rig.open):
            rig.answer_all(request)
        rig.wait(1.0)
    rig.finish()


def test_a_view_without_proven_agents_serves_its_suspects() -> None:
    rig = Rig(2)
    lane = Lane([1])
    tickets = rig.admit(3, lane=lane)
    rig.plan()
    for _ in range(2):
        rig.die(1)
        bring_back(rig)
    assert all(ticket.suspected for ticket in tickets)
    assert wards(rig) == [rig.agents[1]]
    rig.finish()
    assert not rig.failures


def test_an_agent_kept_for_a_withdrawn_suspect_serves_others_again() -> None:
    rig = Rig(4)
    rig.admit(12)
    rig.plan()
    kill_under(rig, rig.tickets[0], 2)
    rig.wait(0.3)
    rig.withdraw(rig.tickets)
    rig.plan()
    assert not rig.books.wards
    assert all(agent.ward_of is None for agent in rig.agents)
    rig.admit(100)
    rig.finish()
