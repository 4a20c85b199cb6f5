"""What is said of a job in which nothing finishes. Pure."""

from __future__ import annotations

from aurora_pool.jobs.meter import Stall
from aurora_pool.statistics import AgentStatistics, PoolStatistics

SHOWN_AGENTS = 3


def stall_of(silence: float, statistics: PoolStatistics) -> Stall:
    """Tell of ``silence`` seconds without an answer: first of agents that hold the oldest prompts, then of others."""
    agents = sorted(statistics.agents, key=lambda agent: -(agent.oldest_age or 0.0))
    return Stall(silence, tuple(map(_state_of, agents[:SHOWN_AGENTS])))


def _state_of(agent: AgentStatistics) -> str:
    """Say what an agent is about that does not answer."""
    if agent.state != "in service":
        state = f"{agent.state}: {agent.last_error}" if agent.last_error else agent.state
    elif agent.in_flight:
        state = f"silent, {agent.in_flight} prompts for {agent.oldest_age or 0.0:.0f} s"
    else:
        state = f"takes none: {agent.last_error}" if agent.last_error else "idle"
    return f"{agent.endpoint} ({state})"
