"""Whatever agents do, in whatever order: every prompt ends once, and no credit is lost."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from aurora_pool.errors import BadReply, ConnectFailed, ConnectionLost, PoolError, ServerError, TimedOut
from aurora_pool.policy.callers import PromptQueue
from aurora_pool.policy.outcome import Outcome
from aurora_pool.policy.scheduler import Balance
from aurora_pool.policy.stall import Finding
from aurora_pool.policy.work import InFlightRequest
from tests.policy.rig import Rig

ERRORS: list[PoolError] = [
    ServerError(503, "busy"),
    ServerError(500, "Internal server error"),
    ServerError(500, "cannot schedule new futures after shutdown"),
    ServerError(500, ""),
    ServerError(404, "The model does not exist"),
    ConnectFailed("connection refused"),
    ConnectionLost("connection lost", received=True),
    BadReply("no JSON"),
    TimedOut("no byte"),
]
PROBE_OUTCOMES = [
    Outcome.ANSWERED,
    Outcome.ANSWERED,
    Outcome.DEAD,
    Outcome.UNREACHABLE,
    Outcome.DRAINING,
    Outcome.WRONG_MODEL,
    Outcome.BROKEN,
]
ABOUT = [f"Document {number}: {number} " * 40 for number in range(4)]
"""Documents that prompts are about: groups of prompts that begin alike."""
WORK = st.sampled_from(["good"] * 6 + [f"{document}{question}" for document in ABOUT for question in "?!"])
ANY_WORK = st.one_of(WORK, WORK, WORK, WORK, st.sampled_from(["good", "bad", "poison"]))


class Interleavings(RuleBasedStateMachine):
    rig: Rig
    queues: list[PromptQueue]

    @initialize(
        agents=st.integers(1, 4),
        balance=st.sampled_from(["adaptive", "strict"]),
        timeout=st.sampled_from([None, 20.0]),
        seed=st.integers(0, 9),
        window=st.sampled_from([1, 3, 16, None]),
        ends=st.booleans(),
    )
    def begin(
        self, agents: int, balance: Balance, timeout: float | None, seed: int, window: int | None, ends: bool
    ) -> None:
        self.rig = Rig(agents, balance=balance, timeout=timeout, seed=seed, window=window)
        self.rig.queue.unbounded = not ends
        view = list(range(0, agents, 2))
        self.queues = [
            self.rig.queue,
            PromptQueue(view, patience=3.0),
            PromptQueue([agents - 1], patience=0.0, pinned=True),
        ]

    @rule(queue=st.integers(0, 2), work=st.lists(ANY_WORK, min_size=1, max_size=30), plan=st.booleans())
    def admit(self, queue: int, work: list[str], plan: bool) -> None:
        self.rig.admit(len(work), queue=self.queues[queue], work=work)
        self._plan(plan)

    @rule(seconds=st.sampled_from([0.001, 0.3, 1.0, 6.0, 45.0]))
    def wait(self, seconds: float) -> None:
        self.rig.wait(seconds)

    @precondition(lambda self: self.rig.open)
    @rule(data=st.data(), count=st.integers(1, 30))
    def start(self, data: st.DataObject, count: int) -> None:
        self.rig.start(self._request(data), count)

    @precondition(lambda self: self.rig.open)
    @rule(data=st.data(), tokens=st.sampled_from([0, 1, 100, 5000]), plan=st.booleans())
    def answer(self, data: st.DataObject, tokens: int, plan: bool) -> None:
        request = self._request(data)
        self.rig.answer(request, self._slot(data, request), tokens)
        self._plan(plan)

    @precondition(lambda self: self.rig.open)
    @rule(data=st.data(), plan=st.booleans())
    def answer_all(self, data: st.DataObject, plan: bool) -> None:
        self.rig.answer_all(self._request(data))
        self._plan(plan)

    @precondition(lambda self: self.rig.open)
    @rule(data=st.data(), plan=st.booleans())
    def abort(self, data: st.DataObject, plan: bool) -> None:
        request = self._request(data)
        self.rig.abort(request, self._slot(data, request))
        self._plan(plan)

    @precondition(lambda self: self.rig.open)
    @rule(data=st.data(), error=st.sampled_from(ERRORS), plan=st.booleans())
    def fail(self, data: st.DataObject, error: PoolError, plan: bool) -> None:
        self.rig.fail(self._request(data), error)
        self._plan(plan)

    @rule(data=st.data(), plan=st.booleans())
    def die(self, data: st.DataObject, plan: bool) -> None:
        self.rig.die(data.draw(st.integers(0, self.rig.size - 1)))
        self._plan(plan)

    @precondition(lambda self: self.rig.unended())
    @rule(data=st.data(), share=st.integers(1, 4), plan=st.booleans())
    def withdraw(self, data: st.DataObject, share: int, plan: bool) -> None:
        self.rig.withdraw(self.rig.unended()[data.draw(st.integers(0, share - 1)) :: share])
        self._plan(plan)

    @precondition(lambda self: self.rig.probes)
    @rule(data=st.data(), outcome=st.sampled_from(PROBE_OUTCOMES), plan=st.booleans())
    def probe(self, data: st.DataObject, outcome: Outcome, plan: bool) -> None:
        self.rig.probed(data.draw(st.sampled_from(self.rig.probes)), outcome)
        self._plan(plan)

    @precondition(lambda self: self.rig.load_checks)
    @rule(data=st.data(), finding=st.sampled_from(Finding), plan=st.booleans())
    def load_check(self, data: st.DataObject, finding: Finding, plan: bool) -> None:
        self.rig.load_checked(data.draw(st.sampled_from(self.rig.load_checks)), finding)
        self._plan(plan)

    @rule(data=st.data(), running=st.integers(0, 300), waiting=st.integers(0, 300), preempted=st.integers(0, 3))
    def sample(self, data: st.DataObject, running: int, waiting: int, preempted: int) -> None:
        agent = data.draw(st.integers(0, self.rig.size - 1))
        self.rig.dispatcher.sampled(agent, running, waiting, preempted, self.rig.now)

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            self.rig.finish()

    def _plan(self, now: bool) -> None:
        if now:
            self.rig.plan()

    def _request(self, data: st.DataObject) -> InFlightRequest:
        request: InFlightRequest = data.draw(st.sampled_from(list(self.rig.open)))
        return request

    @staticmethod
    def _slot(data: st.DataObject, request: InFlightRequest) -> int:
        slot: int = data.draw(st.sampled_from([i for i, item in enumerate(request.items) if item is not None]))
        return slot


Interleavings.TestCase.settings = settings(max_examples=100, stateful_step_count=30)
TestInterleavings = Interleavings.TestCase
