"""A pool in virtual time: the dispatcher that the real pool has, over a simulated fleet without HTTP.

It carries out plans and reports back as the real pool does, and sees to it that each prompt gets exactly one result.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from operator import attrgetter

import msgspec

from aurora_pool.errors import PoolError
from aurora_pool.policy.callers import Caller, PromptQueue
from aurora_pool.policy.dispatch import Dispatcher
from aurora_pool.policy.faults import Finding
from aurora_pool.policy.outcome import Outcome
from aurora_pool.policy.plan import Plan
from aurora_pool.policy.scheduler import Balance
from aurora_pool.policy.work import InFlightRequest, Lot, WorkItem
from aurora_pool.testing.engine import Emission
from aurora_pool.testing.virtual import Request, VirtualFleet, VirtualPrompt

AHEAD = 2
"""The caller keeps this many times the sum of the agents' windows admitted and unanswered."""


@dataclass(slots=True)
class VirtualReport:
    """What a run came to.

    ``lost`` prompts have no result at all, ``duplicated`` ones more than one; ``failed`` counts results that are no
    answer, by kind. ``hedged`` counts second copies, ``hedged_twice`` prompts of which there were more. ``wasted``
    tokens were generated and ended in no delivered answer; ``tokens_lost`` are those of them that agents had generated
    of the answers they held when they died or began to hang: no client could have saved these. ``most_open`` is the
    largest number of prompts admitted and unanswered, ``policy_seconds`` the processor time spent in the dispatcher.
    """

    prompts: int = 0
    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    duplicated: int = 0
    makespan: float = 0.0
    requests: int = 0
    tokens: int = 0
    wasted: int = 0
    tokens_lost: int = 0
    hedged: int = 0
    hedged_twice: int = 0
    moved: int = 0
    quarantined: int = 0
    most_open: int = 0
    policy_seconds: float = 0.0

    @property
    def wasted_share(self) -> float:
        """Wasted tokens, of all that were generated."""
        return self.wasted / self.tokens if self.tokens else 0.0


class VirtualAnswer(msgspec.Struct, gc=False):
    """One answer: of which prompt of its request, whether its first token was reported before, and its length."""

    slot: int
    started: bool
    tokens: int


