"""Prompts travel together where they can."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aurora_pool.policy.batching import form_batches
from aurora_pool.policy.callers import PromptQueue
from aurora_pool.policy.segmented_queue import SegmentedQueue
from aurora_pool.policy.work import LIST_LIMIT, Lot, WorkItem, items_of

QUEUE = PromptQueue(range(1))


def items(count: int, *, kind: object = "kind", token_budget: int = 0, limit: int = LIST_LIMIT) -> list[WorkItem]:
    return [WorkItem(QUEUE, index, kind, None, token_budget, limit) for index in range(count)]


def batches(prompts: list[WorkItem]) -> list[list[WorkItem]]:
    return [list(items_of(batch)) for batch in form_batches(SegmentedQueue[WorkItem, Lot](prompts))]


def test_one_batch_is_one_request() -> None:
    assert [len(group) for group in batches(items(272))] == [272]


def test_no_request_is_longer_than_servers_take() -> None:
    assert [len(group) for group in batches(items(2500))] == [1024, 1024, 452]
    assert [len(group) for group in batches(items(5, limit=2))] == [2, 2, 1]


def test_conversations_go_alone() -> None:
    assert [len(group) for group in batches(items(3, limit=1))] == [1, 1, 1]


def test_different_batches_travel_apart() -> None:
    mixed = [item for pair in zip(items(3, kind="a"), items(3, kind="b"), strict=True) for item in pair]
    assert [[item.kind for item in group] for group in batches(mixed)] == [["a"] * 3, ["b"] * 3]


def lot(texts: str, *, first: int = 0, kind: object = "kind", limit: int = LIST_LIMIT) -> Lot:
    return Lot(QUEUE, kind, list(texts), range(first, first + len(texts)), limit=limit)


def test_lots_travel_as_their_items_would() -> None:
    queue = SegmentedQueue[WorkItem, Lot](lot("abcd", limit=6))
    queue.extend(lot("xy", first=90, kind="other"))
    queue.extend(lot("efgh", first=4, limit=6))
    formed = form_batches(queue)
    assert not any(isinstance(batch, list) for batch in formed)
    assert [[(item.index, item.work) for item in items_of(batch)] for batch in formed] == [
        [(0, "a"), (1, "b"), (2, "c"), (3, "d"), (4, "e"), (5, "f")],
        [(6, "g"), (7, "h")],
        [(90, "x"), (91, "y")],
    ]


def test_lots_beside_single_prompts_are_prompts_like_others() -> None:
    queue = SegmentedQueue[WorkItem, Lot](items(2))
    queue.extend(lot("ab", first=2))
    assert [[item.index for item in items_of(batch)] for batch in form_batches(queue)] == [[0, 1, 2, 3]]


@given(budgets=st.lists(st.integers(1, 9), min_size=1, max_size=60), limit=st.integers(2, 20))
def test_no_prompts_token_budget_depends_on_its_company(budgets: list[int], limit: int) -> None:
    all_items = [WorkItem(QUEUE, index, "kind", None, budget, limit) for index, budget in enumerate(budgets)]
    lists = batches(all_items)
    assert sorted(item.index for group in lists for item in group) == list(range(len(budgets)))
    assert len(lists) == sum(-(-budgets.count(token_budget) // limit) for token_budget in set(budgets))
    for group in lists:
        assert len(group) <= limit
        assert len({item.token_budget for item in group}) == 1
        assert [item.index for item in group] == sorted(item.index for item in group)
