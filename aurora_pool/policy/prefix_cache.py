"""What a server tells of its prefix cache."""

from __future__ import annotations


class CacheCounters:
    """What a server has found in its prefix cache since the first look at its counters, in tokens of prompts.

    >>> cache = CacheCounters()
    >>> cache.counted(1000, 500), cache.share
    (None, None)
    >>> cache.counted(2000, 1250), cache.share
    (None, 0.75)
    """

    __slots__ = ("_before", "share")

    def __init__(self) -> None:
        self._before: tuple[float, float] | None = None
        self.share: float | None = None
        """The share that was found, 0 to 1, of all that was looked for; None before the second look."""

    def counted(self, queries: float, hits: float) -> None:
        """Record a look: the tokens that the server has looked for since it was started, and those that it found."""
        before = self._before
        if before is None or queries < before[0]:  # the first look, or a new process
            if queries:
                self._before = queries, hits
        elif queries > before[0]:
            self.share = min(1.0, max(0.0, (hits - before[1]) / (queries - before[0])))
