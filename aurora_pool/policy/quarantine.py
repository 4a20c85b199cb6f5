"""Find the one prompt at fault among many: halve a rejected batch; quarantine what may have killed agents.

A prompt that was in flight on two agents when they died is quarantined::

    in flight as any other --2 deaths--> quarantined --1 more--> isolated --1 more--> failed, as poison

Quarantined prompts run on agents that hold nothing else, the quarantine agents: together first, for nearly always it is
the agents that were at fault, and what is answered is cleared. If a quarantine agent dies, each of the prompts that it
held is isolated: it runs alone. So poison costs four agents, and never tours the fleet. A death is no blame for an
isolated prompt if the agent had gone out before and not answered for a while since (it may flap), or had stopped
sending (it may have hung before): the prompt is then tried alone again, up to :data:`MAX_DEATHS`.

Deaths are counted in :mod:`aurora_pool.policy.faults`, which decides there what is poison. After how many a prompt is
quarantined and isolated stands in :mod:`aurora_pool.policy.work` (``SUSPICIOUS_DEATHS``), as its item tells it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TypeVar

from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.callers import PromptQueue
from aurora_pool.policy.ledger import Ledger
from aurora_pool.policy.work import WorkItem

T = TypeVar("T")

MAX_DEATHS = 6
"""A prompt that was alone when its agent died has failed if this many agents, whatever their state, died under it."""
TOGETHER = 8
"""At least this many quarantined prompts share an agent, more if many wait: what a death leaves to be run alone is then
about as much work as what runs together."""
QUARANTINE_SHARE = 8
"""While other prompts wait, one in this many agents may be a quarantine agent; afterwards every idle one."""
QUARANTINE_DELAY = 60.0
"""Seconds that quarantined prompts wait for others where even one quarantine agent would be too large a share."""


def halve(items: Sequence[T]) -> list[Sequence[T]]:
    """Split a rejected list in two, in order: one bad prompt among n costs about 2 log2(n) further requests.

    >>> halve([1, 2, 3, 4, 5])
    [[1, 2], [3, 4, 5]]
    """
    middle = len(items) // 2
    return [part for part in (items[:middle], items[middle:]) if part]


def place_quarantined(ledger: Ledger, queue: PromptQueue, ready: Iterable[AgentState], scan: bool, now: float) -> None:
    """Assign a queue's quarantined prompts to agents that hold nothing; if there are none, reserve busy ones.

    With ``scan`` all members are considered, else only those in ``ready``. Agents that may flap are chosen only if
    there are no others, busy ones included: their deaths prove nothing.
    """
    if scan:
        members = [ledger.agents[index] for index in queue.view.members]
        ready = [agent for agent in members if agent.available and agent.proven] or members
        _set_delay(ledger, queue, now)
        for agent in list(ledger.quarantine_agents):
            if agent.quarantine_for is queue:
                refill_quarantine(ledger, agent, now)
    candidates = sorted(
        (agent.held, agent.breaker.back_at, agent.index)
        for agent in ready
        if agent.limit and agent.index in queue.view.serves and (scan or (not agent.held and agent.proven))
    )
    for held, _, index in candidates:
        if not queue.quarantined or (
            len(ledger.quarantine_agents) >= _quarantine_agents_allowed(ledger, queue, now)
            and (held or _others_wait(queue))
        ):
            return
        agent = ledger.agents[index]
        agent.reserve_for(queue)
        ledger.quarantine_agents[agent] = None
        refill_quarantine(ledger, agent, now)


def refill_quarantine_agents(ledger: Ledger, now: float) -> None:
    """Refill quarantine agents that have free credits, or return them to normal service."""
    for agent in sorted(ledger.quarantine_agents.keys() & ledger.touched.keys(), key=lambda agent: agent.index):
        refill_quarantine(ledger, agent, now)


def refill_quarantine(ledger: Ledger, agent: AgentState, now: float) -> None:
    """Refill one quarantine agent, or return it to normal service once it holds nothing."""
    queue = agent.quarantine_for
    assert queue is not None
    if not agent.held:
        agent.accepting = True
    if agent.available and (
        not _others_wait(queue) or len(ledger.quarantine_agents) <= _quarantine_agents_allowed(ledger, queue, now)
    ):
        _admit(ledger, agent, queue.quarantined)
    if not agent.held or not agent.in_service:
        agent.reserve_for(None)
        del ledger.quarantine_agents[agent]
        ledger.touched[agent] = None
        if not queue.quarantined:
            queue.quarantine_after = None


def _admit(ledger: Ledger, agent: AgentState, quarantined: deque[WorkItem]) -> None:
    together = min(agent.window.size, max(TOGETHER, math.isqrt(len(quarantined))))
    while agent.accepting and quarantined:
        item = quarantined[0]
        if not item.done:
            if agent.held >= (1 if item.isolated else together):
                return
            ledger.assign(item, agent)
            agent.accepting = not item.isolated
        quarantined.popleft()


def _others_wait(queue: PromptQueue) -> bool:
    return bool(queue.items or queue.by_agent)


def _set_delay(ledger: Ledger, queue: PromptQueue, now: float) -> None:
    if ledger.in_service >= QUARANTINE_SHARE or not _others_wait(queue):
        queue.quarantine_after = None
    elif queue.quarantine_after is None:
        queue.quarantine_after = now + QUARANTINE_DELAY


def _quarantine_agents_allowed(ledger: Ledger, queue: PromptQueue, now: float) -> int:
    """How many agents may be quarantine agents while other prompts wait."""
    if queue.quarantine_after is not None and now < queue.quarantine_after:
        return 0
    return max(1, ledger.in_service // QUARANTINE_SHARE)
