"""Which agent takes which waiting prompt: round-robin, and callers in turns."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Literal

from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.ledger import Ledger
from aurora_pool.policy.plan import Failure
from aurora_pool.policy.quarantine import place_quarantined
from aurora_pool.policy.tail import foresee_end, useful
from aurora_pool.policy.work import TURN, PromptQueue, WorkItem

Balance = Literal["adaptive", "strict"]

WORTH_SHARING = 4
"""Prompts for each agent from which on they are dealt as shares."""
DRAWN = 4
"""A short call's prompt goes to its home unless one of this many drawn agents holds fewer prompts."""
RESCAN_EVERY = 0.25
"""Seconds between looks at all members of a queue in which something waits: for the tail guard, and for patience."""


class Scheduler:
    """Assigns prompts to agents: round-robin when they come, in turns of the callers as credits come back.

    Only agents whose credits have changed are looked at, except that all are when a queue begins to hold something,
    when an agent goes out or comes back, and every :data:`RESCAN_EVERY` seconds. So whoever may take what waits does so
    in the same plan in which it becomes able to.
    """

    def __init__(self, ledger: Ledger, balance: Balance) -> None:
        self.ledger = ledger
        self.strict = balance == "strict"
        self.idle: dict[AgentState, None] = dict.fromkeys(ledger.agents)
        """The agents that the last plan left with credits enough for a request of their own."""
        self._count: int | None = None
        self._counted_at = -RESCAN_EVERY

    # -- what comes in ------------------------------------------------------------------------------------------

    def admit(self, items: Sequence[WorkItem]) -> None:
        """Deal prompts to their home agents; what finds no credit there waits in its queue."""
        if not items or self._deal_shares(items):
            return
        start = 0
        for end in range(1, len(items) + 1):
            if end == len(items) or items[end].queue is not items[start].queue:
                self._admit(items[start:end], items[start].queue)
                start = end

    def _admit(self, items: Sequence[WorkItem], queue: PromptQueue) -> None:
        ledger = self.ledger
        agents, members, waiting = ledger.agents, queue.view.members, queue.items
        size = len(members)
        others_wait = len(ledger.queues) > (queue in ledger.queues)
        given = []
        for place, item in enumerate(items):
            index = item.index
            home = agents[members[index % size]]
            if self.strict and home.in_service:
                self._keep(item, home)
                continue
            if not waiting and not others_wait:
                if index < size and home.held and size > 1:
                    home = self._draw(queue, home)
                if home.held < home.limit:
                    ledger.assign(item, home)
                    given.append(item)
                    continue
            if not self.strict:  # now that one waits, so do all after it
                waiting.extend(items[place:])
                break
            waiting.append(item)
        if given:
            queue.caller.charge(given)
        if waiting:
            ledger.wake(queue)

    def _deal_shares(self, items: Sequence[WorkItem]) -> bool:
        """Deal many prompts in a row, agent by agent instead of prompt by prompt, if all have credits for their share.

        It comes to the same, at a third of the cost.
        """
        queue, start = items[0].queue, items[0].index
        members, size = queue.view.members, len(queue.view.members)
        share = -(-len(items) // size)
        if self.strict or self.ledger.queues or share < WORTH_SHARING or items[-1].index - start != len(items) - 1:
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
        queue.caller.in_flight += len(items)
        queue.caller.charge(items)
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
        agents, members, rng = self.ledger.agents, queue.view.members, self.ledger.rng
        drawn = members if len(members) <= DRAWN else [members[rng.randrange(len(members))] for _ in range(DRAWN)]
        other = min((agents[i] for i in drawn if agents[i].limit), key=lambda agent: agent.held, default=home)
        return other if other.held < home.held else home

    # -- what waits ---------------------------------------------------------------------------------------------

    def serve(self, now: float) -> None:
        """Let the agents that have credits take what waits, each caller in its turn."""
        ledger = self.ledger
        scanned = ledger.take_scans()
        for queue in scanned:
            self._rescan(queue, now)
        ready: Iterable[AgentState] = ledger.touched
        if scanned:
            ready = ledger.touched | self.idle
        for queue in list(ledger.quarantining):
            place_quarantined(ledger, queue, ready, queue in scanned, now)
        if self.strict:
            self._serve_homes()
        self._share([agent for agent in ready if agent.limit > agent.held])

    def _share(self, ready: list[AgentState]) -> None:
        turns = self.ledger.turns
        if not turns or not ready:
            return
        shares = turns.shares(agent.index for agent in ready)
        for agent in ready:
            free = agent.limit - agent.held
            share = shares.take(agent.index, max(free, 2 * agent.min_refill))
            if share and free >= min(agent.min_refill, -(-share // 2)):  # smaller refills when little is left
                if agent.answers_since_send:
                    agent.look_dry(self.ledger.now)
                self._refill(agent, min(agent.limit - agent.held, share))

    def _refill(self, agent: AgentState, prompts: int) -> None:
        """Give an agent prompts of the queues whose turn it is."""
        turns = self.ledger.turns
        passed: list[PromptQueue] = []
        while prompts > 0 and (queue := turns.next_for(agent.index)) is not None:
            taken: list[WorkItem] = []
            in_time = prompts if queue.end is None else useful(queue.end, agent, self.ledger.now)
            if in_time:
                turn = prompts if len(turns) == 1 else max(1, int(TURN / queue.caller.prompt_cost))
                taken = self._take(agent, queue, queue.items, min(prompts, turn, in_time))
            if taken:
                queue.caller.charge(taken)
                prompts -= len(taken)
            elif queue.items:
                turns.set_aside(queue)
                passed.append(queue)
            self.ledger.forget_if_empty(queue)
        turns.put_back(passed)

    def _take(self, agent: AgentState, queue: PromptQueue, waiting: deque[WorkItem], prompts: int) -> list[WorkItem]:
        """Assign the first prompts that wait, but not those that have just failed on this agent."""
        taken: list[WorkItem] = []
        aside: list[WorkItem] = []
        own = agent.index
        while prompts > 0 and waiting:
            item = waiting.popleft()
            if item.done:
                continue
            if item.avoid == own and self._anyone_in_service(queue, but=agent):
                aside.append(item)
                continue
            item.holders += 1
            taken.append(item)
            prompts -= 1
        if taken:
            self.ledger.stage(taken, agent, queue.caller)
        if aside:
            waiting.extendleft(reversed(aside))
        return taken

    def _serve_homes(self) -> None:
        """Give agents the prompts that wait for just them."""
        ledger = self.ledger
        queues = sorted((queue for queue in ledger.queues if queue.by_agent), key=lambda queue: queue.caller.service)
        for agent in list(ledger.touched):
            for queue in queues:
                waiting = queue.by_agent.get(agent.index)
                if waiting is not None and agent.free >= min(agent.min_refill, len(waiting)):
                    if taken := self._take(agent, queue, waiting, agent.free):
                        queue.caller.charge(taken)
                    if not waiting:
                        del queue.by_agent[agent.index]
                        ledger.forget_if_empty(queue)

    # -- all members together -----------------------------------------------------------------------------------

    def _rescan(self, queue: PromptQueue, now: float) -> None:
        """See whether any member is in service, and, now and then, which are too slow for what is left."""
        _drop_done(queue.items)
        _drop_done(queue.quarantined)
        ledger = self.ledger
        if not (queue.items or queue.quarantined):
            ledger.forget_if_empty(queue)
            return
        if not self._anyone_in_service(queue):
            self._no_healthy_endpoint(queue, now)
        else:
            queue.unserved_since = None
            if now >= queue.rescan_due:
                queue.rescan_due = now + RESCAN_EVERY
                queue.end = None
                remaining = self._remaining(now)
                if not self.strict and remaining is not None:
                    members = [agent for agent in (ledger.agents[i] for i in queue.view.members) if agent.limit]
                    queue.end = foresee_end(members, remaining, ledger.lengths, now)
        if queue in ledger.queues and not queue.rescan_set:
            queue.rescan_set = True
            ledger.timers.add(queue.rescan_due, self._on_timer, queue)

    def _remaining(self, now: float) -> int | None:
        """How many prompts wait and are still to come, of all callers; None where one's input has no known end."""
        if now >= self._counted_at + RESCAN_EVERY or now < self._counted_at:
            self._counted_at = now
            queues = self.ledger.queues
            bounded = not any(queue.unbounded for queue in queues)
            self._count = sum(len(queue.items) + queue.expected for queue in queues) if bounded else None
        return self._count

    def _on_timer(self, queue: PromptQueue, now: float) -> None:
        queue.rescan_set = False
        if queue in self.ledger.queues:
            self.ledger.scan(queue)

    def _anyone_in_service(self, queue: PromptQueue, but: AgentState | None = None) -> bool:
        members = queue.view.members
        if len(members) == len(self.ledger.agents):
            return self.ledger.in_service > (1 if but is not None and but.in_service else 0)
        return any(agent.in_service and agent is not but for agent in (self.ledger.agents[i] for i in members))

    def _no_healthy_endpoint(self, queue: PromptQueue, now: float) -> None:
        """Wait for an agent to come back, as long as the queue's patience lasts and one may be expected at all."""
        if queue.unserved_since is None:
            queue.unserved_since = now
            if queue.patience < math.inf:
                self.ledger.timers.add(now + queue.patience, self._on_timer, queue)
        members = [self.ledger.agents[index] for index in queue.view.members]
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
        self.ledger.forget_if_empty(queue)


def _drop_done(queue: deque[WorkItem]) -> None:
    """Drop what nobody waits for any more from the head of a queue."""
    while queue and queue[0].done:
        queue.popleft()
