"""What disturbs a virtual fleet without being a fault: other clients' work."""

from __future__ import annotations

import math
import random

from aurora_pool.testing.engine import Sequence
from aurora_pool.testing.virtual import VirtualFleet


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
