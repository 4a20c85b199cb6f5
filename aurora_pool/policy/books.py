"""The books of the fleet: which prompt is where, who holds which credits, what is due when.

Every other part of the dispatcher (deal, faults, hedge, isolate) writes here and only here, so that these hold:

- a ticket ends exactly once: :meth:`Books.finish` is the one place;
- ``agent.held`` is the number of its prompts in the outbox and in open requests: every slot that is settled gives one
  credit back, once.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from typing import Any

from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.outcome import Outcome
from aurora_pool.policy.retry import RetryBudget
from aurora_pool.policy.tail import Lengths
from aurora_pool.policy.work import FOREVER, Assignment, Failure, Lane, Notices, Plan, Ticket


class Books:
    """All agents, the lanes in which prompts wait, the requests under way, and the plan that is being made."""

    def __init__(self, names: Sequence[str], rng: random.Random, requests_limit: int, notices: Notices) -> None:
        self.names = names
        self.rng = rng
        self.notices = notices
        self.agents = [AgentState(index, requests_limit) for index in range(len(names))]
        self.in_service = len(self.agents)
        self.lanes: dict[Lane, None] = {}
        self.touched: dict[AgentState, None] = {}
        self.pending = Plan()
        self.lengths = Lengths()
        self.budget = RetryBudget()
        self.in_flight = 0
        self.requests = 0
        self.hedged = 0
        self.moved = 0
        self.quarantined = 0
        self.wasted_tokens = 0
        self._alarms: list[tuple[float, int, Callable[[Any, float], None], Any]] = []
        self._alarm_count = 0

    # -- time ---------------------------------------------------------------------------------------------------

    @property
    def wake_at(self) -> float:
        """When something is due; infinity if nothing is."""
        return self._alarms[0][0] if self._alarms else FOREVER

    def alarm(self, when: float, action: Callable[[Any, float], None], argument: Any) -> None:
        """Have ``action(argument, now)`` called by the first plan at or after ``when``."""
        self._alarm_count += 1
        heapq.heappush(self._alarms, (when, self._alarm_count, action, argument))

    @property
    def queued(self) -> int:
        """How many prompts wait for a credit."""
        return sum(len(lane.queue) + sum(map(len, lane.home_queues.values())) + len(lane.suspects) for lane in self.lanes)

    def ring(self, now: float) -> None:
        """Do what is due."""
        while self._alarms and self._alarms[0][0] <= now:
            _, _, action, argument = heapq.heappop(self._alarms)
            action(argument, now)

    def touch(self, agent: AgentState, now: float = 0.0) -> None:
        """Look at this agent in the next plan: its credits may have changed."""
        self.touched[agent] = None

    # -- prompts ------------------------------------------------------------------------------------------------

    def hand(self, ticket: Ticket, agent: AgentState) -> None:
        """Give a prompt, and one of its credits, to an agent: it goes with the next request there."""
        agent.outbox.append(ticket)
        agent.held += 1
        self.touched[agent] = None

    def requeue(self, ticket: Ticket, now: float = 0.0) -> None:
        """Put a prompt that failed somewhere at the head of its lane, unless another agent still has it."""
        if not ticket.done and ticket.request is None:
            ticket.lane.queue.appendleft(ticket)
            self.lanes[ticket.lane] = None

    def finish(self, ticket: Ticket, now: float) -> None:
        """End a prompt. Requests that now serve no one are closed."""
        ticket.done = True
        for assignment in (ticket.request, ticket.second_request):
            if assignment is not None:
                assignment.live -= 1
                if not assignment.live:
                    self.close(assignment, now)

    def fail(self, ticket: Ticket, failure: Failure, now: float) -> None:
        """End a prompt without an answer."""
        self.finish(ticket, now)
        self.pending.fail.append(failure)

    # -- requests -----------------------------------------------------------------------------------------------

    def assign(self, tickets: list[Ticket], agent: AgentState, now: float) -> Assignment:
        """Have these prompts, whose credits are taken already, sent to the agent as one request."""
        assignment = Assignment(agent.index, tickets, now)
        for ticket in tickets:
            if ticket.request is None:
                ticket.request = assignment
            else:
                ticket.second_request = assignment
            ticket.sends += 1
            if ticket.first_sent < 0:
                ticket.first_sent = now
        if not agent.requests:
            agent.last_byte = max(agent.last_byte, now)
        agent.requests.add(assignment)
        agent.answers_since_send = 0
        self.requests += 1
        self.in_flight += len(tickets)
        self.pending.send.append(assignment)
        return assignment

    def settle(self, assignment: Assignment, slot: int, *, started: bool) -> Ticket:
        """Take a prompt off a request: its part of the reply has come, or never will. The credit goes back."""
        ticket = assignment.tickets[slot]
        assert ticket is not None, "a slot is settled once"
        assignment.tickets[slot] = None
        if not ticket.done:
            assignment.live -= 1
        agent = self.agents[assignment.agent]
        agent.held -= 1
        self.in_flight -= 1
        self.touched[agent] = None
        if started:
            assignment.started -= 1
            agent.running -= 1
        if ticket.request is assignment:
            ticket.request, ticket.second_request = ticket.second_request, None
        else:
            ticket.second_request = None
        if ticket.isolated:
            agent.reserved = False
        return ticket

    def retire(self, assignment: Assignment) -> list[Ticket]:
        """Take a request off the books; return its unsettled prompts, their credits given back."""
        agent = self.agents[assignment.agent]
        left = [self.settle(assignment, slot, started=False) for slot, t in enumerate(assignment.tickets) if t is not None]
        agent.running -= assignment.started
        assignment.started = 0
        assignment.closed = True
        agent.requests.discard(assignment)
        return left

    def close(self, assignment: Assignment, now: float) -> list[Ticket]:
        """Give up a request before its reply has ended; return its unsettled prompts.

        The credits come back at once: a server drops what nobody reads within about 50 ms.
        """
        agent = self.agents[assignment.agent]
        left = self.retire(assignment)
        shown = int(min((now - assignment.sent_at) * agent.speed, self.lengths.mean))
        self.wasted_tokens += shown * sum(ticket.done and ticket.hedged for ticket in left)
        self.pending.close.append(assignment)
        return left

    # -- agents -------------------------------------------------------------------------------------------------

    def agent_failed(self, agent: AgentState, outcome: Outcome, reason: str, now: float) -> None:
        """Take in a failure of an agent; it may go out of service, and a probe is then due later."""
        agent.failures[outcome.value] += 1
        agent.last_error = reason
        if agent.breaker.failed(outcome, now, self.rng):
            self.in_service -= 1
            for lane in self.lanes:
                lane.queue.extend(lane.home_queues.pop(agent.index, ()))
            self.notices.agent_state(agent.index, agent.breaker.state.value, f"{outcome.value}: {reason}")
            self.alarm(agent.breaker.probe_at, self._probe, agent)

    def agent_probed(self, agent: AgentState, outcome: Outcome, reason: str, now: float) -> None:
        """Take in what a probe of an agent that is out has shown."""
        if agent.breaker.probed(outcome, now, self.rng):
            self.in_service += 1
            agent.checking = False
            agent.last_byte = now
            self.touch(agent)
            self.notices.agent_state(agent.index, agent.breaker.state.value, "it answers")
        else:
            agent.last_error = reason
            self.alarm(agent.breaker.probe_at, self._probe, agent)

    def _probe(self, agent: AgentState, now: float) -> None:
        agent.breaker.probing()
        self.pending.probe.append(agent.index)
