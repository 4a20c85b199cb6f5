"""Assigns prompts when they are admitted: round-robin, or in groups of those that begin alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from aurora_pool.policy.affinity import Group, Grouper
from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.callers import PromptQueue
from aurora_pool.policy.ledger import Ledger
from aurora_pool.policy.online import SlotReservations
from aurora_pool.policy.segmented_queue import SegmentedQueue
from aurora_pool.policy.work import Lot, Prompts, WorkItem, tokens_of

WORTH_SHARING = 4
"""From this many prompts for each agent on, a lot is assigned in shares."""


class Admission:
    """Assigns prompts to agents as they come. Those that find no credit wait in their queue, and so do groups."""

    def __init__(self, ledger: Ledger, *, strict: bool, beginning_of: Callable[[Any], Any] | None) -> None:
        self.ledger = ledger
        self.strict = strict
        self._reservations = SlotReservations(ledger)
        self._grouper = None if strict or beginning_of is None else Grouper(ledger.affinity, beginning_of)

    def admit(self, prompts: Prompts, now: float) -> None:
        """Assign prompts to agents round-robin, or have them wait in groups of those that begin alike."""
        if isinstance(prompts, Lot):
            self._admit_lot(prompts, now)
            return
        for queue, same in groupby(prompts, attrgetter("queue")):
            run = list(same)
            if self._is_online(queue):
                run = self._reservations.place(run, queue, now)
                if not run:
                    continue
            groups = self._groups(run, queue)
            if groups is not None:
                self._admit_groups(groups, queue)
            else:
                self._admit(run, queue)

    def _admit_lot(self, lot: Lot, now: float) -> None:
        queue = lot.queue
        if not len(lot):
            return
        if self.strict or self._is_online(queue):
            self.admit(lot.items(), now)
        elif (groups := self._groups(lot, queue)) is not None:
            self._admit_groups(groups, queue)
        elif not self._assign_shares(lot, queue):
            self._admit(lot.items(), queue)

    def _is_online(self, queue: PromptQueue) -> bool:
        """Whether its prompts are online ones, and others wait."""
        return queue.caller.priority < 0 and bool(self.ledger.queues) and not (self.strict or queue.waiting)

    def _groups(self, prompts: Prompts, queue: PromptQueue) -> Iterable[Group] | None:
        if self._grouper is None or not queue.view.members or queue.pinned:
            return None
        return self._grouper.groups(prompts, queue)

    def _admit_groups(self, groups: Iterable[Group], queue: PromptQueue) -> None:
        """Queue groups for their homes, or for any agent: the next plan gives each agent its share."""
        agents, affinity, serves = self.ledger.agents, self.ledger.affinity, queue.view.serves
        for key, items in groups:
            if key:
                at = [agent for agent in affinity.agents_of(key) if agent in serves and agents[agent].in_service]
                queue.items.extend_group(key, items, at)
            else:
                queue.items.extend(items)
        self.ledger.grouped[queue] = None
        self.ledger.wake(queue)

    def _admit(self, items: Sequence[WorkItem], queue: PromptQueue) -> None:
        ledger = self.ledger
        agents, members, waiting = ledger.agents, queue.view.members, queue.items
        size = len(members)
        if not size:
            waiting.extend(items)  # for hosted agents, if for any
        others_wait = len(ledger.queues) > (queue in ledger.queues)
        given = []
        for place, item in enumerate(items if size else ()):
            index = item.index
            agent = agents[members[index % size]]
            if self.strict and agent.in_service:
                self._assign_strictly(item, agent)
                continue
            if not waiting and not others_wait:
                if index < size and agent.held and size > 1:  # so short calls spread
                    for drawn in queue.view.draw(ledger.rng):
                        if agents[drawn].held < agent.held and agents[drawn].limit:
                            agent = agents[drawn]
                if agent.held < agent.limit:
                    ledger.assign(item, agent)
                    given.append(item)
                    continue
            if not self.strict:  # now that one waits, so do all after it
                waiting.extend(items[place:])
                break
            waiting.extend((item,))
        if given:
            queue.caller.charge(len(given), tokens_of(given))
        if waiting:
            ledger.wake(queue)

    def _assign_shares(self, lot: Lot, queue: PromptQueue) -> bool:
        """Assign many prompts in a row, agent by agent, not prompt by prompt, until the first finds no credit.

        The result is the same, at a fraction of the cost. Returns False where there are too few prompts for that.
        """
        members, size = queue.view.members, len(queue.view.members)
        if not size or len(lot) < WORTH_SHARING * size:
            return False
        ledger = self.ledger
        agents = [ledger.agents[members[(lot.indices[0] + offset) % size]] for offset in range(size)]
        given = 0
        if not ledger.queues:
            given = min(len(lot), *(offset + agent.free * size for offset, agent in enumerate(agents)))
        for offset, agent in enumerate(agents[:given]):
            ledger.stage(lot.part(offset, given, size), agent, queue.caller)
        if given:
            queue.caller.charge(given, lot.part(0, given).tokens)
        if given < len(lot):
            queue.items.extend(lot.part(given, len(lot)))
            ledger.wake(queue)
        return True

    def _assign_strictly(self, item: WorkItem, agent: AgentState) -> None:
        """Assign a prompt to the agent whose turn it is, or have it wait until that has a credit."""
        ledger, queues = self.ledger, item.queue.by_agent
        if agent.index not in queues and agent.held < agent.limit:
            ledger.assign(item, agent)
        else:
            queues.setdefault(agent.index, SegmentedQueue()).extend((item,))
            ledger.wake(item.queue)
            ledger.touched[agent] = None
