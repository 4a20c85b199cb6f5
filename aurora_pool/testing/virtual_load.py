"""What disturbs a virtual fleet without being a fault: a client that looks late, and other clients' work."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from aurora_pool.testing.engine import Sequence

if TYPE_CHECKING:
    from aurora_pool.testing.virtual import VirtualFleet


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
        """Tell when the client looks again: ``now`` if it looks."""
        while self._next <= now:
            self._until = self._next + self._chance.uniform(*self._lasts)
            self._next = self._until + self._chance.expovariate(1 / self._every)
        return max(now, self._until)


class ForeignLoad:
    """Another client's work on one server: it keeps some sequences there while it is there, and comes and goes.

    From ``start`` on it is there for about ``lasting`` seconds and away for about ``away``, in turn (exponential
    times); at the end of a stay, what has begun is finished. Prompts have ``prompt_tokens`` tokens; lengths of answers
    are lognormal around ``median``, 2,048 at most. None of it is among the client's tokens.
    """

    def __init__(
        self,
        fleet: VirtualFleet,
        agent: int,
        *,
        seed: int,
        sequences: int = 256,
        prompt_tokens: int = 500,
        median: float = 200.0,
        start: float = 0.0,
        lasting: float = 10.0,
        away: float = 10.0,
    ) -> None:
        self._fleet = fleet
        self._agent = fleet.agents[agent]
        self._chance = random.Random(seed)
        self._sequences = sequences
        self._prompt_tokens = prompt_tokens
        self._median = median
        self._lasting = lasting
        self._away = away
        self._open = 0
        self._here = False
        fleet.at(start, self._come)

    def _come(self) -> None:
        self._here = True
        self._fleet.at(self._fleet.now + self._chance.expovariate(1 / self._lasting), self._go)
        self._fill()

    def _go(self) -> None:
        self._here = False
        self._fleet.at(self._fleet.now + self._chance.expovariate(1 / self._away), self._come)

    def _fill(self) -> None:
        while self._here and self._open < self._sequences:
            length = round(self._chance.lognormvariate(math.log(self._median), 0.8))
            sequence = Sequence(max(1, min(2048, length)), prompt_tokens=self._prompt_tokens)
            if not self._agent.work_for_others(sequence, self._ended):
                break
            self._open += 1

    def _ended(self, whole: bool) -> None:
        self._open -= 1
        if whole:
            self._fill()
