"""How many prompts an agent may hold at once, found by itself.

A vLLM server works on ``max_num_seqs`` sequences at a time and queues the rest; it tells nobody the number (256 is
usual on a GPU, 1,024 on the largest). Too small a window leaves slots empty, too large a one keeps prompts in a
server's queue that another agent could take. So the window aims at the slots plus a little slack, from what is seen:

- of the prompts held, some have shown a first token (*running*), some have not (*waiting*). Streams tell this
  without asking; elsewhere ``/metrics`` does (sampled rarely: a scrape costs the server 7 to 17 ms);
- nobody waiting while the agent was full: there may be room, so the window grows, by doubling until the first prompt
  ever waits, then by 1/16;
- more waiting than the slack: the window becomes what runs, plus the slack;
- a 503 halves it; preemptions (too little KV cache) take off an eighth.
"""

from __future__ import annotations

START = 272
"""The first window: 256 slots and their slack."""
SLACK = 16
"""The slack, and the least that is worth a further request, is 1/16 of the window."""


class Window:
    """The number of prompts that one agent may hold.

    >>> window = Window()
    >>> window.observe(running=64, waiting=208)
    >>> window.size
    68
    """

    __slots__ = ("ceiling", "met_queue", "size")

    def __init__(self, start: int = START, ceiling: int = 8192) -> None:
        self.size = start
        self.ceiling = ceiling
        self.met_queue = False

    @property
    def slack(self) -> int:
        """How many prompts should wait at the server, so that no slot stands empty while a request travels."""
        return max(1, self.size // SLACK)

    def observe(self, running: int, waiting: int) -> None:
        """Take in how many prompts run and wait at an agent that holds as many as it may."""
        if waiting > 2 * self.slack:
            self.met_queue = True
            self.size = max(1, min(self.size, running + max(1, running // SLACK)))
        elif waiting == 0 and running + self.slack >= self.size:
            self.size = min(self.ceiling, self.size + self.slack if self.met_queue else self.size * 2)

    def refused(self, held: int) -> None:
        """Take in that the agent answered 503 while it held so many prompts."""
        self.met_queue = True
        self.size = max(1, min(self.size, held) // 2)

    def preempted(self) -> None:
        """Take in that the agent had to preempt sequences: its cache is too small for what it holds."""
        self.met_queue = True
        self.size = max(1, self.size - max(1, self.size // 8))
