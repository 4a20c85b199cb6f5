"""What follows from a failure, for the prompts that were under way and for the agent (the table in outcome.py)."""

from __future__ import annotations

from aurora_pool.errors import ConnectFailed, PoolError
from aurora_pool.messages import ErrorKind
from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.books import Books
from aurora_pool.policy.deadline import Deadlines
from aurora_pool.policy.isolate import MAX_DEATHS, halve
from aurora_pool.policy.outcome import Outcome, classify
from aurora_pool.policy.retry import MAX_ATTEMPTS, backoff
from aurora_pool.policy.silence import LOOK_AFTER, Finding, Silence
from aurora_pool.policy.work import SUSPICIOUS_DEATHS, Assignment, Failure, Ticket, describe

__all__ = ["Faults", "Finding"]

SHORTEST_REST = 0.05
"""Seconds that an agent rests at least after a 503 or a 500, so that it can't take in the whole queue and fail it."""


class Faults:
    """Carries out the outcome table."""

    def __init__(self, books: Books, silence: float, deadlines: Deadlines | None) -> None:
        self.books = books
        self.deadlines = deadlines
        self._paid_for = 0
        self.silence = Silence(books, silence, self._give_up)

    def failed(self, assignment: Assignment, error: PoolError, now: float) -> Outcome:
        """Take in that a request failed with prompts unsettled; return what that means."""
        if assignment.closed:
            return Outcome.CANCELLED
        books = self.books
        agent = books.agents[assignment.agent]
        unsettled = books.retire(assignment)
        outcome = classify(error, len(unsettled))
        if outcome is Outcome.OVERLOADED:
            agent.window.refused(agent.held, len(unsettled), now)
        if outcome in (Outcome.OVERLOADED, Outcome.BROKEN):
            self._rest(agent, now)
        reason = describe(error)
        books.agent_failed(agent, outcome, reason, now)
        if isinstance(error, ConnectFailed):
            self.silence.doubt(agent, now)
        self._consequences([ticket for ticket in unsettled if not ticket.done], agent, outcome, reason, now)
        return outcome

    def broke(self, assignment: Assignment, slot: int, reason: str, now: float, *, started: bool) -> None:
        """Take in that one prompt of a list ended as no answer (``abort``): the others go on."""
        books = self.books
        agent = books.agents[assignment.agent]
        ticket = books.settle(assignment, slot, started=started)
        self._rest(agent, now)
        books.agent_failed(agent, Outcome.BROKEN, reason, now)
        if not ticket.done:
            self._consequences([ticket], agent, Outcome.BROKEN, reason, now)

    def _rest(self, agent: AgentState, now: float) -> None:
        agent.rests += 1
        agent.rest(now + SHORTEST_REST + backoff(agent.rests, self.books.rng))
        self.books.alarm(agent.rest_until, self._rested, agent)

    def _rested(self, agent: AgentState, now: float) -> None:
        agent.rested(now)
        self.books.touched[agent] = None

    def removed(self, agent: AgentState, now: float) -> None:
        """Take an agent out for good: what it holds moves."""
        left = [ticket for ticket in self.books.remove_agent(agent, now) if not ticket.done]
        self._consequences(left, agent, Outcome.LEAVING, agent.last_error, now)

    def _give_up(self, agent: AgentState, error: PoolError, now: float) -> None:
        """Close all that an agent holds which answers no more."""
        outcome = classify(error, 1)
        reason = describe(error)
        left = [ticket for request in list(agent.requests) for ticket in self.books.close(request, now)]
        self.books.agent_failed(agent, outcome, reason, now)
        self._consequences([ticket for ticket in left if not ticket.done], agent, outcome, reason, now)

    # -- the prompts --------------------------------------------------------------------------------------------

    def _consequences(
        self, tickets: list[Ticket], agent: AgentState, outcome: Outcome, reason: str, now: float
    ) -> None:
        """Do what the table says with prompts that nobody has answered."""
        match outcome:
            case Outcome.REFUSED:
                for part in halve(tickets):
                    for ticket in part:
                        ticket.holders += 1
                    agent.held += len(part)
                    self.books.assign(part, agent, now)
            case Outcome.REJECTED:
                for ticket in tickets:
                    self._fail(ticket, agent, "rejected", reason, now)
            case Outcome.DEAD:
                self._bereave(tickets, agent, reason, now)
            case Outcome.BROKEN:
                self._try_again_later(tickets, agent, reason, now)
            case _:
                self._move(tickets, agent, outcome, now)

    def _move(self, tickets: list[Ticket], agent: AgentState, outcome: Outcome, now: float) -> None:
        moved = self._note_moved(tickets, agent, outcome)
        self.books.requeue(reversed(moved), now)

    def _bereave(self, tickets: list[Ticket], agent: AgentState, reason: str, now: float) -> None:
        """Move prompts whose agent has died under them, unless one is known now to be what kills agents."""
        seemed_sound = agent.proven and now < agent.last_byte + LOOK_AFTER
        for ticket in tickets:
            was_alone = ticket.alone
            ticket.deaths += 1
            if ticket.lane.pinned:
                self._fail(ticket, agent, "exhausted", reason, now)
            elif was_alone and (seemed_sound or ticket.deaths >= MAX_DEATHS):
                error = f"the agents that served this prompt died, {ticket.deaths} of them; the last: {reason}"
                self._fail(ticket, agent, "poison", error, now)
            elif ticket.deaths == SUSPICIOUS_DEATHS:
                self.books.quarantined += 1
                self.books.notices.prompt_quarantined(agent.index)
        self._move(tickets, agent, Outcome.DEAD, now)

    def _try_again_later(self, tickets: list[Ticket], agent: AgentState, reason: str, now: float) -> None:
        for ticket in tickets:
            ticket.attempts += 1
            if ticket.holders:
                continue
            if ticket.lane.pinned:
                self._fail(ticket, agent, "exhausted", reason, now)
            elif ticket.attempts >= MAX_ATTEMPTS:
                error = f"{ticket.attempts} attempts failed; the last: {reason}"
                self._fail(ticket, agent, "exhausted", error, now)
        later = self._note_moved(tickets, agent, Outcome.BROKEN)
        if later:
            pause = backoff(max(ticket.attempts for ticket in later), self.books.rng)
            if not self._mostly_healthy():
                pause += self._pay(len(later), now)
            self.books.alarm(now + pause, self.books.requeue, later[::-1])

    def _mostly_healthy(self) -> bool:
        """Whether at least half of the fleet works: what a few agents have broken is then no reason to hold back."""
        agents = self.books.agents
        return 2 * sum(agent.in_service and not agent.breaker.broken for agent in agents) >= len(agents)

    def _pay(self, retries: int, now: float) -> float:
        books = self.books
        books.budget.deposit(books.answered - self._paid_for)
        self._paid_for = books.answered
        return books.budget.withdraw(now, retries)

    def _note_moved(self, tickets: list[Ticket], agent: AgentState, outcome: Outcome) -> list[Ticket]:
        moved = [ticket for ticket in tickets if not ticket.done and not ticket.holders]
        self.books.moved += len(moved)
        for ticket in moved:
            ticket.avoid = agent.index
            self.books.notices.prompt_moved(agent.index, outcome.value)
        if moved and self.deadlines is not None:
            self.deadlines.watch(moved)
        return moved

    def _fail(self, ticket: Ticket, agent: AgentState, kind: ErrorKind, reason: str, now: float) -> None:
        self.books.fail(ticket, Failure(ticket, kind, reason, agent.index), now)
