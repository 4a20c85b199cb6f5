"""Frozen snapshots of what a pool has done and holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aurora_pool.hostfile import AgentEndpoint
from aurora_pool.policy.agent import RATE_LIMITED, AgentState
from aurora_pool.policy.ledger import Ledger

__all__ = ["AgentStatistics", "PoolStatistics", "snapshot"]


@dataclass(frozen=True, slots=True)
class AgentStatistics:
    """One agent: its state, what it holds, what it has done.

    ``state`` is ``in service``, ``rate-limited`` (in service, but paused after a 429), ``out``, ``probing`` (out,
    and asked whether it answers again) or ``removed``.

    ``in_flight`` and ``window`` are counted in prompts; ``window`` is how many it may hold. ``tokens_per_second`` is
    its throughput now, over all its prompts. ``failures`` counts failed requests by outcome. ``last_answer_age`` is
    the seconds since its last answer, None before the first; ``oldest_age`` since it was sent the oldest request it
    still holds. ``prefix_hit_share`` is the share of its prompts' tokens, 0 to 1, that its server found in its prefix
    cache, by the server's own counters since the pool first read them; None before the second reading (a busy agent
    is sampled after 5 seconds, and then every 15), and where the server does not tell. ``cost`` is what a hosted
    agent's answers have cost, in the currency of its prices, ``unpaid`` whether it is out since the budget is spent.
    """

    endpoint: AgentEndpoint
    state: str
    in_flight: int
    window: int
    prompts_done: int
    tokens_done: int
    tokens_per_second: float
    failures: Mapping[str, int] = field(default_factory=dict)
    last_answer_age: float | None = None
    oldest_age: float | None = None
    last_error: str = ""
    prefix_hit_share: float | None = None
    cost: float = 0.0
    unpaid: bool = False


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """A pool, or a view of one: its agents, and sums.

    ``agents`` belongs to the pool or view asked; ``prompts_done`` and ``tokens_done`` are sums over them. The rest
    counts for the whole fleet: prompts that wait (``queued``) or are at an agent (``in_flight``), HTTP ``requests``
    sent, prompts ``hedged``, ``moved`` and ``quarantined``, and ``wasted_tokens``: of answers that were not used.
    """

    agents: tuple[AgentStatistics, ...]
    prompts_done: int
    prompts_failed: int
    tokens_done: int
    queued: int
    in_flight: int
    requests: int
    hedged: int
    moved: int
    quarantined: int
    wasted_tokens: int

    @property
    def unpaid(self) -> bool:
        """Whether any agent is out since the budget is spent."""
        return any(agent.unpaid for agent in self.agents)

    @property
    def cost(self) -> float:
        """What hosted agents have cost."""
        return sum(agent.cost for agent in self.agents)

    @property
    def agents_in_service(self) -> int:
        """How many of the agents get prompts."""
        return sum(agent.state in ("in service", RATE_LIMITED) for agent in self.agents)


def snapshot(
    ledger: Ledger, endpoints: Sequence[AgentEndpoint], members: Sequence[int], prompts_failed: int, now: float
) -> PoolStatistics:
    """Take a snapshot of these members of a fleet."""
    agents = tuple(_agent(ledger.agents[index], endpoints[index], now) for index in members)
    return PoolStatistics(
        agents=agents,
        prompts_done=sum(agent.prompts_done for agent in agents),
        prompts_failed=prompts_failed,
        tokens_done=sum(agent.tokens_done for agent in agents),
        queued=ledger.queued,
        in_flight=ledger.in_flight,
        requests=ledger.requests,
        hedged=ledger.hedged,
        moved=ledger.moved,
        quarantined=ledger.quarantined,
        wasted_tokens=ledger.wasted_tokens,
    )


def _agent(agent: AgentState, endpoint: AgentEndpoint, now: float) -> AgentStatistics:
    # They are sent in the order in which they were opened, so that is the first: no search among all of them.
    oldest = next((request.sent_at for request in agent.requests if request.sent_at is not None), None)
    return AgentStatistics(
        endpoint=endpoint,
        state=agent.state,
        in_flight=agent.held,
        window=agent.window.size,
        prompts_done=agent.prompts_done,
        tokens_done=agent.tokens_done,
        tokens_per_second=agent.speed * agent.held,
        failures=dict(agent.failures),
        last_answer_age=None if agent.answered_at is None else now - agent.answered_at,
        oldest_age=None if oldest is None else now - oldest,
        last_error=agent.last_error,
        prefix_hit_share=agent.prefix_cache.share,
        cost=0.0 if agent.quota is None else agent.quota.cost,
        unpaid=agent.quota is not None and agent.quota.unpaid,
    )
