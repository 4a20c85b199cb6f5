"""Callers that share a fleet, in virtual time: rows of ``python -m benchmarks.makespan --only callers``.

Four equal agents, prompts of 100 tokens, answers of 64 in the mean, a round trip of 20 ms. A *fair share's time* of a
call is that in which the fleet, at its measured throughput, begins as many prompts of every caller as the call has, and
then writes the longest of the call's answers, at the speed that one prompt has beside as many as there are slots.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from aurora_pool.policy.callers import Caller, PromptQueue
from aurora_pool.policy.work import Lot, WorkItem
from aurora_pool.testing.profile import AgentProfile
from aurora_pool.testing.virtual import VirtualFleet, VirtualPrompt
from aurora_pool.testing.virtual_pool import AHEAD, VirtualPool

AGENTS = 4
PROMPT_TOKENS = 100
ANSWER_TOKENS = 64
SEED = 1
ROUND_TRIP = 0.02
SMALL = AgentProfile(slots=64)
"""A server whose slots are a quarter of what the first window holds."""


@dataclass(eq=False)
class Call:
    """One caller: how many prompts it has, when it begins, and when it had its first answer and its last."""

    prompts: int
    begins: float = 0.0
    priority: int = 0
    first: float = 0.0
    ended: float = 0.0
    open: int = 0
    answered: int = 0
    longest: int = 0
    source: Iterator[VirtualPrompt] = field(default_factory=lambda: iter(()))

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.begins


class CallersPool(VirtualPool):
    """A virtual pool with many callers."""

    def __init__(self, fleet: VirtualFleet, calls: Sequence[Call]) -> None:
        super().__init__(fleet, seed=SEED)
        self._calls = list(calls)
        self._active: dict[Call, PromptQueue] = {}
        self._left = len(self._calls)
        self._draw = random.Random(SEED)

    def run_calls(self, *, until: float = 1e6) -> None:
        """Let all calls begin at their times, and run until all have ended."""
        for call in self._calls:
            self.fleet.client_at(call.begins, partial(self._begin, call))
        while self._left and self.fleet.now <= until and self.fleet.step():
            if self._news and self.fleet.next_at > self.fleet.now:
                self._round()

    def _begin(self, call: Call) -> None:
        queue = self.queue.for_call(Caller(priority=call.priority))
        queue.expected = call.prompts
        call.source = (self._prompt(call) for _ in range(call.prompts))
        self._active[call] = queue
        self._news = True

    def _prompt(self, call: Call) -> VirtualPrompt:
        length = max(1, round(ANSWER_TOKENS * self._draw.lognormvariate(-0.045, 0.3)))
        call.longest = max(call.longest, length)
        return VirtualPrompt(length, PROMPT_TOKENS)

    def _feed(self) -> None:
        agents = self.dispatcher.ledger.agents
        limit = AHEAD * max(1, sum(agent.window.size for agent in agents if agent.in_service))
        for call, queue in self._active.items():
            if call.open > limit - limit // 16 or not queue.expected:
                continue
            pulled = list(islice(call.source, limit - call.open))
            queue.expected -= len(pulled)
            first = call.answered + call.open
            call.open += len(pulled)
            lengths = [prompt.prompt_tokens for prompt in pulled]
            self._admit(Lot(queue, call, pulled, range(first, first + len(pulled)), prompt_tokens=lengths))

    def _end(self, kind: Any, indices: Sequence[int], items: Sequence[WorkItem]) -> None:
        call: Call = kind
        call.open -= len(indices)
        call.answered += len(indices)
        call.first = call.first or self.fleet.now
        if call.answered == call.prompts:
            call.ended = self.fleet.now
            self._left -= 1
            del self._active[call]


def _run(calls: Sequence[Call], profile: AgentProfile | None = None, *, until: float = 1e6) -> CallersPool:
    pool = CallersPool(VirtualFleet([1.0] * AGENTS, profile=profile, round_trip=ROUND_TRIP), calls)
    pool.run_calls(until=until)
    return pool


def equal_calls(prompts: int = 20_000) -> tuple[str, str, str | None]:
    """Two equal calls that begin together should end together."""
    calls = [Call(prompts), Call(prompts)]
    _run(calls)
    ratio = max(call.ended for call in calls) / min(call.ended for call in calls)
    name = f"two calls of {prompts:,}"
    return name, f"end at {calls[0].ended:.1f} and {calls[1].ended:.1f} s", _missed(name, ratio, 1.05)


def small_beside_large(prompts: int, *, small: int = 100, each: int = 8) -> tuple[str, str, str | None]:
    """Small calls that begin together beside a large one should take a fair share's time."""
    alone = Call(20_000)
    _run([alone])
    rate = alone.prompts / alone.seconds
    token = AGENTS * AgentProfile().slots / (rate * ANSWER_TOKENS)
    calls = [Call(each, begins=20.0) for _ in range(small)]
    _run([Call(prompts), *calls])
    ratios = sorted(call.seconds / ((small + 1) * each / rate + call.longest * token) for call in calls)
    name = f"{small} calls of {each} beside one of {prompts:,}"
    text = f"{statistics.median(ratios):.2f} of a fair share's time, the slowest {ratios[-1]:.2f}"
    return name, text, _missed(name, ratios[-1], 1.3)


def online(name: str, profile: AgentProfile | None, begins: float, until: float) -> tuple[str, str, str | None]:
    """Requests of one prompt, one after the other, beside a batch: how long until their answers."""
    draw = random.Random(SEED)
    arrivals: list[float] = []
    at = begins
    while at < until:
        arrivals.append(at)
        at += draw.expovariate(4.0)
    idle = [Call(1, begins=at) for at in arrivals]
    _run(idle, profile)
    beside = [Call(1, begins=at) for at in arrivals]
    _run([Call(200_000), *beside], profile, until=until + 60.0)
    figures = []
    for calls in (idle, beside):
        took = sorted(call.seconds for call in calls if call.ended)
        assert len(took) == len(calls), "an online request has no answer"
        figures.append(f"{statistics.median(took):.2f} (p95 {took[int(0.95 * len(took))]:.2f})")
    return name, f"{figures[1]} s; on an idle fleet {figures[0]}", None


def rows(*, quick: bool) -> Iterator[tuple[str, str, str | None]]:
    """Run the rows: a name, what it came to, and what is missed."""
    yield equal_calls()
    yield small_beside_large(100_000 if quick else 1_000_000)
    yield online("single requests while a batch begins", None, 0.5, 10.0)
    yield online("single requests beside a batch", None, 20.0, 60.0)
    yield online("the same on 64 slots, while it begins", SMALL, 0.5, 10.0)
    yield online("the same on 64 slots", SMALL, 40.0, 80.0)


def _missed(name: str, found: float, limit: float) -> str | None:
    return f"{name}: {found:.2f}, expected at most {limit}" if found > limit else None
