"""Deal and steal: which agent takes which waiting prompt, and in how many requests they travel."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Literal

from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.books import Books
from aurora_pool.policy.tail import slowest_worthwhile
from aurora_pool.policy.work import Failure, Lane, Ticket

Balance = Literal["adaptive", "strict"]

LIST_LIMIT = 1024
"""vLLM's own limit on the prompts of one request, since 0.26."""
DRAWN = 4
"""A short call's prompt goes to its home unless one of so many drawn agents holds fewer prompts."""
GUARD_EVERY = 0.25
"""Seconds for which the tail guard's verdict on a lane holds."""


class Dealer:
    """Hands prompts to agents: round-robin when they come, and from the lane's queue as credits come back."""

    def __init__(self, books: Books, balance: Balance) -> None:
        self.books = books
        self.balance = balance
        self._hungry: dict[AgentState, None] = dict.fromkeys(books.agents)

    def admit(self, tickets: Iterable[Ticket], now: float) -> None:
        """Deal prompts to their home agents; what finds no credit there waits in the lane."""
        for ticket in tickets:
            lane = ticket.lane
            agent = None if lane.queue else self._deal(ticket, lane)
            if agent is not None and agent.free(now) > 0:
                self.books.hand(ticket, agent)
            else:
                self._queue(ticket, lane)

    def serve(self, lane: Lane, now: float) -> None:
        """Let the agents that have credits take what waits in a lane."""
        if lane.home_queues:
            for agent in list(self.books.touched):
                queue = lane.home_queues.get(agent.index)
                if queue and agent.free(now) >= min(agent.least, len(queue)):
                    self._take(agent, queue, agent.free(now), lane)
        if lane.queue or lane.suspects:
            takers = self._takers(lane, now)
            if takers:
                lane.stranded_at = None
                self._share(lane, takers, now)
            elif not self._anyone_in_service(lane):
                self._strand(lane, now)
        if not lane.queue and not lane.suspects and not any(lane.home_queues.values()):
            del self.books.lanes[lane]
            lane.home_queues.clear()

    def close_round(self, now: float) -> None:
        """Note which of the agents that this round has touched could still take more."""
        for agent in self.books.touched:
            if agent.free(now) >= agent.least:
                self._hungry[agent] = None
            else:
                self._hungry.pop(agent, None)

    def _deal(self, ticket: Ticket, lane: Lane) -> AgentState:
        agents, members = self.books.agents, lane.members
        home = agents[members[ticket.index % len(members)]]
        if self.balance == "adaptive" and ticket.index < len(members) and home.held and len(members) > 1:
            randrange = self.books.rng.randrange
            drawn = members if len(members) <= DRAWN else [members[randrange(len(members))] for _ in range(DRAWN)]
            other = min((agents[i] for i in drawn if agents[i].in_service), key=lambda a: a.held, default=home)
            if other.held < home.held:
                return other
        return home

    def _queue(self, ticket: Ticket, lane: Lane) -> None:
        self.books.lanes[lane] = None
        if self.balance == "strict":
            home = self.books.agents[lane.members[ticket.index % len(lane.members)]]
            if home.in_service:
                lane.home_queues.setdefault(home.index, deque()).append(ticket)
                self.books.touch(home)
                return
        lane.queue.append(ticket)

    def _takers(self, lane: Lane, now: float) -> list[AgentState]:
        """The members with enough free credits for a request, found among the smaller of two sets."""
        agents, members = self.books.agents, lane.members
        candidates = self._hungry | self.books.touched
        if len(members) < len(candidates):
            candidates = {agents[i]: None for i in members if agents[i] in candidates}
        elif len(members) < len(agents):
            chosen = set(members)
            candidates = {agent: None for agent in candidates if agent.index in chosen}
        return [agent for agent in candidates if agent.free(now) >= agent.least]

    def _share(self, lane: Lane, takers: list[AgentState], now: float) -> None:
        slowest = self._guard(lane, now)
        worthy = [agent for agent in takers if not agent.speed or agent.speed >= slowest]
        for left, agent in zip(range(len(worthy), 0, -1), worthy, strict=True):
            if agent.running and agent.answers_since_send >= agent.least:
                agent.window.observe(agent.running, agent.held - agent.running)
            self._take(agent, lane.queue, min(agent.free(now), math.ceil(len(lane.queue) / left)), lane)

    def _take(self, agent: AgentState, queue: deque[Ticket], room: int, lane: Lane) -> None:
        aside: list[Ticket] = []
        while room > 0 and queue:
            ticket = queue.popleft()
            if ticket.done:
                continue
            if ticket.avoid == agent.index and self._anyone_in_service(lane, but=agent):
                aside.append(ticket)
                continue
            self.books.hand(ticket, agent)
            room -= 1
        queue.extendleft(reversed(aside))

    def _guard(self, lane: Lane, now: float) -> float:
        """The least speed worth giving this lane's prompts to; looked at anew every :data:`GUARD_EVERY` seconds."""
        if self.balance == "strict" or lane.unbounded:
            return 0.0
        if now >= lane.checked_at + GUARD_EVERY:
            lane.checked_at = now
            agents = (self.books.agents[index] for index in lane.members)
            loads = ((agent.speed, agent.held) for agent in agents if agent.in_service and not agent.checking)
            lane.slowest = slowest_worthwhile(loads, len(lane.queue) + lane.expected, self.books.lengths)
        return lane.slowest

    def _anyone_in_service(self, lane: Lane, but: AgentState | None = None) -> bool:
        spare = 1 if but is not None and but.in_service else 0
        if len(lane.members) == len(self.books.agents):
            return self.books.in_service > spare
        return any(agent.in_service and agent is not but for agent in (self.books.agents[i] for i in lane.members))

    # -- no agent at all ----------------------------------------------------------------------------------------

    def _strand(self, lane: Lane, now: float) -> None:
        if lane.stranded_at is None:
            lane.stranded_at = now
            if lane.patience < math.inf:
                self.books.alarm(now + lane.patience, self._give_up, lane)
        members = [self.books.agents[index] for index in lane.members]
        if all(agent.breaker.misplaced for agent in members) or now >= lane.stranded_at + lane.patience:
            self._give_up(lane, now)

    def _give_up(self, lane: Lane, now: float) -> None:
        if lane.stranded_at is None or self._anyone_in_service(lane):
            return
        members = [self.books.agents[index] for index in lane.members]
        waited = now - lane.stranded_at
        error = f"no agent in service{f' for {waited:.0f} s' if waited >= 1 else ''}: " + "; ".join(
            f"{self.books.names[agent.index]}: {agent.last_error}" for agent in members[:3]
        )
        error += f"; and {len(members) - 3} more" if len(members) > 3 else ""
        queue, lane.queue = lane.queue, deque()
        suspects, lane.suspects = lane.suspects, deque()
        for ticket in (*queue, *suspects):
            if not ticket.done:
                self.books.fail(ticket, Failure(ticket, "no_agents", error, None), now)


