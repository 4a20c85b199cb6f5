"""What follows from each outcome, for the prompts and for the agent."""

from __future__ import annotations

import pytest

from aurora_pool.errors import BadReply, ConnectFailed, ConnectionLost, PoolError, ServerError
from aurora_pool.policy.callers import PromptQueue
from aurora_pool.policy.outcome import Outcome
from aurora_pool.policy.retry import MAX_ATTEMPTS
from aurora_pool.policy.stall import Finding
from tests.policy.rig import BUSY, Rig

DRAINING = ServerError(500, "cannot schedule new futures after shutdown")
LOST = ConnectionLost("connection lost", received=True)
INTERNAL = ServerError(500, "Internal server error")


def rig_with(prompts: int, agents: int = 2, window: int | None = None) -> Rig:
    rig = Rig(agents, window=window)
    rig.admit(prompts)
    rig.plan()
    return rig


def test_a_bad_prompt_alone_fails_with_the_servers_words() -> None:
    rig = Rig(2)
    (item,) = rig.admit(1, work=["bad"])
    rig.plan()
    rig.finish()
    assert rig.failures[item].kind == "rejected"
    assert "cannot be empty" in rig.failures[item].error
    assert [request.agent for request in rig.sent] == [
        0,
        1,
    ]  # agents that have answered nothing are not taken at their word


def test_a_prompt_that_an_agent_rejects_which_answers_others_is_sent_to_nobody_else() -> None:
    rig = Rig(2)
    rig.admit(8)
    rig.plan()
    for request in list(rig.open):
        rig.answer_all(request)
    (item,) = rig.admit(1, work=["bad"])
    rig.plan()
    rig.finish()
    assert rig.failures[item].kind == "rejected"
    assert item.sends == 1


def test_an_agent_that_rejects_what_others_answer_loses_no_prompt() -> None:
    rig = Rig(3)
    rig.admit(60)
    for _ in range(40):
        rig.plan()
        for request in [request for request in rig.open if not request.closed]:
            if request.agent == 0:
                rig.fail(request, ServerError(400, "no"))
            else:
                rig.answer_all(request)
        for agent in list(rig.probes):
            rig.probed(agent, Outcome.PROMPT_REJECTED if agent == 0 else Outcome.ANSWERED)
        rig.admit(3)
        rig.wait(0.3)
    assert not rig.in_service(0)
    assert not rig.failures
    rig.finish()


@pytest.mark.parametrize("place", [0, 13, 31])
def test_a_bad_prompt_in_a_list_is_found_on_the_same_agent_and_the_others_succeed(place: int) -> None:
    rig = Rig(2)
    items = rig.admit(32, queue=PromptQueue([1]), work=["bad" if i == place else "good" for i in range(32)])
    rig.finish()
    assert list(rig.failures) == [items[place]]
    assert len(rig.sent) == 11  # 1 + 2 log2(32)
    assert rig.in_service(1)


def test_a_withdrawn_culprit_does_not_blame_its_neighbour() -> None:
    rig = Rig(1)
    good, bad = rig.admit(2, work=["good", "bad"])
    rig.plan()
    rig.withdraw([bad])
    assert rig.fail(rig.sent[0], ServerError(400, "The decoder prompt cannot be empty")) is Outcome.BATCH_REJECTED
    rig.finish()
    assert good not in rig.failures


@pytest.mark.parametrize("error", [ConnectFailed("connection refused"), DRAINING, ServerError(404, "no model")])
def test_an_agent_that_is_gone_loses_its_prompts_to_others_and_uses_up_no_attempt(error: PoolError) -> None:
    rig = rig_with(20)
    first = rig.sent[0]
    items = first.unreleased()
    rig.fail(first, error)
    assert not rig.in_service(first.agent)
    rig.plan()
    assert all(item.request is not None and item.request.agent != first.agent for item in items)
    assert all(item.attempts == 0 for item in items)
    rig.finish()


def test_finished_answers_of_a_list_are_kept_when_its_agent_dies() -> None:
    rig = rig_with(20)
    first = rig.sent[0]
    kept = first.unreleased()[:4]
    for slot in range(4):
        rig.answer(first, slot)
    rig.die(first.agent)
    rig.plan()
    assert all(item.sends == 1 for item in kept)
    rig.finish()


