"""Slots reserved for online prompts, which somebody waits for, on agents that batches would fill.

A batch gives each agent a little more than it can work on, so whatever comes next waits in the agent's own queue for
about as long as an answer takes, and is then worked on beside as many others as there are slots. So an online prompt
(of a priority below 0) goes to an agent at once, and that agent *reserves slots* from then on: batches may fill only
:data:`~aurora_pool.policy.agent.BATCH_SHARE` of its slots until :data:`RESERVED_FOR` seconds have passed without
another one. Further online prompts go to agents that reserve slots, as long as some of these are free: so few online
prompts take slots from the batches on few agents, and many on many.
"""

from __future__ import annotations

from collections.abc import Sequence

from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.callers import DRAWN, PromptQueue
from aurora_pool.policy.ledger import Ledger
from aurora_pool.policy.work import WorkItem

RESERVED_FOR = 10.0
"""Seconds that an agent reserves slots after the last online prompt."""
SAMPLE_EVERY = 1.0
"""Seconds between samples of such an agent's counters, until they have shown how many slots it has."""
BEYOND = 1.125
"""An agent without reserved slots may hold this many times its window, so that an online prompt need not wait."""


class SlotReservations:
    """Places online prompts while batches wait, and has their agents reserve slots for more."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._until: dict[AgentState, float] = {}
        """The agents that reserve slots, and until when."""

    def place(self, items: Sequence[WorkItem], queue: PromptQueue, now: float) -> list[WorkItem]:
        """Assign online prompts to agents; return those for which no agent has capacity."""
        for number, item in enumerate(items):
            agent = self._agent_for(queue)
            if agent is None:
                return list(items[number:])
            if self._ledger.turns.next_for(agent.index) is not None:
                self._reserve(agent, now)
            self._ledger.assign(item, agent)
            queue.caller.charge(1, item.prompt_tokens)
        return []

    def _agent_for(self, queue: PromptQueue) -> AgentState | None:
        agents = self._ledger.agents
        candidates: list[AgentState] = []
        for agent in self._until:
            if agent.held < 2 * agent.limit and agent.index in queue.view.serves:
                candidates.append(agent)
                if len(candidates) == DRAWN:
                    break
        if not candidates:
            drawn = queue.view.draw(self._ledger.rng)
            candidates = [agents[index] for index in drawn if agents[index].held < BEYOND * agents[index].limit]
        return min(candidates, key=lambda agent: agent.held, default=None)

    def _reserve(self, agent: AgentState, now: float) -> None:
        if agent not in self._until:
            agent.reserve_slots(True)
            self._ledger.timers.add(now + RESERVED_FOR, self._end, agent)
        self._until[agent] = now + RESERVED_FOR
        if not agent.flow.slots and now >= agent.sampled_at + SAMPLE_EVERY:
            agent.sampled_at = now
            self._ledger.pending.sample.append(agent.index)

    def _end(self, agent: AgentState, now: float) -> None:
        until = self._until[agent]
        if now < until:
            self._ledger.timers.add(until, self._end, agent)
            return
        del self._until[agent]
        agent.reserve_slots(False)
        self._ledger.touched[agent] = None
