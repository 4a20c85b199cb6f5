"""Hedge the tail: give what slow or silent agents still hold to agents that have nothing left to do.

The first answer wins, and a request in which nobody waits for an answer any more is closed.
"""

from __future__ import annotations

from collections import deque

from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.ledger import Ledger
from aurora_pool.policy.stragglers import seconds_saved
from aurora_pool.policy.work import WorkItem

LOOK_EVERY = 0.5
"""Seconds between looks for prompts worth a second agent."""
READING = 0.02
"""Seconds left between finding out that a look is due and looking: time to read what has come in."""
LATE = 0.05
"""Seconds by which that may take longer, and the look still say something about the agents."""
SIMILAR = 1.2
"""Agents whose speeds differ by less than this factor count as equally fast."""
WASTE_SHARE = 0.02
"""Hedges may waste so much of all tokens generated."""
WASTE_FREE = 4
"""A few hedges, in mean answers, that even a job of few tokens may have."""


class Hedger:
    """Looks, while agents have room and nothing to fill it, for prompts that a second agent would answer sooner."""

    def __init__(self, ledger: Ledger, idle: dict[AgentState, None]) -> None:
        self.ledger = ledger
        self.idle = idle
        self.spent = 0.0
        self._due = False

    def watch(self, now: float) -> None:
        """See to it that the prompts in flight are looked at."""
        if not self._due and self.idle and self.ledger.in_flight:
            self._due = True
            self.ledger.timers.add(now + LOOK_EVERY, self._prepare, None)

    def _prepare(self, _: None, now: float) -> None:
        self.ledger.timers.add(now + READING, self._look, now + READING)

    def _look(self, due: float, now: float) -> None:
        self._due = False
        if now > due + LATE:
            return  # it is this process that is slow: answers lie unread, and their agents only seem so
        targets = [agent for agent in self.idle if agent.free]
        fastest = max((agent.speed for agent in targets), default=0.0)
        targets = [agent for agent in targets if agent.speed * SIMILAR >= fastest]
        if not targets or not self.ledger.lengths.count:
            return
        worthwhile = [
            pair for agent in self.ledger.agents if agent.held for pair in self._candidates(agent, fastest, now)
        ]
        worthwhile.sort(key=lambda pair: -pair[0])
        rotation = deque(sorted(targets, key=lambda agent: agent.held))
        for _saved, item in worthwhile:
            self._hedge(item, rotation, now)

    def _candidates(self, agent: AgentState, fastest: float, now: float) -> list[tuple[float, WorkItem]]:
        speed = 0.0 if agent.checking else agent.speed or fastest
        found = []
        for request in agent.requests:
            if request.sent_at is None:
                continue
            saved = seconds_saved(now - request.sent_at, speed, fastest, self.ledger.lengths)
            if saved > 0:
                found += [(saved, item) for item in request.unreleased() if self._may_hedge(item)]
            elif speed * SIMILAR >= fastest:
                break  # the oldest requests come first: what follows is not overdue either
        return found

    def _may_hedge(self, item: WorkItem) -> bool:
        """Whether a second copy is right: not of what may kill agents, and not while others of its queue wait.

        More may still come: an input that leaves agents idle often waits for the very prompts that a slow one holds.
        """
        queue = item.queue
        if item.done or item.holders > 1 or item.suspected:
            return False
        return not queue.pinned and not queue.items

    def _hedge(self, item: WorkItem, rotation: deque[AgentState], now: float) -> None:
        first = item.request
        assert first is not None
        assert first.sent_at is not None, "what is not sent is no candidate"
        lengths = self.ledger.lengths
        slow = self.ledger.agents[first.agent]
        cost = 0.0 if slow.checking else min(lengths.mean, (now - first.sent_at) * slow.speed)
        if self.spent + cost > WASTE_SHARE * lengths.total + WASTE_FREE * lengths.mean:
            return
        for _ in range(len(rotation)):
            agent = rotation[0]
            rotation.rotate(-1)
            if agent.free and agent is not slow and agent.index in item.queue.serves:
                self.spent += cost
                self.ledger.hedged += 1
                item.hedged = True
                self.ledger.events.prompt_hedged(slow.index, agent.index)
                self.ledger.assign(item, agent)
                return
