"""Find the one prompt at fault among many: halve a refused list; put a suspect of poisoning on an agent alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.books import Books
from aurora_pool.policy.work import Lane

T = TypeVar("T")

SUSPICIOUS_DEATHS = 2
"""A prompt that was in flight on so many agents when they died is a suspect."""


def halve(items: Sequence[T]) -> tuple[list[T], list[T]]:
    """Split a refused list in two, in order: one bad prompt among n costs about 2 log2(n) further requests.

    >>> halve([1, 2, 3, 4, 5])
    ([1, 2], [3, 4, 5])
    """
    middle = len(items) // 2
    return list(items[:middle]), list(items[middle:])


def choose_ward(members: Iterable[AgentState]) -> AgentState | None:
    """Choose the agent on which a suspect is to run alone: the one in service with the least to finish first.

    An agent that holds nothing can take it at once; otherwise the chosen one gets no more prompts until it is empty.
    """
    return min(
        (agent for agent in members if agent.in_service and not agent.checking),
        key=lambda agent: (not agent.reserved, agent.held) if agent.held else (False, 0),
        default=None,
    )


def place_suspects(books: Books, lane: Lane) -> None:
    """Put the suspects of a lane on agents that hold nothing else; if there is none, have one emptied."""
    members = [books.agents[index] for index in lane.members]
    while lane.suspects:
        if lane.suspects[0].done:
            lane.suspects.popleft()
            continue
        ward = choose_ward(members)
        if ward is None:
            return
        ward.reserved = True
        if ward.held:
            return
        ticket = lane.suspects.popleft()
        ticket.isolated = True
        books.hand(ticket, ward)
    for agent in members:
        if agent.reserved and not agent.outbox and not any(t.isolated for r in agent.requests for t in r.unsettled()):
            agent.reserved = False
            books.touch(agent)
