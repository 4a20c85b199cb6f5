"""A fleet in virtual time: simulated servers without HTTP, sockets or waiting, for the pool's own dispatcher.

::

    fleet = VirtualFleet([1.0, 1.0, 0.5])
    fleet.at(10.0, fleet.agents[0].die)
    report = VirtualPool(fleet, seed=1).run([VirtualPrompt(200)] * 1000)
    assert report.answered == 1000

One heap of events drives everything, so a job of hours takes seconds and the same seed gives the same run. Times are
virtual seconds, lengths are tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Literal, Protocol

from aurora_pool.errors import ConnectFailed, ConnectionLost, PoolError, ServerError
from aurora_pool.policy.faults import Finding
from aurora_pool.policy.outcome import Outcome
from aurora_pool.testing import engine as engines
from aurora_pool.testing.refusal import ENGINE_DEAD

ROUND_TRIP = 0.002
"""Seconds on the network, charged on the way there."""
ERRAND_LIMIT = 5.0
"""Seconds after which a probe or a look at a mute agent ends."""

DRAINING = "cannot schedule new futures after shutdown"
BUSY = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."


@dataclass(slots=True, eq=False)
class VirtualPrompt:
    """One prompt: how long its answer is; whether servers refuse it; whether it kills the server that begins it."""

    length: int
    bad: bool = False
    poison: bool = False


class Request:
    """What a client sends: prompts for one agent, and the client's own ``key``."""

    __slots__ = ("agent", "key", "prompts", "sequences", "unfinished")

    def __init__(self, agent: int, prompts: Sequence[VirtualPrompt], key: Any) -> None:
        self.agent = agent
        self.prompts = prompts
        self.key = key
        self.sequences: list[engines.Sequence] = []
        self.unfinished = len(prompts)


class Client(Protocol):
    """Who sends requests, and is told what came of them."""

    def emitted(self, agent: int, emissions: list[engines.Emission], now: float) -> None:
        """Record first tokens and answers of one agent; an emission's ``sequence.key`` is (request, slot)."""

    def aborted(self, request: Request, slots: list[int], now: float) -> None:
        """Record that these prompts of a request ended with ``abort``."""

    def failed(self, request: Request, error: PoolError, now: float) -> None:
        """Record that a request failed."""


