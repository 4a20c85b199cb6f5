"""The books of the fleet: which prompt is where, who holds which credits, what is due when.

Every other part of the dispatcher (deal, faults, hedge, isolate) writes here and only here, so that these hold:

- a ticket ends exactly once: :meth:`Books.finish` is the one place;
- ``agent.held`` is the number of its prompts in the outbox and in open requests: every slot that is settled gives one
  credit back, once;
- ``ticket.holders`` is the number of outboxes and open requests that a ticket is in, and a ticket that is not done and
  has no holder waits in its lane (or for the end of a pause).
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.breaker import State
from aurora_pool.policy.outcome import Outcome
from aurora_pool.policy.retry import RetryBudget
from aurora_pool.policy.tail import Lengths
from aurora_pool.policy.work import FOREVER, Assignment, Failure, Lane, Notices, Plan, Ticket

BEHIND = 1.0
"""Seconds by which an alarm may ring late before this process counts as one that does not keep up."""


class Books:
    """All agents, the lanes in which prompts wait, the requests under way, and the plan that is being made."""

    def __init__(self, names: Sequence[str], rng: random.Random, requests_limit: int, notices: Notices) -> None:
        self.names = list(names)
        self._requests_limit = requests_limit
        self.rng = rng
        self.notices = notices
        self.agents = [AgentState(index, requests_limit) for index in range(len(names))]
        self.in_service = len(self.agents)
        self.lanes: dict[Lane, None] = {}
        """The lanes in which something waits."""
        self.touched: dict[AgentState, None] = {}
        """The agents whose credits may have changed since the last plan, all that have an outbox among them."""
        self.wards: dict[AgentState, None] = {}
        """The agents that are kept for suspects."""
        self.pending = Plan()
        self.lengths = Lengths()
        self.budget = RetryBudget(per_second=10.0 * len(names), reserve=100.0 * len(names))
        self.scan = False
        """Whether the next plan is to look at all agents for some lane."""
        self.awake_since = 0.0
        """Since when this process has kept up. What agents sent before may have lain unread."""
        self.in_flight = 0
        self.answered = 0
        self.requests = 0
        self.hedged = 0
        self.moved = 0
        self.quarantined = 0
        self.wasted_tokens = 0
        self.wake_at = FOREVER
        """When something is due; infinity if nothing is."""
        self._alarms: list[tuple[float, int, Callable[[Any, float], None], Any]] = []
        self._alarm_count = 0

    # -- time ---------------------------------------------------------------------------------------------------

    def alarm(self, when: float, action: Callable[[Any, float], None], argument: Any) -> None:
        """Have ``action(argument, now)`` called by the first plan at or after ``when``."""
        self._alarm_count += 1
        heapq.heappush(self._alarms, (when, self._alarm_count, action, argument))
        self.wake_at = self._alarms[0][0]

    def ring(self, now: float) -> None:
        """Do what is due."""
        if self.wake_at < now - BEHIND:
            self.awake_since = now
        while self._alarms and self._alarms[0][0] <= now:
            _, _, action, argument = heapq.heappop(self._alarms)
            action(argument, now)
        self.wake_at = self._alarms[0][0] if self._alarms else FOREVER

    # -- prompts that wait --------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """How many prompts wait in lanes."""
        return sum(lane.waiting for lane in self.lanes)

    def wake(self, lane: Lane) -> None:
        """Note that something has begun to wait in a lane: all agents will be looked at for it."""
        self.lanes[lane] = None
        lane.scan = self.scan = True

    def requeue(self, tickets: Iterable[Ticket], now: float) -> None:
        """Put prompts that failed back at the head of their lanes; those that another agent holds stay there."""
        for ticket in tickets:
            if not ticket.done and not ticket.holders:
                lane = ticket.lane
                if ticket.suspected:
                    lane.suspects.append(ticket)
                else:
                    lane.queue.appendleft(ticket)
                self.wake(lane)

    # -- prompts under way --------------------------------------------------------------------------------------

    def hand(self, ticket: Ticket, agent: AgentState) -> None:
        """Give a prompt, and one of its credits, to an agent: it goes with the next request there."""
        ticket.holders += 1
        agent.held += 1
        if not agent.outbox:
            self.touched[agent] = None
        agent.outbox.append(ticket)

    def recall(self, agent: AgentState, tickets: list[Ticket]) -> None:
        """Take prompts out of an outbox again."""
        dropped = set(tickets)
        agent.outbox = [ticket for ticket in agent.outbox if ticket not in dropped]
        agent.held -= len(tickets)
        for ticket in tickets:
            ticket.holders -= 1

    def finish(self, ticket: Ticket, now: float) -> None:
        """End a prompt. Requests that now serve no one are closed."""
        ticket.done = True
        if ticket.holders:
            for assignment in (ticket.request, ticket.second_request):
                if assignment is not None:
                    assignment.live -= 1
                    if not assignment.live:
                        self.close(assignment, now)

    def fail(self, ticket: Ticket, failure: Failure, now: float) -> None:
        """End a prompt without an answer."""
        self.finish(ticket, now)
        self.pending.fail.append(failure)

    def clear_outboxes(self) -> None:
        """Take out what ended before it was sent."""
        for agent in self.touched:
            done = [ticket for ticket in agent.outbox if ticket.done]
            if done:
                self.recall(agent, done)

    def trim_outboxes(self, now: float) -> None:
        """Take back what was handed to agents whose windows have shrunk since, or that rest."""
        for agent in self.touched:
            if agent.held > agent.limit and agent.outbox:
                excess = agent.outbox[-(agent.held - agent.limit) :]
                self.recall(agent, excess)
                self.requeue(reversed(excess), now)

    # -- requests -----------------------------------------------------------------------------------------------

    def assign(self, tickets: Sequence[Ticket], agent: AgentState, now: float) -> Assignment:
        """Have these prompts, whose credits are taken already, sent to the agent as one request."""
        assignment = Assignment(agent.index, tickets, now)
        for ticket in tickets:
            if not ticket.sends:
                ticket.first_sent = now
            ticket.sends += 1
            if ticket.request is None:
                ticket.request = assignment
            else:
                ticket.second_request = assignment
        if not agent.requests:
            agent.last_byte = now
        agent.requests[assignment] = None
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
        assignment.open -= 1
        if not ticket.done:
            assignment.live -= 1
        agent = self.agents[assignment.agent]
        agent.held -= 1
        self.in_flight -= 1
        self.touched[agent] = None
        if started and assignment.started:
            assignment.started -= 1
            agent.running -= 1
        ticket.holders -= 1
        if ticket.request is assignment:
            ticket.request = None
            if ticket.holders:
                ticket.request, ticket.second_request = ticket.second_request, None
        else:
            ticket.second_request = None
        return ticket

    def settle_done(self, assignment: Assignment, prompts: int, started: int) -> None:
        """Count so many prompts, ended now and off their slots, out of a request, as :meth:`settle` does for one."""
        assignment.open -= prompts
        assignment.live -= prompts
        agent = self.agents[assignment.agent]
        agent.held -= prompts
        self.in_flight -= prompts
        self.answered += prompts
        self.touched[agent] = None
        started = min(started, assignment.started)
        assignment.started -= started
        agent.running -= started

    def retire(self, assignment: Assignment) -> list[Ticket]:
        """Take a request off the books; return its unsettled prompts, their credits given back."""
        left: list[Ticket] = []
        if assignment.open:
            left = [self.settle(assignment, slot, started=False) for slot, t in enumerate(assignment.tickets) if t]
        agent = self.agents[assignment.agent]
        agent.running -= assignment.started
        assignment.started = 0
        assignment.closed = True
        agent.requests.pop(assignment, None)
        if agent.checking and not agent.requests:
            agent.check(False)  # it owes nobody a byte any more
            self.touched[agent] = None
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

    def clear(self) -> None:
        """Forget all prompts, for good."""
        for agent in self.agents:
            for request in list(agent.requests):
                self.retire(request)
            self.recall(agent, agent.outbox)
        for lane in self.lanes:
            for queue in (lane.queue, lane.suspects, *lane.home_queues.values()):
                queue.clear()
        self._alarms.clear()
        self.pending = Plan()

    # -- agents -------------------------------------------------------------------------------------------------

    def agent_failed(self, agent: AgentState, outcome: Outcome, reason: str, now: float) -> None:
        """Take in a failure of an agent; it may go out of service, and a probe is then due later."""
        agent.failures[outcome.value] += 1
        agent.last_error = reason
        if agent.breaker.failed(outcome, now, self.rng):
            self._went_out(agent, now)
            self.notices.agent_state(agent.index, agent.breaker.state.value, f"{outcome.value}: {reason}")
            self.alarm(agent.breaker.probe_at, self._probe, agent)

    def agent_probed(self, agent: AgentState, outcome: Outcome, reason: str, now: float) -> None:
        """Take in what a probe of an agent that is out has shown."""
        if agent.breaker.state is not State.PROBING:
            return
        if agent.breaker.probed(outcome, now, self.rng):
            self.in_service += 1
            agent.last_byte = now
            agent.check(False)
            self.touched[agent] = None
            self.notices.agent_state(agent.index, agent.breaker.state.value, "it answers")
        else:
            agent.last_error = reason
            self.alarm(agent.breaker.probe_at, self._probe, agent)
        self._review()

    def add_agent(self, name: str) -> int:
        """Take in a new agent, in service; return its index."""
        agent = AgentState(len(self.agents), self._requests_limit)
        self.names.append(name)
        self.agents.append(agent)
        self.in_service += 1
        self.touched[agent] = None
        self._review()
        return agent.index

    def remove_agent(self, agent: AgentState, now: float) -> list[Ticket]:
        """Take an agent out for good; return the prompts that it held, unanswered."""
        left = [ticket for request in list(agent.requests) for ticket in self.close(request, now)]
        was_in_service = agent.in_service
        agent.breaker.remove()
        agent.last_error = "it was removed from the fleet"
        if was_in_service:
            self._went_out(agent, now)
        self.notices.agent_state(agent.index, agent.breaker.state.value, agent.last_error)
        return left

    def restore_agent(self, agent: AgentState, now: float) -> None:
        """Take an agent back that was removed: it is in service once a probe of it is answered."""
        agent.breaker.restore(now)
        self.alarm(now, self._probe, agent)

    def _went_out(self, agent: AgentState, now: float) -> None:
        self.in_service -= 1
        self.touched[agent] = None
        agent.refresh()
        unsent = agent.outbox
        self.recall(agent, unsent)
        self.requeue(reversed(unsent), now)
        for lane in self.lanes:
            lane.queue.extend(lane.home_queues.pop(agent.index, deque()))
        self._review()

    def _review(self) -> None:
        self.scan = True
        for lane in self.lanes:
            lane.scan = True
            lane.review_due = 0.0

    def _probe(self, agent: AgentState, now: float) -> None:
        if agent.breaker.state is not State.OUT:
            return
        agent.breaker.probing()
        self.pending.probe.append(agent.index)
