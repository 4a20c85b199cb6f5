"""What follows from a failure, for its prompts and for the agent: the table of docs/dispatch.md."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from aurora_pool.errors import ConnectFailed, ConnectionLost, PoolError, ServerError
from aurora_pool.messages import ErrorKind
from aurora_pool.policy.agent import RATE_LIMITED, AgentState
from aurora_pool.policy.callers import PromptQueue
from aurora_pool.policy.deadline import Deadlines
from aurora_pool.policy.death_checks import NOT_WORKING, PROVES_DEATH, DeathChecks
from aurora_pool.policy.ledger import Ledger
from aurora_pool.policy.outcome import Outcome, as_directed, classify
from aurora_pool.policy.plan import Failure, describe
from aurora_pool.policy.quarantine import MAX_DEATHS, halve
from aurora_pool.policy.retry import MAX_ATTEMPTS, backoff, count_attempt
from aurora_pool.policy.rotation import agent_failed, disable, remove_agent
from aurora_pool.policy.stall import CHECK_AFTER, Finding, StallDetector
from aurora_pool.policy.work import SUSPICIOUS_DEATHS, InFlightRequest, WorkItem

__all__ = ["Faults", "Finding"]

TRUSTED_REJECTIONS = 8
"""An agent that answers others is taken at its word for this number of rejections in a row."""
OVERLOADED_PATIENCE = 5
"""Prompts are given up when all agents have been overloaded for this many times the queue's patience."""
OVERLOADED_PINNED = 300.0
"""The same in seconds, for prompts that are pinned to an agent."""
TOO_MANY_REQUESTS = 429
GATEWAY_TIMEOUT = 504
NO_MONEY = "insufficient_quota"
"""What an API gives as the reason of a 429 that waiting does not mend."""
SHORTEST_PAUSE = 0.05
"""Seconds of pause at least after a 503 or a 500, so that an agent can't take in the whole queue and fail it."""


