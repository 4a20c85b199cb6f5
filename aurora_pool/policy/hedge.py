"""Hedge the tail: send what slow or stalled agents still hold to idle agents as well.

The first answer wins, and a request whose prompts have all been answered elsewhere is closed. An agent is judged by its
own progress: how fast it decodes, how many prompts a second it answers, how long it takes to begin. That a prompt has
shown no token yet is no sign of slowness: it may wait for its turn or be in prefill.
"""

from __future__ import annotations

import math
from collections import deque

from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.callers import AgentView, PromptQueue
from aurora_pool.policy.ledger import Ledger
from aurora_pool.policy.lengths import Pace, seconds_saved
from aurora_pool.policy.work import WorkItem

SCAN_EVERY = 0.5
"""Seconds between scans for prompts worth a second agent."""
READING = 0.02
"""Seconds between finding that a scan is due and scanning: time to read what has come in."""
LATE = 0.05
"""Seconds by which a scan may be late and still say something about the agents."""
WASTE_SHARE = 0.012
"""Hedges may waste this share of all tokens generated."""
OUTLIER = 3.0
OUTLIER_WASTE_SHARE = 0.018
"""The same for an agent that takes this many times as long as the second one: a job would wait for it alone."""
WASTE_FREE = 4
"""A few hedges, in mean answers, that even a job of few tokens may have."""
KNOWN = 4
"""Answers per prompt in flight before one in flight may be judged the longest: short answers come first."""
SIMILAR = 1.3
"""Agents that take this many times as long as the fastest are not used as second agents."""
PROMPTS_SHARE = 0.03
"""This share of the prompts may be hedged while their agents work; those of stalled agents have no limit."""


class Hedger:
    """Hedges: while agents are idle, finds prompts that a second agent would answer sooner."""

    def __init__(self, ledger: Ledger, idle: dict[AgentState, None]) -> None:
        self.ledger = ledger
        self.idle = idle
        self.spent = 0.0
        self.hedged = 0
        """Prompts hedged of agents that were at work."""
        self._due = False

    def watch(self, now: float) -> None:
        """Schedule a scan of the prompts in flight."""
        if not self._due and self.idle and self.ledger.in_flight:
            self._due = True
            self.ledger.timers.add(now + SCAN_EVERY, self._prepare, None)

    def _prepare(self, _: None, now: float) -> None:
        self.ledger.timers.add(now + READING, self._scan, now + READING)

    def _scan(self, due: float, now: float) -> None:
        self._due = False
        if now > due + LATE:
            return  # this process is slow: answers are unread, and their agents only seem slow
        targets = [agent for agent in self.idle if agent.free and agent.unoccupied]
        if not targets:
            return
        mean = self.ledger.lengths.mean
        usual = [each.pace.seconds_for(mean) for each in self.ledger.agents if each.in_service and each.quota is None]
        limit = SIMILAR * min([seconds for seconds in usual if seconds], default=math.inf)
        targets = [agent for agent in targets if agent.pace.seconds_for(mean) <= limit]
        if not targets:
            return
        fastest = min((agent.pace for agent in targets), key=lambda pace: pace.seconds_for(mean) or math.inf)
        targets.sort(key=lambda agent: agent.held)
        found = [
            candidate
            for agent in self.ledger.agents
            if agent.requests
            for candidate in self._candidates(agent, fastest, now)
        ]
        found.sort(key=lambda candidate: -candidate[0])
        rotations: dict[AgentView, deque[AgentState]] = {}
        for _saved, item in found:
            view = item.queue.view
            rotation = rotations.get(view)
            if rotation is None:
                rotation = rotations[view] = deque(agent for agent in targets if agent.index in view.serves)
            self._hedge(item, rotation, now)

    def _candidates(self, agent: AgentState, fastest: Pace, now: float) -> list[tuple[float, WorkItem]]:
        pace = agent.pace
        lengths = self.ledger.lengths
        typical = lengths.count >= KNOWN * self.ledger.in_flight
        quiet = now - max(agent.last_byte, self.ledger.timers.kept_up_since)
        unstarted = agent.held - agent.running
        found = []
        for request in agent.requests:
            if request.sent_at is None or (request.lot is not None and not _is_last(request.lot.queue)):
                continue
            if agent.seems_stalled(now):
                found += [(math.inf, item) for item in request.unreleased() if self._may_hedge(item)]
                continue
            age = now - request.sent_at
            saved = 0.0
            if request.live > request.started:
                saved = seconds_saved(None, age, quiet, unstarted, pace, fastest, lengths, typical)
            if saved <= 0 and not request.started:
                continue
            for item in request.unreleased():
                if self._may_hedge(item):
                    mine = saved
                    if item.started_at >= 0:
                        mine = seconds_saved(
                            now - item.started_at, age, quiet, unstarted, pace, fastest, lengths, typical
                        )
                    if mine > 0:
                        found.append((mine, item))
        return found

    def _may_hedge(self, item: WorkItem) -> bool:
        """Whether a prompt may be hedged: not if it may kill agents, and not while others of its queue wait.

        More may still come: an input that leaves agents idle often waits for the prompts that a slow one holds.
        """
        if item.done or item.committed or item.hedged or item.holders > 1 or item.suspected:
            return False
        return _is_last(item.queue)

    def _hedge(self, item: WorkItem, rotation: deque[AgentState], now: float) -> None:
        ledger, first = self.ledger, item.request
        assert first is not None
        slow = ledger.agents[first.agent]
        while rotation and not rotation[0].free:
            rotation.popleft()
        if not rotation or (rotation[0] is slow and len(rotation) == 1):
            return
        fast = rotation[0] if rotation[0] is not slow else rotation[1]
        if not slow.seems_stalled(now) and not self._affordable(item, slow, fast, now):
            return
        if rotation[0] is slow:
            rotation.rotate(-1)
            if not rotation[0].free:
                return
        agent = rotation[0]
        rotation.rotate(-1)
        ledger.hedged += 1
        item.hedged = True
        ledger.events.prompt_hedged(slow.index, agent.index)
        ledger.assign(item, agent)

    def _affordable(self, item: WorkItem, slow: AgentState, fast: AgentState, now: float) -> bool:
        """Whether one more hedge stays within the limits; if so, it is counted."""
        ledger = self.ledger
        lengths = ledger.lengths
        done = 0.0 if item.started_at < 0 else (now - item.started_at) * slow.flow.decode_speed_now
        cost = lengths.mean_beyond(done)  # the loser's list goes on for its other prompts: it is generated whole
        outlier = slow.pace.seconds_for(lengths.mean) > OUTLIER * fast.pace.seconds_for(lengths.mean)
        share = OUTLIER_WASTE_SHARE if outlier else WASTE_SHARE
        if self.spent + cost > share * lengths.total + WASTE_FREE * lengths.mean:
            return False
        if self.hedged >= PROMPTS_SHARE * (ledger.answered + ledger.in_flight):
            return False
        self.spent += cost
        self.hedged += 1
        return True


def _is_last(queue: PromptQueue) -> bool:
    """Whether none of its prompts waits, and they are for any agent."""
    return not queue.pinned and not queue.items
