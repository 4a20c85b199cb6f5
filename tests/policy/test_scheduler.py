"""Round-robin first; then whoever has capacity takes what waits."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurora_pool.errors import ConnectFailed, ServerError
from aurora_pool.policy.callers import Caller, PromptQueue
from aurora_pool.policy.outcome import Outcome
from aurora_pool.policy.scheduler import Balance, portion
from aurora_pool.policy.window import START
from tests.policy.rig import Rig


def assigned(rig: Rig) -> dict[int, list[int]]:
    """Which prompts went to which agent."""
    found: dict[int, list[int]] = {}
    for request in rig.sent:
        found.setdefault(request.agent, []).extend(item.index for item in request.unreleased())
    return found


@pytest.mark.parametrize("balance", ["adaptive", "strict"])
def test_a_short_job_is_one_list_for_each_agent(balance: Balance) -> None:
    rig = Rig(3, balance=balance)
    rig.admit(8)
    rig.plan()
    assert assigned(rig) == {0: [0, 3, 6], 1: [1, 4, 7], 2: [2, 5]}
    assert len(rig.sent) == 3


def test_short_calls_go_where_least_is_held() -> None:
    rig = Rig(4)
    for _ in range(4):
        rig.items.clear()
        rig.admit(1)
        rig.plan()
    assert sorted(agent.in_flight for agent in rig.statistics.agents) == [1, 1, 1, 1]


def test_what_finds_no_credit_waits_and_goes_to_whoever_is_ready() -> None:
    rig = Rig(2)
    rig.admit(4 * START)
    rig.plan()
    assert [agent.in_flight for agent in rig.statistics.agents] == [START, START]
    assert rig.statistics.queued == 2 * START
    first = rig.sent[1]
    rig.start(first)
    rig.answer_all(first)
    rig.plan()
    assert rig.held(0) == START
    assert rig.held(1) == 2 * START  # what it ran all at once has doubled its window
    rig.finish()


@pytest.mark.parametrize(
    ("size", "most", "begun", "taken"),
    [
        (5, 100, True, 5),
        (20, 100, True, 20),  # twice what is wanted: it stays together
        (20, 15, True, 0),  # there is no capacity for it
        (21, 100, True, 0),
        (21, 100, False, 10),
        (21, 10, True, 10),
    ],
)
def test_a_group_stays_together_up_to_twice_of_what_is_wanted(size: int, most: int, begun: bool, taken: int) -> None:
    assert portion(size, 10, most, begun=begun) == taken


@pytest.mark.parametrize("balance", ["adaptive", "strict"])
def test_a_refill_waits_until_it_is_worth_a_request(balance: Balance) -> None:
    rig = Rig(1, balance=balance)
    rig.admit(2 * START)
    rig.plan()
    request = rig.sent[0]
    for slot in range(START // 16 - 1):
        rig.answer(request, slot)
        rig.plan()
    assert len(rig.sent) == 1
    rig.answer(request, START // 16)
    rig.plan()
    assert [request.open for request in rig.sent[1:]] == [START // 16]


def test_strict_keeps_prompts_for_their_agent() -> None:
    rig = Rig(2, balance="strict")
    rig.admit(4 * START)
    rig.plan()
    rig.answer_all(rig.sent[1])
    rig.plan()
    assert all(item.index % 2 == a.agent for a in rig.sent for item in a.unreleased())
    assert rig.held(0) == START
    rig.finish()


def test_strict_gives_up_an_agent_that_fails() -> None:
    rig = Rig(2, balance="strict")
    rig.admit(4 * START)
    rig.plan()
    rig.fail(rig.sent[0], ConnectFailed("connection refused"))
    rig.finish()
    assert rig.results.total() == 4 * START


def test_views_get_their_own_prompts_only() -> None:
    rig = Rig(4)
    view = PromptQueue([1, 3])
    rig.admit(10, queue=view)
    rig.admit(10)
    rig.plan()
    for request in rig.sent:
        for item in request.unreleased():
            assert request.agent in item.queue.view.serves
    rig.finish()


def test_a_full_view_holds_up_nobody_else() -> None:
    rig = Rig(2)
    rig.admit(3 * START, queue=PromptQueue([0]))
    rig.admit(START, queue=PromptQueue([1]))
    rig.plan()
    assert [agent.in_flight for agent in rig.statistics.agents] == [START, START]
    rig.finish()


def test_waits_for_agents_as_long_as_its_patience_lasts() -> None:
    rig = Rig(1)
    queue = PromptQueue([0], patience=10.0)
    (item,) = rig.admit(1, queue=queue)
    rig.plan()
    rig.fail(rig.sent[0], ConnectFailed("connection refused"))
    rig.plan()
    rig.wait(9.9)
    assert not item.done
    rig.wait(0.2)
    assert rig.failures[item].kind == "no_agents"
    assert "agent0: connection refused" in rig.failures[item].error


def test_patience_begins_anew_when_an_agent_has_been_there() -> None:
    rig = Rig(1)
    queue = PromptQueue([0], patience=10.0)
    (item,) = rig.admit(1, queue=queue)
    rig.plan()
    rig.fail(rig.sent[-1], ConnectFailed("connection refused"))
    rig.wait(9.0)
    rig.probed(0)
    rig.plan()
    rig.fail(rig.sent[-1], ConnectFailed("connection refused"))
    rig.wait(9.0)
    assert not item.done
    rig.wait(2.0)
    assert item.done


def test_a_fleet_that_is_all_down_and_comes_back_answers_everything() -> None:
    rig = Rig(3)
    rig.admit(1000)
    rig.plan()
    for request in list(rig.open):
        rig.fail(request, ConnectFailed("connection refused"))
    rig.wait(20.0)
    while rig.probes:
        rig.probed(rig.probes[0], Outcome.DRAINING)
    rig.wait(100.0)
    assert not rig.results
    rig.finish()
    assert rig.results.total() == 1000


def test_one_clear_error_when_no_agent_serves_the_model() -> None:
    rig = Rig(2)
    rig.admit(4)
    rig.plan()
    for _ in range(4):
        for request in list(rig.open):
            rig.fail(request, ServerError(404, "The model `nope` does not exist."))
        rig.plan()
    assert {failure.kind for failure in rig.failures.values()} == {"no_agents"}
    assert len(rig.failures) == 4
    assert all("does not exist" in failure.error for failure in rig.failures.values())


def test_withdrawn_prompts_are_not_sent() -> None:
    rig = Rig(1)
    items = rig.admit(10)
    rig.withdraw(items[5:])
    rig.plan()
    assert assigned(rig) == {0: [0, 1, 2, 3, 4]}
    rig.withdraw(items)
    assert rig.plan().close == rig.sent
    rig.finish()


def sent_to_a_slow_agent(*, expected: int = 0, unknown: int = 0) -> int:
    """Have one agent answer at once and another slowly; return how many of the last prompts the slow one gets.

    ``expected`` prompts are still to come, and ``unknown`` agents hold prompts and have answered none.
    """
    rig = Rig(2 + unknown, window=20)
    rig.queue.expected = expected
    rig.admit(90 + 20 * unknown)
    rig.plan()
    slow, fast, *others = rig.sent
    rig.now += 1.0
    rig.answer_all(fast)
    rig.plan()
    rig.now += 9.0
    for slot in range(10):
        rig.answer(slow, slot)
    rig.wait(0.3)
    rig.queue.expected = 0
    found = sum(request.open for request in rig.sent[2 + len(others) :] if request.agent == slow.agent)
    rig.finish()
    return found


def test_a_slow_agent_gets_no_last_prompts() -> None:
    assert sent_to_a_slow_agent() == 0


def test_a_slow_agent_gets_more_while_its_prompts_are_not_the_last() -> None:
    assert sent_to_a_slow_agent(expected=1000) == 10


def test_no_end_is_foreseen_while_an_agent_has_not_shown_how_fast_it_is() -> None:
    assert sent_to_a_slow_agent(unknown=1) == 10


def test_callers_share_each_refill_in_turns() -> None:
    rig = Rig(1, window=64)
    queues = [PromptQueue([0], caller=Caller()) for _ in range(2)]
    for queue in queues:
        rig.admit(256, queue=queue)
    rig.plan()
    for _ in queues:  # the first has found all credits free; the second makes up for it
        for request in list(rig.open):
            rig.answer_all(request, tokens=128)
        before = len(rig.sent)
        rig.plan()
    refill = Counter(item.queue for request in rig.sent[before:] for item in request.unreleased())
    assert [refill[queue] for queue in queues] == [32, 32]  # two turns each of 16, which is 2,048 tokens
    rig.finish()


@given(st.integers(1, 9), st.integers(1, 300), st.integers(0, 20))
def test_many_at_once_are_assigned_as_one_by_one(agents: int, prompts: int, before: int) -> None:
    assigned = []
    for step in (prompts, 1):
        rig = Rig(agents)
        for _ in range(before):
            rig.admit()
        for _ in range(0, prompts, step):
            rig.admit(step)
        rig.plan()
        assigned.append([(request.agent, [item.index for item in request.unreleased()]) for request in rig.sent])
    assert assigned[0] == assigned[1]