class VirtualAgent:
    """One simulated server. The methods named like those of ``SimulatedAgent`` let the same happen to it."""

    def __init__(self, fleet: VirtualFleet, index: int, speed: float, slots: int) -> None:
        self.fleet = fleet
        self.index = index
        self.speed = speed
        self.slots = slots
        self.max_queued: int | None = None
        self.restarts_after = math.inf
        """Seconds after which something starts the server again that a poison prompt has killed."""
        self.condition: Literal["up", "hung", "asleep", "draining", "terminated", "dead"] = "up"
        self.requests: dict[Request, None] = {}
        self.most_held = 0
        self.prompts_received = 0
        self.deaths = 0
        self.engine = engines.Engine(slots=slots, speed=speed)
        self._tokens_before = 0
        self._wake = math.inf
        fleet.note_capacity(speed)

    @property
    def tokens(self) -> int:
        """Tokens generated, whoever got them."""
        return self._tokens_before + self.engine.tokens

    # -- what a client does -------------------------------------------------------------------------------------

    def receive(self, request: Request) -> None:
        """Record a request that has travelled here, unless it was closed on the way."""
        now = self.fleet.now
        if request.unfinished <= 0:
            return
        error = self._refusal(request)
        if error is not None:
            self.fleet.client.failed(request, error, now)
            return
        self.prompts_received += len(request.prompts)
        self.requests[request] = None
        for slot, prompt in enumerate(request.prompts):
            sequence = engines.Sequence(prompt.length, interval=self.fleet.interval, key=(request, slot))
            request.sequences.append(sequence)
            self.engine.submit(now, sequence)
        self.most_held = max(self.most_held, self.engine.running + self.engine.waiting)
        self._reschedule()

    def close(self, request: Request) -> None:
        """Drop a request that nobody reads any more."""
        request.unfinished = 0
        if request in self.requests:
            del self.requests[request]
            for sequence in request.sequences:
                self.engine.cancel(self.fleet.now, sequence)
            self._reschedule()

    def _refusal(self, request: Request) -> PoolError | None:
        if self.condition in ("dead", "terminated"):
            return ConnectFailed("connection refused")
        if self.condition == "draining":
            return ServerError(500, DRAINING)
        if self.condition == "up" and any(prompt.bad for prompt in request.prompts):
            return ServerError(400, "The decoder prompt cannot be empty")
        held = self.engine.running + self.engine.waiting
        if self.max_queued is not None and held + len(request.prompts) > self.max_queued:
            return ServerError(503, BUSY)
        return None

    # -- what happens to it -------------------------------------------------------------------------------------

    def hang(self) -> None:
        """Accept everything and do nothing."""
        self._set("hung", paused=True)

    def terminate(self) -> None:
        """Refuse connections, and leave what is in flight unanswered for ever."""
        self._set("terminated", paused=True)

    def drain(self, seconds: float = 5.0) -> None:
        """Go on with what runs, refuse new requests with a 500; after some seconds, terminate."""
        self._set("draining", paused=False)
        self.fleet.at(self.fleet.now + seconds, self.terminate)

    def die(self) -> None:
        """Cut all connections and refuse new ones."""
        self._stop(lambda: ConnectionLost("the connection broke", received=True))

    def fail_engine(self) -> None:
        """Answer everything in flight with the 500 of a dead engine, then be gone."""
        self._stop(lambda: ServerError(500, ENGINE_DEAD))

    def sleep(self) -> None:
        """Abort what runs, and keep new requests waiting without a word."""
        self._set("asleep", paused=True)
        for request in list(self.requests):
            del self.requests[request]
            slots = [slot for slot, s in enumerate(request.sequences) if s.generated < s.length]
            for sequence in request.sequences:
                self.engine.cancel(self.fleet.now, sequence)
            self.fleet.client.aborted(request, slots, self.fleet.now)

    def slow(self, factor: float) -> None:
        """Take ``factor`` times as long for every step."""
        self.fleet.note_capacity(self.speed / factor - self.engine.speed)
        self.engine.set_speed(self.fleet.now, self.speed / factor)
        self._reschedule()

    def flap(self, *, up: float, down: float) -> None:
        """Die now, come back after ``down`` seconds, die after ``up`` more, and so on."""
        self.die()
        self.fleet.at(self.fleet.now + down, self.revive)
        self.fleet.at(self.fleet.now + down + up, lambda: self.flap(up=up, down=down))

    def revive(self) -> None:
        """Be healthy again: go on where it stopped, or as a new process if it was gone."""
        if self.condition in ("draining", "terminated"):
            self.die()
        self._set("up", paused=False)

    def _set(self, condition: Literal["up", "hung", "asleep", "draining", "terminated"], *, paused: bool) -> None:
        if self.condition == "dead" and condition != "up":
            return
        self.fleet.note_capacity(self._capacity(condition) - self._capacity(self.condition))
        self.condition = condition
        if paused:
            self.engine.pause(self.fleet.now)
        else:
            self.engine.resume(self.fleet.now)
        self._reschedule()

    def _stop(self, error: Callable[[], PoolError]) -> None:
        if self.condition == "dead":
            return
        self.fleet.note_capacity(-self._capacity(self.condition))
        self.condition = "dead"
        self.deaths += 1
        self.engine.advance(self.fleet.now)
        self._tokens_before += self.engine.tokens
        self.engine = engines.Engine(slots=self.slots, speed=self.speed)
        self._wake = math.inf
        requests, self.requests = self.requests, {}
        for request in requests:
            self.fleet.client.failed(request, error(), self.fleet.now)

    def _capacity(self, condition: str) -> float:
        return self.engine.speed if condition == "up" else 0.0

    # -- its own time -------------------------------------------------------------------------------------------

    def _reschedule(self) -> None:
        due = self.engine.next_event_time()
        if due is not None and due < self._wake:
            self._wake = due
            self.fleet.at(due, self._advance)

    def _advance(self) -> None:
        now = self.fleet.now
        if now < self._wake:
            return
        self._wake = math.inf
        # Rounding can leave the token clock a hair short of an emission that is due now.
        emissions = self.engine.advance(now) or self.engine.advance(math.nextafter(now, math.inf))
        if emissions:
            killer = False
            for emission in emissions:
                request, slot = emission.sequence.key
                if emission.finished:
                    request.unfinished -= 1
                    if not request.unfinished:
                        self.requests.pop(request, None)
                killer = killer or request.prompts[slot].poison
            self.fleet.client.emitted(self.index, emissions, now)
            if killer:
                self.die()
                self.fleet.at(now + self.restarts_after, self.revive)
                return
        self._reschedule()


