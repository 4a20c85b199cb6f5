"""How many prompts an agent may hold, found by itself.

A vLLM server works on ``max_num_seqs`` sequences at a time and queues the rest; it tells nobody the number (256 is
usual on a GPU, 1,024 on the largest). Too small a window leaves slots empty, too large a one keeps prompts in a
server's queue that another agent could take. So the window aims at the slots plus a slack of 1/16: of the prompts held,
some have shown a first token (*running*), the others wait. Streams tell this without asking; for agents that do not
stream, ``/metrics`` does (sampled rarely: a scrape costs the server 7 to 17 ms).

- All that the window allows run at once: there may be room, so it doubles, or, once it has met a limit, grows by 1/16.
- More run than the window was made for: it follows.
- More than two slacks wait: it becomes what runs, plus the slack.
- A 503: it becomes what the agent had accepted before, or half of it if that was nothing. Preemptions (too little
  cache) take off an eighth. After either it does not grow for :data:`STEADY` seconds.
"""

from __future__ import annotations

START = 272
"""The first window: 256 slots and their slack."""
SLACK = 16
"""The slack is 1/16 of what runs."""
STEADY = 10.0
"""Seconds without growth after the agent said that it had too much."""


class Window:
    """The number of prompts that one agent may hold: ``size``.

    >>> window = Window()
    >>> window.queued(running=64, waiting=208)
    >>> window.size
    68
    """

    __slots__ = ("ceiling", "met_limit", "size", "steady_until")

    def __init__(self, start: int = START, ceiling: int = 8192) -> None:
        self.size = start
        self.ceiling = ceiling
        self.met_limit = False
        self.steady_until = 0.0

    @property
    def slack(self) -> int:
        """How many prompts should wait at the server, so that no slot stands empty while a request travels."""
        return max(1, self.size // SLACK)

    def all_run(self, now: float) -> None:
        """Record that all the prompts that the window allows run at once."""
        if now >= self.steady_until:
            self.size = min(self.ceiling, self.size + self.slack if self.met_limit else self.size * 2)

    def run(self, running: int, now: float) -> None:
        """Record how many prompts run: the window holds them and their slack."""
        if now >= self.steady_until:
            self.size = max(self.size, min(self.ceiling, running + max(1, running // SLACK)))

    def queued(self, running: int, waiting: int) -> None:
        """Record how many prompts run and wait at an agent that could be given more."""
        if waiting > 2 * self.slack:
            self.met_limit = True
            self.size = min(self.size, max(1, running + max(1, running // SLACK)))

    def refused(self, accepted: int, refused: int, now: float) -> None:
        """Record a 503 for a request of ``refused`` prompts, while the agent held ``accepted`` others."""
        self.met_limit = True
        self.steady_until = now + STEADY
        self.size = max(1, min(self.size, max(accepted, (accepted + refused) // 2)))

    def preempted(self, now: float) -> None:
        """Record that the agent had to preempt sequences: its cache is too small for what it holds."""
        self.met_limit = True
        self.steady_until = now + STEADY
        self.size = max(1, self.size - max(1, self.size // 8))
