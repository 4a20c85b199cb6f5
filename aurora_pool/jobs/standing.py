"""How a running job stands, put together from what is counted. Pure."""

from __future__ import annotations

from aurora_pool.jobs.meter import Meter, Progress, Standstill
from aurora_pool.statistics import AgentStatistics, PoolStatistics

SHOWN_AGENTS = 3


def progress_of(
    meter: Meter,
    *,
    total: int,
    due: int,
    in_flight: int,
    now: float,
    statistics: PoolStatistics,
    standstill: Standstill | None,
    ending: str | None,
) -> Progress:
    """Say how a job of ``total`` requests stands, of which this run has to do those that are ``due``."""
    prompts_rate, tokens_rate = meter.rates(now=now)
    return Progress(
        total=total,
        earlier=total - due,
        done=meter.done,
        failed=meter.failed,
        in_flight=in_flight,
        seconds=now - meter.started,
        tokens=meter.tokens,
        prompt_tokens=meter.prompt_tokens,
        prompts_per_second=prompts_rate,
        tokens_per_second=tokens_rate,
        eta=meter.eta(due - meter.done, now=now),
        drain=meter.eta(in_flight, now=now),
        exhausted=due - meter.done <= in_flight,
        agents=sum(agent.state != "removed" for agent in statistics.agents),
        agents_in_service=statistics.agents_in_service,
        statistics=statistics,
        moved=statistics.moved,
        hedged=statistics.hedged,
        standstill=standstill,
        ending=ending,
    )


def standstill_of(gap: float, statistics: PoolStatistics) -> Standstill:
    """Tell of ``gap`` seconds without an answer: first of agents that hold the oldest prompts, then of others."""
    agents = sorted(statistics.agents, key=lambda agent: -(agent.oldest_age or 0.0))
    return Standstill(gap, tuple(map(_state_of, agents[:SHOWN_AGENTS])))


def _state_of(agent: AgentStatistics) -> str:
    """Say what an agent is about that does not answer."""
    if agent.state != "in service":
        state = f"{agent.state}: {agent.last_error}" if agent.last_error else agent.state
    elif agent.in_flight:
        state = f"{agent.in_flight} prompts in flight, the oldest for {agent.oldest_age or 0.0:.0f} s"
    else:
        state = f"takes none: {agent.last_error}" if agent.last_error else "idle"
    return f"{agent.endpoint} ({state})"
