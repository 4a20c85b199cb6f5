"""Two simpler ways of sending prompts to a virtual fleet, to set the pool beside. Neither sends anything twice."""

from __future__ import annotations

from collections import deque

from aurora_pool.errors import PoolError
from aurora_pool.testing.engine import Emission
from aurora_pool.testing.virtual import Request, VirtualFleet, VirtualPrompt

LIST_LIMIT = 1024
"""How many prompts vLLM takes in one request."""
LAST = 100_000.0
"""Virtual seconds after which what has not ended never will."""


class Baseline:
    """A client that counts what comes back."""

    def __init__(self, fleet: VirtualFleet) -> None:
        self.fleet = fleet
        fleet.client = self
        self.requests = 0
        self.delivered_tokens = 0
        self.ended_at = 0.0
        self._open = 0
        self._answered = 0

    @property
    def never_ends(self) -> bool:
        """Whether it would wait for ever."""
        return self._open > 0

    def run(self, prompts: list[VirtualPrompt]) -> int:
        """Send everything; return how many prompts got no answer."""
        self.begin(prompts)
        while self._open and self.fleet.now < LAST and self.fleet.step():
            pass
        return len(prompts) - self._answered

    def begin(self, prompts: list[VirtualPrompt]) -> None:
        """Send what is sent at once."""
        raise NotImplementedError

    def ended(self) -> None:
        """Record that a request has ended in one way or another."""

    def send(self, agent: int, prompts: list[VirtualPrompt]) -> None:
        """Send one request."""
        self.requests += 1
        self._open += 1
        self.fleet.send(Request(agent, prompts, None))

    def emitted(self, agent: int, emissions: list[Emission], now: float) -> None:
        """Count answers that came whole: a list is one reply, of use when its last prompt has ended."""
        for request in {emission.sequence.key[0]: None for emission in emissions if emission.finished}:
            if not request.unread:
                self._answered += len(request.prompts)
                self.delivered_tokens += sum(prompt.length for prompt in request.prompts)
                self._over(now)

    def aborted(self, request: Request, slots: list[int], now: float) -> None:
        """Count an aborted request as over; its whole answers are answers."""
        whole = [prompt for slot, prompt in enumerate(request.prompts) if slot not in set(slots)]
        self._answered += len(whole)
        self.delivered_tokens += sum(prompt.length for prompt in whole)
        self._over(now)

    def failed(self, request: Request, error: PoolError, now: float) -> None:
        """Count a failed request as over."""
        self._over(now)

    def _over(self, now: float) -> None:
        self._open -= 1
        self.ended_at = now
        self.ended()


class StaticLists(Baseline):
    """Round-robin, one list per agent, sent at once in requests of as many prompts as vLLM takes, wait for all."""

    def begin(self, prompts: list[VirtualPrompt]) -> None:
        """Send one list to each agent."""
        size = len(self.fleet.agents)
        for agent in range(size):
            share = prompts[agent::size]
            for first in range(0, len(share), LIST_LIMIT):
                self.send(agent, share[first : first + LIST_LIMIT])


class OneByOne(Baseline):
    """``asyncio.gather`` over single requests, round-robin, at most 272 an agent at once by one semaphore."""

    def begin(self, prompts: list[VirtualPrompt]) -> None:
        """Send as many as the semaphore lets through."""
        self._waiting = deque(enumerate(prompts))
        for _ in range(272 * len(self.fleet.agents)):
            self.ended()

    def ended(self) -> None:
        """Let the next one through."""
        if self._waiting:
            index, prompt = self._waiting.popleft()
            self.send(index % len(self.fleet.agents), [prompt])
