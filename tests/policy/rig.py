"""A hand-driven dispatcher: the test plays the agents, this keeps the accounts and checks them after every plan."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

from aurora_pool.errors import ConnectionLost, PoolError, ServerError
from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.deal import Balance
from aurora_pool.policy.dispatch import Dispatcher
from aurora_pool.policy.outcome import Outcome
from aurora_pool.policy.silence import Finding
from aurora_pool.policy.work import Assignment, Failure, Lane, Plan, Ticket


class Rig:
    """Carries out plans by noting them, and reports what the test says that agents did.

    A ticket whose ``work`` is "bad" gets any request with it a 400; one whose ``work`` is "poison" kills the agent.
    """

    def __init__(
        self,
        agents: int,
        *,
        balance: Balance = "adaptive",
        timeout: float | None = None,
        seed: int = 0,
        requests_limit: int = 256,
    ) -> None:
        self.dispatcher = Dispatcher(
            [f"agent{index}" for index in range(agents)],
            rng=random.Random(seed),
            balance=balance,
            timeout=timeout,
            requests_limit=requests_limit,
        )
        self.books = self.dispatcher.books
        self.now = 0.0
        self.lane = Lane(range(agents))
        self.tickets: list[Ticket] = []
        self.withdrawn: set[Ticket] = set()
        self.results: Counter[Ticket] = Counter()
        self.failures: dict[Ticket, Failure] = {}
        self.open: dict[Assignment, set[int]] = {}
        self.sent: list[Assignment] = []
        self.probes: list[int] = []
        self.looks: list[int] = []
        self.samples: list[int] = []
        self.refused_here: dict[Ticket, int] = {}
        self.rejected: set[Ticket] = set()

    @property
    def agents(self) -> list[AgentState]:
        return self.books.agents

    # -- what comes in ------------------------------------------------------------------------------------------

    def admit(self, count: int = 1, *, lane: Lane | None = None, work: Iterable[str] = ()) -> list[Ticket]:
        kinds = list(work)
        tickets = [
            Ticket(lane or self.lane, len(self.tickets) + i, "batch", kinds[i] if i < len(kinds) else "good")
            for i in range(count)
        ]
        self.tickets += tickets
        self.dispatcher.admit(tickets, self.now)
        return tickets

    def withdraw(self, tickets: Iterable[Ticket]) -> None:
        gone = [ticket for ticket in tickets if not ticket.done]
        self.withdrawn.update(gone)
        self.dispatcher.withdraw(gone, self.now)
        self._drop_closed()

    def wait(self, seconds: float) -> Plan:
        """Let time pass, with a plan whenever the dispatcher wants one."""
        end = self.now + seconds
        while self.dispatcher.wake_at <= end:
            self.now = max(self.now, self.dispatcher.wake_at)
            self.plan()
        self.now = end
        return self.plan()

    # -- what agents do -----------------------------------------------------------------------------------------

    def start(self, assignment: Assignment, count: int | None = None) -> None:
        """Show first tokens: of so many prompts, or of all."""
        shown = self.open[assignment]
        slots = [i for i, ticket in enumerate(assignment.tickets) if ticket is not None and i not in shown][:count]
        self.open[assignment].update(slots)
        self.dispatcher.progress(assignment, self.now, started=len(slots))

    def answer(self, assignment: Assignment, slot: int, tokens: int = 100) -> None:
        ticket = assignment.tickets[slot]
        assert ticket is not None
        if any(t.work == "bad" for t in assignment.unsettled()):
            self.fail(assignment, ServerError(400, "The decoder prompt cannot be empty"))
        elif ticket.work == "poison":
            self.die(assignment.agent)
        else:
            self._heard(assignment)
            started = slot in self.open[assignment]
            if self.dispatcher.answered(assignment, slot, tokens, self.now, started=started):
                self._result(ticket)
            self._maybe_end(assignment)

    def answer_all(self, assignment: Assignment, tokens: int = 100) -> None:
        for slot, ticket in enumerate(list(assignment.tickets)):
            if ticket is not None and not assignment.closed and assignment.tickets[slot] is ticket:
                self.answer(assignment, slot, tokens)

    def abort(self, assignment: Assignment, slot: int) -> None:
        started = slot in self.open[assignment]
        self.dispatcher.broke(assignment, slot, "finish_reason 'abort'", self.now, started=started)
        self._maybe_end(assignment)

    def fail(self, assignment: Assignment, error: PoolError) -> Outcome:
        unsettled = list(assignment.unsettled())
        outcome = self.dispatcher.failed(assignment, error, self.now)
        self._drop_closed()
        if outcome is Outcome.REFUSED:
            self.refused_here.update(dict.fromkeys(unsettled, assignment.agent))
        elif outcome is Outcome.REJECTED:
            self.rejected.update(ticket for ticket in unsettled if not ticket.done)
        return outcome

    def die(self, agent: int) -> None:
        for assignment in [a for a in self.open if a.agent == agent]:
            self.fail(assignment, ConnectionLost("connection lost", received=True))

    def probed(self, agent: int, outcome: Outcome = Outcome.ANSWERED) -> None:
        self.probes.remove(agent)
        self.dispatcher.probed(agent, outcome, outcome.value, self.now)

    def looked(self, agent: int, finding: Finding) -> None:
        self.looks.remove(agent)
        self.dispatcher.looked(agent, finding, self.now)
        self._drop_closed()

    # -- what the dispatcher decides ----------------------------------------------------------------------------

    def plan(self) -> Plan:
        plan = self.dispatcher.plan(self.now)
        for failure in plan.fail:
            self.failures[failure.ticket] = failure
            self._result(failure.ticket)
        self._drop_closed()
        for assignment in plan.send:
            self._check_sending(assignment)
            self.sent.append(assignment)
            if not assignment.closed:
                self.open[assignment] = set()
        self.probes += plan.probe
        self.looks += plan.check
        self.samples += plan.sample
        self.check()
        return plan

    def finish(self, rounds: int = 2000) -> None:
        """Have every agent answer everything from now on, until all prompts have ended; check that nothing is left."""
        for _ in range(rounds):
            for agent in list(self.probes):
                self.probed(agent)
            for agent in list(self.looks):
                self.looked(agent, Finding.MOVING)
            self.plan()
            for assignment in list(self.open):
                if assignment in self.open and not assignment.closed:
                    self.answer_all(assignment)
            self.plan()
            if not self.unended() and not self.open:
                break
            if not self.open and not self.probes and not self.looks and self.books.wake_at < float("inf"):
                self.now = max(self.now, self.books.wake_at)
        assert not self.unended(), self.describe()
        self.wait(60.0)
        assert not self.books.in_flight
        assert not self.books.lanes, self.describe()
        assert not self.books.wards
        assert self.books.queued == 0
        for state in self.agents:
            assert (state.held, state.running, state.outbox, dict(state.requests)) == (0, 0, [], {})

    def describe(self) -> str:
        """Say where everything is, for a failed test."""
        lanes = [(lane.members, len(lane.queue), len(lane.suspects), lane.waiting) for lane in self.books.lanes]
        agents = [
            (a.index, a.breaker.state, a.limit, a.held, a.ward_of is not None, a.checking, a.resting)
            for a in self.agents
        ]
        tickets = [(t.index, t.work, t.holders, t.deaths, t.attempts) for t in self.unended()]
        return f"now {self.now}, wakes at {self.books.wake_at}, {lanes=}, {agents=}, {tickets=}, open={len(self.open)}"

    def unended(self) -> list[Ticket]:
        return [ticket for ticket in self.tickets if not self.results[ticket] and ticket not in self.withdrawn]

    # -- what must always hold ----------------------------------------------------------------------------------

    def check(self) -> None:
        held = Counter({agent.index: 0 for agent in self.agents})
        running: Counter[int] = Counter()
        holders: Counter[Ticket] = Counter()
        for assignment, started in self.open.items():
            assert not assignment.closed
            unsettled = list(assignment.unsettled())
            assert assignment.open == len(unsettled)
            assert assignment.live == sum(not ticket.done for ticket in unsettled) > 0
            held[assignment.agent] += len(unsettled)
            running[assignment.agent] += sum(assignment.tickets[slot] is not None for slot in started)
            holders.update(unsettled)
        for agent in self.agents:
            assert not agent.outbox, "a plan empties every outbox"
            assert agent.held == held[agent.index], agent.index
            assert agent.running == running[agent.index], agent.index
        assert self.books.in_flight == sum(held.values())
        for ticket in self.tickets:
            assert ticket.holders == holders[ticket] <= 2
            assert self.results[ticket] <= 1
            assert ticket.done == bool(self.results[ticket] or ticket in self.withdrawn)
        self._check_nobody_idles()

    def _check_nobody_idles(self) -> None:
        for lane in self.books.lanes:
            for agent in self.agents:
                if agent.index in lane.serves and agent.limit and not agent.held:
                    too_slow = 0 < agent.speed < lane.least_speed
                    waiting = [t for t in lane.queue if not t.done and t.avoid != agent.index]
                    assert too_slow or not waiting, f"agent {agent.index} idles while prompts wait"

    def _check_sending(self, assignment: Assignment) -> None:
        agent = self.agents[assignment.agent]
        tickets = list(assignment.unsettled())
        for ticket in tickets:
            assert assignment.agent in ticket.lane.serves
            assert ticket not in self.rejected, "a prompt's fault reached an agent again"
        halves = all(self.refused_here.get(ticket) == agent.index for ticket in tickets)
        if not halves and not assignment.closed:
            assert agent.in_service
            assert agent.held <= agent.window.size, "an agent holds more than its window"
        held = [ticket for request in self.open if request.agent == agent.index for ticket in request.unsettled()]
        if any(ticket.suspected for ticket in tickets):
            assert all(ticket.suspected for ticket in (*held, *tickets)), "suspects run among suspects only"
        if any(ticket.alone for ticket in (*held, *tickets)):
            assert len(held) + len(tickets) == 1 or halves, "who is to be alone is alone"

    def _result(self, ticket: Ticket) -> None:
        self.results[ticket] += 1

    def _heard(self, assignment: Assignment) -> None:
        self.dispatcher.progress(assignment, self.now)

    def _maybe_end(self, assignment: Assignment) -> None:
        if not assignment.closed and not assignment.open:
            self.dispatcher.ended(assignment)
        self._drop_closed()

    def _drop_closed(self) -> None:
        for assignment in [a for a in self.open if a.closed]:
            del self.open[assignment]
