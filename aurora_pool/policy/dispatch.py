"""Which prompt goes to which agent, when, and in which request.

Prompt ``i`` of a call goes to agent ``i % size``, as long as that agent has a credit: capacity for one more prompt.
What finds no credit waits in its queue, and the next agent that gets credits back takes it from there, so nothing that
waits here is bound to an agent that is slow, full or gone. Credits come back prompt by prompt; a refill is worth a
request once it fills 1/16 of the window. When nothing waits any more, slow agents get no last prompts (guard), and what
slow or stalled ones hold is given to a second agent (hedge). ``balance="strict"`` keeps prompt ``i`` waiting for agent
``i % size`` as long as that is in service, and leaves out guard and hedge.

The dispatcher is synchronous and never waits: the caller reports what happened and carries out the
:class:`~aurora_pool.policy.plan.Plan` that :meth:`Dispatcher.plan` returns, at the latest at
:attr:`Dispatcher.wake_at`. The costs are O(1) per prompt, and O(log agents) per request and per failure.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from aurora_pool.errors import BadReply, PoolError
from aurora_pool.hosted import HostedTerms
from aurora_pool.policy.admission import Admission
from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.answers import Answers, AnyAnswer, Results
from aurora_pool.policy.batching import Staged, form_batches
from aurora_pool.policy.deadline import Deadlines
from aurora_pool.policy.faults import Faults
from aurora_pool.policy.hedge import Hedger
from aurora_pool.policy.ledger import Ledger
from aurora_pool.policy.outcome import Outcome
from aurora_pool.policy.plan import NOTHING, Plan, PolicyEvents
from aurora_pool.policy.quarantine import refill_quarantine_agents
from aurora_pool.policy.rotation import agent_failed, agent_probed, restore_agent
from aurora_pool.policy.scheduler import Balance, Scheduler
from aurora_pool.policy.spill import Spillover
from aurora_pool.policy.stall import Finding
from aurora_pool.policy.work import InFlightRequest, Lot, Prompts, WorkItem


class Dispatcher:
    """The one object that the pool talks to.

    ``timeout`` is how many seconds a prompt may take from its first sending; ``stall`` how many an agent that holds
    prompts may send nothing before it is given up; ``requests_limit`` about how many requests one agent should have
    open at most. ``beginning_of`` tells how a prompt begins, text or token ids, of the ``work`` of its item: prompts
    that share a beginning meet on one agent then. ``hosted`` holds the terms of those agents that are hosted.

    >>> from aurora_pool.policy.callers import PromptQueue
    >>> dispatcher = Dispatcher(["gpu01", "gpu02"], rng=random.Random(0))
    >>> queue = PromptQueue(range(2))
    >>> dispatcher.admit([WorkItem(queue, i, "kind", work=None) for i in range(5)], now=0.0)
    >>> [(a.agent, [t.index for t in a.unreleased()]) for a in dispatcher.plan(now=0.0).send]
    [(0, [0, 2, 4]), (1, [1, 3])]
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        rng: random.Random,
        balance: Balance = "adaptive",
        timeout: float | None = None,
        stall: float = 30.0,
        requests_limit: int = 256,
        events: PolicyEvents | None = None,
        beginning_of: Callable[[Any], Any] | None = None,
        hosted: Mapping[int, HostedTerms] | None = None,
    ) -> None:
        self.ledger = Ledger(names, rng, requests_limit, events or PolicyEvents())
        self._admission = Admission(self.ledger, strict=balance == "strict", beginning_of=beginning_of)
        self._scheduler = Scheduler(self.ledger, balance)
        self._deadlines = Deadlines(self.ledger, timeout) if timeout is not None else None
        self._faults = Faults(self.ledger, stall, self._deadlines)
        self._answers = Answers(self.ledger, self._faults.stall)
        self.spill = Spillover(self.ledger, hosted or {})
        self._hedger = Hedger(self.ledger, self._scheduler.idle) if balance == "adaptive" else None

    # -- what comes in ------------------------------------------------------------------------------------------

    def admit(self, prompts: Prompts, now: float) -> None:
        """Record prompts, in the order of their indices."""
        self._admission.admit(prompts, now)

    def withdraw(self, items: Iterable[WorkItem], now: float) -> None:
        """Record that the caller no longer wants these prompts."""
        for item in items:
            if not item.done:
                self.ledger.complete(item, now)
        self.ledger.clear_staged()

    def withdraw_all(self, materialized: list[WorkItem], now: float) -> None:
        """Withdraw all prompts of a caller: those ``materialized``, and those of lots that add to it."""
        self.ledger.materialize(materialized)
        self.withdraw(materialized, now)

    def sent(self, request: InFlightRequest, now: float) -> None:
        """Record that a request begins to be written. Until then it waits on this side, and no clock of its agent runs.

        A request that is written again at once, in another form, was sent already.
        """
        if request.sent_at is None and not request.closed:
            self.ledger.sent(request, now)
            if self.ledger.agents[request.agent].quota is None:  # a hosted one has no counters to read
                self._faults.stall.watch(self.ledger.agents[request.agent], now)
            if self._deadlines is not None:
                self._deadlines.watch(request)

    def progress(self, request: InFlightRequest, now: float, started: Sequence[int] = ()) -> None:
        """Record that bytes of a reply came, and which of its slots have shown a first token in them."""
        agent = self.ledger.agents[request.agent]
        agent.last_byte = now
        if agent.checking:
            self._faults.stall.saw_activity(agent)
        if started and not request.closed:
            self._answers.reply_began(request, agent, now)
            request.note_started(started, now)
            request.started += len(started)
            agent.started(len(started), now)
            if agent.limit - agent.held >= agent.min_refill:
                self.ledger.touched[agent] = None

    def answered(self, request: InFlightRequest, slot: int, tokens: int, now: float, *, started: bool) -> bool:
        """Record an answer; return whether it is its prompt's first, and so its result.

        ``slot`` is the prompt's place in the request, ``started`` whether its first token had been reported before.
        ``tokens`` is 0 where the server does not report it.
        """
        return self._answers.one(request, slot, tokens, now, started=started)

    def answered_together(
        self,
        request: InFlightRequest,
        answers: Sequence[AnyAnswer],
        slots: Sequence[int],
        tokens: Sequence[int],
        now: float,
    ) -> Results[AnyAnswer]:
        """Record answers that came at the same moment; return those that are their prompts' first.

        ``slots`` and ``tokens`` have each one's place in the request and length: 0 where the server does not tell. It
        comes to the same as :meth:`answered` for each, at a small part of the cost where a reply brings many.
        """
        return self._answers.together(request, answers, slots, tokens, now)

    def aborted(self, request: InFlightRequest, slot: int, reason: str, now: float, *, started: bool) -> None:
        """Record that one prompt ended as no answer (``abort``), while the rest of its request goes on."""
        if request.items[slot] is not None:
            self._faults.aborted(request, slot, reason, now, started=started)
            if not request.live and request.open:
                self.ledger.close(request, now)

    def commit(self, request: InFlightRequest, now: float) -> bool:
        """Record that bytes of this reply go to its caller as they come: no second answer may follow.

        Another copy is closed, and if this one fails, so does the prompt. Returns whether there was another copy.
        """
        copies = False
        for item in request.unreleased():
            item.committed = True
            copies = copies or item.holders > 1
            for other in (item.request, item.second_request):
                if other is not None and other is not request:
                    self.ledger.close(other, now)
        if copies:
            self.ledger.clear_staged()
        return copies

    def ended(self, request: InFlightRequest) -> None:
        """Record that a reply came to its end. It should have answered all its prompts; if not, it was a bad one."""
        if request.live:
            now = self.ledger.agents[request.agent].last_byte
            self._faults.failed(request, BadReply("the reply ended before every prompt had its answer"), now)
        else:
            if not request.closed:
                self.ledger.agents[request.agent].served(request.sent_at)
            self.ledger.remove_request(request)

    def failed(self, request: InFlightRequest, error: PoolError, now: float) -> Outcome:
        """Record that a request failed; return what that means for its unreleased prompts."""
        return self._faults.failed(request, error, now)

    def probed(self, agent: int, outcome: Outcome, reason: str, now: float) -> None:
        """Record what the probe of an agent came to that is out, on trial, or stalled."""
        state = self.ledger.agents[agent]
        self._faults.stall.probed(state, outcome, now)
        agent_probed(self.ledger, state, outcome, reason, now)

    def serves_another_model(self, agent: int, reason: str, now: float) -> None:
        """Record that an agent says of itself that it does not serve what is asked for."""
        agent_failed(self.ledger, self.ledger.agents[agent], Outcome.WRONG_MODEL, reason, now)

    def load_checked(self, agent: int, finding: Finding, now: float) -> None:
        """Record what the load check of an agent has shown."""
        self._faults.load_checked(self.ledger.agents[agent], finding, now)

    def sampled(self, agent: int, running: int, waiting: int, preemptions: int | None, now: float) -> None:
        """Record an engine's own counters: prompts that run and that wait there, and preemptions since it started."""
        state = self.ledger.agents[agent]
        state.sampled(running, waiting, preemptions, now)
        self.ledger.touched[state] = None

    def add_agent(self, name: str) -> None:
        """Record that the fleet has a new agent, with the next index. Views learn by :meth:`AgentView.set_members`."""
        self.ledger.add_agent(name)

    def members_changed(self) -> None:
        """Record that views have other agents now, by :meth:`AgentView.set_members`."""
        self.ledger.rescan()

    def remove_agent(self, agent: int, now: float) -> None:
        """Record that an agent is no longer part of the fleet: it keeps its index, and what it holds moves."""
        self._faults.removed(self.ledger.agents[agent], now)

    def restore_agent(self, agent: int, now: float) -> None:
        """Record that a removed agent is part of the fleet again."""
        restore_agent(self.ledger, self.ledger.agents[agent], now)

    def is_hosted(self, agent: int) -> bool:
        """Whether an agent is one that others run, and that costs."""
        return self.ledger.agents[agent].quota is not None

    def close(self) -> None:
        """Forget all prompts. Without it, those left over are never freed: see :class:`WorkItem`."""
        self.ledger.clear()
        self._faults.death_checks.clear()
        if self._deadlines is not None:
            self._deadlines.clear()

    # -- what goes out ------------------------------------------------------------------------------------------

    @property
    def wake_at(self) -> float:
        """When :meth:`plan` must be called at the latest; infinity if nothing is due."""
        return self.ledger.timers.next_at

    def plan(self, now: float) -> Plan:
        """Decide what is to be done now. A plan is handed out once: carry it out whole."""
        ledger = self.ledger
        ledger.now = now
        if ledger.timers.next_at <= now:
            ledger.timers.run(now)
        if ledger.touched:
            ledger.trim_staged(now)
            if ledger.quarantine_agents:
                refill_quarantine_agents(ledger, now)
        if ledger.queues:
            self._scheduler.serve(now)
            if self.spill.agents and ledger.queues:
                self.spill.serve(now)
        if ledger.touched:
            self._close_round(now)
        if self._hedger is not None:
            self._hedger.watch(now)
        plan = ledger.pending
        if not (plan.send or plan.close or plan.fail or plan.probe or plan.check or plan.sample):
            return NOTHING
        ledger.pending = Plan()
        return plan

    def _close_round(self, now: float) -> None:
        """Send what agents were assigned, and note which of those touched could still take more."""
        touched, idle = self.ledger.touched, self._scheduler.idle
        for agent in touched:
            if agent.staged:
                self._send(agent, now)
            if agent.limit - agent.held >= agent.min_refill:
                idle[agent] = None
            else:
                idle.pop(agent, None)
        touched.clear()

    def _send(self, agent: AgentState, now: float) -> None:
        staged, agent.staged = agent.staged, Staged()
        for batch in form_batches(staged) if agent.lists else [[item] for item in staged]:
            keys = batch.own_keys if isinstance(batch, Lot) else [item.prefix for item in batch]
            self.ledger.affinity.record(agent.index, keys)
            self.ledger.open_request(batch, agent, now)
