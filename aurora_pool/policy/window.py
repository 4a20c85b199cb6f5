"""How many prompts an agent may hold, found by measurement.

A vLLM server works on ``max_num_seqs`` sequences at a time and queues the rest; it does not report the number (256 is
usual on a GPU, 1,024 on the largest). Too small a window starves the server, too large a one keeps prompts in its queue
that another agent could take. Starving is expensive and waiting is cheap, so the window begins large and errs on that
side:

- It **grows** when the server ran dry: when, as credits come back, fewer prompts wait there than the server begins
  during a round trip. It doubles, as long as doubling brings more throughput.
- It **shrinks** to what the measured flow needs and a quarter more: what runs, and what the server begins while a
  refill is on its way and during its longest step (Little's law; the bandwidth-delay product of BBR, Cardwell et al.
  2016). Both are recent peaks, so a bad moment, or a window that was too small, does not lead to a smaller one.
- A 503: it becomes what the agent had accepted before, or half of it if that was nothing. Preemptions (too little
  cache) take off an eighth. After either it does not grow for :data:`STEADY` seconds.
"""

from __future__ import annotations

from aurora_pool.policy.flow import Flow

START = 272
"""The first window: 256 slots and a sixteenth more."""
CEILING = 8192
SLACK = 16
"""A refill is worth a request from 1/16 of the window."""
LEAST_REFILL = 16
"""Prompts that a window holds beyond what the flow needs, so that refills need not be smaller than this."""
REFILL_SECONDS = 0.02
"""Seconds of the agent's throughput that a refill brings at least, so that instant servers do not cost requests."""
STEP = 0.25
"""Seconds that the longest step of a server takes: a GPU's 8,192 tokens of prefill take about 0.2."""
MARGIN = 1.25
"""The window is this many times what the flow needs."""
STEADY = 10.0
"""Seconds without growth after the agent said that it had too much, or after growth that brought nothing."""
GAIN = 1.05
"""Growth that brings less than this factor in throughput brings nothing."""
ENOUGH = 4
"""Averages of the throughput that are needed before the window shrinks."""


class Window:
    """The number of prompts that one agent may hold: ``size``.

    >>> window = Window()
    >>> window.ran_dry(rate=100.0, running=272, now=1.0)
    >>> window.size
    544
    """

    __slots__ = ("_grown_from", "ceiling", "size", "steady_until")

    def __init__(self, start: int = START, ceiling: int = CEILING) -> None:
        self.size = start
        self.ceiling = ceiling
        self._grown_from = (0.0, 0)
        """The throughput and the prompts that ran at the last growth."""
        self.steady_until = 0.0

    def ran_dry(self, rate: float, running: int, now: float) -> None:
        """Record that the server had too little, at this throughput (prompts a second) and with this many running."""
        if now < self.steady_until:
            return
        rate_before, running_before = self._grown_from
        if rate > rate_before * GAIN or running > running_before * GAIN:
            self.size = min(self.ceiling, 2 * self.size)
        else:  # the last growth brought nothing: try again later, a little further
            self.size = min(self.ceiling, self.size + max(1, self.size // 8))
            self.steady_until = now + STEADY
        self._grown_from = rate, running

    def fit(self, flow: Flow) -> None:
        """Shrink to what the flow needs, if the window is larger than that."""
        if flow.measured >= ENOUGH:
            self.size = min(self.size, int(self.needed(flow) * MARGIN) + LEAST_REFILL)

    @staticmethod
    def needed(flow: Flow) -> float:
        """How many prompts the flow needs: what runs, and what the server begins while a refill is on its way."""
        return flow.most_running + flow.peak * (flow.latency + STEP)

    def overloaded(self, accepted: int, prompts: int, now: float) -> None:
        """Record a 503 for a request of ``prompts``, while the agent held ``accepted`` others."""
        self.steady_until = now + STEADY
        self._grown_from = (0.0, 0)  # the last growth is undone: it says nothing of the next
        self.size = max(1, min(self.size, max(accepted, (accepted + prompts) // 2)))

    def preempted(self, now: float) -> None:
        """Record that the agent had to preempt sequences: its cache is too small for what it holds."""
        self.steady_until = now + STEADY
        self.size = max(1, self.size - max(1, self.size // 8))

    def min_refill(self, size: int, rate: float, share: float) -> int:
        """How many free credits of ``size`` are worth a request: a share of them, more at a high throughput."""
        return max(1, min(size // 2, max(int(size * share), LEAST_REFILL, int(rate * REFILL_SECONDS))))
