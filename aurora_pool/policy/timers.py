"""What is due when. Times are seconds of whatever clock the caller passes in; nothing here waits."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

FOREVER = float("inf")

BEHIND = 1.0
"""Seconds by which timers may run late before this process counts as one that does not keep up."""


class Timers:
    """Calls that are due at some time, in the order of their times.

    >>> timers = Timers()
    >>> timers.add(2.0, lambda name, now: print(name, now), "second")
    >>> timers.add(1.0, lambda name, now: print(name, now), "first")
    >>> timers.next_at
    1.0
    >>> timers.run(now=2.0)
    first 2.0
    second 2.0
    """

    __slots__ = ("_count", "_heap", "kept_up_since", "next_at")

    def __init__(self) -> None:
        self.next_at = FOREVER
        """When the next is due; infinity if none is."""
        self.kept_up_since = 0.0
        """Since when this process has kept up. What agents sent before may have been read late."""
        self._heap: list[tuple[float, int, Callable[[Any, float], None], Any]] = []
        self._count = 0

    def add(self, when: float, action: Callable[[Any, float], None], argument: Any) -> None:
        """Have ``action(argument, now)`` called by the first :meth:`run` at or after ``when``."""
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, action, argument))
        self.next_at = self._heap[0][0]

    def run(self, now: float) -> None:
        """Make the calls that are due."""
        if self.next_at < now - BEHIND:
            self.kept_up_since = now
        while self._heap and self._heap[0][0] <= now:
            _, _, action, argument = heapq.heappop(self._heap)
            action(argument, now)
        self.next_at = self._heap[0][0] if self._heap else FOREVER

    def clear(self) -> None:
        """Forget all of them."""
        self._heap.clear()
        self.next_at = FOREVER
