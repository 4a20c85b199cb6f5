"""Where prompts go that begin alike, and how they wait for it."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aurora_pool.errors import ConnectFailed
from aurora_pool.policy.affinity import MOST_AGENTS, PrefixAffinity
from aurora_pool.policy.callers import PromptQueue
from aurora_pool.policy.grouped_queue import GroupedQueue
from aurora_pool.policy.window import START
from aurora_pool.policy.work import Lot, WorkItem
from tests.policy.documents import document
from tests.policy.rig import Rig

WORDS = st.text(st.sampled_from("abcd "), min_size=0, max_size=8)


def questions(documents: int, each: int, *, header: str = "", first: int = 0) -> list[str]:
    """Questions about documents, in the order of a file."""
    return [f"{header}{document(first + d)} Question {q}?" for d in range(documents) for q in range(each)]


def places(rig: Rig, works: Sequence[str], characters: int = 300) -> dict[str, set[int]]:
    """Which agents were sent the first characters of which prompts."""
    wanted = set(works)
    found: dict[str, set[int]] = defaultdict(set)
    for work, agent in rig.served:
        if work in wanted:
            found[work[:characters]].add(agent)
    return found


# -- where they go ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("header", ["", "You are helpful. " * 100])
def test_each_document_goes_to_one_agent(shuffled: bool, header: str) -> None:
    works = questions(100, 16, header=header)
    if shuffled:
        random.Random(1).shuffle(works)
    rig = Rig(16)
    rig.admit(len(works), work=works)
    rig.plan()
    assert len(rig.sent) == 16
    assert {len(agents) for agents in places(rig, works, len(header) + 300).values()} == {1}
    assert max(agent.in_flight for agent in rig.statistics.agents) <= 1.25 * len(works) / 16
    rig.finish()


def test_what_comes_later_finds_its_home() -> None:
    rig = Rig(8)
    first, later = questions(40, 4), [f"{work} Really?" for work in questions(40, 4)]
    rig.admit(len(first), work=first)
    rig.finish()
    homes = places(rig, first)
    random.Random(2).shuffle(later)
    queue = PromptQueue(range(8))
    rig.admit(len(later), work=later, queue=queue)
    rig.finish()
    moved = [work for work, agents in places(rig, later).items() if agents != homes[work]]
    assert not moved


def test_single_prompts_of_known_groups_find_their_home() -> None:
    rig = Rig(8)
    first, later = questions(40, 4), [f"{work} Really?" for work in questions(40, 1)]
    rig.admit(len(first), work=first)
    rig.finish()
    homes = places(rig, first)
    rig.admit(len(later), work=later)
    rig.finish()
    moved = [work for work, agents in places(rig, later).items() if not agents <= homes[work]]
    assert not moved


def test_agents_take_what_they_are_the_home_of_before_others_help_up_to_a_quarter_more() -> None:
    rig = Rig(2)
    for agent, documents in ((0, range(2)), (1, range(2, 8))):
        works = [work for number in documents for work in questions(1, 2, first=number)]
        rig.admit(len(works), work=works, queue=PromptQueue([agent]))
        rig.finish()
    rig.served.clear()
    later = [f"{work} Really?" for work in questions(8, 4)]
    rig.admit(len(later), work=later)
    rig.plan()
    found = list(places(rig, later).values())
    assert found[:2] == [{0}] * 2
    assert found.count({1}) == 5  # of 6: 20 of the 32 prompts, and 16 would be even
    assert Counter(agent for _, agent in rig.served)[0] >= 11
    rig.finish()


def test_a_group_larger_than_its_share_spreads() -> None:
    works = questions(1, 90) + [f"{document(50 + number)}" for number in range(10)]
    rig = Rig(10)
    rig.admit(len(works), work=works)
    rig.plan()
    assert all(agent.in_flight for agent in rig.statistics.agents)
    assert max(agent.in_flight for agent in rig.statistics.agents) == 10
    rig.finish()


def test_an_idle_agent_takes_what_waits_for_others() -> None:
    rig = Rig(2)
    works = questions(2, 2 * START)
    rig.admit(len(works), work=works)
    rig.plan()
    assert [agent.in_flight for agent in rig.statistics.agents] == [START, START]
    for _ in range(40):  # one agent answers, the other does nothing
        for request in [request for request in rig.open if request.agent == 0]:
            rig.start(request)
            rig.answer_all(request)
        rig.plan()
    assert rig.statistics.queued == 0
    rig.finish()


def test_a_dead_agent_is_no_home() -> None:
    rig = Rig(4)
    works = questions(8, 4)
    rig.admit(len(works), work=works)
    rig.plan()
    (lost,) = places(rig, works[:4])[works[0][:300]]
    rig.fail(next(request for request in rig.sent if request.agent == lost), ConnectFailed("connection refused"))
    rig.finish()
    rig.probed(lost)  # it comes back, and has none of what it had computed
    assert rig.in_service(lost)
    homes = places(rig, works[:4])[works[0][:300]] - {lost}
    later = [f"{work} Really?" for work in works[:4]]
    rig.admit(len(later), work=later)
    rig.finish()
    assert places(rig, later)[works[0][:300]] <= homes


def test_a_view_is_served_by_its_own_agents() -> None:
    rig = Rig(4)
    works = questions(8, 4)
    rig.admit(len(works), work=works)
    rig.finish()
    rig.sent.clear()
    rig.admit(len(works), work=works, queue=PromptQueue([1, 3]))
    rig.plan()
    assert {request.agent for request in rig.sent} == {1, 3}
    rig.finish()


@given(
    texts=st.lists(st.integers(0, 10_000), min_size=1, max_size=80, unique=True),
    header=st.sampled_from(["", "Header. " * 60]),
    agents=st.integers(1, 5),
    length=st.sampled_from([10, 300, 700]),
    cut=st.integers(1, 80),
)
def test_as_ever_where_nothing_is_shared(texts: list[int], header: str, agents: int, length: int, cut: int) -> None:
    assume(not (header and cut == 1 and len(texts) == 2))  # of two prompts, what both begin with may be all they share
    works = [header + document(number, length) for number in texts]
    sent = []
    for prefix in (True, False):
        rig = Rig(agents, prefix=prefix)
        for part in (works[:cut], works[cut:]):
            rig.admit(len(part), work=part)
            rig.plan()
        sent.append([(request.agent, [item.index for item in request.unreleased()]) for request in rig.sent])
        rig.finish()
    assert sent[0] == sent[1]


@given(
    works=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 99)), min_size=1, max_size=200),
    agents=st.integers(1, 6),
    window=st.sampled_from([1, 4, 16, None]),
    cuts=st.lists(st.integers(0, 200), max_size=4),
)
def test_every_prompt_once_whatever_is_shared(
    works: list[tuple[int, int]], agents: int, window: int | None, cuts: list[int]
) -> None:
    rig = Rig(agents, window=window)
    texts = [f"{document(d, 400)} {q}" for d, q in works]
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(texts)], strict=True):
        rig.admit(len(texts[start:end]), work=texts[start:end])
        rig.plan()
    rig.finish()
    assert sum(rig.results.values()) == len(works)


# -- what waits -------------------------------------------------------------------------------------------------------


def item(queue: PromptQueue, number: int) -> WorkItem:
    return WorkItem(queue, number, "kind", "work")


def test_no_group_starves() -> None:
    queue = PromptQueue(range(2))
    waiting = GroupedQueue[WorkItem, Lot]()
    waiting.extend_group(1, [item(queue, 0)], homes=[])
    waiting.extend_group(2, [item(queue, 1)], homes=[1])
    waiting.extend([item(queue, 2)])
    rng = random.Random(1)
    for number in range(3, 2000):  # agent 0 has enough of its own for ever
        waiting.extend_group(3, [item(queue, number)], homes=[0])
        group = waiting.next_for(0, rng, helps=False)
        assert group is not None
        group.items.take(1)
        waiting.took(group, 0, 1)
    assert all(left.index > 2 for left in waiting)


def test_the_agent_for_which_most_waits_is_helped_with_the_newest() -> None:
    queue = PromptQueue(range(3))
    waiting = GroupedQueue[WorkItem, Lot]()
    for key, home in ((1, 0), (2, 1), (3, 1), (4, 1)):
        waiting.extend_group(key, [item(queue, key)], homes=[home])
    rng = random.Random(1)
    assert waiting.next_for(2, rng, helps=False) is None
    group = waiting.next_for(2, rng, helps=True)
    assert group is not None
    assert group.key == 4


def test_what_an_agent_loses_waits_for_anyone() -> None:
    queue = PromptQueue(range(2))
    waiting = GroupedQueue[WorkItem, Lot]()
    waiting.extend_group(1, [item(queue, 1)], homes=[0])
    waiting.lost(0)
    group = waiting.next_for(1, random.Random(1), helps=False)
    assert group is not None
    assert group.key == 1
    waiting.clear()
    assert not waiting


def test_homes_are_forgotten_by_tokens() -> None:
    affinity = PrefixAffinity(1)
    affinity.expect(tokens=1 << 16)
    affinity.record(0, range(1, 100))
    assert len(affinity) == 8
    assert affinity.agents_of(99) == [0]
    assert not affinity.agents_of(1)


def test_few_homes_are_remembered_of_one_group() -> None:
    affinity = PrefixAffinity(100)
    for agent in range(100):
        affinity.record(agent, [7])
    assert len(affinity.agents_of(7)) == MOST_AGENTS
    assert 99 in affinity.agents_of(7)
