"""Deal and steal: which agent takes which waiting prompt."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Literal

from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.books import Books
from aurora_pool.policy.isolate import place_suspects
from aurora_pool.policy.tail import slowest_worthwhile
from aurora_pool.policy.work import Failure, Lane, Ticket

Balance = Literal["adaptive", "strict"]

WORTH_SHARING = 4
"""Prompts for each agent from which on they are dealt as shares."""
DRAWN = 4
"""A short call's prompt goes to its home unless one of so many drawn agents holds fewer prompts."""
REVIEW_EVERY = 0.25
"""Seconds between looks at all members of a lane in which something waits: for the tail guard, and for patience."""


class Dealer:
    """Hands prompts to agents: round-robin when they come, and from the lane's queue as credits come back.

    Only agents whose credits have changed are looked at for a lane, except that all are when the lane begins to hold
    something, when an agent goes out or comes back, and every :data:`REVIEW_EVERY` seconds. So whoever may take what
    waits does so in the same plan in which it becomes able to.
    """

    def __init__(self, books: Books, balance: Balance) -> None:
        self.books = books
        self.strict = balance == "strict"
        self.hungry: dict[AgentState, None] = dict.fromkeys(books.agents)
        """The agents that the last plan left with credits enough for a request of their own."""

    # -- what comes in ------------------------------------------------------------------------------------------

    def admit(self, tickets: Sequence[Ticket]) -> None:
        """Deal prompts to their home agents; what finds no credit there waits in the lane."""
        if not tickets or self._deal_shares(tickets):
            return
        books = self.books
        agents = books.agents
        lane: Lane | None = None
        for ticket in tickets:
            if ticket.lane is not lane:
                lane = ticket.lane
                members, queue = lane.members, lane.queue
                size = len(members)
            index = ticket.index
            home = agents[members[index % size]]
            if self.strict and home.in_service:
                self._keep(ticket, home)
                continue
            if not queue:
                if index < size and home.held and size > 1:
                    home = self._draw(lane, home)
                if home.held < home.limit:
                    books.hand(ticket, home)
                    continue
                books.wake(lane)
            elif self.hungry:
                books.wake(lane)  # what waits already may be what the hungry must avoid
            queue.append(ticket)

    def _deal_shares(self, tickets: Sequence[Ticket]) -> bool:
        """Deal many prompts in a row, agent by agent instead of prompt by prompt, if all have credits for their share.

        It comes to the same, at a third of the cost.
        """
        lane, start = tickets[0].lane, tickets[0].index
        members, size = lane.members, len(lane.members)
        share = -(-len(tickets) // size)
        if self.strict or lane.queue or share < WORTH_SHARING or tickets[-1].index - start != len(tickets) - 1:
            return False
        agents = [self.books.agents[members[(start + offset) % size]] for offset in range(size)]
        if any(agent.limit - agent.held < share for agent in agents):
            return False
        for ticket in tickets:
            if ticket.lane is not lane:
                return False
        for ticket in tickets:
            ticket.holders = 1
        for offset, agent in enumerate(agents):
            outbox = tickets[offset::size]
            agent.outbox += outbox
            agent.held += len(outbox)
            self.books.touched[agent] = None
        return True

    def _keep(self, ticket: Ticket, home: AgentState) -> None:
        """Give a prompt to its home agent, or have it wait for just that."""
        books, queues = self.books, ticket.lane.home_queues
        if home.index not in queues and home.held < home.limit:
            books.hand(ticket, home)
        else:
            queues.setdefault(home.index, deque()).append(ticket)
            books.wake(ticket.lane)
            books.touched[home] = None

    def _draw(self, lane: Lane, home: AgentState) -> AgentState:
        """Find an agent that holds less than the home of a call's first prompts, so that short calls spread."""
        agents, members, rng = self.books.agents, lane.members, self.books.rng
        drawn = members if len(members) <= DRAWN else [members[rng.randrange(len(members))] for _ in range(DRAWN)]
        other = min((agents[i] for i in drawn if agents[i].limit), key=lambda agent: agent.held, default=home)
        return other if other.held < home.held else home

    # -- what waits ---------------------------------------------------------------------------------------------

    def serve(self, now: float) -> None:
        """Let the agents that have credits take what waits in the lanes."""
        books = self.books
        able = [agent for agent in books.touched if agent.limit - agent.held >= agent.least]
        if able or books.scan or self.strict:
            books.scan = False
            for lane in list(books.lanes):
                self._serve(lane, able, now)

    def _serve(self, lane: Lane, able: Iterable[AgentState], now: float) -> None:
        if lane.home_queues:
            self._serve_homes(lane)
        if lane.queue or lane.suspects:
            scan, lane.scan = lane.scan, False
            if scan:
                _drop_done(lane.queue)
                _drop_done(lane.suspects)
                self._review(lane, now)
                able = self._all_able(lane)
            if lane.suspects:
                place_suspects(self.books, lane, able, scan, now)
            if lane.queue:
                self._share(lane, self._takers(lane, able))
        if lane.queue or lane.suspects:
            if not lane.review_set:
                lane.review_set = True
                self.books.alarm(lane.review_due, self._ring, lane)
        elif not lane.home_queues:
            del self.books.lanes[lane]

    def _serve_homes(self, lane: Lane) -> None:
        for agent in list(self.books.touched):
            queue = lane.home_queues.get(agent.index)
            if queue is not None and agent.free >= min(agent.least, len(queue)):
                self._refill(agent, queue, agent.free, lane)
                if not queue:
                    del lane.home_queues[agent.index]

    def _all_able(self, lane: Lane) -> Iterable[AgentState]:
        """All agents that might take something from a lane, from the smaller of two sets."""
        if len(lane.members) < len(self.hungry):
            return (self.books.agents[index] for index in lane.members)
        return self.books.touched | self.hungry

    def _takers(self, lane: Lane, able: Iterable[AgentState]) -> list[AgentState]:
        """The members among these with enough free credits for a request, and fast enough."""
        takers = []
        for agent in able:
            if agent.limit - agent.held >= agent.least and agent.index in lane.serves:
                if lane.least_speed and 0 < agent.speed < lane.least_speed:
                    continue
                takers.append(agent)
                if len(takers) > len(lane.queue):  # one more than prompts: one may be whom all of them avoid
                    break
        return takers

    def _share(self, lane: Lane, takers: list[AgentState]) -> None:
        for agent in takers:
            if agent.answers_since_send >= agent.least:
                agent.count_queue()
        left = len(takers)
        for agent in takers:
            self._refill(agent, lane.queue, min(agent.free, math.ceil(len(lane.queue) / left)), lane)
            left -= 1

    def _refill(self, agent: AgentState, queue: deque[Ticket], room: int, lane: Lane) -> None:
        aside: list[Ticket] = []
        hand = self.books.hand
        while room > 0 and queue:
            ticket = queue.popleft()
            if ticket.done:
                continue
            if ticket.avoid == agent.index and self._anyone_in_service(lane, but=agent):
                aside.append(ticket)
                continue
            hand(ticket, agent)
            room -= 1
        queue.extendleft(reversed(aside))

    # -- all members together -----------------------------------------------------------------------------------

    def _review(self, lane: Lane, now: float) -> None:
        """See whether anyone is there to serve a lane at all, and, now and then, who is too slow for the rest of it."""
        if not self._anyone_in_service(lane):
            self._strand(lane, now)
            return
        lane.stranded_at = None
        if now < lane.review_due:
            return
        lane.review_due = now + REVIEW_EVERY
        lane.least_speed = 0.0
        if not self.strict and not lane.unbounded:
            members = [agent for agent in (self.books.agents[i] for i in lane.members) if agent.limit]
            loads = [(agent.speed, agent.held) for agent in members]
            lane.least_speed = slowest_worthwhile(loads, len(lane.queue) + lane.expected, self.books.lengths)

    def _ring(self, lane: Lane, now: float) -> None:
        lane.review_set = False
        lane.scan = self.books.scan = True

    def _anyone_in_service(self, lane: Lane, but: AgentState | None = None) -> bool:
        if len(lane.members) == len(self.books.agents):
            return self.books.in_service > (1 if but is not None and but.in_service else 0)
        return any(agent.in_service and agent is not but for agent in (self.books.agents[i] for i in lane.members))

    def _strand(self, lane: Lane, now: float) -> None:
        """Wait for an agent to come back, as long as the lane's patience lasts and one may be expected at all."""
        if lane.stranded_at is None:
            lane.stranded_at = now
            if lane.patience < math.inf:
                self.books.alarm(now + lane.patience, self._ring, lane)
        members = [self.books.agents[index] for index in lane.members]
        gives_up_at = lane.stranded_at + lane.patience
        if now < gives_up_at and not all(agent.breaker.misplaced for agent in members):
            lane.review_due = now + REVIEW_EVERY
            return
        waited = now - lane.stranded_at
        error = f"no agent in service{f' for {waited:.0f} s' if waited >= 1 else ''}: " + "; ".join(
            f"{self.books.names[agent.index]}: {agent.last_error}" for agent in members[:3]
        )
        error += f"; and {len(members) - 3} more" if len(members) > 3 else ""
        for ticket in (*lane.queue, *lane.suspects):
            if not ticket.done:
                self.books.fail(ticket, Failure(ticket, "no_agents", error, None), now)
        lane.queue.clear()
        lane.suspects.clear()


def _drop_done(queue: deque[Ticket]) -> None:
    """Drop what nobody waits for any more from the head of a queue."""
    while queue and queue[0].done:
        queue.popleft()