def test_an_overloaded_agent_rests_and_is_sent_less() -> None:
    rig = rig_with(272, agents=1)
    rig.fail(rig.sent[0], BUSY)
    rig.plan()
    assert not rig.open
    assert rig.in_service(0)
    rig.wait(0.5)
    assert [request.open for request in rig.open] == [136]
    rig.finish()


def test_an_overloaded_agent_with_a_window_of_one_is_asked_again() -> None:
    rig = rig_with(1, agents=1, window=1)
    for _ in range(6):
        (request,) = rig.open
        rig.fail(request, BUSY)
        rig.wait(20.0)
    rig.finish()
    assert not rig.failures


def test_broken_replies_are_tried_again_later_and_counted() -> None:
    rig = rig_with(1, agents=8)
    for attempt in range(1, MAX_ATTEMPTS):
        (request,) = rig.open
        rig.fail(request, INTERNAL)
        (item,) = rig.items
        assert item.attempts == attempt
        rig.plan()
        assert not rig.open
        for _ in range(20):
            rig.wait(1.0)
            for agent in list(rig.load_checks):
                rig.load_checked(agent, Finding.PROGRESSING)
    (request,) = rig.open
    rig.fail(request, INTERNAL)
    rig.plan()
    assert rig.failures[item].kind == "exhausted"
    assert len({request.agent for request in rig.sent}) == 3  # of the five attempts


def test_an_agent_that_fails_only_what_is_new_goes_out_though_it_answers_what_it_has() -> None:
    rig = rig_with(272 + 200, agents=1)
    old = rig.sent[0]
    for slot in range(272):
        if not rig.in_service(0):
            break
        rig.answer(old, slot)
        rig.wait(1.0)
        for request in list(rig.open):
            if request is not old:
                rig.fail(request, INTERNAL)
        for agent in list(rig.probes):
            rig.probed(agent, Outcome.BROKEN)
    assert not rig.in_service(0)
    rig.finish()


def test_an_abort_moves_its_prompt_and_leaves_the_others() -> None:
    rig = rig_with(4)
    first = rig.sent[0]
    moved = first.unreleased()[0]
    rig.abort(first, 0)
    assert first.open == 1
    assert moved.attempts == 1
    rig.finish()


def test_a_sleeping_agent_that_aborts_everything_goes_out() -> None:
    rig = rig_with(20)
    first = rig.sent[0]
    for slot in range(10):
        rig.abort(first, slot)
    rig.plan()
    rig.probed(first.agent, Outcome.DEAD)
    assert not rig.in_service(first.agent)
    rig.finish()


def test_a_reply_that_ends_too_soon_is_a_bad_one() -> None:
    rig = rig_with(4, agents=1)
    (first,) = rig.sent
    rig.answer(first, 0)
    rig.dispatcher.ended(first)
    assert first.closed
    assert rig.statistics.agents[0].failures[Outcome.BROKEN.value] == 1
    rig.open.clear()
    rig.finish()


def test_a_failure_of_a_closed_request_means_nothing() -> None:
    rig = rig_with(4, agents=1)
    (first,) = rig.sent
    rig.withdraw(rig.items)
    assert rig.dispatcher.failed(first, LOST, rig.now) is Outcome.CANCELLED
    assert rig.in_service(0)


@pytest.mark.parametrize(("error", "kind"), [(INTERNAL, "exhausted"), (DRAINING, "no_agents")])
def test_a_pinned_prompt_fails_with_its_agent(error: PoolError, kind: str) -> None:
    rig = Rig(2)
    (item,) = rig.admit(1, queue=PromptQueue([1], patience=0.0, pinned=True))
    rig.plan()
    rig.fail(rig.sent[0], error)
    rig.plan()
    assert rig.failures[item].kind == kind


