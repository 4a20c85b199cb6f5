"""Check whether an agent has died when a connection to it broke.

Connections break for many reasons; only a death says something about the prompts that were in flight. So the agent's
load is checked: it has died if it accepts no connection, or if its counters have been reset. If it still works, the
prompts are just sent again. If the connections of a working agent had all been idle for the same time when they broke,
a proxy in front of it cuts idle connections after that time.
"""

from __future__ import annotations

from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.ledger import Ledger
from aurora_pool.policy.stall import Finding
from aurora_pool.policy.work import WorkItem

PROVES_DEATH = frozenset({Finding.REFUSED, Finding.RESTARTED})
"""What a load check shows of an agent that has died."""
NOT_WORKING = PROVES_DEATH | {Finding.UNRESPONSIVE}
"""What it shows of an agent that does not work: it has died, or hangs."""
IDLE = 5.0
"""Seconds without a byte from which on a break may be a proxy's cut."""
SAME = 0.05
"""Two times without a byte count as equally long if they differ by no more than this part of them."""


class DeathChecks:
    """Prompts on broken connections, held until a load check shows whether their agent died."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lost: dict[AgentState, list[tuple[list[WorkItem], str]]] = {}
        self._idle_for: dict[AgentState, list[float]] = {}
        self._idle_times: dict[AgentState, float] = {}

    def begin(self, agent: AgentState, items: list[WorkItem], reason: str, idle_seconds: float) -> None:
        """Have an agent's load checked; until then it gets nothing, and what it held is not moved.

        ``idle_seconds`` is for how long nothing had come on its connection before it broke.
        """
        self._idle_for.setdefault(agent, []).append(idle_seconds)
        self._lost.setdefault(agent, []).append((items, reason))
        if not agent.load_check_sent:
            agent.load_check_sent = True
            self._ledger.pending.check.append(agent.index)
        agent.set_checking(True)

    def end(self, agent: AgentState, finding: Finding) -> list[tuple[list[WorkItem], str]]:
        """Take the prompts that were held, each list with the reason, now that the agent's load was checked."""
        idle_for = self._idle_for.pop(agent, [])
        if finding not in NOT_WORKING:
            for idle_seconds in idle_for:
                self.note_idle(agent, idle_seconds)
        return self._lost.pop(agent, [])

    def note_idle(self, agent: AgentState, idle_seconds: float) -> None:
        """Record that a proxy may have ended a reply for which no byte came for ``idle_seconds`` seconds."""
        if idle_seconds < IDLE or agent.idle_timeout:
            return
        before = self._idle_times.get(agent, 0.0)
        self._idle_times[agent] = idle_seconds
        if abs(idle_seconds - before) <= SAME * idle_seconds:
            agent.idle_timeout = min(idle_seconds, before)
            self._ledger.events.idle_timeout_seen(agent.index, agent.idle_timeout)

    def clear(self) -> None:
        """Forget all prompts that are held."""
        self._lost.clear()
        self._idle_for.clear()
