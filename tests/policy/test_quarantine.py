"""Poison: a prompt that kills agents is found, does not tour the fleet, and no innocent one is blamed for it."""

from __future__ import annotations

import pytest

from aurora_pool.errors import ServerError
from aurora_pool.policy.callers import PromptQueue
from aurora_pool.policy.quarantine import MAX_DEATHS, QUARANTINE_DELAY, TOGETHER, halve
from aurora_pool.policy.stall import Finding
from aurora_pool.policy.window import START
from aurora_pool.policy.work import InFlightRequest, WorkItem
from tests.policy.rig import Rig

LONG_ENOUGH = 400.0
"""Seconds after which an answer shows that an agent which has come back does not flap."""


def kill_under(rig: Rig, item: WorkItem, deaths: int) -> list[int]:
    """Have agents die under a prompt until ``deaths`` have, the others answering meanwhile; return which died."""
    killed: list[int] = []
    while item.deaths < deaths and not item.done:
        if item.request is not None:
            killed.append(item.request.agent)
            rig.die(item.request.agent)
            rig.plan()
        else:
            for request in list(rig.open):
                rig.answer_all(request)
            rig.wait(0.3)
    return killed


def bring_back(rig: Rig) -> None:
    """Have every agent that is out answer its probe."""
    while rig.statistics.agents_in_service != rig.size:
        rig.wait(1.0)
        for agent in list(rig.probes):
            rig.probed(agent)
    rig.plan()


def two_deaths(rig: Rig) -> list[WorkItem]:
    """Have two agents die one after the other; return the prompts that were in flight on both."""
    rig.die(0)
    rig.plan()
    for request in [request for request in rig.open if request.agent == 1]:
        rig.answer_all(request)  # where all were full, its slots go to what agent 0 held
    rig.plan()
    rig.die(1)
    rig.plan()
    return [item for item in rig.items if item.suspected]


def answer_until_sent(rig: Rig, item: WorkItem) -> None:
    """Have everything answered until this prompt is in flight."""
    while item.request is None:
        for request in list(rig.open):
            rig.answer_all(request)
        rig.wait(0.3)


def quarantine_agents(rig: Rig) -> set[int]:
    """The agents that hold quarantined prompts, which the rig has seen to hold no others."""
    return {request.agent for request in rig.open for item in request.unreleased() if item.suspected}


def served_in(rig: Rig, item: WorkItem) -> InFlightRequest:
    assert item.request is not None
    return item.request


def test_halves_hold_everything_in_order() -> None:
    assert halve([1]) == [[1]]
    assert halve([]) == []
    assert halve([1, 2, 3]) == [[1], [2, 3]]


def test_poison_costs_four_agents() -> None:
    rig = Rig(6)
    rig.admit(12, work=["poison"])
    rig.plan()
    kill_under(rig, rig.items[0], 2)
    rig.finish()
    (failure,) = rig.failures.values()
    assert failure.item.index == 0
    assert failure.kind == "poison"
    assert failure.item.deaths == 4
    assert rig.results.total() == 12


def test_quarantined_prompts_run_together_first() -> None:
    rig = Rig(8)
    rig.admit(3000)
    rig.plan()
    quarantined = two_deaths(rig)
    assert rig.statistics.quarantined == len(quarantined) == START
    first = quarantined[0]
    answer_until_sent(rig, first)
    agent = served_in(rig, first).agent
    together = [item for request in rig.open if request.agent == agent for item in request.unreleased()]
    assert len(together) == TOGETHER
    assert set(together) <= set(quarantined)
    rig.finish()
    assert not rig.failures
    assert all(item.deaths == 2 for item in quarantined)


def test_each_runs_alone_after_another_death() -> None:
    rig = Rig(8)
    rig.admit(3000)
    rig.plan()
    quarantined = two_deaths(rig)
    answer_until_sent(rig, quarantined[0])
    group = served_in(rig, quarantined[0]).unreleased()
    rig.die(served_in(rig, quarantined[0]).agent)
    rig.wait(0.3)
    in_flight = [item for item in group if item.request is not None]
    assert in_flight
    assert all(served_in(rig, item).unreleased() == [item] for item in in_flight)
    rig.finish()
    assert not rig.failures


def test_what_is_answered_is_cleared() -> None:
    rig = Rig(8)
    rig.admit(3000)
    rig.plan()
    quarantined = two_deaths(rig)
    answer_until_sent(rig, quarantined[0])
    first = quarantined[0]
    request = served_in(rig, first)
    rig.answer(request, request.items.index(first))
    rig.die(request.agent)
    assert first.deaths == 2
    rig.finish()
    assert not rig.failures


def test_a_death_soon_after_coming_back_blames_nobody() -> None:
    rig = Rig(2)
    (item,) = rig.admit()
    rig.plan()
    for deaths in (1, 2, 3):
        kill_under(rig, item, deaths)
        bring_back(rig)
    kill_under(rig, item, 4)
    assert not item.done
    rig.finish()
    assert not rig.failures


