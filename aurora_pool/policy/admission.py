"""What becomes of prompts as they come: assigned round-robin, or in groups of those that begin alike."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.homes import Grouper
from aurora_pool.policy.ledger import Ledger
from aurora_pool.policy.online import OnlineRoom
from aurora_pool.policy.work import PromptQueue, WorkItem

WORTH_SHARING = 4
"""Prompts for each agent from which on they are assigned as shares."""
DRAWN = 4
"""A short call's prompt goes to its home unless one of this many drawn agents holds fewer prompts."""


class Admission:
    """Assigns prompts to agents as they come. What finds no credit there waits in its queue, and so do groups."""

    def __init__(self, ledger: Ledger, *, strict: bool, beginning_of: Callable[[Any], Any] | None) -> None:
        self.ledger = ledger
        self.strict = strict
        self._room = OnlineRoom(ledger)
        self._grouper = None if strict or beginning_of is None else Grouper(ledger.homes, beginning_of)

    def admit(self, items: Sequence[WorkItem], now: float) -> None:
        """Assign prompts to agents round-robin, or have them wait in groups of those that begin alike."""
        for queue, same in groupby(items, attrgetter("queue")):
            run = list(same)
            if queue.caller.priority < 0 and self.ledger.queues and not (self.strict or queue.waiting):
                run = self._room.place(run, queue, now)
                if not run:
                    continue
            groups = None
            if self._grouper is not None and queue.view.members and not queue.pinned:
                groups = self._grouper.groups(run, queue)
            if groups is not None:
                self._admit_groups(groups, queue)
            elif not self._assign_shares(run, queue):
                self._admit(run, queue)

    def _admit_groups(self, groups: Iterable[tuple[int, list[WorkItem]]], queue: PromptQueue) -> None:
        """Have groups wait for their homes, or for whoever comes first: the next plan gives each agent its share."""
        agents, homes, serves = self.ledger.agents, self.ledger.homes, queue.view.serves
        for key, items in groups:
            if key:
                at = [agent for agent in homes.of(key) if agent in serves and agents[agent].in_service]
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
            waiting.extend(items)  # for hosted agents, if for anybody
        others_wait = len(ledger.queues) > (queue in ledger.queues)
        given = []
        for place, item in enumerate(items if size else ()):
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

    def _assign_shares(self, items: Sequence[WorkItem], queue: PromptQueue) -> bool:
        """Assign many prompts in a row, agent by agent, not prompt by prompt, if all have credits for their share.

        It comes to the same, at a third of the cost.
        """
        start = items[0].index
        members, size = queue.view.members, len(queue.view.members)
        share = -(-len(items) // size) if size else 0
        if (
            not size
            or self.strict
            or self.ledger.queues
            or share < WORTH_SHARING
            or items[-1].index - start != len(items) - 1
        ):
            return False
        agents = [self.ledger.agents[members[(start + offset) % size]] for offset in range(size)]
        if any(agent.limit - agent.held < share for agent in agents):
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
