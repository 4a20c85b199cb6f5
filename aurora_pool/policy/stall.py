"""Detect stalled agents: they were sent prompts and send nothing.

An agent that sends no byte for :data:`CHECK_AFTER` seconds has its load checked, and gets nothing meanwhile. A server
that is merely busy shows it in its own counters; one that refuses connections is ending, and what it holds is lost
(SIGTERM makes vLLM hang like that); one that shows no work is given up when it has sent nothing for the whole limit.
One without counters is sent a small request instead when the limit has passed: if it answers that, it is alive.

A process that is too busy or too starved reads nothing either. Time in which it did not keep up with its own
timers counts against no agent.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from aurora_pool.errors import ConnectFailed, PoolError, TimedOut
from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.ledger import Ledger
from aurora_pool.policy.outcome import Outcome

CHECK_AFTER = 5.0
"""Seconds without a byte after which an agent that holds prompts has its load checked."""
NO_METRICS_FACTOR = 10.0
"""An agent without counters may be too busy for a small request: it may send nothing for this many times the limit."""
LONGEST_STEP = 0.5
"""Counters may stay unchanged for this part of the limit before an agent counts as stalled: they move at the end of a
step, the number of requests that run too, and a step of prefill on a CPU takes ten seconds and more."""
REFUSED_GRACE = 1.0
"""Seconds without a byte after which an agent that refused a connection has its load checked."""
SAMPLE_EVERY = 15.0
"""Seconds between samples of a busy agent's counters."""


class Finding(enum.Enum):
    """What the load check of an agent shows."""

    PROGRESSING = "progressing"  # its counters move: busy, not dead
    IDLE = "idle"  # it answers, and its counters do not change
    NO_METRICS = "no metrics"  # it answers, but has no counters
    UNRESPONSIVE = "unresponsive"  # it accepts and does not answer
    REFUSED = "refused"  # it accepts no connection
    RESTARTED = "restarted"  # its counters have been reset


_GONE = {Finding.REFUSED: "it refuses connections", Finding.RESTARTED: "it was started anew"}


class StallDetector:
    """Has one timer for each agent that was sent prompts, and says whose load to check."""

    def __init__(self, ledger: Ledger, limit: float, give_up: Callable[[AgentState, PoolError, float], None]) -> None:
        self.ledger = ledger
        self.limit = limit
        self.give_up = give_up

    def watch(self, agent: AgentState, now: float) -> None:
        """Have the load of an agent that was sent prompts checked when it sends nothing for a while."""
        if not agent.tick_due:
            agent.tick_due = True
            self.ledger.timers.add(now + CHECK_AFTER, self._tick, agent)

    def refused(self, agent: AgentState, now: float) -> None:
        """Record that an agent refused a connection: what it holds may hang for ever."""
        if agent.sent:
            self.ledger.timers.add(now + REFUSED_GRACE, self._check, agent)

    def load_checked(self, agent: AgentState, finding: Finding, now: float) -> None:
        """Record what the load check of an agent has shown."""
        agent.load_check_sent = False
        if agent.checking:
            self._judge(agent, finding, now)

    def probed(self, agent: AgentState, outcome: Outcome, now: float) -> None:
        """Record what a small request to an agent came to: one that answers it works, however long it sent nothing."""
        if agent.checking and outcome is Outcome.ANSWERED:
            agent.last_byte = now
            self.saw_activity(agent)

    def saw_activity(self, agent: AgentState) -> None:
        """Record that an agent works: end its load check."""
        agent.set_checking(False)
        self.ledger.touched[agent] = None

    def _judge(self, agent: AgentState, finding: Finding, now: float) -> None:
        quiet = now - self._active_at(agent)
        limit = self.limit * (NO_METRICS_FACTOR if finding is Finding.NO_METRICS else 1.0)
        if not agent.sent or finding is Finding.PROGRESSING:
            agent.last_byte = now
            self.saw_activity(agent)
        elif finding in (Finding.REFUSED, Finding.RESTARTED):
            self.saw_activity(agent)
            self.give_up(agent, ConnectFailed(f"{_GONE[finding]}, and sends nothing for what it holds"), now)
        elif quiet < limit:
            patience = limit * LONGEST_STEP if finding is Finding.IDLE else 0.0
            agent.stalled = finding is not Finding.NO_METRICS and quiet >= patience
            if quiet >= self.limit:
                self.ledger.pending.probe.append(agent.index)
        else:
            self.saw_activity(agent)
            self.give_up(agent, TimedOut(f"no byte for {quiet:.0f} s, and {finding.value}"), now)

    def _tick(self, agent: AgentState, now: float) -> None:
        agent.tick_due = False
        agent.refresh()  # it may have proved itself
        if not agent.sent:
            return
        active_at = self._active_at(agent)
        if now < active_at + CHECK_AFTER:
            self.watch(agent, active_at)
            self._sample(agent, now)
        else:
            self.watch(agent, now)
            self._check(agent, now)

    def _check(self, agent: AgentState, now: float) -> None:
        if agent.sent and not agent.load_check_sent and now >= self._active_at(agent) + REFUSED_GRACE:
            agent.load_check_sent = True
            agent.load_check_at = now
            agent.set_checking(True)
            self.ledger.pending.check.append(agent.index)

    def _active_at(self, agent: AgentState) -> float:
        """Since when an agent has sent no byte, or this process has kept up with reading them."""
        return max(agent.last_byte, self.ledger.timers.kept_up_since)

    def _sample(self, agent: AgentState, now: float) -> None:
        """Ask for an agent's counters: rarely, if its replies show what runs, else at every tick."""
        if now >= agent.sampled_at + (SAMPLE_EVERY if agent.running else 0.0):
            agent.sampled_at = now
            self.ledger.pending.sample.append(agent.index)
