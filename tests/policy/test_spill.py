"""When prompts spill over to hosted agents, and how many: the dispatcher alone, in simulated time."""

from __future__ import annotations

import heapq
import random

import pytest

from aurora_pool.hosted import HostedTerms
from aurora_pool.messages import Usage
from aurora_pool.policy.callers import AgentView, PromptQueue
from aurora_pool.policy.dispatch import Dispatcher
from aurora_pool.policy.work import InFlightRequest, Portable, WorkItem
from tests.policy.rig import statistics_of

TERMS = HostedTerms(requests=100, at_once=2)


class Run:
    """Own agents that answer a prompt at a time, each in ``seconds``, and one hosted agent that takes a second."""

    def __init__(self, own: int, *, seconds: float = 1.0, after: float = 60.0, terms: HostedTerms = TERMS) -> None:
        names = [f"agent{index}" for index in range(own + 1)]
        self.dispatcher = Dispatcher(names, rng=random.Random(1), hosted={own: terms})
        self.dispatcher.spill.after = after
        self.hosted = own
        self.queue = PromptQueue(AgentView(range(own), [own]))
        self.seconds = seconds
        self.now = 0.0
        self.sent: list[float] = []
        self.most_open = 0
        self.answers = 0
        self._ends: list[tuple[float, int, InFlightRequest, int]] = []
        self._free_at = [0.0] * own
        self._count = 0

    def admit(self, prompts: int) -> None:
        portable = Portable(None, 10, 20, 10)
        items = [WorkItem(self.queue, i, "kind", None, portable=portable) for i in range(prompts)]
        self.dispatcher.admit(items, self.now)

    def go(self, until: float) -> None:
        while True:
            self._carry_out()
            at = min(self.dispatcher.wake_at, self._ends[0][0] if self._ends else until)
            if at >= until:
                self.now = until
                return
            self.now = max(self.now, at)
            while self._ends and self._ends[0][0] <= self.now:
                _, _, request, slot = heapq.heappop(self._ends)
                self.answers += self.dispatcher.answered(request, slot, 10, self.now, started=False)
                if not request.open:
                    self.dispatcher.ended(request)
                    self.dispatcher.spill.charge(request, Usage(10, 10), self.now, answered_with_error=False)

    def _carry_out(self) -> None:
        plan = self.dispatcher.plan(self.now)
        assert not plan.fail
        for request in plan.send:
            self.dispatcher.sent(request, self.now)
            for slot in range(len(request.items)):
                self._count += 1
                heapq.heappush(self._ends, (self._end(request.agent), self._count, request, slot))
            if request.agent == self.hosted:
                assert len(request.items) == 1
                self.sent.append(self.now)
                held = statistics_of(self.dispatcher, self.now).agents[self.hosted].in_flight
                self.most_open = max(self.most_open, held)

    def _end(self, agent: int) -> float:
        if agent == self.hosted:
            return self.now + 1.0
        self._free_at[agent] = max(self._free_at[agent], self.now) + self.seconds
        return self._free_at[agent]


def test_an_hour_holds_a_hundred_a_minute_and_two_at_once() -> None:
    run = Run(0)
    run.admit(120)
    for minute in range(1, 61):  # there are always some that wait
        run.go(60.0 * minute)
        run.admit(100)
    assert max(sum(a <= b <= a + 60.0 for b in run.sent[i : i + 102]) for i, a in enumerate(run.sent)) == 100
    assert run.most_open == 2
    assert len(run.sent) >= 5880


def test_nothing_spills_while_own_agents_take_no_longer_than_answers_do() -> None:
    run = Run(2, seconds=1.0)
    run.admit(500)
    run.go(400.0)
    assert run.answers == 500
    assert not run.sent


def test_what_would_wait_too_long_spills() -> None:
    run = Run(1, seconds=1.0, after=30.0)
    run.admit(1000)
    run.go(500.0)
    assert 100 < len(run.sent) < 600
    # What waits no longer than that in the end goes to own agents only.
    assert max(run.sent) < 450.0
    run.go(1000.0)
    assert run.answers == 1000


@pytest.mark.parametrize(("deadline", "spills"), [(2500.0, False), (600.0, True)])
def test_a_deadline_that_own_agents_would_miss_makes_prompts_spill(deadline: float, spills: bool) -> None:
    run = Run(1, seconds=1.0, after=1e6)
    run.queue.expected = 700
    run.dispatcher.spill.deadline = deadline
    run.admit(800)
    run.go(400.0)
    assert bool(run.sent) == spills


def test_tokens_are_waited_for_as_well() -> None:
    run = Run(0, terms=HostedTerms(tokens=200, at_once=2))
    run.admit(50)
    run.go(600.0)
    assert len(run.sent) == 50
    for start in run.sent:
        assert 20 * sum(start <= at <= start + 60.0 for at in run.sent) <= 200
