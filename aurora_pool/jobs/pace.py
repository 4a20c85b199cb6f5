"""How fast a driver of a claimed job is: rates over the last half minute, and whether it stands still. Pure."""

from __future__ import annotations

from collections import deque

WINDOW = 30
"""How many samples rates are measured over; one is taken about every second."""


class Pace:
    """Counts records of all pieces together.

    >>> pace = Pace(now=0.0)
    >>> for second in range(1, 11):
    ...     pace.recorded(now=float(second))
    ...     pace.sample(now=float(second), tokens=20 * second)
    >>> pace.rates()
    (1.0, 20.0)
    """

    def __init__(self, *, now: float) -> None:
        self.records = 0
        self._last = now
        self._longest_gap = 0.0
        self._samples: deque[tuple[float, int, int]] = deque([(now, 0, 0)], maxlen=WINDOW)

    def recorded(self, *, now: float) -> None:
        """Count a record."""
        self.records += 1
        self._longest_gap = max(self._longest_gap, now - self._last)
        self._last = now

    def sample(self, *, now: float, tokens: int) -> None:
        """Note how many tokens there are by now."""
        self._samples.append((now, self.records, tokens))

    def rates(self) -> tuple[float, float]:
        """Records and tokens per second."""
        (since, records, tokens), (until, more_records, more_tokens) = self._samples[0], self._samples[-1]
        seconds = until - since
        if seconds <= 0:
            return 0.0, 0.0
        return (more_records - records) / seconds, (more_tokens - tokens) / seconds

    def gap(self, *, now: float, at_least: float) -> float | None:
        """Seconds without a record, if they are more than ``at_least``, and than three times any gap before."""
        gap = now - self._last
        return gap if gap > max(at_least, 3 * self._longest_gap) else None