def form_lists(tickets: list[Ticket]) -> list[list[Ticket]]:
    """Group one agent's prompts into requests.

    Prompts of the same batch travel together, at most :data:`LIST_LIMIT` of them; one that must go ``single`` goes
    alone. A list request has one ``max_tokens`` for all, the smallest ``room`` in it; so a prompt with less than half the
    room of the roomiest travels apart, and no answer is cut to less than half of what it could be.
    """
    lists: list[list[Ticket]] = []
    batches: dict[int, list[Ticket]] = {}
    for ticket in tickets:
        if ticket.single or ticket.isolated:
            lists.append([ticket])
        else:
            batches.setdefault(id(ticket.batch), []).append(ticket)
    for batch in batches.values():
        if len({ticket.room for ticket in batch}) > 1:
            lists.extend(_by_room(batch))
        else:
            lists.extend(batch[start : start + LIST_LIMIT] for start in range(0, len(batch), LIST_LIMIT))
    return lists


def _by_room(batch: list[Ticket]) -> list[list[Ticket]]:
    ordered = sorted(batch, key=lambda ticket: -ticket.room)
    lists: list[list[Ticket]] = [[ordered[0]]]
    for ticket in ordered[1:]:
        if 2 * ticket.room < lists[-1][0].room or len(lists[-1]) == LIST_LIMIT:
            lists.append([])
        lists[-1].append(ticket)
    for group in lists:
        group.sort(key=lambda ticket: ticket.index)
    return lists
