"""Online prompts beside batches: they begin at once, and the agents they go to reserve slots for more of them."""

from __future__ import annotations

from aurora_pool.policy.callers import Caller, PromptQueue
from aurora_pool.policy.online import RESERVED_FOR
from aurora_pool.policy.work import WorkItem
from tests.policy.rig import Rig

SLOTS, WINDOW = 16, 32
SHARE = 6
"""What batches may hold of the slots of an agent that reserves some."""


def busy_fleet(agents: int = 2) -> Rig:
    """Agents that a batch has filled: as many prompts wait there as there are slots, and more wait here."""
    rig = Rig(agents, window=WINDOW)
    rig.admit(2000)
    rig.plan()
    for agent in range(agents):
        assert rig.held(agent) == WINDOW
        rig.dispatcher.sampled(agent, SLOTS, WINDOW - SLOTS, None, rig.now)
    return rig


def ask_online(rig: Rig, count: int = 1) -> list[WorkItem]:
    asked = []
    for _ in range(count):
        asked += rig.admit(queue=PromptQueue(range(rig.size), caller=Caller(priority=-1)))
    rig.plan()
    return asked


def agent_of(item: WorkItem) -> int:
    assert item.request is not None, "it was not sent"
    return item.request.agent


def answer_batch(rig: Rig, agent: int) -> None:
    """Have an agent answer what it holds of the batch, and take what it may then."""
    for request in [each for each in rig.open if each.agent == agent]:
        if request.unreleased()[0].queue is rig.queue:
            rig.answer_all(request)
    rig.plan()


def test_an_online_prompt_goes_to_a_full_agent_at_once() -> None:
    rig = busy_fleet()

    (asked,) = ask_online(rig)

    assert rig.held(agent_of(asked)) == WINDOW + 1


def test_that_agent_reserves_slots_from_then_on() -> None:
    rig = busy_fleet()
    (asked,) = ask_online(rig)
    own = agent_of(asked)

    for agent in range(2):
        answer_batch(rig, agent)

    assert rig.held(own) == SHARE, "the online prompt, and of the batch what is left of its share"
    assert rig.held(1 - own) == WINDOW


def test_further_online_prompts_go_where_slots_are_reserved() -> None:
    rig = busy_fleet(8)
    (first,) = ask_online(rig)
    answer_batch(rig, agent_of(first))

    further = ask_online(rig, SHARE)

    assert {agent_of(item) for item in further} == {agent_of(first)}
    assert len({agent_of(item) for item in ask_online(rig, 4)} | {agent_of(first)}) > 1, "it has no more slots"


def test_an_agent_without_online_prompts_is_the_batchs_again() -> None:
    rig = busy_fleet()
    (asked,) = ask_online(rig)
    own = agent_of(asked)
    answer_batch(rig, own)
    assert asked.request is not None
    rig.wait(RESERVED_FOR - 1.0)
    rig.answer_all(asked.request)
    assert rig.held(own) == SHARE - 1  # the online prompt had one of them

    rig.wait(1.5)

    assert rig.held(own) == WINDOW
    rig.finish()


def test_more_than_agents_may_hold_waits_for_the_next_credits() -> None:
    rig = busy_fleet(1)

    asked = ask_online(rig, 2 * WINDOW)
    waiting = [item for item in asked if item.request is None]
    assert waiting
    before = len(rig.sent)
    answer_batch(rig, 0)

    assert {item for request in rig.sent[before:] for item in request.items} <= {*waiting, None}
    rig.finish()


def test_counters_are_asked_for_where_slots_are_unknown() -> None:
    rig = Rig(1, window=WINDOW)
    rig.admit(2000)
    rig.plan()
    rig.wait(1.0)
    rig.samples.clear()

    ask_online(rig)

    assert rig.samples == [0]


def test_without_a_batch_online_prompts_spread() -> None:
    rig = Rig(4)

    asked = ask_online(rig, 4)

    assert {agent_of(item) for item in asked} == {0, 1, 2, 3}
