"""When a run has to take nothing new, so that what is in flight ends before the allocation does. Pure."""

from __future__ import annotations

from collections import deque

RESERVE = 5.0
"""Seconds before the end of an allocation when nothing is waited for any more: the process has to end as well."""

TURNAROUNDS = 512
"""How many of the latest prompts tell how long one takes, from being taken from the input to its record."""

MARGIN = 1.5
"""How much longer than the prompts before them the last ones may take."""


class Deadline:
    """The end of an allocation, and how long prompts take. ``end`` is None where there is none."""

    def __init__(self, end: float | None) -> None:
        self._end = end
        self._turnarounds: deque[float] = deque(maxlen=TURNAROUNDS)

    def note(self, seconds: float) -> None:
        """Note how long a prompt took, from being taken from the input to its record."""
        self._turnarounds.append(seconds)

    def is_over(self, now: float) -> bool:
        """Whether there is no time to wait for anything."""
        return self._end is not None and self._end - now <= RESERVE

    def is_near(self, now: float, *, oldest: float, backlog: float) -> float | None:
        """Give the seconds that are left if what is in flight may need them; else None.

        ``oldest`` is the age of the oldest prompt in flight, ``backlog`` how long they all take at the measured rate.
        """
        if self._end is None:
            return None
        left = self._end - now
        return left if left <= RESERVE + MARGIN * max(oldest, backlog, *self._turnarounds, 0.0) else None
