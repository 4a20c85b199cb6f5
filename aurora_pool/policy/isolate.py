"""Find the one prompt at fault among many: halve a refused list; put a suspect of poisoning on an agent alone.

An agent that is kept for a suspect (a *ward*) gets nothing else: it finishes what it holds, then serves the suspect.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.books import Books
from aurora_pool.policy.work import Lane

T = TypeVar("T")

SUSPICIOUS_DEATHS = 2
"""A prompt that was in flight on so many agents when they died is a suspect."""
WARDS_SHARE = 16
"""One in so many agents may be emptied for suspects while other prompts wait, afterwards half of them.

Idle agents take suspects all the same."""


def halve(items: Sequence[T]) -> list[Sequence[T]]:
    """Split a refused list in two, in order: one bad prompt among n costs about 2 log2(n) further requests.

    >>> halve([1, 2, 3, 4, 5])
    [[1, 2], [3, 4, 5]]
    """
    middle = len(items) // 2
    return [part for part in (items[:middle], items[middle:]) if part]


def place_suspects(books: Books, lane: Lane, able: Iterable[AgentState], scan: bool, now: float) -> None:
    """Put the suspects of a lane on agents that hold nothing; if there is none, have one emptied.

    With ``scan`` all members are looked at, else only those that have become able to take something. Agents that have
    come back only just now are chosen only if there are no others, busy ones included: if they fail again for reasons
    of their own, an innocent is convicted.
    """
    candidates = (books.agents[index] for index in lane.members) if scan else able
    available = [
        (not agent.breaker.settled(now), agent.held, agent.index)
        for agent in candidates
        if agent.limit and agent.index in lane.serves
    ]
    if scan and any(a.in_service and a.breaker.settled(now) for a in (books.agents[i] for i in lane.members)):
        available = [choice for choice in available if not choice[0]]
    allowed = max(1, books.in_service // (WARDS_SHARE if lane.queue else 2)) - len(books.wards)
    for unsettled, held, index in sorted(available):
        if not lane.suspects or (held and allowed <= 0) or ((held or unsettled) and not scan):
            return
        allowed -= bool(held)
        agent = books.agents[index]
        agent.reserve(lane.suspects.popleft())
        books.wards[agent] = lane
        tend(books, agent)


def tend(books: Books, agent: AgentState) -> None:
    """Give an agent its suspect once it holds nothing else; let the suspect go elsewhere if the agent fails."""
    ticket = agent.suspect
    assert ticket is not None
    if ticket.isolated and not ticket.done:
        return
    if ticket.done or not agent.in_service or agent.checking:
        books.release(agent)
        if not ticket.done:
            ticket.lane.suspects.appendleft(ticket)
            books.wake(ticket.lane)
    elif not agent.held:
        ticket.isolated = True
        books.hand(ticket, agent)
