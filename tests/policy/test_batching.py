"""Prompts travel together where they can."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aurora_pool.policy.batching import form_batches
from aurora_pool.policy.work import LIST_LIMIT, PromptQueue, WorkItem

QUEUE = PromptQueue(range(1))


def items(count: int, *, kind: object = "kind", token_budget: int = 0, limit: int = LIST_LIMIT) -> list[WorkItem]:
    return [WorkItem(QUEUE, index, kind, None, token_budget, limit) for index in range(count)]


def test_one_batch_is_one_request() -> None:
    assert [len(group) for group in form_batches(items(272))] == [272]


def test_no_request_is_longer_than_servers_take() -> None:
    assert [len(group) for group in form_batches(items(2500))] == [1024, 1024, 452]
    assert [len(group) for group in form_batches(items(5, limit=2))] == [2, 2, 1]


def test_conversations_go_alone() -> None:
    assert [len(group) for group in form_batches(items(3, limit=1))] == [1, 1, 1]


def test_different_batches_travel_apart() -> None:
    mixed = [item for pair in zip(items(3, kind="a"), items(3, kind="b"), strict=True) for item in pair]
    assert [[item.kind for item in group] for group in form_batches(mixed)] == [["a"] * 3, ["b"] * 3]


@given(budgets=st.lists(st.integers(1, 9), min_size=1, max_size=60), limit=st.integers(2, 20))
def test_no_prompts_token_budget_depends_on_its_company(budgets: list[int], limit: int) -> None:
    all_items = [WorkItem(QUEUE, index, "kind", None, budget, limit) for index, budget in enumerate(budgets)]
    lists = form_batches(all_items)
    assert sorted(item.index for group in lists for item in group) == list(range(len(budgets)))
    assert len(lists) == sum(-(-budgets.count(token_budget) // limit) for token_budget in set(budgets))
    for group in lists:
        assert len(group) <= limit
        assert len({item.token_budget for item in group}) == 1
        assert [item.index for item in group] == sorted(item.index for item in group)
