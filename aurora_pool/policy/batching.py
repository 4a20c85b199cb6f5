"""In how many requests one agent's prompts travel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from aurora_pool.policy.segmented_queue import SegmentedQueue
from aurora_pool.policy.work import InFlightRequest, Lot, Prompts, WorkItem


class Staged(SegmentedQueue[WorkItem, Lot]):
    """What an agent is to be sent: it holds these prompts already."""

    __slots__ = ()

    def _materialize(self, lot: Lot) -> Sequence[WorkItem]:
        items = lot.items()
        for item in items:
            item.holders = 1
        return items


def form_batches(staged: SegmentedQueue[WorkItem, Lot]) -> list[Prompts]:
    """Group one agent's prompts into requests.

    Prompts of the same kind and token budget travel together, as many as their ``limit`` allows, and those that failed
    together apart from others. A list request has one ``max_tokens`` for all, so prompts of different budgets travel
    apart: what a prompt may be answered with does not depend on its company.
    """
    if len(staged) == 1 and (only := staged.first) is not None:
        return [[only]]
    if (lots := staged.lots) is not None:
        return _join_lots(lots)
    items = list(staged)
    if _travel_together(items):
        return [items]
    lists: list[Prompts] = []
    groups: dict[tuple[int, int, int], list[WorkItem]] = {}
    for item in items:
        if item.limit == 1:
            lists.append([item])
        else:
            groups.setdefault((id(item.kind), item.token_budget, id(item.cohort)), []).append(item)
    for group in groups.values():
        limit = group[0].limit
        lists.extend(group[start : start + limit] for start in range(0, len(group), limit))
    return lists


def _join_lots(lots: list[Lot]) -> list[Prompts]:
    """Put lots together that may travel together, and divide what is too large."""
    alike: list[list[Lot]] = []
    for lot in lots:
        group = next((group for group in alike if group[0].is_like(lot)), None)
        if group is None:
            alike.append([lot])
        else:
            group.append(lot)
    batches: list[Prompts] = []
    for first, *others in alike:
        whole = first.joined(others)
        batches += [whole.part(start, start + whole.limit) for start in range(0, len(whole), whole.limit)]
    return batches


def _travel_together(items: Sequence[WorkItem]) -> bool:
    """Tell quickly what is true of nearly all: one kind, one token budget, one cohort, and not too many."""
    first = items[0]
    kind, token_budget, cohort = first.kind, first.token_budget, first.cohort
    if len(items) > first.limit:
        return False
    for item in items:
        if item.kind is not kind or item.token_budget != token_budget or item.cohort is not cohort:
            return False
    return True


def in_turn(requests: Sequence[InFlightRequest]) -> list[InFlightRequest]:
    """One request of each agent before the second of any: where few may be open at a time, no agent is to wait last.

    >>> [request.agent for request in in_turn([InFlightRequest(agent, []) for agent in (0, 0, 0, 1, 1)])]
    [0, 1, 0, 1, 0]
    """
    turns: Counter[int] = Counter()
    ordered: list[tuple[int, InFlightRequest]] = []
    for request in requests:
        ordered.append((turns[request.agent], request))
        turns[request.agent] += 1
    return [request for _, request in sorted(ordered, key=lambda pair: pair[0])]
