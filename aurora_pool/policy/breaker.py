"""Which agents are in service.

::

        UNREACHABLE, DRAINING or DEAD; WRONG_MODEL; BROKEN x 3 in a row
                        and a probe that is not answered
     IN_SERVICE --------------------------------------------------> OUT
         ^                                                         |   ^
         | probe answered                      cooldown is over    |   | probe failed: cooldown doubles
         |                                                         v   |
         +---------------------------------------------------- PROBING

``PROMPT_REJECTED``, ``BATCH_REJECTED``, ``OVERLOADED`` and ``CANCELLED`` are neutral: they say nothing about its
health. ``ANSWERED`` forgets the failures before its request was sent, and only those: an agent that answers what it
holds and fails whatever is new goes out all the same. What is BROKEN may be so because of the prompts; so an agent is
tried by a probe of its own, while it is in service, before it goes out for that. One that goes out soon after it came
back waits twice as long, and gets little when it is back, until it has given answers for a while. A probe is a tiny
request of the kind the pool sends, because ``/health`` answers 200 while a server drains or sleeps. An agent that was
taken out of the fleet is REMOVED, from any state; if it is put back, it is OUT and probed at once.
"""

from __future__ import annotations

import enum
import random

from aurora_pool.policy.outcome import Outcome

BROKEN_LIMIT = 3
TRIALS = 2
"""An agent that answers probes, but no whole request between this many of them, goes out all the same."""
FIRST_COOLDOWN = 1.0
LONGEST_COOLDOWN = 30.0
WRONG_MODEL_COOLDOWN = 60.0
PROVEN_AFTER = 10.0
"""An agent that was in service for this many of its cooldowns starts again with the first."""

_FATAL = frozenset({Outcome.UNREACHABLE, Outcome.DRAINING, Outcome.DEAD, Outcome.WRONG_MODEL})
_ANSWERS = frozenset({Outcome.ANSWERED, Outcome.OVERLOADED})
_WORKS = frozenset({Outcome.ANSWERED, Outcome.PROMPT_REJECTED, Outcome.BATCH_REJECTED, Outcome.OVERLOADED})


class State(enum.Enum):
    """Whether an agent gets prompts."""

    IN_SERVICE = "in service"
    OUT = "out"
    PROBING = "probing"
    REMOVED = "removed"


class Breaker:
    """The state of one agent. Times are seconds of whatever clock the caller uses.

    >>> breaker = Breaker()
    >>> breaker.failed(Outcome.DEAD, now=10.0, rng=random.Random(1))
    True
    >>> breaker.state, 10.5 <= breaker.probe_at <= 11.0
    (<State.OUT: 'out'>, True)
    """

    __slots__ = (
        "_must_answer",
        "_trials",
        "back_at",
        "broken",
        "cooldown",
        "failed_at",
        "on_trial",
        "probe_at",
        "relapses",
        "state",
        "wrong_model",
    )  # fmt: skip

    def __init__(self) -> None:
        self.state = State.IN_SERVICE
        self.broken = 0
        self.failed_at = 0.0
        self.back_at = float("-inf")
        self.relapses = 0
        """How often it went out again soon after it had come back, without a long time in service between."""
        self.cooldown = FIRST_COOLDOWN
        self.wrong_model = False
        self.probe_at = 0.0
        self.on_trial = False
        """Whether a probe is on its way while it is in service."""
        self._trials = 0
        """How many probes on trial there were since a request was answered whole."""
        self._must_answer = False
        """Whether a probe that is rejected shows nothing good, because it rejects what others answer."""

    def answered(self, sent_at: float) -> None:
        """Record an answer to a request sent at that time."""
        if sent_at > self.failed_at:
            self.broken = self._trials = 0

    def failed(self, outcome: Outcome, now: float, rng: random.Random) -> bool:
        """Record a failure; return whether it took the agent out of service."""
        if outcome is Outcome.BROKEN:
            self.broken += 1
            self.failed_at = now
            return False
        if outcome not in _FATAL or self.state is not State.IN_SERVICE:
            return False
        self._relapse(now)
        self._go_out(outcome, now, rng)
        return True

    def begin_trial(self) -> bool:
        """Tell whether a probe must show now that it works; :meth:`tried` takes what it came to."""
        due = self.broken >= BROKEN_LIMIT and self.state is State.IN_SERVICE and not self.on_trial
        self.on_trial = self.on_trial or due
        return due

    def tried(self, outcome: Outcome, now: float, rng: random.Random) -> bool:
        """Record what the probe on trial came to; return whether it took the agent out of service."""
        self.on_trial = False
        self._trials += 1
        if outcome in _ANSWERS and self._trials < TRIALS:
            self.broken = 0
            return False
        self._must_answer = outcome in _WORKS - _ANSWERS
        self._relapse(now)
        self._go_out(outcome, now, rng)
        return True

    def probing(self) -> None:
        """Record that a probe is on its way."""
        self.state = State.PROBING

    def probed(self, outcome: Outcome, now: float, rng: random.Random) -> bool:
        """Record what the probe came to; return whether the agent is back in service."""
        if outcome in (_ANSWERS if self._must_answer else _WORKS):
            self._must_answer = False
            self.state = State.IN_SERVICE
            self.broken = self._trials = 0
            self.wrong_model = False
            self.back_at = now
            return True
        self.cooldown = self._longer()
        self._go_out(outcome, now, rng)
        return False

    def remove(self) -> None:
        """Record that the agent is no longer part of the fleet."""
        self.state = State.REMOVED

    def restore(self, now: float) -> None:
        """Record that a removed agent is part of the fleet again: a probe is due now."""
        self.state = State.OUT
        self.probe_at = now

    def proven(self, now: float) -> bool:
        """Whether it has been in service long enough to be trusted again."""
        return now - self.back_at > PROVEN_AFTER * self.cooldown

    def _longer(self) -> float:
        return min(LONGEST_COOLDOWN, self.cooldown * 2)

    def _relapse(self, now: float) -> None:
        if self.proven(now):
            self.cooldown, self.relapses = FIRST_COOLDOWN, 0
        else:
            self.cooldown, self.relapses = self._longer(), self.relapses + 1

    def _go_out(self, outcome: Outcome, now: float, rng: random.Random) -> None:
        self.state = State.OUT
        self.on_trial = False
        self.wrong_model = outcome is Outcome.WRONG_MODEL
        wait = WRONG_MODEL_COOLDOWN if self.wrong_model else self.cooldown
        self.probe_at = now + wait * rng.uniform(0.5, 1.0)
