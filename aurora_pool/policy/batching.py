"""In how many requests one agent's prompts travel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from aurora_pool.policy.work import InFlightRequest, WorkItem


def form_batches(items: Sequence[WorkItem]) -> list[Sequence[WorkItem]]:
    """Group one agent's prompts into requests.

    Prompts of the same kind travel together, as many as their ``limit`` allows, and those that failed together apart
    from others. A list request has one ``max_tokens`` for all, the smallest ``room`` in it; so a prompt with less than
    half the room of the roomiest travels apart, and no answer is cut to less than half of what it could be.
    """
    if _travel_together(items):
        return [items]
    lists: list[Sequence[WorkItem]] = []
    kinds: dict[tuple[int, int], list[WorkItem]] = {}
    for item in items:
        if item.limit == 1:
            lists.append([item])
        else:
            kinds.setdefault((id(item.kind), id(item.cohort)), []).append(item)
    for group in kinds.values():
        lists.extend(_by_room(group))
    return lists


def _travel_together(items: Sequence[WorkItem]) -> bool:
    """Tell quickly what is true of nearly all: one kind, one room, one cohort, and not too many."""
    first = items[0]
    kind, room, cohort = first.kind, first.room, first.cohort
    if len(items) > first.limit:
        return False
    for item in items:  # noqa: SIM110 (a generator takes half as long again, and this is done for every prompt)
        if item.kind is not kind or item.room != room or item.cohort is not cohort:
            return False
    return True


def _by_room(items: list[WorkItem]) -> list[list[WorkItem]]:
    ordered = sorted(items, key=lambda item: -item.room)
    lists: list[list[WorkItem]] = [[]]
    for item in ordered:
        if lists[-1] and (2 * item.room < lists[-1][0].room or len(lists[-1]) >= item.limit):
            lists.append([])
        lists[-1].append(item)
    for group in lists:
        group.sort(key=lambda item: item.index)
    return lists


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