@pytest.mark.parametrize("finding", list(Finding))
def test_a_broken_connection_says_nothing_of_its_prompts_unless_the_agent_died(finding: Finding) -> None:
    rig = Rig(4)
    items = rig.admit(4)
    rig.plan()
    (request,) = [request for request in rig.open if request.agent == 1]
    rig.fail(request, LOST)
    rig.plan()
    assert items[1].request is None  # it waits for what the look at its agent shows
    rig.load_checked(1, finding)
    died = finding in (Finding.REFUSED, Finding.RESTARTED)
    assert items[1].deaths == died
    assert items[1].attempts == (not died)
    assert rig.in_service(1) == (finding not in (Finding.REFUSED, Finding.RESTARTED, Finding.UNRESPONSIVE))
    rig.finish()
    assert not rig.failures


def test_twenty_prompts_whose_connections_break_again_and_again_are_no_poison() -> None:
    rig = Rig(4)
    items = rig.admit(20)
    for _ in range(3):
        rig.wait(20.0)
        for request in list(rig.open):
            rig.fail(request, ConnectionLost("cut", received=True, idle_seconds=60.1))
        rig.plan()
        for agent in list(rig.load_checks):
            rig.load_checked(agent, Finding.IDLE)
    assert rig.events.idle_timeouts == dict.fromkeys(range(4), 60.1)
    rig.finish()
    assert not any(item.deaths for item in items)
    assert not rig.failures


@pytest.mark.parametrize("finding", list(Finding))
def test_connections_of_an_agent_that_died_are_not_taken_for_cut_by_a_proxy(finding: Finding) -> None:
    rig = Rig(4)
    rig.admit(20)
    for _ in range(3):
        rig.wait(20.0)
        for request in [request for request in rig.open if request.agent == 1]:
            rig.fail(request, ConnectionLost("cut", received=True, idle_seconds=20.0))
        rig.plan()
        if 1 in rig.load_checks:
            rig.load_checked(1, finding)
        for agent in list(rig.probes):
            rig.probed(agent)
    dead = finding in (Finding.REFUSED, Finding.RESTARTED, Finding.UNRESPONSIVE)
    assert rig.events.idle_timeouts == ({} if dead else {1: 20.0})
    rig.finish()


@pytest.mark.parametrize("bad", [1, 4])
def test_what_shares_a_list_with_a_prompt_that_breaks_it_loses_nothing(bad: int) -> None:
    rig = Rig(4)
    items = rig.admit(400)
    culprits = set(items[7 :: 400 // bad][:bad])
    for _ in range(400):
        rig.plan()
        for request in [request for request in rig.open if not request.closed]:
            if culprits.intersection(request.unreleased()):
                rig.fail(request, INTERNAL)
            else:
                rig.answer_all(request)
        for agent in list(rig.probes):
            rig.probed(agent)
        rig.wait(0.5)
        if not rig.unended():
            break
    assert set(rig.failures) == culprits
    assert {failure.kind for failure in rig.failures.values()} == {"exhausted"}
    assert rig.statistics.agents_in_service == rig.size
    assert len(rig.sent) == {1: 18, 4: 53}[bad]  # for each, 2 log2 100 halves, and its attempts alone
    rig.finish()


@pytest.mark.parametrize("status", [429, 503])
def test_agents_that_are_overloaded_for_ever_exhaust_what_waits_for_them(status: int) -> None:
    rig = Rig(2)
    rig.queue = PromptQueue(range(2), patience=60.0)
    rig.admit(30)
    while rig.unended() and rig.now < 2000:
        rig.wait(1.0)
        for request in list(rig.open):
            rig.fail(request, ServerError(status, "the quota is used up", retry_after=30.0))
    assert rig.now == 301
    assert {failure.kind for failure in rig.failures.values()} == {"exhausted"}
    error = "all agents answered 503 or 429 for 300 s; the last: "
    assert all(failure.error.startswith(error) for failure in rig.failures.values())
    assert all("quota is used up" in failure.error for failure in rig.failures.values())
    assert len(rig.sent) == 2 * 10  # each waits as long as it is told to
    assert rig.statistics.agents[0].state == ("rate-limited" if status == 429 else "in service")


def test_what_was_assigned_to_an_agent_that_went_out_before_it_was_sent_goes_elsewhere() -> None:
    rig = rig_with(2)
    rig.admit(4)
    rig.fail(rig.sent[0], BadReply("no JSON"))
    rig.die(1)
    rig.plan()
    assert all(request.agent != 1 for request in rig.sent[2:])
    rig.finish()
