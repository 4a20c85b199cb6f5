"""Deal and steal: which agent takes which waiting prompt."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Literal

from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.ledger import Ledger
from aurora_pool.policy.quarantine import place_quarantined
from aurora_pool.policy.stragglers import slowest_worthwhile
from aurora_pool.policy.work import Failure, PromptQueue, WorkItem

Balance = Literal["adaptive", "strict"]

WORTH_SHARING = 4
"""Prompts for each agent from which on they are dealt as shares."""
DRAWN = 4
"""A short call's prompt goes to its home unless one of this many drawn agents holds fewer prompts."""
RESCAN_EVERY = 0.25
"""Seconds between looks at all members of a queue in which something waits: for the tail guard, and for patience."""


class Scheduler:
    """Hands prompts to agents: round-robin when they come, and from the queue's queue as credits come back.

    Only agents whose credits have changed are looked at for a queue, except that all are when the queue begins to hold
    something, when an agent goes out or comes back, and every :data:`RESCAN_EVERY` seconds. So whoever may take what
    waits does so in the same plan in which it becomes able to.
    """

    def __init__(self, ledger: Ledger, balance: Balance) -> None:
        self.ledger = ledger
        self.strict = balance == "strict"
        self.idle: dict[AgentState, None] = dict.fromkeys(ledger.agents)
        """The agents that the last plan left with credits enough for a request of their own."""

    # -- what comes in ------------------------------------------------------------------------------------------

    def admit(self, items: Sequence[WorkItem]) -> None:
        """Deal prompts to their home agents; what finds no credit there waits in the queue."""
        if not items or self._deal_shares(items):
            return
        ledger = self.ledger
        agents = ledger.agents
        queue: PromptQueue | None = None
        for item in items:
            if item.queue is not queue:
                queue = item.queue
                members, waiting = queue.members, queue.items
                size = len(members)
            index = item.index
            home = agents[members[index % size]]
            if self.strict and home.in_service:
                self._keep(item, home)
                continue
            if not waiting:
                if index < size and home.held and size > 1:
                    home = self._draw(queue, home)
                if home.held < home.limit:
                    ledger.assign(item, home)
                    continue
                ledger.wake(queue)
            elif self.idle:
                ledger.wake(queue)  # what waits already may be what the idle must avoid
            waiting.append(item)

    def _deal_shares(self, items: Sequence[WorkItem]) -> bool:
        """Deal many prompts in a row, agent by agent instead of prompt by prompt, if all have credits for their share.

        It comes to the same, at a third of the cost.
        """
        queue, start = items[0].queue, items[0].index
        members, size = queue.members, len(queue.members)
        share = -(-len(items) // size)
        if self.strict or queue.items or share < WORTH_SHARING or items[-1].index - start != len(items) - 1:
            return False
        agents = [self.ledger.agents[members[(start + offset) % size]] for offset in range(size)]
        if any(agent.limit - agent.held < share for agent in agents):
            return False
        for item in items:
            if item.queue is not queue:
                return False
        for item in items:
            item.holders = 1
        for offset, agent in enumerate(agents):
            staged = items[offset::size]
            agent.staged += staged
            agent.held += len(staged)
            self.ledger.touched[agent] = None
        return True

    def _keep(self, item: WorkItem, home: AgentState) -> None:
        """Give a prompt to its home agent, or have it wait for just that."""
        ledger, queues = self.ledger, item.queue.by_agent
        if home.index not in queues and home.held < home.limit:
            ledger.assign(item, home)
        else:
            queues.setdefault(home.index, deque()).append(item)
            ledger.wake(item.queue)
            ledger.touched[home] = None

    def _draw(self, queue: PromptQueue, home: AgentState) -> AgentState:
        """Find an agent that holds less than the home of a call's first prompts, so that short calls spread."""
        agents, members, rng = self.ledger.agents, queue.members, self.ledger.rng
        drawn = members if len(members) <= DRAWN else [members[rng.randrange(len(members))] for _ in range(DRAWN)]
        other = min((agents[i] for i in drawn if agents[i].limit), key=lambda agent: agent.held, default=home)
        return other if other.held < home.held else home

    # -- what waits ---------------------------------------------------------------------------------------------

    def serve(self, now: float) -> None:
        """Let the agents that have credits take what waits in the queues."""
        ledger = self.ledger
        ready = [agent for agent in ledger.touched if agent.limit - agent.held >= agent.min_refill]
        if ready or ledger.scan or self.strict:
            ledger.scan = False
            for queue in list(ledger.queues):
                self._serve(queue, ready, now)

    def _serve(self, queue: PromptQueue, ready: Iterable[AgentState], now: float) -> None:
        if queue.by_agent:
            self._serve_homes(queue)
        if queue.items or queue.quarantined:
            scan, queue.scan = queue.scan, False
            if scan:
                _drop_done(queue.items)
                _drop_done(queue.quarantined)
                self._rescan(queue, now)
                ready = self._all_with_capacity(queue)
            if queue.quarantined:
                place_quarantined(self.ledger, queue, ready, scan, now)
            if queue.items:
                self._share(queue, self._candidates(queue, ready))
        if queue.items or queue.quarantined:
            if not queue.rescan_set:
                queue.rescan_set = True
                self.ledger.timers.add(queue.rescan_due, self._on_timer, queue)
        elif not queue.by_agent:
            del self.ledger.queues[queue]

    def _serve_homes(self, queue: PromptQueue) -> None:
        for agent in list(self.ledger.touched):
            waiting = queue.by_agent.get(agent.index)
            if waiting is not None and agent.free >= min(agent.min_refill, len(waiting)):
                self._refill(agent, waiting, agent.free, queue)
                if not waiting:
                    del queue.by_agent[agent.index]

    def _all_with_capacity(self, queue: PromptQueue) -> Iterable[AgentState]:
        """All agents that might take something from a queue, from the smaller of two sets."""
        if len(queue.members) < len(self.idle):
            return (self.ledger.agents[index] for index in queue.members)
        return self.ledger.touched | self.idle

    def _candidates(self, queue: PromptQueue, ready: Iterable[AgentState]) -> list[AgentState]:
        """The members among these with enough free credits for a request, and fast enough."""
        candidates = []
        for agent in ready:
            if agent.limit - agent.held >= agent.min_refill and agent.index in queue.serves:
                if queue.least_speed and 0 < agent.speed < queue.least_speed:
                    continue
                candidates.append(agent)
                if len(candidates) > len(queue.items):  # one more than prompts: one may be whom all of them avoid
                    break
        return candidates

    def _share(self, queue: PromptQueue, candidates: list[AgentState]) -> None:
        for agent in candidates:
            if agent.answers_since_send >= agent.min_refill:
                agent.count_queue()
        left = len(candidates)
        for agent in candidates:
            self._refill(agent, queue.items, min(agent.free, math.ceil(len(queue.items) / left)), queue)
            left -= 1

    def _refill(self, agent: AgentState, items: deque[WorkItem], prompts: int, queue: PromptQueue) -> None:
        aside: list[WorkItem] = []
        assign = self.ledger.assign
        while prompts > 0 and items:
            item = items.popleft()
            if item.done:
                continue
            if item.avoid == agent.index and self._anyone_in_service(queue, but=agent):
                aside.append(item)
                continue
            assign(item, agent)
            prompts -= 1
        items.extendleft(reversed(aside))

    # -- all members together -----------------------------------------------------------------------------------

    def _rescan(self, queue: PromptQueue, now: float) -> None:
        """See whether any member is in service, and, now and then, which are too slow for what is left."""
        if not self._anyone_in_service(queue):
            self._no_healthy_endpoint(queue, now)
            return
        queue.unserved_since = None
        if now < queue.rescan_due:
            return
        queue.rescan_due = now + RESCAN_EVERY
        queue.least_speed = 0.0
        if not self.strict and not queue.unbounded:
            members = [agent for agent in (self.ledger.agents[i] for i in queue.members) if agent.limit]
            loads = [(agent.speed, agent.held) for agent in members]
            queue.least_speed = slowest_worthwhile(loads, len(queue.items) + queue.expected, self.ledger.lengths)

    def _on_timer(self, queue: PromptQueue, now: float) -> None:
        queue.rescan_set = False
        queue.scan = self.ledger.scan = True

    def _anyone_in_service(self, queue: PromptQueue, but: AgentState | None = None) -> bool:
        if len(queue.members) == len(self.ledger.agents):
            return self.ledger.in_service > (1 if but is not None and but.in_service else 0)
        return any(agent.in_service and agent is not but for agent in (self.ledger.agents[i] for i in queue.members))

    def _no_healthy_endpoint(self, queue: PromptQueue, now: float) -> None:
        """Wait for an agent to come back, as long as the queue's patience lasts and one may be expected at all."""
        if queue.unserved_since is None:
            queue.unserved_since = now
            if queue.patience < math.inf:
                self.ledger.timers.add(now + queue.patience, self._on_timer, queue)
        members = [self.ledger.agents[index] for index in queue.members]
        gives_up_at = queue.unserved_since + queue.patience
        if now < gives_up_at and not all(agent.breaker.wrong_model for agent in members):
            queue.rescan_due = now + RESCAN_EVERY
            return
        waited = now - queue.unserved_since
        error = f"no agent in service{f' for {waited:.0f} s' if waited >= 1 else ''}: " + "; ".join(
            f"{self.ledger.names[agent.index]}: {agent.last_error}" for agent in members[:3]
        )
        error += f"; and {len(members) - 3} more" if len(members) > 3 else ""
        for item in (*queue.items, *queue.quarantined):
            if not item.done:
                self.ledger.fail(item, Failure(item, "no_agents", error, None), now)
        queue.items.clear()
        queue.quarantined.clear()


def _drop_done(queue: deque[WorkItem]) -> None:
    """Drop what nobody waits for any more from the head of a queue."""
    while queue and queue[0].done:
        queue.popleft()
