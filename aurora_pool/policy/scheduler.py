"""Which agent takes which waiting prompt, as credits come back: callers in turns, groups that begin alike together."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Literal

from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.callers import TURN, PromptQueue
from aurora_pool.policy.ledger import Ledger
from aurora_pool.policy.plan import Failure
from aurora_pool.policy.quarantine import place_quarantined
from aurora_pool.policy.segmented_queue import SegmentedQueue
from aurora_pool.policy.tail import foresee_end, prompts_before_end
from aurora_pool.policy.work import Lot, WorkItem, tokens_of

__all__ = ["Balance"]

Balance = Literal["adaptive", "strict"]
"""How prompts are given to agents: to those with capacity, or round-robin."""

RESCAN_EVERY = 0.25
"""Seconds between scans of all members of a queue in which something waits: for the tail guard, and for patience."""
CROWDED = 1.25
"""An agent is given what it is the home of until it holds this many times as much as the others do in the mean."""


class Scheduler:
    """Assigns prompts that wait to agents, in turns of their callers.

    Only agents whose credits have changed are considered, except that all are when a queue begins to hold something,
    when an agent goes out or comes back, and every :data:`RESCAN_EVERY` seconds. So an agent takes what waits in the
    same plan in which it becomes able to.
    """

    def __init__(self, ledger: Ledger, balance: Balance) -> None:
        self.ledger = ledger
        self.strict = balance == "strict"
        self.idle: dict[AgentState, None] = dict.fromkeys(ledger.agents)
        """The agents that the last plan left with credits enough for a request of their own."""
        self._count: int | None = None
        self._counted_at = -RESCAN_EVERY

    # -- what waits ---------------------------------------------------------------------------------------------

    def serve(self, now: float) -> None:
        """Give waiting prompts to the agents that have credits, each caller in its turn."""
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
            self._serve_strictly()
        self._share([agent for agent in ready if agent.limit > agent.held])

    def _share(self, ready: list[AgentState]) -> None:
        turns = self.ledger.turns
        if not turns or not ready:
            return
        if self.ledger.grouped:
            self.ledger.grouped = {queue: None for queue in self.ledger.grouped if queue.items.grouped}
        grouped = bool(self.ledger.grouped)
        own = self._share_own(ready) if grouped and len(ready) > 1 else {}
        waiting = self._waiting() if grouped else 0
        even = -(-(sum(own.values()) + waiting) // len(ready))
        shares = turns.shares(agent.index for agent in ready)
        for number, agent in enumerate(ready, 1):
            free = agent.limit - agent.held
            share = shares.take(agent.index, max(free, 2 * agent.min_refill))
            if already := own.get(agent):
                share = min(share, max(0, even - already))
            # A group may be more than a share, as long as those asked later find half a share each.
            waiting -= self._refill_if_worth(agent, share, waiting - (len(ready) - number) * -(-share // 2))
        if grouped and turns:  # second pass: split groups to fill the remaining capacity
            shares = turns.shares(agent.index for agent in ready)
            for agent in ready:
                self._refill_if_worth(agent, shares.take(agent.index, max(agent.free, 2 * agent.min_refill)), 0)

    def _share_own(self, ready: list[AgentState]) -> dict[AgentState, int]:
        """Let agents take what they are the home of, as long as none gets much more than the others; return how much.

        Otherwise agents early in the loop would take groups cached on later ones.
        """
        held = sum(agent.held for agent in ready)
        most = math.ceil(CROWDED * (held + self._waiting()) / len(ready))
        own: dict[AgentState, int] = {}
        for agent in ready:
            before = agent.held
            share = min(agent.limit, most) - before
            if share >= agent.min_refill or (share > 0 and not before):
                self._refill(agent, share, share, own=True)
                own[agent] = agent.held - before
        return own

    def _waiting(self) -> int:
        return sum(len(queue.items) for queue in self.ledger.queues)

    def _refill_if_worth(self, agent: AgentState, share: int, group_limit: int) -> int:
        """Give an agent its share, if that is worth a request; at the end smaller ones are. Return how many prompts."""
        held = agent.held
        if share and agent.limit - held >= min(agent.min_refill, -(-share // 2)):
            if agent.answers_since_send:
                agent.check_dry(self.ledger.now)
            self._refill(agent, min(agent.limit - held, share), group_limit)
        return agent.held - held

    def _refill(self, agent: AgentState, prompts: int, group_limit: int, *, own: bool = False) -> None:
        """Give an agent prompts of the queues whose turn it is, of its ``own`` groups only or of any.

        To keep a group together, it may be given more than ``prompts``, up to ``group_limit``.
        """
        turns = self.ledger.turns
        passed: list[PromptQueue] = []
        while prompts > 0 and (queue := turns.next_for(agent.index)) is not None:
            if own and queue.items.own(agent.index) is None:
                break
            most = agent.limit - agent.held
            if queue.end is not None:
                most = min(most, prompts_before_end(queue.end, agent, self.ledger.now))
            if len(turns) > 1:
                most = min(most, max(1, int(TURN / queue.caller.prompt_cost)))
            wanted = max(0, min(prompts, most))
            taken = self._take_waiting(agent, queue, wanted, min(most, max(wanted, group_limit)), own)
            if not taken and own:
                break
            prompts -= taken
            if queue.items and (not wanted or taken < wanted):  # the rest is not for it
                turns.set_aside(queue)
                passed.append(queue)
            self.ledger.forget_if_empty(queue)
        turns.put_back(passed)

    def _take_waiting(self, agent: AgentState, queue: PromptQueue, wanted: int, most: int, own: bool) -> int:
        """Assign about ``wanted`` prompts that wait, groups as a whole where that takes no more than ``most``."""
        waiting, rng = queue.items, self.ledger.rng
        taken = 0
        singles = True
        while waiting and taken < wanted:
            if own:
                group = waiting.own(agent.index)
            else:
                group = waiting.next_for(agent.index, rng, helps=agent.needs_more, singles=singles)
            if group is None:
                break
            source = group.items
            count = wanted - taken
            if group is not waiting.singles:
                count = portion(len(source), count, most - taken, begun=bool(taken))
            if not count:
                break
            before = len(source)
            some = self._take(agent, queue, source, count)
            waiting.took(group, agent.index, before - len(source))
            taken += some
            if not some and before == len(source):
                singles = False  # all that are left have just failed here
        return taken

    def _take(self, agent: AgentState, queue: PromptQueue, waiting: SegmentedQueue[WorkItem, Lot], most: int) -> int:
        """Assign the first prompts that wait, but not those that have just failed on this agent; return how many."""
        aside: list[WorkItem] = []
        taken = 0
        while taken < most and waiting:
            some = waiting.take(most - taken)
            if not isinstance(some, Lot):
                some = self._takeable(agent, queue, some, aside)
            if some:
                self.ledger.stage(some, agent, queue.caller)
                queue.caller.charge(len(some), tokens_of(some))
                taken += len(some)
        for item in reversed(aside):
            waiting.appendleft(item)
        return taken

    def _takeable(
        self, agent: AgentState, queue: PromptQueue, items: Sequence[WorkItem], aside: list[WorkItem]
    ) -> list[WorkItem]:
        """Take those of these items that this agent may have; put ``aside`` what has just failed there."""
        taken: list[WorkItem] = []
        for item in items:
            if item.done:
                continue
            if item.avoid == agent.index and self._anyone_in_service(queue, but=agent):
                aside.append(item)
                continue
            item.holders += 1
            taken.append(item)
        return taken

    def _serve_strictly(self) -> None:
        """Give each agent the prompts that wait for it alone (``balance="strict"``)."""
        ledger = self.ledger
        queues = sorted((queue for queue in ledger.queues if queue.by_agent), key=lambda queue: queue.caller.service)
        for agent in list(ledger.touched):
            for queue in queues:
                waiting = queue.by_agent.get(agent.index)
                if waiting is not None and agent.free >= min(agent.min_refill, len(waiting)):
                    self._take(agent, queue, waiting, agent.free)
                    if not waiting:
                        del queue.by_agent[agent.index]
                        ledger.forget_if_empty(queue)

    # -- all members together -----------------------------------------------------------------------------------

    def _rescan(self, queue: PromptQueue, now: float) -> None:
        """Check that a member is in service, and, every :data:`RESCAN_EVERY`, which are too slow for what is left."""
        queue.items.drop_done()
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
                    barred = _barred(queue)
                    candidates = (ledger.agents[i] for i in queue.view.members if i != barred)
                    members = [agent for agent in candidates if agent.limit]
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
        members = [self.ledger.agents[index] for index in (*queue.view.members, *queue.view.hosted)]
        gives_up_at = queue.unserved_since + queue.patience
        if now < gives_up_at and not all(agent.breaker.wrong_model or agent.disabled for agent in members):
            queue.rescan_due = now + RESCAN_EVERY
            return
        waited = now - queue.unserved_since
        error = f"no agent in service{f' for {waited:.0f} s' if waited >= 1 else ''}: " + "; ".join(
            f"{self.ledger.names[agent.index]}: {agent.last_error}" for agent in members[:3]
        )
        error += f"; and {len(members) - 3} more" if len(members) > 3 else ""
        hosted = any(agent.quota is not None and agent.in_service for agent in members)
        if hosted:
            error += "; hosted agents take only conversations, and of these none with fields that engines alone know"
        left = [item for item in queue.items if hosted and item.portable is not None and not item.done]
        for item in (*queue.items, *queue.quarantined):
            if not item.done and not (hosted and item.portable is not None and not item.suspected):
                self.ledger.fail(item, Failure(item, "no_agents", error, None), now)
        queue.items.clear()
        queue.items.extend(left)
        queue.quarantined.clear()
        queue.rescan_due = now + RESCAN_EVERY
        self.ledger.forget_if_empty(queue)


def portion(size: int, wanted: int, most: int, *, begun: bool) -> int:
    """Tell how many prompts of a group of this size an agent should take that wants ``wanted``, and may have ``most``.

    A group stays together as long as the agent gets no more than twice what it wants. Of one that is larger it takes
    what it wants, if it has ``begun`` with no other. What it has no capacity for waits for it.

    >>> [portion(size, 10, 100, begun=True) for size in (5, 20, 21)], portion(21, 10, 100, begun=False)
    ([5, 20, 0], 10)
    """
    if size <= wanted or wanted >= most:
        return min(size, wanted)
    if size <= min(2 * wanted, most):
        return size
    return 0 if begun else wanted


def _barred(queue: PromptQueue) -> int:
    """The agent that gets nothing of what waits, because all of it has just failed there; -1 if there is none.

    The others are not compared with it: they might all count as too slow, and none would take the rest.
    """
    first = queue.items.first
    barred = first.avoid if first is not None else -1
    return barred if barred >= 0 and all(item.done or item.avoid == barred for item in queue.items) else -1


def _drop_done(queue: deque[WorkItem]) -> None:
    """Drop prompts that are done from the head of a queue."""
    while queue and queue[0].done:
        queue.popleft()
