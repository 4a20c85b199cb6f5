"""Watch for agents that hold prompts and send nothing.

An agent that sends no byte for :data:`LOOK_AFTER` seconds is looked at, and gets nothing meanwhile. A server that is
merely busy shows it in its own counters; one that refuses connections is leaving, and what it holds is lost (SIGTERM
makes vLLM hang like that); one that shows nothing is given up when it has been silent for the whole limit.

A process that is too busy or too starved to read hears nothing either. Time in which it did not keep up with its own
alarms is no agent's silence.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from aurora_pool.errors import ConnectFailed, PoolError, TimedOut
from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.books import Books

LOOK_AFTER = 5.0
"""Seconds without a byte after which an agent that holds prompts is looked at."""
BLIND_FACTOR = 10.0
"""An agent that shows no counters may be merely busy: its silence may last so many times the limit."""
REFUSED_GRACE = 1.0
"""Seconds without a byte after which an agent that refused a connection is looked at."""
SAMPLE_EVERY = 15.0
"""Seconds between samples of a busy agent's counters."""


class Finding(enum.Enum):
    """What a look at a silent agent shows."""

    MOVING = "moving"  # its counters move: busy, not dead
    STILL = "still"  # it answers, and its counters stand still
    BLIND = "blind"  # it answers, but has no counters
    MUTE = "mute"  # it accepts and does not answer
    REFUSED = "refused"  # it accepts no connection


class Silence:
    """Has one alarm for each agent that holds prompts, and says which to look at."""

    def __init__(self, books: Books, limit: float, give_up: Callable[[AgentState, PoolError, float], None]) -> None:
        self.books = books
        self.limit = limit
        self.give_up = give_up

    def watch(self, agent: AgentState, now: float) -> None:
        """See to it that an agent that holds prompts is looked at when it falls silent."""
        if not agent.pulse_due:
            agent.pulse_due = True
            self.books.alarm(now + LOOK_AFTER, self._pulse, agent)

    def doubt(self, agent: AgentState, now: float) -> None:
        """Take in that an agent refused a connection: what it holds may hang for ever."""
        if agent.requests:
            self.books.alarm(now + REFUSED_GRACE, self._look, agent)

    def looked(self, agent: AgentState, finding: Finding, now: float) -> None:
        """Take in what the look at a silent agent has shown."""
        agent.looked_at = False
        if agent.checking:
            self._judge(agent, finding, now)

    def heard(self, agent: AgentState) -> None:
        """Take in that an agent is not silent, or no longer."""
        agent.check(False)
        self.books.touched[agent] = None

    def _judge(self, agent: AgentState, finding: Finding, now: float) -> None:
        quiet = now - self._heard_at(agent)
        limit = self.limit * (BLIND_FACTOR if finding is Finding.BLIND else 1.0)
        if not agent.requests or finding is Finding.MOVING:
            agent.last_byte = now
            self.heard(agent)
        elif finding is Finding.REFUSED:
            self.heard(agent)
            self.give_up(agent, ConnectFailed("it refuses connections, and what it held fell silent"), now)
        elif quiet >= limit:
            self.heard(agent)
            self.give_up(agent, TimedOut(f"no byte for {quiet:.0f} s, and {finding.value}"), now)

    def _pulse(self, agent: AgentState, now: float) -> None:
        agent.pulse_due = False
        agent.refresh()  # it may have proved itself
        if not agent.requests:
            return
        heard_at = self._heard_at(agent)
        if now < heard_at + LOOK_AFTER:
            self.watch(agent, heard_at)
            self._sample(agent, now)
        else:
            self.watch(agent, now)
            self._look(agent, now)

    def _look(self, agent: AgentState, now: float) -> None:
        if agent.requests and not agent.looked_at and now >= self._heard_at(agent) + REFUSED_GRACE:
            agent.looked_at = True
            agent.check(True)
            self.books.pending.check.append(agent.index)

    def _heard_at(self, agent: AgentState) -> float:
        """Since when an agent has been silent, or this process able to hear it."""
        return max(agent.last_byte, self.books.awake_since)

    def _sample(self, agent: AgentState, now: float) -> None:
        """Ask for an agent's counters: rarely, if its replies show what runs, else at every pulse."""
        if now >= agent.sampled_at + (SAMPLE_EVERY if agent.running else 0.0):
            agent.sampled_at = now
            self.books.pending.sample.append(agent.index)
