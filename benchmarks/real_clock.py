"""How long engines took, and how long of that they had no core: the kernel counts it, thread by thread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """What one run took.

    ``waited`` are those of the seconds in which the computing thread was ready and waited for a core; ``front_ends``
    and ``client`` are seconds of CPU, of the servers' processes beside the engine and of this process.
    """

    tokens: int
    seconds: float
    waited: float
    front_ends: float
    client: float

    @property
    def rate(self) -> float:
        """Tokens per second on the clock."""
        return self.tokens / self.seconds

    @property
    def undisturbed(self) -> float:
        """Tokens per second without the waiting."""
        return self.tokens / (self.seconds - self.waited)


class Clock:
    """Measures from when it is made until it is stopped."""

    def __init__(self, engines: Sequence[int], front_ends: Sequence[int]) -> None:
        self._engines = engines
        self._front_ends = front_ends
        self._began = self._now()

    def stop(self, tokens: int, expected: int) -> Run:
        """Return what it came to; whoever has not generated what all others have is not comparable."""
        assert tokens == expected, f"{tokens} tokens instead of {expected}"
        return Run(tokens, *(now - began for now, began in zip(self._now(), self._began, strict=True)))

    def _now(self) -> tuple[float, float, float, float]:
        waited = [_schedule(Path(f"/proc/{pid}"))[1] for pid in self._engines]
        threads = [thread for pid in self._front_ends for thread in Path(f"/proc/{pid}/task").iterdir()]
        front_ends = sum(_schedule(thread)[0] for thread in threads)
        return time.perf_counter(), statistics.mean(waited), front_ends, time.process_time()


def _schedule(thread: Path) -> tuple[float, float]:
    """The seconds that a thread, or a process's first thread, has run, and has been ready to run without a core."""
    ran, waited, _ = (thread / "schedstat").read_text().split()
    return int(ran) / 1e9, int(waited) / 1e9
