"""Which prompt goes to which agent, when, and in which request.

Prompt ``i`` of a call is dealt to agent ``i % size``, as long as that agent has a credit (room for one more prompt).
What finds no credit waits in its lane, and whoever gets credits back takes it from there, so nothing that waits here is
bound to an agent that is slow, full or gone. Credits come back prompt by prompt; a refill is worth a request once it
fills 1/16 of the window. When nothing waits any more, slow agents get no last prompts (guard), and what sits on slow or
silent ones is given to a second agent (hedge). ``balance="strict"`` keeps prompt ``i`` waiting for agent ``i % size``
as long as that is in service, and leaves out guard and hedge.

The dispatcher is synchronous and never waits: the caller reports what happened and carries out the
:class:`~aurora_pool.policy.work.Plan` that :meth:`Dispatcher.plan` returns, at the latest at
:attr:`Dispatcher.wake_at`. The costs are O(1) per prompt, and O(log agents) per request and per failure.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from aurora_pool.errors import BadReply, PoolError
from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.books import Books
from aurora_pool.policy.deadline import Deadlines
from aurora_pool.policy.deal import Balance, Dealer
from aurora_pool.policy.faults import Faults
from aurora_pool.policy.hedge import Hedger
from aurora_pool.policy.isolate import tend_wards
from aurora_pool.policy.lists import form_lists
from aurora_pool.policy.outcome import Outcome
from aurora_pool.policy.silence import Finding
from aurora_pool.policy.work import NOTHING, Assignment, Notices, Plan, Ticket


class PromptAnswer(Protocol):
    """What the dispatcher wants to know of an answer: the parameters of :meth:`Dispatcher.answered`."""

    slot: int
    started: bool

    @property
    def tokens(self) -> int:
        """How many tokens it has; 0 where the server does not tell."""
        ...


AnyAnswer = TypeVar("AnyAnswer", bound=PromptAnswer)


class Dispatcher:
    """The one object that the pool talks to.

    ``timeout`` is how many seconds a prompt may take from its first sending; ``silence`` how many an agent that holds
    prompts may send nothing before it is given up; ``requests_limit`` about how many requests one agent should have
    open at most.

    >>> from aurora_pool.policy.work import Lane
    >>> dispatcher = Dispatcher(["gpu01", "gpu02"], rng=random.Random(0))
    >>> lane = Lane(range(2))
    >>> dispatcher.admit([Ticket(lane, i, "batch", work=None) for i in range(5)], now=0.0)
    >>> [(a.agent, [t.index for t in a.unsettled()]) for a in dispatcher.plan(now=0.0).send]
    [(0, [0, 2, 4]), (1, [1, 3])]
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        rng: random.Random,
        balance: Balance = "adaptive",
        timeout: float | None = None,
        silence: float = 30.0,
        requests_limit: int = 256,
        notices: Notices | None = None,
    ) -> None:
        self.books = Books(names, rng, requests_limit, notices or Notices())
        self._dealer = Dealer(self.books, balance)
        self._deadlines = Deadlines(self.books, timeout) if timeout is not None else None
        self._faults = Faults(self.books, silence, self._deadlines)
        self._hedger = Hedger(self.books, self._dealer.hungry) if balance == "adaptive" else None

    # -- what comes in ------------------------------------------------------------------------------------------

    def admit(self, tickets: Sequence[Ticket], now: float) -> None:
        """Take in prompts, in the order of their indices."""
        self._dealer.admit(tickets)

    def withdraw(self, tickets: Iterable[Ticket], now: float) -> None:
        """Take in that the caller no longer wants these prompts."""
        for ticket in tickets:
            if not ticket.done:
                self.books.finish(ticket, now)
        self.books.clear_outboxes()

    def progress(self, assignment: Assignment, now: float, started: int = 0) -> None:
        """Take in that bytes of a reply came, and that so many more of its prompts have shown a first token."""
        agent = self.books.agents[assignment.agent]
        agent.last_byte = now
        if agent.checking:
            self._faults.silence.heard(agent)
        if started and not assignment.closed:
            assignment.started += started
            agent.started(started, now)
            if agent.limit - agent.held >= agent.least:
                self.books.touched[agent] = None

    def answered(self, assignment: Assignment, slot: int, tokens: int, now: float, *, started: bool) -> bool:
        """Take in an answer; return whether it is its prompt's first, and so its result.

        ``slot`` is the prompt's place in the request, ``started`` whether its first token had been reported before.
        ``tokens`` is 0 where the server does not tell.
        """
        if assignment.tickets[slot] is None:
            return False
        books = self.books
        agent = books.agents[assignment.agent]
        agent.answered(tokens, assignment.sent_at, now)
        if agent.checking:
            self._faults.silence.heard(agent)
        if tokens:
            books.lengths.add(tokens)
        books.answered += 1
        ticket = books.settle(assignment, slot, started=started)
        first = not ticket.done
        if first:
            books.finish(ticket, now)
        else:
            books.wasted_tokens += tokens
            agent.lost(tokens)
        if not assignment.live and assignment.open:
            books.close(assignment, now)
        return first

    def answered_together(
        self, assignment: Assignment, answers: Iterable[AnyAnswer], now: float
    ) -> list[tuple[Ticket, AnyAnswer]]:
        """Take in answers that came at the same moment; return those that are their prompts' first, with the tickets.

        It comes to the same as :meth:`answered` for each, at a third of the cost where a reply brings many.
        """
        books = self.books
        agent = books.agents[assignment.agent]
        tickets = assignment.tickets
        results: list[tuple[Ticket, AnyAnswer]] = []
        entangled: list[tuple[Ticket, AnyAnswer]] = []
        lengths: list[int] = []
        started = 0
        for answer in answers:
            slot = answer.slot
            ticket = tickets[slot]
            if ticket is None:
                continue
            if ticket.done or ticket.holders > 1 or ticket.request is not assignment:
                entangled.append((ticket, answer))
                continue
            tickets[slot] = ticket.request = None
            ticket.holders = 0
            ticket.done = True
            tokens = answer.tokens
            if tokens:
                lengths.append(tokens)
            if answer.started:
                started += 1
            results.append((ticket, answer))
        settled = len(results)
        results += [
            (ticket, answer)
            for ticket, answer in entangled
            if self.answered(assignment, answer.slot, answer.tokens, now, started=answer.started)
        ]
        if settled:
            books.lengths.add(*lengths)
            books.settle_done(assignment, settled, started)
            agent.answered(sum(lengths), assignment.sent_at, now, settled)
            if agent.checking:
                self._faults.silence.heard(agent)
            if not assignment.live and assignment.open:
                books.close(assignment, now)
        return results

    def broke(self, assignment: Assignment, slot: int, reason: str, now: float, *, started: bool) -> None:
        """Take in that one prompt ended as no answer (``abort``), while the rest of its request goes on."""
        if assignment.tickets[slot] is not None:
            self._faults.broke(assignment, slot, reason, now, started=started)
            if not assignment.live and assignment.open:
                self.books.close(assignment, now)

    def disown(self, assignment: Assignment) -> None:
        """Take in that whoever waits for this request's prompts is told of its failure, and no agent asked again."""
        for ticket in assignment.unsettled():
            if not ticket.done:
                ticket.done = True
                assignment.live -= 1

    def ended(self, assignment: Assignment) -> None:
        """Take in that a reply came to its end. It should have settled all its prompts; if not, it was a bad one."""
        if assignment.live:
            now = self.books.agents[assignment.agent].last_byte
            self._faults.failed(assignment, BadReply("the reply ended before every prompt had its answer"), now)
        else:
            if not assignment.closed:
                self.books.agents[assignment.agent].served(assignment.sent_at)
            self.books.retire(assignment)

    def failed(self, assignment: Assignment, error: PoolError, now: float) -> Outcome:
        """Take in that a request failed; return what that means for its unsettled prompts."""
        return self._faults.failed(assignment, error, now)

    def probed(self, agent: int, outcome: Outcome, reason: str, now: float) -> None:
        """Take in what the probe of an agent that is out came to."""
        self.books.agent_probed(self.books.agents[agent], outcome, reason, now)

    def looked(self, agent: int, finding: Finding, now: float) -> None:
        """Take in what a look at a silent agent has shown."""
        self._faults.silence.looked(self.books.agents[agent], finding, now)

    def sampled(self, agent: int, running: int, waiting: int, preemptions: int | None, now: float) -> None:
        """Take in an engine's own counters: prompts that run and that wait there, and preemptions since it started."""
        state = self.books.agents[agent]
        state.sampled(running, waiting, preemptions, now)
        self.books.touched[state] = None

    def add_agent(self, name: str) -> int:
        """Take in that the fleet has a new agent; return its index. Lanes are told by :meth:`Lane.set_members`."""
        return self.books.add_agent(name)

    def remove_agent(self, agent: int, now: float) -> None:
        """Take in that an agent is no longer part of the fleet: it keeps its index, and what it holds moves."""
        self._faults.removed(self.books.agents[agent], now)

    def restore_agent(self, agent: int, now: float) -> None:
        """Take in that a removed agent is part of the fleet again."""
        self.books.restore_agent(self.books.agents[agent], now)

    def close(self) -> None:
        """Forget all prompts. Without it, those left over are never freed: see :class:`Ticket`."""
        self.books.clear()
        if self._deadlines is not None:
            self._deadlines.clear()

    # -- what goes out ------------------------------------------------------------------------------------------

    @property
    def wake_at(self) -> float:
        """When :meth:`plan` must be called at the latest; infinity if nothing is due."""
        return self.books.wake_at

    def plan(self, now: float) -> Plan:
        """Decide what is to be done now. A plan is handed out once: carry it out whole."""
        books = self.books
        if books.wake_at <= now:
            books.ring(now)
        if books.touched:
            books.trim_outboxes(now)
            if books.wards:
                tend_wards(books, now)
        if books.lanes:
            self._dealer.serve(now)
        if books.touched:
            self._close_round(now)
        if self._hedger is not None:
            self._hedger.watch(now)
        plan = books.pending
        if not (plan.send or plan.close or plan.fail or plan.probe or plan.check or plan.sample):
            return NOTHING
        books.pending = Plan()
        if self._deadlines is not None:
            for assignment in plan.send:
                self._deadlines.watch(assignment.tickets)
        return plan

    def _close_round(self, now: float) -> None:
        """Send what agents were handed, and note which of those touched could still take more."""
        touched, hungry = self.books.touched, self._dealer.hungry
        for agent in touched:
            if agent.outbox:
                self._send(agent, now)
            if agent.limit - agent.held >= agent.least:
                hungry[agent] = None
            else:
                hungry.pop(agent, None)
        touched.clear()

    def _send(self, agent: AgentState, now: float) -> None:
        tickets, agent.outbox = agent.outbox, []
        for group in form_lists(tickets):
            self.books.assign(group, agent, now)
        self._faults.silence.watch(agent, now)
