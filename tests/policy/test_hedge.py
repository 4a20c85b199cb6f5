"""The tail: a second agent for what is slow, silent or stuck; the first answer wins."""

from __future__ import annotations

from aurora_pool.policy.stall import Finding
from aurora_pool.policy.work import PromptQueue
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
    assert rig.ledger.hedged > 0
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
    before = sum(agent.prompts_done for agent in rig.agents)
    rig.answer(hedge, hedge.items.index(item))
    rig.answer(slow, slow.items.index(item), tokens=70)
    assert sum(agent.prompts_done for agent in rig.agents) == before + 1
    assert rig.ledger.wasted_tokens == 70


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
    assert rig.ledger.hedged > 0


def test_nothing_is_hedged_while_others_of_its_queue_wait() -> None:
    rig = slow_and_fast(prompts=20)
    for agent in rig.agents:
        agent.window.size = agent.held
        agent.refresh()
    rig.agents[0].window.size += 5
    rig.queue.view.set_members(range(1))
    rig.agents[0].cool_down(100.0)
    rig.admit(20)
    rig.wait(3.0)
    assert rig.queue.items
    assert rig.ledger.hedged == 0


def test_nothing_is_hedged_for_a_pinned_queue() -> None:
    rig = Rig(2)
    rig.admit(4, queue=PromptQueue([0], pinned=True))
    rig.admit(4, queue=PromptQueue([1]))
    rig.plan()
    rig.now = 1.0
    rig.answer_all(rig.sent[1])
    rig.answer(rig.sent[0], 0)
    rig.wait(100.0)
    assert rig.ledger.hedged == 0


def test_what_a_silent_agent_holds_goes_to_an_idle_one() -> None:
    rig = Rig(2)
    rig.admit(4)
    rig.plan()
    rig.now = 1.0
    rig.answer_all(rig.sent[1])
    rig.wait(7.0)
    assert 0 in rig.looks
    rig.load_checked(0, Finding.IDLE)
    rig.wait(1.0)
    assert rig.ledger.hedged == 2
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
    assert rig.ledger.hedged == 1


def test_hedges_keep_to_their_budget() -> None:
    rig = slow_and_fast(prompts=500)
    rig.wait(1.0)
    assert 0 < rig.ledger.hedged < 100


def test_strict_hedges_nothing() -> None:
    rig = Rig(2, balance="strict")
    rig.admit(4)
    rig.plan()
    rig.now = 1.0
    rig.answer_all(rig.sent[1])
    rig.wait(7.0)
    assert rig.ledger.hedged == 0
