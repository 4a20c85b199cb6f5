"""The ledger of the fleet: which prompt is where, who holds which credits, what is due when.

The other parts of the dispatcher (scheduler, faults, hedge, quarantine) change it by its methods, so that these hold:

- a work item ends exactly once: by :meth:`Ledger.complete`, or, together with others, by :meth:`Answers.together`;
- ``agent.held`` is the number of its prompts that are staged or in open requests: every slot that is released gives one
  credit back, once;
- ``item.holders`` is the number of agents at which an item is staged or in an open request, and an item that is not
  done and has no holder waits in its queue (or for the end of the pause after a failure).

Where a call for each prompt would cost too much, an item's fields are written elsewhere: :meth:`Answers.together` ends
what is answered together, and the scheduler counts itself the holder of what it stages next. Items that are made of a
lot after it was staged or sent (:class:`Staged`, :attr:`InFlightRequest.items`) get the state that they would have.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from aurora_pool.policy.affinity import PrefixAffinity
from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.batching import Staged
from aurora_pool.policy.callers import Caller, PromptQueue
from aurora_pool.policy.fair_queueing import FairQueueing
from aurora_pool.policy.lengths import Lengths
from aurora_pool.policy.plan import Failure, Plan, PolicyEvents
from aurora_pool.policy.retry import RetryBudget
from aurora_pool.policy.timers import Timers
from aurora_pool.policy.work import InFlightRequest, Lot, Prompts, WorkItem, tokens_of


class Ledger:
    """All agents, the queues in which prompts wait, the requests in flight, and the plan that is being made."""

    def __init__(self, names: Sequence[str], rng: random.Random, requests_limit: int, events: PolicyEvents) -> None:
        self.names = list(names)
        self._requests_limit = requests_limit
        self.rng = rng
        self.events = events
        self.agents = [AgentState(index, requests_limit) for index in range(len(names))]
        self.in_service = len(self.agents)
        self.queues: dict[PromptQueue, None] = {}
        """The queues in which something waits."""
        self.grouped: dict[PromptQueue, None] = {}
        """Those of them in which groups of prompts wait that begin alike."""
        self.turns = FairQueueing()
        """Whose turn it is at which agent, of the queues whose prompts any agent of their view may take."""
        self.touched: dict[AgentState, None] = {}
        """The agents whose credits may have changed since the last plan, all that have something staged among them."""
        self.quarantine_agents: dict[AgentState, None] = {}
        """The agents that are kept for quarantined prompts."""
        self.timers = Timers()
        self.pending = Plan()
        self.lengths = Lengths()
        self.affinity = PrefixAffinity(len(names))
        self.retry_budget = RetryBudget(per_second=10.0 * len(names), reserve=100.0 * len(names))
        self.quarantining: dict[PromptQueue, None] = {}
        """The queues in which quarantined prompts wait."""
        self.now = 0.0
        """The time of the plan that is being made."""
        self._scans: dict[PromptQueue, None] = {}
        self.in_flight = self.answered = self.requests = 0
        self.hedged = self.moved = self.quarantined = self.wasted_tokens = 0

    # -- prompts that wait --------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """How many prompts wait in queues."""
        return sum(queue.waiting for queue in self.queues)

    def wake(self, queue: PromptQueue) -> None:
        """Record that something waits in a queue: the next plan considers all agents for it."""
        self.queues[queue] = None
        if queue.items:
            self.turns.enter(queue)
        self._scans[queue] = None

    def scan(self, queue: PromptQueue) -> None:
        """Have the next plan consider all agents for a queue, not only those whose credits have changed."""
        self._scans[queue] = None

    def take_scans(self) -> dict[PromptQueue, None]:
        """Take the queues for which all agents are to be considered now."""
        scans, self._scans = self._scans, {}
        return scans

    def forget_if_empty(self, queue: PromptQueue) -> None:
        """Drop a queue in which nothing waits any more."""
        if not queue.quarantined:
            self.quarantining.pop(queue, None)
            if not queue.items and not queue.by_agent:
                self.queues.pop(queue, None)
                self.grouped.pop(queue, None)

    def requeue(self, items: Iterable[WorkItem], now: float) -> None:
        """Put prompts that failed back at the head of their queues; those that another agent holds stay there."""
        for item in items:
            if not item.done and not item.holders:
                queue = item.queue
                if item.suspected:
                    queue.quarantined.append(item)
                    self.quarantining[queue] = None
                else:
                    queue.items.appendleft(item)
                self.wake(queue)

    # -- prompts in flight --------------------------------------------------------------------------------------

    def assign(self, item: WorkItem, agent: AgentState) -> None:
        """Give a prompt, and one of its credits, to an agent: it goes with the next request there."""
        item.holders += 1
        self.stage((item,), agent, item.queue.caller)

    def stage(self, prompts: Prompts, agent: AgentState, caller: Caller) -> None:
        """Put prompts of one caller among those that go with the agent's next request, and take a credit for each.

        The ``holders`` of items count the agent already.
        """
        caller.in_flight += len(prompts)
        agent.held += len(prompts)
        if not agent.staged:
            self.touched[agent] = None
        agent.staged.extend(prompts)

    def unassign(self, agent: AgentState, items: list[WorkItem]) -> None:
        """Take prompts that are staged back again."""
        dropped = set(items)
        agent.staged = Staged([item for item in agent.staged if item not in dropped])
        agent.held -= len(items)
        for item in items:
            item.holders -= 1
            item.queue.caller.returned(1)

    def materialize(self, materialized: list[WorkItem]) -> None:
        """Materialize all lots whose items are added to this list."""
        for queue in self.queues:
            queue.items.materialize(materialized)
        for agent in self.agents:
            agent.staged.materialize(materialized)
            for request in agent.requests:
                if request.lot is not None and request.lot.materialized is materialized:
                    request.unreleased()

    def complete(self, item: WorkItem, now: float) -> None:
        """End a prompt. Requests that now serve no one are closed."""
        item.done = True
        if item.holders:
            for request in (item.request, item.second_request):
                if request is not None:
                    request.live -= 1
                    if not request.live:
                        self.close(request, now)

    def fail(self, item: WorkItem, failure: Failure, now: float) -> None:
        """End a prompt without an answer."""
        self.complete(item, now)
        self.pending.fail.append(failure)

    def clear_staged(self) -> None:
        """Take out what ended before it was sent."""
        for agent in self.touched:
            done = [item for item in agent.staged.singles if item.done or item.committed]
            if done:
                self.unassign(agent, done)

    def trim_staged(self, now: float) -> None:
        """Take back what was assigned to agents whose windows have shrunk since, or that are paused.

        An online prompt stays where it is while anything may be sent there: it goes beyond what batches may hold.
        """
        for agent in self.touched:
            if agent.held > agent.limit and agent.staged:
                excess = list(agent.staged)[-(agent.held - agent.limit) :]
                if agent.limit:
                    excess = [item for item in excess if item.queue.caller.priority >= 0]
                self.unassign(agent, excess)
                self.requeue(reversed(excess), now)

    # -- requests -----------------------------------------------------------------------------------------------

    def open_request(self, prompts: Prompts, agent: AgentState, now: float) -> InFlightRequest:
        """Open a request to the agent with these prompts, whose credits are taken already."""
        request = InFlightRequest(agent.index, prompts)
        if not isinstance(prompts, Lot):
            for item in prompts:
                if item.request is None:
                    item.request = request
                else:
                    item.second_request = request
                    item.started_at = -1.0
        if agent.held == request.size:
            agent.flow.began(now)
        agent.flow.holds(agent.held)
        agent.requests[request] = None
        agent.answers_since_send = 0
        self.in_flight += request.size
        self.pending.send.append(request)
        return request

    def send_now(self, items: Sequence[WorkItem], agent: AgentState, now: float) -> InFlightRequest:
        """Give prompts of one caller to an agent, in a request of their own that is not staged."""
        for item in items:
            item.holders += 1
        caller = items[0].queue.caller
        caller.in_flight += len(items)
        caller.charge(len(items), tokens_of(items))
        agent.held += len(items)
        return self.open_request(items, agent, now)

    def sent(self, request: InFlightRequest, now: float) -> None:
        """Record that a request begins to be written: the clocks of its agent and of its prompts run from now on."""
        request.sent_at = now
        for item in request.items if request.lot is None else ():
            if item is not None:
                if not item.sends:
                    item.first_sent = now
                item.sends += 1
        agent = self.agents[request.agent]
        if not agent.sent:
            agent.last_byte = now
        agent.sent += 1
        self.requests += 1

    def release(self, request: InFlightRequest, slot: int, *, started: bool) -> WorkItem:
        """Take a prompt off a request: its part of the reply has come, or never will. The credit goes back."""
        item = request.items[slot]
        assert item is not None, "a slot is released once"
        request.items[slot] = None
        request.open -= 1
        if not item.done:
            request.live -= 1
        agent = self.agents[request.agent]
        agent.held -= 1
        self.in_flight -= 1
        self.touched[agent] = None
        if started and request.started:
            request.started -= 1
            agent.running -= 1
        item.holders -= 1
        if not item.holders:
            item.started_at = -1.0
        item.queue.caller.returned(1)
        if item.request is request:
            item.request = None
            if item.holders:
                item.request, item.second_request = item.second_request, None
        else:
            item.second_request = None
        return item

    def release_done(self, request: InFlightRequest, caller: Caller, prompts: int, started: int) -> None:
        """Count prompts, ended now and off their slots, out of a request, as :meth:`release` does for one."""
        request.open -= prompts
        request.live -= prompts
        agent = self.agents[request.agent]
        agent.held -= prompts
        self.in_flight -= prompts
        self.answered += prompts
        caller.returned(prompts)
        self.touched[agent] = None
        started = min(started, request.started)
        request.started -= started
        agent.running -= started

    def remove_request(self, request: InFlightRequest) -> list[WorkItem]:
        """Take a request off the ledger; return its unreleased prompts, their credits given back."""
        left: list[WorkItem] = []
        if request.open:
            left = [self.release(request, slot, started=False) for slot, t in enumerate(request.items) if t]
        request.forget()
        agent = self.agents[request.agent]
        agent.running -= request.started
        request.started = 0
        if not request.closed:
            request.closed = True
            agent.sent -= request.sent_at is not None
        agent.requests.pop(request, None)
        if agent.checking and not agent.sent:
            agent.set_checking(False)  # it has no open requests
            self.touched[agent] = None
        return left

    def give_back(self, request: InFlightRequest, now: float) -> None:
        """Requeue the prompts of a request whose agent does not support their form; that counts as no failure."""
        self.requeue(reversed(self.remove_request(request)), now)

    def close(self, request: InFlightRequest, now: float) -> list[WorkItem]:
        """Give up a request before its reply has ended; return its unreleased prompts.

        The credits come back at once: a server aborts a closed request within about 50 ms.
        """
        agent = self.agents[request.agent]
        left = self.remove_request(request)
        shown = int(min((now - (request.sent_at or now)) * agent.speed, self.lengths.mean))
        self.wasted_tokens += shown * sum(item.done and item.hedged for item in left)
        self.pending.close.append(request)
        return left

    def clear(self) -> None:
        """Forget all prompts, for good."""
        for agent in self.agents:
            for request in list(agent.requests):
                self.remove_request(request)
            self.unassign(agent, list(agent.staged))
        for queue in self.queues:
            queue.clear()
        self.turns.clear()
        self.timers.clear()
        self.pending = Plan()

    # -- agents -------------------------------------------------------------------------------------------------

    def add_agent(self, name: str) -> None:
        """Record a new agent, in service."""
        agent = AgentState(len(self.agents), self._requests_limit)
        self.names.append(name)
        self.agents.append(agent)
        self.in_service += 1
        self.affinity.joined()
        self.touched[agent] = None
        self.rescan()

    def rescan(self) -> None:
        """Have the next plan consider all agents for all queues."""
        for queue in self.queues:
            self._scans[queue] = None
            queue.rescan_due = 0.0
