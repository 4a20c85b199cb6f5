"""Find the one prompt at fault among many: halve a refused list; quarantine what may have killed agents.

A prompt that was in flight on two agents when they died is a suspect::

    under way as any other --2 deaths--> among suspects --1 more--> alone --1 more--> failed, as poison

Suspects run on agents that hold nothing else, *wards*: together first, for nearly always it is the agents that were at
fault, and what is answered is cleared. If a ward dies, each of those that it held runs alone. So poison costs four
agents, and never tours the fleet. A death proves nothing against a prompt that ran alone if the agent had gone out
before and not answered for a while since (it may flap), or had fallen silent (it may have hung before): the prompt is
then tried alone again, up to :data:`MAX_DEATHS`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TypeVar

from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.books import Books
from aurora_pool.policy.work import Lane, Ticket

T = TypeVar("T")

MAX_DEATHS = 6
"""A prompt that was alone when its agent died has failed if so many agents, whatever their state, died under it."""
TOGETHER = 8
"""So many suspects at least share a ward, more if many wait: what a death leaves to be run alone is then about as much
work as what runs together."""
WARDS_SHARE = 8
"""While other prompts wait, one in so many agents may be a ward; afterwards every idle one."""
PUT_OFF = 60.0
"""Seconds that suspects wait for other prompts where there are so few agents that even one ward would be too many."""


def halve(items: Sequence[T]) -> list[Sequence[T]]:
    """Split a refused list in two, in order: one bad prompt among n costs about 2 log2(n) further requests.

    >>> halve([1, 2, 3, 4, 5])
    [[1, 2], [3, 4, 5]]
    """
    middle = len(items) // 2
    return [part for part in (items[:middle], items[middle:]) if part]


def place_suspects(books: Books, lane: Lane, able: Iterable[AgentState], scan: bool, now: float) -> None:
    """Have agents that hold nothing take the suspects of a lane; if there are none, have some emptied.

    With ``scan`` all members are looked at, else only those that have become able to take something. Agents that may
    flap are chosen only if there are no others, busy ones included: their deaths prove nothing.
    """
    if scan:
        members = [books.agents[index] for index in lane.members]
        able = [agent for agent in members if agent.available and agent.proven] or members
        _put_off(books, lane, now)
        for agent in list(books.wards):
            if agent.ward_of is lane:
                tend(books, agent, now)
    takers = sorted(
        (agent.held, agent.breaker.back_at, agent.index)
        for agent in able
        if agent.limit and agent.index in lane.serves and (scan or (not agent.held and agent.proven))
    )
    for held, _, index in takers:
        if not lane.suspects or (len(books.wards) >= _wards_allowed(books, lane, now) and (held or _others_wait(lane))):
            return
        agent = books.agents[index]
        agent.keep(lane)
        books.wards[agent] = None
        tend(books, agent, now)


def tend_wards(books: Books, now: float) -> None:
    """Give wards that have got credits back their next suspects, or let them serve others again."""
    for agent in sorted(books.wards.keys() & books.touched.keys(), key=lambda agent: agent.index):
        tend(books, agent, now)


def tend(books: Books, agent: AgentState, now: float) -> None:
    """Give a ward suspects, if it may take some; let it serve others again once it holds none."""
    lane = agent.ward_of
    assert lane is not None
    if not agent.held:
        agent.admits = True
    if agent.available and (not _others_wait(lane) or len(books.wards) <= _wards_allowed(books, lane, now)):
        _admit(books, agent, lane.suspects)
    if not agent.held or not agent.in_service:
        agent.keep(None)
        del books.wards[agent]
        books.touched[agent] = None
        if not lane.suspects:
            lane.put_off_until = None


def _admit(books: Books, agent: AgentState, suspects: deque[Ticket]) -> None:
    together = min(agent.window.size, max(TOGETHER, math.isqrt(len(suspects))))
    while agent.admits and suspects:
        ticket = suspects[0]
        if not ticket.done:
            if agent.held >= (1 if ticket.alone else together):
                return
            books.hand(ticket, agent)
            agent.admits = not ticket.alone
        suspects.popleft()


def _others_wait(lane: Lane) -> bool:
    return bool(lane.queue or lane.home_queues)


def _put_off(books: Books, lane: Lane, now: float) -> None:
    if books.in_service >= WARDS_SHARE or not _others_wait(lane):
        lane.put_off_until = None
    elif lane.put_off_until is None:
        lane.put_off_until = now + PUT_OFF


def _wards_allowed(books: Books, lane: Lane, now: float) -> int:
    """How many agents may be wards while other prompts wait."""
    if lane.put_off_until is not None and now < lane.put_off_until:
        return 0
    return max(1, books.in_service // WARDS_SHARE)