class Meter:
    """Adds up processor time, less what reading the clock costs (some microseconds on some machines)."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = 0.0
        times = [time.process_time() for _ in range(1001)]
        self._cost = (times[-1] - times[0]) / 1000

    def start(self) -> None:
        """Begin to count."""
        self._since = time.process_time()

    def stop(self) -> None:
        """Count until now."""
        self.seconds += time.process_time() - self._since - self._cost


class VirtualPool:
    """Answers prompts on a virtual fleet; with ``total``, it says beforehand how many there are.

    >>> VirtualPool(VirtualFleet([1.0, 0.5]), seed=1).run([VirtualPrompt(10)] * 100).answered
    100
    """

    def __init__(
        self,
        fleet: VirtualFleet,
        *,
        seed: int = 0,
        balance: Balance = "adaptive",
        timeout: float | None = None,
        stall: float = 30.0,
        patience: float = float("inf"),
        prefix: bool = True,
    ) -> None:
        self.fleet = fleet
        fleet.client = self
        self.dispatcher = Dispatcher(
            [f"agent{index}" for index in range(len(fleet.agents))],
            rng=random.Random(seed),
            balance=balance,
            timeout=timeout,
            stall=stall,
            beginning_of=attrgetter("text") if prefix else None,
        )
        self.queue = PromptQueue(range(len(fleet.agents)), patience=patience)
        self.report = VirtualReport()
        self._meter = Meter()
        self._prompts: Iterator[VirtualPrompt] = iter(())
        self._exhausted = False
        self._results = bytearray()
        self._delivered = 0
        self._open = 0
        self._refill_at = 0
        self._requests: dict[InFlightRequest, Request] = {}
        self._tokens_seen: dict[int, int] = {}
        self._news = True
        self._timer = float("inf")

    def run(self, prompts: Iterable[VirtualPrompt], *, total: int | None = None, until: float = 1e6) -> VirtualReport:
        """Answer all prompts, or as many as can be by a time; return what it came to, together with earlier calls."""
        if self._results:
            self.queue = self.queue.for_call(Caller())
        if total is None:
            total = len(prompts) if isinstance(prompts, list) else None
        self.queue.expected = total or 0
        self.queue.unbounded = total is None
        self._prompts = iter(prompts)
        self._exhausted = False
        self._round()
        while (self._open or not self._exhausted) and self.fleet.now <= until and self.fleet.step():
            # What comes at the same moment, or while the client was busy, is read before anything is decided.
            if self._news and self.fleet.next_at > self.fleet.now:
                self._round()
        return self._summary()

    def _summary(self) -> VirtualReport:
        report, ledger = self.report, self.dispatcher.ledger
        report.prompts = len(self._results)
        report.lost = self._results.count(0)
        report.duplicated = sum(count > 1 for count in self._results)
        report.makespan = self.fleet.now
        report.policy_seconds = self._meter.seconds
        report.tokens = self.fleet.tokens
        report.wasted = report.tokens - self._delivered
        report.tokens_lost = sum(agent.tokens_lost for agent in self.fleet.agents)
        report.requests, report.hedged = ledger.requests, ledger.hedged
        report.moved, report.quarantined = ledger.moved, ledger.quarantined
        return report

    # -- the caller's side --------------------------------------------------------------------------------------

    def _feed(self) -> None:
        if self._exhausted or self._open > self._refill_at:
            return
        agents = self.dispatcher.ledger.agents
        limit = AHEAD * max(1, sum(agent.window.size for agent in agents if agent.in_service))
        self._refill_at = limit - max(1, limit // 16)
        wanted = max(0, limit - self._open)
        pulled = list(islice(self._prompts, wanted))
        if len(pulled) < wanted:
            self._exhausted = True
            self.queue.unbounded = False
        first = len(self._results)
        self._results.extend(bytes(len(pulled)))
        self._open += len(pulled)
        self.report.most_open = max(self.report.most_open, self._open)
        self._meter.start()
        if self.queue.expected:
            self.queue.expected -= len(pulled)
        lengths = [prompt.prompt_tokens for prompt in pulled]
        self._admit(Lot(self.queue, self, pulled, range(first, first + len(pulled)), prompt_tokens=lengths))
        self._meter.stop()

    def _admit(self, lot: Lot) -> None:
        self.dispatcher.admit(lot, self.fleet.now)

    def _end(self, kind: object, indices: Sequence[int], items: Sequence[WorkItem]) -> None:
        for index in indices:
            self._results[index] = min(255, self._results[index] + 1)
        self._open -= len(indices)
        self.report.hedged_twice += sum(item.hedged and item.sends > 2 + item.attempts for item in items)

    # -- what agents report -------------------------------------------------------------------------------------

    def emitted(self, agent: int, emissions: list[Emission], now: float) -> None:
        """Report first tokens and answers, those of one request together, as they come in one chunk of its reply."""
        dispatcher = self.dispatcher
        streamed = self.fleet.interval is not None
        chunks: dict[Request, tuple[list[int], list[VirtualAnswer]]] = {}
        for emission in emissions:
            request, slot = emission.sequence.key
            started, answers = chunks.get(request) or ([], [])
            if emission.finished:
                answers.append(VirtualAnswer(slot, streamed and emission.tokens > 1, emission.tokens))
            else:
                started.append(slot)
            chunks[request] = started, answers
        answered: list[VirtualAnswer] = []
        self._meter.start()
        for request, (started, answers) in chunks.items():
            in_flight: InFlightRequest = request.key
            dispatcher.progress(in_flight, now, started)
            if answers:
                slots, tokens = [answer.slot for answer in answers], [answer.tokens for answer in answers]
                results = dispatcher.answered_together(in_flight, answers, slots, tokens, now)
                self._end(in_flight.kind, results.indices, results.items)
                answered += results.answers
            if not request.unread and not in_flight.closed:
                dispatcher.ended(in_flight)
        self._meter.stop()
        self._delivered += sum(answer.tokens for answer in answered)
        self.report.answered += len(answered)
        for request in chunks:
            if not request.unread:
                self._requests.pop(request.key, None)
        self._news = True

    def aborted(self, request: Request, slots: list[int], now: float) -> None:
        """Report that prompts of a request were aborted."""
        in_flight: InFlightRequest = request.key
        for slot in slots:
            started = request.sequences[slot].generated > 0 and self.fleet.interval is not None
            self.dispatcher.aborted(in_flight, slot, "finish_reason 'abort'", now, started=started)
        if not in_flight.closed:
            self.dispatcher.ended(in_flight)
        self._requests.pop(in_flight, None)
        self._news = True

    def failed(self, request: Request, error: PoolError, now: float) -> None:
        """Report that a request failed."""
        self.dispatcher.failed(request.key, error, now)
        self._requests.pop(request.key, None)
        self._news = True

    # -- what the dispatcher decides ----------------------------------------------------------------------------

    def _round(self) -> None:
        self._news = False
        self._feed()
        now = self.fleet.now
        self._meter.start()
        plan = self.dispatcher.plan(now)
        self._meter.stop()
        self._carry_out(plan)
        due = self.dispatcher.wake_at
        if due < self._timer:
            self._timer = due
            self.fleet.client_at(due, self._on_timer)

    def _on_timer(self) -> None:
        if self.fleet.now >= self._timer:
            self._timer = float("inf")
            self._news = True

    def _carry_out(self, plan: Plan) -> None:
        fleet = self.fleet
        for failure in plan.fail:
            self.report.failed[failure.kind] += 1
            self._end(failure.item.kind, [failure.item.index], [failure.item])
            self._news = True
        for in_flight in plan.close:
            request = self._requests.pop(in_flight, None)
            if request is not None:
                fleet.close(request)
        for in_flight in plan.send:
            request = Request(in_flight.agent, in_flight.contents, in_flight)
            self._requests[in_flight] = request
            self.dispatcher.sent(in_flight, fleet.now)
            fleet.send(request)
        for agent in plan.probe:
            fleet.probe(agent, partial(self._probed, agent))
        for agent in plan.check:
            fleet.check_load(agent, self._tokens_seen.get(agent), partial(self._load_checked, agent))
        for agent in plan.sample:
            fleet.sample(agent, partial(self._sampled, agent))

    def _probed(self, agent: int, outcome: Outcome) -> None:
        self.dispatcher.probed(agent, outcome, outcome.value, self.fleet.now)
        self._news = True

    def _load_checked(self, agent: int, finding: Finding, tokens: int) -> None:
        self._tokens_seen[agent] = tokens
        self.dispatcher.load_checked(agent, finding, self.fleet.now)
        self._news = True

    def _sampled(self, agent: int, tokens: int, running: int, waiting: int, preemptions: int) -> None:
        self._tokens_seen[agent] = tokens
        self.dispatcher.sampled(agent, running, waiting, preemptions, self.fleet.now)
        self._news = True