@pytest.mark.parametrize("answers", [True, False])
def test_only_answers_prove_that_an_agent_is_sound_again(answers: bool) -> None:
    rig = Rig(2)
    (item,) = rig.admit()
    rig.plan()
    for deaths in (1, 2):
        kill_under(rig, item, deaths)
        bring_back(rig)
    other = PromptQueue([1 - served_in(rig, item).agent])
    while rig.now < 2 * LONG_ENOUGH:
        rig.wait(4.0)
        for agent in list(rig.load_checks):
            rig.load_checked(agent, Finding.PROGRESSING)
        if answers:
            (prompt,) = rig.admit(1, queue=other)
            rig.plan()
            rig.answer_all(served_in(rig, prompt))
    kill_under(rig, item, 4)
    rig.plan()
    assert item.done == answers  # the second of the two to die had proved sound, or has only been idle
    rig.finish()


def test_poison_on_an_agent_of_its_own_comes_to_an_end() -> None:
    rig = Rig(1)
    rig.admit(3, work=["poison"])
    rig.finish()
    (failure,) = rig.failures.values()
    assert failure.kind == "poison"
    assert failure.item.deaths == MAX_DEATHS


def test_a_stalled_agent_blames_nobody() -> None:
    rig = Rig(8)
    rig.admit(8)
    rig.plan()
    item = rig.items[0]
    kill_under(rig, item, 3)
    while item.request is None:
        rig.wait(0.3)
    agent = item.request.agent
    for _ in range(20):
        rig.wait(5.0)
        if agent in rig.load_checks:
            rig.load_checked(agent, Finding.UNRESPONSIVE)
    assert item.deaths == 3  # time that passed is no guilt
    rig.finish()
    assert not rig.failures


def test_what_may_kill_agents_gets_no_second_agent() -> None:
    rig = Rig(4)
    rig.admit(8)
    rig.plan()
    kill_under(rig, rig.items[0], 2)
    answer_until_sent(rig, rig.items[0])
    for _ in range(20):
        rig.wait(1.0)
        for agent in list(rig.load_checks):
            rig.load_checked(agent, Finding.IDLE)
    assert rig.statistics.hedged == 0
    rig.finish()


def test_a_quarantined_prompt_that_fails_otherwise_stays_among_quarantined_prompts() -> None:
    rig = Rig(3)
    rig.admit(3)
    rig.plan()
    item = rig.items[0]
    kill_under(rig, item, 2)
    answer_until_sent(rig, item)
    rig.fail(served_in(rig, item), ServerError(500, "Internal server error"))
    rig.admit(30)
    rig.finish()  # the rig checks what every request holds
    assert not rig.failures


def test_one_agent_in_eight_is_kept_for_quarantined_prompts_while_others_wait() -> None:
    rig = Rig(24)
    rig.admit(24 * 400)
    rig.plan()
    quarantined = set(two_deaths(rig))
    for _ in range(3):
        for request in list(rig.open):
            if quarantined.isdisjoint(request.unreleased()):
                rig.answer_all(request)
        rig.admit(24 * 300)
        rig.wait(0.01)
        assert len(quarantine_agents(rig)) == 22 // 8


def test_the_only_agent_serves_the_others_first() -> None:
    rig = Rig(3)
    rig.admit(900)
    rig.plan()
    quarantined = two_deaths(rig)
    assert quarantined
    while rig.statistics.queued > len(quarantined):
        assert not quarantine_agents(rig)
        for request in list(rig.open):
            rig.answer_all(request)
        rig.plan()
    for request in list(rig.open):
        rig.answer_all(request)
    rig.plan()
    assert quarantine_agents(rig) == {2}
    rig.finish()
    assert not rig.failures


def test_quarantined_prompts_are_not_put_off_for_ever() -> None:
    rig = Rig(3, window=16)
    rig.admit(60)
    rig.plan()
    quarantined = two_deaths(rig)
    since = rig.now
    while not any(item.done for item in quarantined):
        assert rig.now < since + QUARANTINE_DELAY + 5.0
        rig.admit(48)  # there is always more to do
        for request in list(rig.open):
            rig.answer_all(request)
        rig.wait(1.0)
    rig.finish()


def test_a_view_without_proven_agents_serves_its_quarantined_prompts() -> None:
    rig = Rig(2)
    queue = PromptQueue([1])
    items = rig.admit(3, queue=queue)
    rig.plan()
    for _ in range(2):
        rig.die(1)
        bring_back(rig)
    assert all(item.suspected for item in items)
    assert quarantine_agents(rig) == {1}
    rig.finish()
    assert not rig.failures


def test_an_agent_kept_for_a_withdrawn_prompt_serves_others_again() -> None:
    rig = Rig(4)
    rig.admit(12)
    rig.plan()
    kill_under(rig, rig.items[0], 2)
    rig.wait(0.3)
    rig.withdraw(rig.items)
    rig.plan()
    before = len(rig.sent)
    rig.admit(100)
    rig.plan()
    assert {request.agent for request in rig.sent[before:]} == {2, 3}  # all that are left
    rig.finish()
