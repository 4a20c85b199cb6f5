"""A server's own counters of its prefix cache."""

from __future__ import annotations


class CacheCounters:
    """What a server has found in its prefix cache since its counters were first read, in tokens of prompts.

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
        """The share that was found, 0 to 1, of all tokens queried; None until its counters have been read twice."""

    def counted(self, queries: float, hits: float) -> None:
        """Record its counters: the tokens queried since the server was started, and those found."""
        before = self._before
        if before is None or queries < before[0]:  # the first reading, or a new process
            if queries:
                self._before = queries, hits
        elif queries > before[0]:
            self.share = min(1.0, max(0.0, (hits - before[1]) / (queries - before[0])))