class VirtualFleet:
    """Servers of given speeds, and the heap of what happens when.

    ``streamed`` servers show first tokens; others only whole answers, one by one all the same.
    """

    def __init__(self, speeds: Sequence[float], *, slots: int = 256, streamed: bool = True) -> None:
        self.now = 0.0
        self.slots = slots
        self._capacity: list[tuple[float, float]] = []
        self.interval = 1_000_000 if streamed else None
        self.agents = [VirtualAgent(self, index, speed, slots) for index, speed in enumerate(speeds)]
        self.client: Client
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Have something happen at a time; at infinity, never."""
        if when < math.inf:
            self._count += 1
            heappush(self._events, (when, self._count, action))

    def send(self, request: Request) -> None:
        """Have a request travel to its agent."""
        agent = self.agents[request.agent]
        self.at(self.now + ROUND_TRIP, lambda: agent.receive(request))

    def step(self) -> bool:
        """Let the next thing happen; return False if there is none."""
        if not self._events:
            return False
        self.now, _, action = heappop(self._events)
        action()
        return True

    def note_capacity(self, change: float) -> None:
        """Record that the speeds of the servers that are up have changed by so much in sum."""
        self._capacity.append((self.now, change))

    def bound(self, tokens: int) -> float:
        """The least seconds in which the servers that were up could have generated these tokens, all slots full."""
        engine = engines.Engine(slots=self.slots)
        rate = self.slots / (engine.step_base + engine.step_per_sequence * self.slots)
        left, speed, since = tokens / rate, 0.0, 0.0
        for at, change in self._capacity:
            if speed > 0 and left <= speed * (at - since):
                break
            left -= speed * (at - since)
            speed, since = speed + change, at
        return since + left / speed if speed > 1e-9 else math.inf

    @property
    def tokens(self) -> int:
        """Tokens generated by all servers."""
        return sum(agent.tokens for agent in self.agents)

    def probe(self, index: int) -> tuple[float, Outcome]:
        """Tell how many seconds a probe of an agent takes, and what it comes to."""
        match self.agents[index].condition:
            case "up":
                return ROUND_TRIP + 0.01, Outcome.ANSWERED
            case "hung" | "asleep":
                return ERRAND_LIMIT, Outcome.DEAD
            case _:
                return ROUND_TRIP, Outcome.DRAINING

    def look(self, index: int, tokens_before: int) -> tuple[float, Finding]:
        """Tell how many seconds a look at an agent's counters takes, and what it shows."""
        match self.agents[index].condition:
            case "dead" | "terminated":
                return ROUND_TRIP, Finding.REFUSED
            case "hung":
                return ERRAND_LIMIT, Finding.UNRESPONSIVE
            case _:
                moving = self.agents[index].engine.tokens != tokens_before
                return ROUND_TRIP + 0.01, Finding.PROGRESSING if moving else Finding.IDLE