class Faults:
    """Carries out the outcome table."""

    def __init__(self, ledger: Ledger, stall: float, deadlines: Deadlines | None) -> None:
        self.ledger = ledger
        self.deadlines = deadlines
        self._paid_for = 0
        self.stall = StallDetector(ledger, stall, self._give_up)
        self.death_checks = DeathChecks(ledger)

    def failed(self, request: InFlightRequest, error: PoolError, now: float) -> Outcome:
        """Record that a request failed with prompts unreleased; return what that means."""
        if request.closed:
            return Outcome.CANCELLED
        ledger = self.ledger
        agent = ledger.agents[request.agent]
        unreleased = ledger.remove_request(request)
        reason = describe(error)
        left = self._movable(unreleased, agent, reason, now)
        outcome = classify(error, len(unreleased))
        if agent.quota is not None:
            outcome = as_directed(error, outcome)
        no_money = isinstance(error, ServerError) and error.reason == NO_MONEY
        if agent.quota is not None and (outcome is Outcome.WRONG_MODEL or no_money):
            outcome = Outcome.WRONG_MODEL
            disable(ledger, agent, reason, now)
        if isinstance(error, ServerError) and error.status == GATEWAY_TIMEOUT and request.sent_at is not None:
            self.death_checks.note_idle(agent, now - request.sent_at)  # a proxy's cut, of a reply that had not begun
        if isinstance(error, ConnectionLost):
            self.death_checks.begin(agent, left, reason, error.idle_seconds)
            return outcome
        if outcome in (Outcome.PROMPT_REJECTED, Outcome.BATCH_REJECTED) and self._needs_confirmation(agent, left):
            agent_failed(ledger, agent, Outcome.BROKEN, reason, now)
            self._note_moved(left, agent, Outcome.BROKEN)
            self._retry_together(left, now)
            return Outcome.BROKEN
        if outcome is Outcome.OVERLOADED:
            agent.window.overloaded(agent.held, len(unreleased), now)
            self._overloaded(agent, error, left, now)
        if outcome is Outcome.BROKEN and left and all(t.attempts and t.avoid != agent.index for t in left):
            agent.note_failure(outcome, reason)  # the same has failed elsewhere: this is not the agent's fault
        else:
            if outcome is Outcome.BROKEN:
                self._pause(agent, now)
            agent_failed(ledger, agent, outcome, reason, now)
        if isinstance(error, ConnectFailed):
            self.stall.refused(agent, now)
        self._consequences(left, agent, outcome, reason, now)
        return outcome

    def load_checked(self, agent: AgentState, finding: Finding, now: float) -> None:
        """Record what the load check of an agent has shown, whose connections broke or that sends nothing."""
        lost = self.death_checks.end(agent, finding)
        died = finding in PROVES_DEATH
        if lost:
            outcome = Outcome.DEAD if finding in NOT_WORKING else Outcome.BROKEN
            agent_failed(self.ledger, agent, outcome, lost[0][1], now)
            if not agent.sent:
                agent.load_check_sent = False
                self.stall.saw_activity(agent)
        for items, reason in lost:
            left = [item for item in items if not item.done]
            if died:
                self._on_agent_death(left, agent, reason, now)
            else:
                self._try_again_later(left, agent, reason, now)
        self.stall.load_checked(agent, finding, now)

    def _needs_confirmation(self, agent: AgentState, items: list[WorkItem]) -> bool:
        """Whether another agent should be asked before these are rejected: this one may reject whatever it gets.

        It may, if it has never answered anything, or rejects one after the other while others answer. Whatever two
        agents reject is rejected.
        """
        if agent.prompts_done != agent.done_when_rejecting:
            agent.done_when_rejecting = agent.prompts_done
            agent.rejections = 0
        agent.rejections += 1
        if not items or items[0].queue.pinned or all(item.rejected_once for item in items) or agent.quota is not None:
            return False
        others = [self.ledger.agents[index] for index in items[0].queue.view.members if index != agent.index]
        if agent.prompts_done:
            since = agent.answered_at or 0.0
            if agent.rejections <= TRUSTED_REJECTIONS or not any((o.answered_at or 0.0) > since for o in others):
                return False
        if not any(other.in_service for other in others):
            return False
        for item in items:
            item.rejected_once = True
        return True

    def aborted(self, request: InFlightRequest, slot: int, reason: str, now: float, *, started: bool) -> None:
        """Record that one prompt of a list ended as no answer (``abort``): the others go on."""
        ledger = self.ledger
        agent = ledger.agents[request.agent]
        item = ledger.release(request, slot, started=started)
        self._pause(agent, now)
        agent_failed(ledger, agent, Outcome.BROKEN, reason, now)
        self._consequences(self._movable([item], agent, reason, now), agent, Outcome.BROKEN, reason, now)

    def _pause(self, agent: AgentState, now: float, at_least: float = 0.0) -> None:
        agent.pauses += 1
        pause = max(at_least, SHORTEST_PAUSE + backoff(agent.pauses, self.ledger.rng))
        agent.pause(now + pause)
        self.ledger.timers.add(agent.paused_until, self._end_pause, agent)

    def _overloaded(self, agent: AgentState, error: PoolError, items: list[WorkItem], now: float) -> None:
        """Pause an overloaded or rate-limited agent, at least as long as its Retry-After."""
        assert isinstance(error, ServerError)
        if not agent.overloaded:
            agent.overloaded_since = now
            for queue in {item.queue: None for item in items}:
                self.ledger.timers.add(now + _overload_limit(queue), self._give_up_overloaded, queue)
            if error.status == TOO_MANY_REQUESTS:
                self.ledger.events.agent_state(agent.index, RATE_LIMITED, describe(error))
        agent.rate_limited = error.status == TOO_MANY_REQUESTS
        self._pause(agent, now, error.retry_after or 0.0)

    def _end_pause(self, agent: AgentState, now: float) -> None:
        agent.end_pause(now)
        self.ledger.touched[agent] = None

    def removed(self, agent: AgentState, now: float) -> None:
        """Take an agent out for good: what it holds moves."""
        left = self._movable(remove_agent(self.ledger, agent, now), agent, agent.last_error, now)
        self._consequences(left, agent, Outcome.DRAINING, agent.last_error, now)

    def _give_up(self, agent: AgentState, error: PoolError, now: float) -> None:
        """Close all requests of an agent that has stopped answering. No prompt is blamed for that."""
        outcome = classify(error, 1)
        reason = describe(error)
        lists = [self._movable(self.ledger.close(request, now), agent, reason, now) for request in list(agent.requests)]
        agent_failed(self.ledger, agent, outcome, reason, now)
        for items in lists:
            if outcome is Outcome.DEAD:
                self._try_again_later(items, agent, reason, now)
            else:
                self._consequences(items, agent, outcome, reason, now)

    def _movable(self, items: list[WorkItem], agent: AgentState, reason: str, now: float) -> list[WorkItem]:
        """Fail prompts that are already streaming to their caller; return the others that are not done."""
        for item in items:
            if item.committed and not item.done:
                self._fail(item, agent, "exhausted", reason, now)
        return [item for item in items if not item.done]

    # -- the prompts --------------------------------------------------------------------------------------------

    def _consequences(
        self, items: list[WorkItem], agent: AgentState, outcome: Outcome, reason: str, now: float
    ) -> None:
        """Handle unanswered prompts as the table of outcomes says."""
        match outcome:
            case Outcome.BATCH_REJECTED:
                for part in halve(items):
                    self.ledger.send_now(part, agent, now)
            case Outcome.PROMPT_REJECTED if agent.quota is not None and any(t.queue.view.members for t in items):
                for item in items:
                    item.portable = None  # it waits for the pool's own agents
                self._move(items, agent, outcome, now)
            case Outcome.PROMPT_REJECTED:
                for item in items:
                    self._fail(item, agent, "rejected", reason, now)
            case Outcome.DEAD:
                self._on_agent_death(items, agent, reason, now)
            case Outcome.BROKEN:
                self._try_again_later(items, agent, reason, now)
            case _:
                self._move(items, agent, outcome, now)
                if outcome is Outcome.OVERLOADED:
                    for queue in {item.queue: None for item in items}:
                        self._give_up_overloaded(queue, now)

    def _give_up_overloaded(self, queue: PromptQueue, now: float) -> None:
        """Fail what waits in a queue once all its agents have been overloaded for too long."""
        members = queue.view.members or queue.view.hosted
        serving = [agent for agent in (self.ledger.agents[index] for index in members) if agent.in_service]
        limit = _overload_limit(queue)
        if not serving or not all(agent.overloaded and now >= agent.overloaded_since + limit for agent in serving):
            return
        error = f"all agents answered 503 or 429 for {limit:.0f} s; the last: {serving[0].last_error}"
        for item in (*queue.items, *queue.quarantined, *itertools.chain(*queue.by_agent.values())):
            if not item.done:
                self._fail(item, serving[0], "exhausted", error, now)

    def _move(self, items: list[WorkItem], agent: AgentState, outcome: Outcome, now: float) -> None:
        moved = self._note_moved(items, agent, outcome)
        self.ledger.requeue(reversed(moved), now)

    def _on_agent_death(self, items: list[WorkItem], agent: AgentState, reason: str, now: float) -> None:
        """Move prompts whose agent has died under them, unless one is known now to be what kills agents."""
        seemed_sound = agent.proven and now < agent.last_byte + CHECK_AFTER
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
        """Resend prompts that failed together: unchanged the first time, in halves after that."""
        if not items:
            return
        failed_before = count_attempt(items)
        if len(items) == 1 and not items[0].holders:
            (item,) = items
            if item.queue.pinned:
                self._fail(item, agent, "exhausted", reason, now)
            elif item.attempts >= MAX_ATTEMPTS:
                error = f"{item.attempts} attempts failed; the last: {reason}"
                self._fail(item, agent, "exhausted", error, now)
        later = self._note_moved(items, agent, Outcome.BROKEN)
        if not later:
            return
        halves = halve(later) if len(later) > 1 and (failed_before or later[0].queue.pinned) else [later]
        pause = 0.0
        if len(halves) == 1:
            pause = backoff(max(item.attempts for item in later), self.ledger.rng)
            if not self._mostly_healthy():
                pause += self._pay(len(later), now)
        for part in halves:
            self._retry_together(part, now, pause)

    def _retry_together(self, items: Sequence[WorkItem], now: float, pause: float = 0.0) -> None:
        """Requeue prompts that failed together, to go together: so the one at fault is found, and infects no other."""
        cohort = object()
        for item in items:
            item.cohort = cohort
        self.ledger.timers.add(now + pause, self.ledger.requeue, items[::-1])

    def _mostly_healthy(self) -> bool:
        """Whether at least half of the fleet works: what a few agents have broken is then no reason to hold back."""
        agents = self.ledger.agents
        return 2 * sum(agent.in_service and not agent.breaker.broken for agent in agents) >= len(agents)

    def _pay(self, retries: int, now: float) -> float:
        ledger = self.ledger
        ledger.retry_budget.deposit(ledger.answered - self._paid_for)
        self._paid_for = ledger.answered
        return ledger.retry_budget.withdraw(now, retries)

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


def _overload_limit(queue: PromptQueue) -> float:
    return OVERLOADED_PATIENCE * queue.patience or OVERLOADED_PINNED
