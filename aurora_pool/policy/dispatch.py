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
from collections import deque
from collections.abc import Iterable, Sequence

from aurora_pool.errors import PoolError
from aurora_pool.policy.books import Books
from aurora_pool.policy.deal import Balance, Dealer, form_lists
from aurora_pool.policy.faults import Faults, Finding
from aurora_pool.policy.hedge import Hedger
from aurora_pool.policy.isolate import place_suspects
from aurora_pool.policy.outcome import Outcome
from aurora_pool.policy.work import Assignment, Failure, Lane, Notices, Plan, Ticket


class Dispatcher:
    """The one object that the pool talks to.

    ``timeout`` is how many seconds a prompt may take from its first sending; ``silence`` how many an agent that holds
    prompts may send nothing before it is given up; ``requests_limit`` about how many requests one agent should have
    open at most.

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
        self.timeout = timeout
        self._dealer = Dealer(self.books, balance)
        self._faults = Faults(self.books, silence)
        self._hedger = Hedger(self.books) if balance == "adaptive" else None
        self._deadlines: deque[Ticket] = deque()

    # -- what comes in ------------------------------------------------------------------------------------------

    def admit(self, tickets: Iterable[Ticket], now: float) -> None:
        """Take in prompts."""
        self._dealer.admit(tickets, now)

    def withdraw(self, tickets: Iterable[Ticket], now: float) -> None:
        """Take in that the caller no longer wants these prompts."""
        for ticket in tickets:
            if not ticket.done:
                self.books.finish(ticket, now)

    def progress(self, assignment: Assignment, now: float, started: int = 0) -> None:
        """Take in that bytes of a reply came, and that so many more of its prompts have shown a first token."""
        agent = self.books.agents[assignment.agent]
        agent.last_byte = now
        if agent.checking:
            agent.checking = False
            self.books.touch(agent)
        if started and not assignment.closed:
            assignment.started += started
            agent.running += started

    def answered(self, assignment: Assignment, slot: int, tokens: int, now: float, *, started: bool) -> bool:
        """Take in an answer; return whether it is its prompt's first, and so its result.

        ``slot`` is the prompt's place in the request, ``started`` whether its first token had been reported before.
        """
        if assignment.closed or assignment.tickets[slot] is None:
            return False
        books = self.books
        agent = books.agents[assignment.agent]
        agent.answered(tokens, now - assignment.sent_at, now)
        if tokens:
            books.lengths.add(tokens)
        books.budget.deposit()
        ticket = books.settle(assignment, slot, started=started)
        if ticket.done:
            books.wasted_tokens += tokens
            return False
        books.finish(ticket, now)
        return True

    def broke(self, assignment: Assignment, slot: int, reason: str, now: float, *, started: bool) -> None:
        """Take in that one prompt ended as no answer (``abort``), while the rest of its request goes on."""
        if not assignment.closed and assignment.tickets[slot] is not None:
            self._faults.broke(assignment, slot, reason, now, started=started)

    def disown(self, assignment: Assignment) -> None:
        """Take in that whoever waits for this request's prompts will be told of its failure, and no agent asked again."""
        for ticket in assignment.unsettled():
            ticket.done = True

    def ended(self, assignment: Assignment) -> None:
        """Take in that a reply came to its proper end, every prompt of it settled."""
        self.books.retire(assignment)

    def failed(self, assignment: Assignment, error: PoolError, now: float) -> Outcome:
        """Take in that a request failed; return what that means for its unsettled prompts."""
        return self._faults.failed(assignment, error, now)

    def probed(self, agent: int, outcome: Outcome, reason: str, now: float) -> None:
        """Take in what the probe of an agent that is out came to."""
        self.books.agent_probed(self.books.agents[agent], outcome, reason, now)

    def looked(self, agent: int, finding: Finding, now: float) -> None:
        """Take in what a look at a silent agent has shown."""
        self._faults.looked(self.books.agents[agent], finding, now)

    # -- what goes out ------------------------------------------------------------------------------------------

    @property
    def wake_at(self) -> float:
        """When :meth:`plan` must be called at the latest; infinity if nothing is due."""
        return self.books.wake_at

    def plan(self, now: float) -> Plan:
        """Decide what is to be done now. A plan is handed out once: carry it out whole."""
        books = self.books
        books.ring(now)
        for lane in list(books.lanes):
            if lane.suspects:
                place_suspects(books, lane)
            self._dealer.serve(lane, now)
        for agent in books.touched:
            if agent.outbox:
                tickets, agent.outbox = agent.outbox, []
                for group in form_lists(tickets):
                    self._watch_deadlines(books.assign(group, agent, now))
                self._faults.watch(agent, now)
        self._dealer.close_round(now)
        books.touched.clear()
        if self._hedger and books.in_flight and not books.lanes:
            self._hedger.watch(now)
        plan, books.pending = books.pending, Plan()
        return plan

    # -- the time that a caller allows --------------------------------------------------------------------------

    def _watch_deadlines(self, assignment: Assignment) -> None:
        if self.timeout is None:
            return
        if not self._deadlines:
            self.books.alarm(assignment.sent_at + self.timeout, self._expire, None)
        self._deadlines.extend(ticket for ticket in assignment.unsettled() if ticket.first_sent == assignment.sent_at)

    def _expire(self, _: None, now: float) -> None:
        assert self.timeout is not None
        waiting = self._deadlines
        while waiting and (waiting[0].done or waiting[0].first_sent + self.timeout <= now):
            ticket = waiting.popleft()
            if not ticket.done:
                agent = ticket.request.agent if ticket.request else None
                error = f"no answer within {self.timeout:g} s of sending"
                self.books.fail(ticket, Failure(ticket, "timeout", error, agent), now)
        if waiting:
            self.books.alarm(waiting[0].first_sent + self.timeout, self._expire, None)
