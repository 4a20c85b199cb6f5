"""What follows from a failure, for the prompts that were under way and for the agent (the table in outcome.py).

It also watches for silence: an agent that holds prompts and sends no byte is looked at after :data:`LOOK_AFTER`
seconds. A server that is merely busy shows it in its own counters; one that refuses connections is leaving; one that
shows nothing gets no more prompts, and is given up when it has been silent for the whole limit.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from aurora_pool.errors import ConnectFailed, PoolError, TimedOut
from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.books import Books
from aurora_pool.policy.isolate import SUSPICIOUS_DEATHS, halve
from aurora_pool.policy.outcome import Outcome, classify
from aurora_pool.policy.retry import MAX_ATTEMPTS, backoff
from aurora_pool.policy.work import Assignment, Failure, Ticket, describe

LOOK_AFTER = 5.0
"""Seconds without a byte after which an agent that holds prompts is looked at."""
BLIND_FACTOR = 10.0
"""An agent that shows no counters may be merely busy: its silence may last so many times the limit."""
REFUSED_GRACE = 1.0
"""Seconds without a byte after which an agent that refuses new connections is given up with what it holds."""


class Finding(enum.Enum):
    """What a look at a silent agent shows."""

    MOVING = "moving"  # its counters move: busy, not dead
    STILL = "still"  # it answers, and its counters stand still
    BLIND = "blind"  # it answers, but has no counters
    MUTE = "mute"  # it accepts and does not answer
    REFUSED = "refused"  # it accepts no connection


class Faults:
    """Carries out the outcome table."""

    def __init__(self, books: Books, silence: float) -> None:
        self.books = books
        self.silence = silence

    def failed(self, assignment: Assignment, error: PoolError, now: float) -> Outcome:
        """Take in that a request failed with prompts unsettled; return what that means."""
        if assignment.closed:
            return Outcome.CANCELLED
        agent = self.books.agents[assignment.agent]
        held = agent.held
        tickets = [ticket for ticket in self.books.retire(assignment) if not ticket.done]
        outcome = classify(error, len(tickets))
        reason = describe(error)
        if outcome is Outcome.OVERLOADED:
            self._overloaded(agent, held, now)
        self.books.agent_failed(agent, outcome, reason, now)
        if isinstance(error, ConnectFailed) and agent.requests:
            self.books.alarm(now + REFUSED_GRACE, self._refused, (agent, now))
        self._consequences(tickets, agent, outcome, reason, now)
        return outcome

    def broke(self, assignment: Assignment, slot: int, reason: str, now: float, *, started: bool) -> None:
        """Take in that one prompt of a list ended as no answer (``abort``): the others go on."""
        agent = self.books.agents[assignment.agent]
        ticket = self.books.settle(assignment, slot, started=started)
        self.books.agent_failed(agent, Outcome.BROKEN, reason, now)
        if not ticket.done:
            self._consequences([ticket], agent, Outcome.BROKEN, reason, now)

    def _overloaded(self, agent: AgentState, held: int, now: float) -> None:
        agent.overloads += 1
        agent.window.refused(held)
        agent.rest_until = now + backoff(agent.overloads, self.books.rng) + 0.05
        self.books.alarm(agent.rest_until, self.books.touch, agent)

    def _consequences(self, tickets: list[Ticket], agent: AgentState, outcome: Outcome, reason: str, now: float) -> None:
        if outcome is Outcome.REFUSED:
            for half in halve(tickets):
                agent.held += len(half)
                self.books.assign(half, agent, now)
            return
        for ticket in reversed(tickets):
            if outcome is Outcome.REJECTED:
                self.books.fail(ticket, Failure(ticket, "rejected", reason, agent.index), now)
            elif outcome is Outcome.DEAD:
                self._survivor(ticket, agent, reason, now)
            elif outcome is Outcome.BROKEN:
                self._again_later(ticket, agent, reason, now)
            else:
                self._move(ticket, agent, outcome, now)

    def _move(self, ticket: Ticket, agent: AgentState, outcome: Outcome, now: float) -> None:
        if ticket.request is not None:
            return
        self.books.moved += 1
        self.books.notices.prompt_moved(agent.index, outcome.value)
        ticket.avoid = agent.index
        if ticket.isolated:
            ticket.isolated = False
            ticket.lane.suspects.append(ticket)
            self.books.lanes[ticket.lane] = None
        else:
            self.books.requeue(ticket)

    def _survivor(self, ticket: Ticket, agent: AgentState, reason: str, now: float) -> None:
        ticket.deaths += 1
        if ticket.isolated:
            error = f"the agents that served this prompt died, {ticket.deaths} of them; the last: {reason}"
            self.books.fail(ticket, Failure(ticket, "poison", error, agent.index), now)
        elif ticket.lane.pinned:
            self.books.fail(ticket, Failure(ticket, "exhausted", reason, agent.index), now)
        elif ticket.deaths >= SUSPICIOUS_DEATHS and ticket.request is None:
            self.books.quarantined += 1
            self.books.notices.prompt_quarantined(agent.index)
            ticket.lane.suspects.append(ticket)
            self.books.lanes[ticket.lane] = None
        else:
            self._move(ticket, agent, Outcome.DEAD, now)

    def _again_later(self, ticket: Ticket, agent: AgentState, reason: str, now: float) -> None:
        if ticket.request is not None:
            return
        ticket.attempts += 1
        ticket.avoid = agent.index
        if ticket.attempts >= MAX_ATTEMPTS:
            error = f"{ticket.attempts} attempts failed; the last: {reason}"
            self.books.fail(ticket, Failure(ticket, "exhausted", error, agent.index), now)
        else:
            self.books.moved += 1
            self.books.notices.prompt_moved(agent.index, Outcome.BROKEN.value)
            pause = backoff(ticket.attempts, self.books.rng) + self.books.budget.withdraw(now)
            self.books.alarm(now + pause, self.books.requeue, ticket)

    # -- silence ------------------------------------------------------------------------------------------------

    def watch(self, agent: AgentState, now: float) -> None:
        """See to it that an agent that holds prompts is looked at when it falls silent."""
        if not agent.pulse_due:
            agent.pulse_due = True
            self.books.alarm(now + LOOK_AFTER, self._pulse, agent)

    def _pulse(self, agent: AgentState, now: float) -> None:
        agent.pulse_due = False
        if not agent.requests:
            return
        agent.pulse_due = True
        if now < agent.last_byte + LOOK_AFTER:
            self.books.alarm(agent.last_byte + LOOK_AFTER, self._pulse, agent)
        else:
            agent.checking = True
            self.books.pending.check.append(agent.index)

    def looked(self, agent: AgentState, finding: Finding, now: float) -> None:
        """Take in what the look at a silent agent has shown."""
        agent.pulse_due = False
        if finding is Finding.REFUSED:
            self._give_up(agent, ConnectFailed("it refuses connections, and what it held fell silent"), now)
            return
        if finding is Finding.MOVING:
            agent.last_byte = now
            agent.checking = False
            self.books.touch(agent)
        quiet = now - agent.last_byte
        limit = self.silence * (BLIND_FACTOR if finding is Finding.BLIND else 1.0)
        if quiet >= limit and agent.requests:
            self._give_up(agent, TimedOut(f"no byte for {quiet:.0f} s, and {finding.value}"), now)
        elif agent.requests:
            self.watch(agent, now)
        else:
            agent.checking = False
            self.books.touch(agent)

    def _refused(self, agent_and_when: tuple[AgentState, float], now: float) -> None:
        agent, refused_at = agent_and_when
        if agent.requests and agent.last_byte <= refused_at and not agent.in_service:
            self._give_up(agent, ConnectFailed("it refuses connections, and what it held fell silent"), now)

    def _give_up(self, agent: AgentState, error: PoolError, now: float) -> None:
        agent.checking = False
        outcome = classify(error, 1)
        reason = describe(error)
        self.books.agent_failed(agent, outcome, reason, now)
        self._consequences(self._abandon(agent, now), agent, outcome, reason, now)

    def _abandon(self, agent: AgentState, now: float) -> list[Ticket]:
        requests: Iterable[Assignment] = sorted(agent.requests, key=lambda assignment: assignment.sent_at)
        return [ticket for request in requests for ticket in self.books.close(request, now) if not ticket.done]
