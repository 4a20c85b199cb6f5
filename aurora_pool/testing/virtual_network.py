"""The time of a virtual fleet, and the way between its servers and their client: a heap of what happens when."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from typing import Any, Protocol

from aurora_pool.errors import PoolError
from aurora_pool.testing import engine as engines
from aurora_pool.testing.kv_cache import Key

__all__ = ["Client", "Pauses", "Request", "VirtualNetwork", "VirtualPrompt"]


@dataclass(slots=True, eq=False)
class VirtualPrompt:
    """One prompt: how long its answer and it are, in tokens, and the keys of the whole blocks that it may share.

    ``text`` is how it begins, for a pool that keeps prompts together which begin alike. ``bad`` ones are refused by
    servers, ``poison`` kills the server that begins it.
    """

    length: int
    prompt_tokens: int = 20
    bad: bool = False
    poison: bool = False
    keys: Sequence[Key] = ()
    text: str = ""


class Request:
    """What a client sends: prompts for one agent, and the client's own ``key``.

    ``unfinished`` counts the prompts that the agent has not answered, ``unread`` those whose answers the client has not
    read; a ``closed`` request is one that the client reads no more.
    """

    __slots__ = ("agent", "closed", "key", "prompts", "sequences", "unfinished", "unread")

    def __init__(self, agent: int, prompts: Sequence[VirtualPrompt], key: Any) -> None:
        self.agent = agent
        self.prompts = prompts
        self.key = key
        self.sequences: list[engines.Sequence] = []
        self.unfinished = self.unread = len(prompts)
        self.closed = False


class Client(Protocol):
    """Who sends requests, and is told what came of them; nothing is told of a request that it has closed."""

    def emitted(self, agent: int, emissions: list[engines.Emission], now: float) -> None:
        """Record first tokens and answers of one agent; an emission's ``sequence.key`` is (request, slot)."""

    def aborted(self, request: Request, slots: list[int], now: float) -> None:
        """Record that these prompts of a request ended with ``abort``."""

    def failed(self, request: Request, error: PoolError, now: float) -> None:
        """Record that a request failed."""


class Pauses:
    """The times in which a client is busy with something else, and reads and does nothing.

    One comes about every ``every`` seconds and lasts ``shortest`` to ``longest`` seconds. Ask it about times that never
    go back.

    >>> pauses = Pauses(seed=1, every=2.0)
    >>> 0 < sum(pauses.over(tick / 100) > tick / 100 for tick in range(60_000)) < 20_000
    True
    """

    def __init__(self, *, seed: int, every: float = 2.0, shortest: float = 0.05, longest: float = 0.5) -> None:
        self._chance = random.Random(seed)
        self._every = every
        self._lasts = (shortest, longest)
        self._until = 0.0
        self._next = self._chance.expovariate(1 / every)

    def over(self, now: float) -> float:
        """Tell when the client runs again: ``now`` if it runs."""
        while self._next <= now:
            self._until = self._next + self._chance.uniform(*self._lasts)
            self._next = self._until + self._chance.expovariate(1 / self._every)
        return max(now, self._until)


class VirtualNetwork:
    """What servers and their client have between them.

    What is sent takes half a ``round_trip`` each way. The client reads nothing and does nothing during its ``pauses``.
    Servers report every ``interval`` tokens of an answer; with None, whole answers only.
    """

    client: Client

    def __init__(self, *, round_trip: float, interval: int | None, pauses: Pauses | None) -> None:
        self.now = 0.0
        self.round_trip = round_trip
        self.interval = interval
        self.one_way = round_trip / 2
        self._pauses = pauses
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.capacity_changes: list[tuple[float, float]] = []
        """By how much the speeds of the servers that are up have changed in sum, and when."""

    # -- time ---------------------------------------------------------------------------------------------------

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Have something happen at a time; at infinity, never."""
        if when < math.inf:
            self._count += 1
            heappush(self._events, (when, self._count, action))

    def client_at(self, when: float, action: Callable[[], None]) -> None:
        """Have the client do something at a time, or as soon after it as it runs."""
        self.at(when, action if self._pauses is None else partial(self._when_awake, self._pauses, action))

    def step(self) -> bool:
        """Let the next thing happen; return False if there is none."""
        if not self._events:
            return False
        self.now, _, action = heappop(self._events)
        action()
        return True

    @property
    def next_at(self) -> float:
        """When the next thing happens."""
        return self._events[0][0] if self._events else math.inf

    def _when_awake(self, pauses: Pauses, action: Callable[[], None]) -> None:
        until = pauses.over(self.now)
        if until > self.now:
            self.client_at(until, action)
        else:
            action()

    # -- what travels to the client -----------------------------------------------------------------------------

    def tell_emitted(self, agent: int, emissions: list[engines.Emission]) -> None:
        """Have tokens travel to the client."""
        self.client_at(self.now + self.one_way, partial(self._emitted, agent, emissions))

    def tell_aborted(self, request: Request, slots: list[int]) -> None:
        """Have the news of an abort travel to the client."""
        self.client_at(self.now + self.one_way, partial(self._tell, self.client.aborted, request, slots))

    def tell_failed(self, request: Request, error: PoolError) -> None:
        """Have an error travel to the client."""
        self.client_at(self.now + self.one_way, partial(self._tell, self.client.failed, request, error))

    def _emitted(self, agent: int, emissions: list[engines.Emission]) -> None:
        read = []
        for emission in emissions:
            request: Request = emission.sequence.key[0]
            if not request.closed:
                request.unread -= emission.finished
                read.append(emission)
        if read:
            self.client.emitted(agent, read, self.now)

    def _tell(self, told: Callable[..., None], request: Request, what: object) -> None:
        if not request.closed:
            told(request, what, self.now)

    def note_capacity(self, change: float) -> None:
        """Record that the speeds of the servers that are up have changed by so much in sum."""
        self.capacity_changes.append((self.now, change))
