"""In how many requests one agent's prompts travel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from aurora_pool.policy.work import Assignment, Ticket


def form_lists(tickets: Sequence[Ticket]) -> list[Sequence[Ticket]]:
    """Group one agent's prompts into requests.

    Prompts of the same batch travel together, as many as their ``limit`` allows. A list request has one ``max_tokens``
    for all, the smallest ``room`` in it; so a prompt with less than half the room of the roomiest travels apart, and no
    answer is cut to less than half of what it could be.
    """
    if _travel_together(tickets):
        return [tickets]
    lists: list[Sequence[Ticket]] = []
    batches: dict[int, list[Ticket]] = {}
    for ticket in tickets:
        if ticket.limit == 1:
            lists.append([ticket])
        else:
            batches.setdefault(id(ticket.batch), []).append(ticket)
    for batch in batches.values():
        lists.extend(_by_room(batch))
    return lists


def _travel_together(tickets: Sequence[Ticket]) -> bool:
    """Tell quickly what is true of nearly all: one batch, one room, and not too many."""
    first = tickets[0]
    batch, room = first.batch, first.room
    if len(tickets) > first.limit:
        return False
    for ticket in tickets:  # noqa: SIM110 (a generator takes half as long again, and this is done for every prompt)
        if ticket.batch is not batch or ticket.room != room:
            return False
    return True


def _by_room(batch: list[Ticket]) -> list[list[Ticket]]:
    ordered = sorted(batch, key=lambda ticket: -ticket.room)
    lists: list[list[Ticket]] = [[]]
    for ticket in ordered:
        if lists[-1] and (2 * ticket.room < lists[-1][0].room or len(lists[-1]) >= ticket.limit):
            lists.append([])
        lists[-1].append(ticket)
    for group in lists:
        group.sort(key=lambda ticket: ticket.index)
    return lists


def in_turn(requests: Sequence[Assignment]) -> list[Assignment]:
    """One request of each agent before the second of any: where few may be open at a time, no agent is to wait last.

    >>> [request.agent for request in in_turn([Assignment(agent, [], 0.0) for agent in (0, 0, 0, 1, 1)])]
    [0, 1, 0, 1, 0]
    """
    turns: Counter[int] = Counter()
    ordered: list[tuple[int, Assignment]] = []
    for request in requests:
        ordered.append((turns[request.agent], request))
        turns[request.agent] += 1
    return [request for _, request in sorted(ordered, key=lambda pair: pair[0])]
