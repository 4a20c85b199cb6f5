"""What follows from a failure, for the prompts that were in flight and for the agent (the table in outcome.py)."""

from __future__ import annotations

from aurora_pool.errors import ConnectFailed, PoolError
from aurora_pool.messages import ErrorKind
from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.deadline import Deadlines
from aurora_pool.policy.ledger import Ledger
from aurora_pool.policy.outcome import Outcome, classify
from aurora_pool.policy.quarantine import MAX_DEATHS, halve
from aurora_pool.policy.retry import MAX_ATTEMPTS, backoff
from aurora_pool.policy.stall import LOOK_AFTER, Finding, StallDetector
from aurora_pool.policy.work import SUSPICIOUS_DEATHS, Failure, InFlightRequest, WorkItem, describe

__all__ = ["Faults", "Finding"]

SHORTEST_COOLDOWN = 0.05
"""Seconds that an agent rests at least after a 503 or a 500, so that it can't take in the whole queue and fail it."""


class Faults:
    """Carries out the outcome table."""

    def __init__(self, ledger: Ledger, silence: float, deadlines: Deadlines | None) -> None:
        self.ledger = ledger
        self.deadlines = deadlines
        self._paid_for = 0
        self.stall = StallDetector(ledger, silence, self._give_up)

    def failed(self, request: InFlightRequest, error: PoolError, now: float) -> Outcome:
        """Record that a request failed with prompts unreleased; return what that means."""
        if request.closed:
            return Outcome.CANCELLED
        ledger = self.ledger
        agent = ledger.agents[request.agent]
        unreleased = ledger.remove_request(request)
        outcome = classify(error, len(unreleased))
        if outcome is Outcome.OVERLOADED:
            agent.window.overloaded(agent.held, len(unreleased), now)
        if outcome in (Outcome.OVERLOADED, Outcome.BROKEN):
            self._cool_down(agent, now)
        reason = describe(error)
        ledger.agent_failed(agent, outcome, reason, now)
        if isinstance(error, ConnectFailed):
            self.stall.suspect(agent, now)
        self._consequences([item for item in unreleased if not item.done], agent, outcome, reason, now)
        return outcome

    def aborted(self, request: InFlightRequest, slot: int, reason: str, now: float, *, started: bool) -> None:
        """Record that one prompt of a list ended as no answer (``abort``): the others go on."""
        ledger = self.ledger
        agent = ledger.agents[request.agent]
        item = ledger.release(request, slot, started=started)
        self._cool_down(agent, now)
        ledger.agent_failed(agent, Outcome.BROKEN, reason, now)
        if not item.done:
            self._consequences([item], agent, Outcome.BROKEN, reason, now)

    def _cool_down(self, agent: AgentState, now: float) -> None:
        agent.cooldowns += 1
        agent.cool_down(now + SHORTEST_COOLDOWN + backoff(agent.cooldowns, self.ledger.rng))
        self.ledger.timers.add(agent.cooldown_until, self._end_cooldown, agent)

    def _end_cooldown(self, agent: AgentState, now: float) -> None:
        agent.end_cooldown(now)
        self.ledger.touched[agent] = None

    def removed(self, agent: AgentState, now: float) -> None:
        """Take an agent out for good: what it holds moves."""
        left = [item for item in self.ledger.remove_agent(agent, now) if not item.done]
        self._consequences(left, agent, Outcome.DRAINING, agent.last_error, now)

    def _give_up(self, agent: AgentState, error: PoolError, now: float) -> None:
        """Close all that an agent holds which answers no more."""
        outcome = classify(error, 1)
        reason = describe(error)
        left = [item for request in list(agent.requests) for item in self.ledger.close(request, now)]
        self.ledger.agent_failed(agent, outcome, reason, now)
        self._consequences([item for item in left if not item.done], agent, outcome, reason, now)

    # -- the prompts --------------------------------------------------------------------------------------------

    def _consequences(
        self, items: list[WorkItem], agent: AgentState, outcome: Outcome, reason: str, now: float
    ) -> None:
        """Do what the table says with prompts that nobody has answered."""
        match outcome:
            case Outcome.BATCH_REJECTED:
                for part in halve(items):
                    for item in part:
                        item.holders += 1
                    agent.held += len(part)
                    self.ledger.open_request(part, agent, now)
            case Outcome.PROMPT_REJECTED:
                for item in items:
                    self._fail(item, agent, "rejected", reason, now)
            case Outcome.DEAD:
                self._on_agent_death(items, agent, reason, now)
            case Outcome.BROKEN:
                self._try_again_later(items, agent, reason, now)
            case _:
                self._move(items, agent, outcome, now)

    def _move(self, items: list[WorkItem], agent: AgentState, outcome: Outcome, now: float) -> None:
        moved = self._note_moved(items, agent, outcome)
        self.ledger.requeue(reversed(moved), now)

    def _on_agent_death(self, items: list[WorkItem], agent: AgentState, reason: str, now: float) -> None:
        """Move prompts whose agent has died under them, unless one is known now to be what kills agents."""
        seemed_sound = agent.proven and now < agent.last_byte + LOOK_AFTER
        for item in items:
            was_isolated = item.isolated
            item.deaths += 1
            if item.queue.pinned:
                self._fail(item, agent, "exhausted", reason, now)
            elif was_isolated and (seemed_sound or item.deaths >= MAX_DEATHS):
                error = f"the agents that served this prompt died, {item.deaths} of them; the last: {reason}"
                self._fail(item, agent, "poison", error, now)
            elif item.deaths == SUSPICIOUS_DEATHS:
                self.ledger.quarantined += 1
                self.ledger.events.prompt_quarantined(agent.index)
        self._move(items, agent, Outcome.DEAD, now)

    def _try_again_later(self, items: list[WorkItem], agent: AgentState, reason: str, now: float) -> None:
        for item in items:
            item.attempts += 1
            if item.holders:
                continue
            if item.queue.pinned:
                self._fail(item, agent, "exhausted", reason, now)
            elif item.attempts >= MAX_ATTEMPTS:
                error = f"{item.attempts} attempts failed; the last: {reason}"
                self._fail(item, agent, "exhausted", error, now)
        later = self._note_moved(items, agent, Outcome.BROKEN)
        if later:
            pause = backoff(max(item.attempts for item in later), self.ledger.rng)
            if not self._mostly_healthy():
                pause += self._pay(len(later), now)
            self.ledger.timers.add(now + pause, self.ledger.requeue, later[::-1])

    def _mostly_healthy(self) -> bool:
        """Whether at least half of the fleet works: what a few agents have broken is then no reason to hold back."""
        agents = self.ledger.agents
        return 2 * sum(agent.in_service and not agent.breaker.broken for agent in agents) >= len(agents)

    def _pay(self, retries: int, now: float) -> float:
        ledger = self.ledger
        ledger.budget.deposit(ledger.answered - self._paid_for)
        self._paid_for = ledger.answered
        return ledger.budget.withdraw(now, retries)

    def _note_moved(self, items: list[WorkItem], agent: AgentState, outcome: Outcome) -> list[WorkItem]:
        moved = [item for item in items if not item.done and not item.holders]
        self.ledger.moved += len(moved)
        for item in moved:
            item.avoid = agent.index
            self.ledger.events.prompt_moved(agent.index, outcome.value)
        if moved and self.deadlines is not None:
            self.deadlines.watch(moved)
        return moved

    def _fail(self, item: WorkItem, agent: AgentState, kind: ErrorKind, reason: str, now: float) -> None:
        self.ledger.fail(item, Failure(item, kind, reason, agent.index), now)
