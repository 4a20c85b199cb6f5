"""A hand-driven dispatcher: the test plays the agents, this keeps the accounts and checks them after every plan."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

from aurora_pool.errors import ConnectionLost, PoolError, ServerError
from aurora_pool.hostfile import AgentEndpoint
from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.callers import PromptQueue
from aurora_pool.policy.dispatch import Dispatcher
from aurora_pool.policy.online import BEYOND
from aurora_pool.policy.outcome import Outcome
from aurora_pool.policy.plan import NOTHING, Failure, Plan, PolicyEvents
from aurora_pool.policy.scheduler import Balance
from aurora_pool.policy.stall import Finding
from aurora_pool.policy.tail import prompts_before_end
from aurora_pool.policy.work import InFlightRequest, WorkItem
from aurora_pool.statistics import PoolStatistics, snapshot

BUSY = ServerError(503, "The engine is currently busy")


def statistics_of(dispatcher: Dispatcher, now: float = 0.0) -> PoolStatistics:
    """Give what ``pool.statistics()`` says of a fleet with this dispatcher."""
    members = range(len(dispatcher.ledger.agents))
    return snapshot(dispatcher.ledger, [AgentEndpoint(f"agent{i}", 8000) for i in members], members, 0, now)


class Recorder(PolicyEvents):
    """Keeps what no plan and no figure says."""

    def __init__(self) -> None:
        self.idle_timeouts: dict[int, float] = {}

    def idle_timeout_seen(self, agent: int, seconds: float) -> None:
        self.idle_timeouts[agent] = seconds


class Rig:
    """Carries out plans by noting them, and reports what the test says that agents did.

    An item whose ``work`` is "bad" gets any request with it a 400; one whose ``work`` is "poison" kills the agent. With
    ``window``, each agent has said that it is overloaded when it held as many prompts as that; what begins alike is
    kept together by ``prefix``. Tests read :attr:`statistics`; the dispatcher's own accounts are for :meth:`check`.
    """

    def __init__(
        self,
        agents: int,
        *,
        balance: Balance = "adaptive",
        timeout: float | None = None,
        seed: int = 0,
        requests_limit: int = 256,
        window: int | None = None,
        prefix: bool = True,
    ) -> None:
        self.events = Recorder()
        self.dispatcher = Dispatcher(
            [f"agent{index}" for index in range(agents)],
            rng=random.Random(seed),
            balance=balance,
            timeout=timeout,
            requests_limit=requests_limit,
            events=self.events,
            beginning_of=str if prefix else None,
        )
        self._ledger = self.dispatcher.ledger
        self.size = agents
        self.now = 0.0
        self.queue = PromptQueue(range(agents))
        self.items: list[WorkItem] = []
        self.withdrawn: set[WorkItem] = set()
        self.results: Counter[WorkItem] = Counter()
        self.failures: dict[WorkItem, Failure] = {}
        self.open: dict[InFlightRequest, set[int]] = {}
        self.sent: list[InFlightRequest] = []
        self.served: list[tuple[str, int]] = []
        """What has been sent: each prompt's work, and the agent."""
        self.probes: list[int] = []
        self.load_checks: list[int] = []
        self._checked: set[int] = set()
        """Agents that have died since the last plan: their load check has been reported already."""
        self.samples: list[int] = []
        self.waits_here = False
        """Whether requests that are assigned wait on this side, and are not sent."""
        self.rejected_here: dict[WorkItem, int] = {}
        self.rejected: set[WorkItem] = set()
        for agent in range(agents if window is not None else 0):
            self._overload(agent, window or 1)

    @property
    def statistics(self) -> PoolStatistics:
        return statistics_of(self.dispatcher, self.now)

    def in_service(self, agent: int) -> bool:
        return self.statistics.agents[agent].state in {"in service", "rate-limited"}

    def held(self, agent: int) -> int:
        return self.statistics.agents[agent].in_flight

    @property
    def _agents(self) -> list[AgentState]:
        return self._ledger.agents

    def _overload(self, agent: int, accepted: int) -> None:
        """Have an agent answer 503 to one prompt more than it holds, and go on as if it had held none."""
        queue = PromptQueue([agent])
        for count in (accepted, 1):
            self.admit(count, queue=queue)
            self.plan()
        self.fail(self.sent[-1], BUSY)
        self.withdraw(self.items)
        while self.statistics.agents[agent].in_flight or self.unended():
            self.plan()
        self.wait(2.0)
        self.items.clear()
        self.sent.clear()
        self.withdrawn.clear()

    # -- what comes in ------------------------------------------------------------------------------------------

    def admit(self, count: int = 1, *, queue: PromptQueue | None = None, work: Iterable[str] = ()) -> list[WorkItem]:
        kinds = list(work)
        queue = queue or self.queue  # only prompts of one caller share requests
        items = [
            WorkItem(queue, len(self.items) + i, queue.caller, kinds[i] if i < len(kinds) else "good")
            for i in range(count)
        ]
        self.items += items
        self.dispatcher.admit(items, self.now)
        return items

    def withdraw(self, items: Iterable[WorkItem]) -> None:
        gone = [item for item in items if not item.done]
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

    def stay_idle(self, until: float) -> None:
        """Let time pass in which every load check of a stalled agent shows an engine that does nothing."""
        while self.now < until:
            self.wait(1.0)
            while self.load_checks:
                self.load_checked(self.load_checks[0], Finding.IDLE)

    # -- what agents do -----------------------------------------------------------------------------------------

    def start(self, request: InFlightRequest, count: int | None = None) -> None:
        """Show first tokens: of ``count`` prompts, or of all."""
        shown = self.open[request]
        slots = [i for i, item in enumerate(request.items) if item is not None and i not in shown][:count]
        self.open[request].update(slots)
        self.dispatcher.progress(request, self.now, started=slots)

    def answer(self, request: InFlightRequest, slot: int, tokens: int = 100) -> None:
        item = request.items[slot]
        assert item is not None
        if any(t.work == "bad" for t in request.unreleased()):
            self.fail(request, ServerError(400, "The decoder prompt cannot be empty"))
        elif item.work == "poison":
            self.die(request.agent)
        else:
            self._active(request)
            started = slot in self.open[request]
            if self.dispatcher.answered(request, slot, tokens, self.now, started=started):
                self._result(item)
            self._maybe_end(request)

    def answer_all(self, request: InFlightRequest, tokens: int = 100) -> None:
        for slot, item in enumerate(list(request.items)):
            if item is not None and not request.closed and request.items[slot] is item:
                self.answer(request, slot, tokens)

    def abort(self, request: InFlightRequest, slot: int) -> None:
        started = slot in self.open[request]
        self.dispatcher.aborted(request, slot, "finish_reason 'abort'", self.now, started=started)
        self._maybe_end(request)

    def fail(self, request: InFlightRequest, error: PoolError) -> Outcome:
        unreleased = request.unreleased()
        outcome = self.dispatcher.failed(request, error, self.now)
        self._drop_closed()
        if outcome is Outcome.BATCH_REJECTED:
            self.rejected_here.update(dict.fromkeys(unreleased, request.agent))
        elif outcome is Outcome.PROMPT_REJECTED:
            self.rejected.update(item for item in unreleased if not item.done)
        return outcome

    def die(self, agent: int) -> None:
        for request in [a for a in self.open if a.agent == agent]:
            self.fail(request, ConnectionLost("connection lost", received=True))
        self.dispatcher.load_checked(agent, Finding.REFUSED, self.now)  # it takes no time, before any plan asks for it
        self._checked.add(agent)
        self._drop_closed()

    def probed(self, agent: int, outcome: Outcome = Outcome.ANSWERED) -> None:
        self.probes.remove(agent)
        self.dispatcher.probed(agent, outcome, outcome.value, self.now)

    def load_checked(self, agent: int, finding: Finding) -> None:
        self.load_checks.remove(agent)
        self.dispatcher.load_checked(agent, finding, self.now)
        self._drop_closed()

    # -- what the dispatcher decides ----------------------------------------------------------------------------

    def plan(self, *, idle: bool = False) -> Plan:
        """Carry out a plan, and check the accounts: if time was ``idle``, only where the plan has anything."""
        plan = self.dispatcher.plan(self.now)
        for failure in plan.fail:
            self.failures[failure.item] = failure
            self._result(failure.item)
        self._drop_closed()
        for request in plan.send:
            self._check_sending(request)
            self.sent.append(request)
            self.served += [(item.work, request.agent) for item in request.unreleased()]
            if not request.closed:
                self.open[request] = set()
                if not self.waits_here:
                    self.dispatcher.sent(request, self.now)
        self.probes += plan.probe
        self.load_checks += [agent for agent in plan.check if agent not in self._checked]
        self._checked.clear()
        self.samples += plan.sample
        if plan is not NOTHING or not idle:
            self.check()
        return plan

    def finish(self, rounds: int = 20_000) -> None:
        """Have every agent answer everything from now on, until all prompts have ended; check that nothing is left."""
        for _ in range(rounds):
            for agent in list(self.probes):
                self.probed(agent)
            for agent in list(self.load_checks):
                self.load_checked(agent, Finding.PROGRESSING)
            self.plan()
            for request in list(self.open):
                if request in self.open and not request.closed:
                    self.answer_all(request)
            self.plan()
            if not self.unended() and not self.open:
                break
            idle = not self.open and not self.probes and not self.load_checks
            until = self.now + 3600.0
            while idle and self.dispatcher.wake_at < until:
                self.now = max(self.now, self.dispatcher.wake_at)
                idle = self.plan(idle=True) is NOTHING
        assert not self.unended(), self.describe()
        self.wait(60.0)
        assert not self._ledger.in_flight
        assert not self._ledger.queues, self.describe()
        assert not self._ledger.quarantine_agents
        assert self._ledger.queued == 0
        for state in self._agents:
            assert (state.held, state.running, len(state.staged), dict(state.requests)) == (0, 0, 0, {})

    def describe(self) -> str:
        """Say where everything is, for a failed test."""
        queues = [(q.view.members, len(q.items), len(q.quarantined), q.waiting) for q in self._ledger.queues]
        agents = [
            (a.index, a.breaker.state, a.limit, a.held, a.quarantine_for is not None, a.checking, a.paused)
            for a in self._agents
        ]
        items = [(t.index, t.work, t.holders, t.deaths, t.attempts) for t in self.unended()]
        return f"now {self.now}, due {self.dispatcher.wake_at}, {queues=}, {agents=}, {items=}, open={len(self.open)}"

    def unended(self) -> list[WorkItem]:
        return [item for item in self.items if not self.results[item] and item not in self.withdrawn]

    # -- what must always hold ----------------------------------------------------------------------------------

    def check(self) -> None:
        held = Counter({agent.index: 0 for agent in self._agents})
        running: Counter[int] = Counter()
        holders: Counter[WorkItem] = Counter()
        for request, started in self.open.items():
            assert not request.closed
            unreleased = request.unreleased()
            assert request.open == len(unreleased)
            assert request.live == sum(not item.done for item in unreleased) > 0
            held[request.agent] += len(unreleased)
            running[request.agent] += sum(request.items[slot] is not None for slot in started)
            holders.update(unreleased)
        for agent in self._agents:
            assert not agent.staged, "a plan leaves nothing staged"
            assert agent.held == held[agent.index], agent.index
            assert agent.running == running[agent.index], agent.index
        assert self._ledger.in_flight == sum(held.values())
        for caller in {item.queue.caller for item in self.items}:
            assert caller.in_flight == sum(count for item, count in holders.items() if item.queue.caller is caller)
        held_by, results, withdrawn = holders.get, self.results.get, self.withdrawn
        for item in self.items:
            assert item.holders == held_by(item, 0) <= 2
            assert results(item, 0) <= 1
            assert item.done == bool(results(item, 0) or item in withdrawn)
        self._check_nobody_idles()

    def _check_nobody_idles(self) -> None:
        for queue in self._ledger.queues:
            for agent in self._agents:
                if agent.index in queue.view.serves and agent.limit and not agent.held:
                    too_slow = queue.end is not None and not prompts_before_end(queue.end, agent, self.now)
                    waiting = [t for t in queue.items if not t.done and t.avoid != agent.index]
                    assert too_slow or not waiting, f"agent {agent.index} idles while prompts wait"

    def _check_sending(self, request: InFlightRequest) -> None:
        agent = self._agents[request.agent]
        items = request.unreleased()
        for item in items:
            assert request.agent in item.queue.view.serves
            assert item not in self.rejected, "a prompt's fault reached an agent again"
        halves = all(self.rejected_here.get(item) == agent.index for item in items)
        if not halves and not request.closed:
            assert agent.in_service
            online = any(item.queue.caller.priority < 0 for item in items)
            most = agent.window.size * (BEYOND if online else 1) + online
            assert agent.held <= most, "an agent holds more than its window"
        held = [item for request in self.open if request.agent == agent.index for item in request.unreleased()]
        if any(item.suspected for item in items):
            assert all(item.suspected for item in (*held, *items)), "quarantined run among quarantined only"
        if any(item.isolated for item in (*held, *items)):
            assert len(held) + len(items) == 1 or halves, "who is to be alone is alone"

    def _result(self, item: WorkItem) -> None:
        self.results[item] += 1

    def _active(self, request: InFlightRequest) -> None:
        self.dispatcher.progress(request, self.now)

    def _maybe_end(self, request: InFlightRequest) -> None:
        if not request.closed and not request.open:
            self.dispatcher.ended(request)
        self._drop_closed()

    def _drop_closed(self) -> None:
        for request in [a for a in self.open if a.closed]:
            del self.open[request]
