"""Spill-over: which prompts go to hosted agents, and when.

Hosted agents cost money: the scheduler assigns nothing to them, none is a prompt's second agent, and they come last:
when the own agents have taken what they can, and only if

- no own agent has been in service for ``after`` seconds (or the pool has none at all); or
- what waits would wait longer than ``after`` beyond what an answer takes, at the rate of the own agents now; or
- all that waits and is still to come would not be answered by the ``deadline`` at that rate.

Then the prompts that wait longest go, one a request, each to the cheapest agent whose quota and the budget allow it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from aurora_pool.hosted import HostedTerms, Left
from aurora_pool.messages import Usage
from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.callers import PromptQueue
from aurora_pool.policy.ledger import Ledger
from aurora_pool.policy.quota import Budget, Quota
from aurora_pool.policy.rotation import disable
from aurora_pool.policy.work import InFlightRequest, Portable, WorkItem

SCAN_LIMIT = 1024
"""How many prompts of a queue are considered in one plan."""


class Spillover:
    """Gives prompts to hosted agents. ``terms`` says which of the agents are.

    ``after`` is when they get some (see above), ``budget`` what they may cost.
    """

    def __init__(self, ledger: Ledger, terms: Mapping[int, HostedTerms]) -> None:
        self.ledger = ledger
        self.after = 60.0
        self.budget = Budget()
        self.deadline = math.inf
        """When the caller wants all to be answered, if it said so."""
        self._drivers = 1
        self._reserved: dict[InFlightRequest, tuple[float, float]] = {}
        """Tokens and money that are reserved for what is in flight."""
        self._wakes_at = math.inf
        self.agents: dict[AgentState, None] = {}
        for index, each in terms.items():
            self.set_terms(index, each)

    def set_terms(self, agent: int, terms: HostedTerms | None) -> None:
        """Record that an agent is hosted, and on which terms. With the same ones its quota stays unchanged."""
        state = self.ledger.agents[agent]
        terms = None if terms is None else terms.divided(self._drivers)
        if terms is not None and (state.quota is None or state.quota.terms != terms):
            state.host(Quota(terms))
            self.agents[state] = None

    def divide(self, drivers: int) -> None:
        """Keep to the share that one of several drivers has of each agent's limits, before anything is sent."""
        self._drivers = drivers
        for agent in self.agents:
            assert agent.quota is not None
            agent.host(Quota(agent.quota.terms.divided(drivers)))

    def update_limits(self, agent: AgentState, requests: Left | None, tokens: Left | None, now: float) -> None:
        """Record what an agent says is left of its limits."""
        if agent.quota is not None:
            agent.quota.update_limits(requests, tokens, now)

    def charge(self, request: InFlightRequest, usage: Usage | None, now: float, *, answered_with_error: bool) -> None:
        """Record what a request came to: nothing if it was answered with an error.

        Where the usage is unknown, all that was reserved counts as used.
        """
        reserved = self._reserved.pop(request, None)
        quota = self.ledger.agents[request.agent].quota
        if reserved is None or quota is None:
            return
        tokens, cost = reserved
        if answered_with_error or request.sent_at is None:
            used = spent = 0.0
        elif usage is not None:
            used = usage.prompt_tokens + usage.completion_tokens
            spent = quota.terms.cost(usage.prompt_tokens, usage.completion_tokens)
        else:
            used, spent = tokens, cost
        quota.charge(tokens, used, now)
        quota.cost += spent
        self.budget.charge(cost, cost=spent)
        if self.ledger.queues:
            self._wake(now)

    def serve(self, now: float) -> None:
        """Give hosted agents what they may take now."""
        ledger = self.ledger
        queues = [queue for queue in ledger.queues if queue.items and queue.view.hosted and self._is_due(queue, now)]
        queues.sort(key=lambda queue: (queue.caller.priority, queue.caller.service))
        for queue in queues:
            agents = [agent for agent in map(ledger.agents.__getitem__, queue.view.hosted) if self._has_capacity(agent)]
            if agents:
                self._spill(queue, agents, now)

    def _has_capacity(self, agent: AgentState) -> bool:
        return agent.available and agent.quota is not None and agent.held < agent.quota.terms.at_once

    def _is_due(self, queue: PromptQueue, now: float) -> bool:
        members = queue.view.members
        serving = [agent for agent in map(self.ledger.agents.__getitem__, members) if agent.in_service]
        if not serving:
            return not members or (queue.unserved_since is not None and now >= queue.unserved_since + self.after)
        rate = sum(agent.flow.rate for agent in serving)
        if not rate:
            return False
        waiting = sum(len(each.items) for each in self.ledger.queues)
        answer = max(agent.mean_seconds for agent in serving)
        to_come = sum(each.expected for each in self.ledger.queues)
        return waiting / rate - answer > self.after or now + (waiting + to_come) / rate > self.deadline

    def _spill(self, queue: PromptQueue, agents: list[AgentState], now: float) -> None:
        """Send what waits longest. Never skip a prompt that waits for an agent's quota."""
        queue.items.offer(lambda item: bool(agents) and self._send(item, agents, now), SCAN_LIMIT)
        self.ledger.forget_if_empty(queue)

    def _send(self, item: WorkItem, agents: list[AgentState], now: float) -> bool:
        """Send a prompt to the cheapest of these agents; return whether one could take it.

        Those that have no capacity, quota or money left for now are taken off the list.
        """
        portable = item.portable
        if portable is None:
            return False
        tokens = portable.read + portable.generated
        offers = [
            (quota.terms.cost(portable.most_read, portable.generated), agent.index, quota)
            for agent in agents
            if (quota := agent.quota) is not None and self._may_take(quota, portable)
        ]
        for cost, index, quota in sorted(offers, key=lambda offer: offer[:2]):
            agent = self.ledger.agents[index]
            ready = quota.ready_at(tokens, now)
            if ready > now:
                self._wake(ready)
            elif not self.budget.reserve(cost):
                self._run_out_of_budget(agent, now)
            else:
                quota.reserve(tokens, now)
                self._reserved[self.ledger.send_now([item], agent, now)] = (tokens, cost)
                if not self._has_capacity(agent):
                    agents.remove(agent)
                return True
            agents.remove(agent)
        return False

    def _may_take(self, quota: Quota, portable: Portable) -> bool:
        """Whether a prompt may go to an agent at all: where nothing limits the answer, nothing can be reserved."""
        counted = quota.terms.tokens is not None or (quota.terms.priced and self.budget.limit < math.inf)
        return (portable.generated > 0 or not counted) and quota.takes(portable.read + portable.generated)

    def _run_out_of_budget(self, agent: AgentState, now: float) -> None:
        """Take an agent out if the budget has nothing left for it; what is reserved for others may come back."""
        if not self._reserved:
            assert agent.quota is not None
            agent.quota.unpaid = True
            disable(self.ledger, agent, f"the budget of {self.budget.limit:g} is spent", now)

    def _wake(self, at: float) -> None:
        """Schedule a plan at that time."""
        if at < self._wakes_at:
            self._wakes_at = at
            self.ledger.timers.add(at, self._on_wake, at)

    def _on_wake(self, at: float, now: float) -> None:
        if at >= self._wakes_at:
            self._wakes_at = math.inf
