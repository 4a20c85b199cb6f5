"""How fast work flows through one agent, measured from the replies themselves.

Nothing here is a count of what shows a first token now: where answers are short, most of what a server works on is in
prefill, or has come and gone between two samples. What shows it is the throughput, and how long an idle server takes.
"""

from __future__ import annotations

from collections import deque

BUCKET = 0.5
"""Seconds over which the throughput is averaged at least."""
BUCKET_ANSWERS = 4
"""Answers in one average at least, unless :data:`LONGEST_BUCKET` has passed."""
LONGEST_BUCKET = 5.0
BUCKETS = 16
"""Averages among which the peak is taken: at least 8 s, as long as the server's slowest phases are seen to last."""
FLOOR_GROWTH = 0.01
"""How much of the least latency is forgotten each second: it doubles in 70 s, so a slower network is noticed."""
BEST_LOSS = 0.01
"""How much of the best decoding speed is forgotten each second."""
FRESH = 1 / 32
"""How much one answer weighs in an agent's running means: of its tokens, seconds and decoding speed."""
SHORTEST = 0.001
"""Seconds that decoding takes an answer at least: less than any server needs for one token."""


class Flow:
    """Throughput, latency and decoding speed of one agent. Times are seconds, lengths tokens.

    >>> flow = Flow()
    >>> flow.began(0.0)
    >>> closed = [flow.answered(4, tenth / 10, held=100) for tenth in range(1, 21)]
    >>> round(flow.peak)
    40
    """

    __slots__ = (
        "_averages",
        "_best_at",
        "_count",
        "_floor_at",
        "_held",
        "_running",
        "_since",
        "decode_speed",
        "decode_speed_best",
        "decode_speed_now",
        "latency",
        "most_held",
        "most_running",
        "peak",
        "rate",
        "slots",
        "sustained",
    )

    def __init__(self) -> None:
        self.rate = 0.0
        """Prompts a second, in the last whole bucket; 0 while unknown."""
        self.peak = 0.0
        """The highest recent throughput."""
        self.sustained = 0.0
        """The mean recent throughput."""
        self.most_running = 0
        """The most prompts that had recently shown a first token and not ended."""
        self.slots = 0
        """How many prompts the engine worked on when others were last seen to wait there; 0 while none were."""
        self.most_held = 0
        """The most prompts that the agent held in the last whole bucket."""
        self.latency = 0.0
        """The least time from sending a request to the first byte of one of its answers; 0 while unknown."""
        self.decode_speed = 0.0
        """Tokens a second that one prompt gets after its first at the agent's usual load; 0 while unknown."""
        self.decode_speed_now = 0.0
        """The recent value, at any load."""
        self.decode_speed_best = 0.0
        """The best recent value: that of an agent with little load."""
        self._best_at = 0.0
        self._averages: deque[tuple[float, int]] = deque(maxlen=BUCKETS)
        self._since = 0.0
        self._count = 0
        self._running = 0
        self._held = 0
        self._floor_at = 0.0

    def began(self, now: float) -> None:
        """Record that it gets work after it was idle: the time before is not counted."""
        self._since = now
        self._count = 0

    def first_byte(self, seconds: float, now: float) -> None:
        """Record how long a request took to its first byte."""
        floor = self.latency * (1.0 + FLOOR_GROWTH * (now - self._floor_at))
        if not floor or seconds < floor:
            floor = seconds
        self.latency = floor
        self._floor_at = now

    def running(self, prompts: int) -> None:
        """Record how many prompts have shown a first token and not ended."""
        self._running = max(self._running, prompts)

    def holds(self, prompts: int) -> None:
        """Record how many prompts the agent holds, having been sent more."""
        self._held = max(self._held, prompts)

    def answered(self, answers: int, now: float, held: int) -> bool:
        """Record answers, after which this many prompts are held; return whether there is a new average.

        An average over a time in which the agent ran out of work says nothing of what it can do, and does not count.
        """
        self._count += answers
        passed = now - self._since
        if passed >= BUCKET and (self._count >= BUCKET_ANSWERS or passed >= LONGEST_BUCKET):
            self.rate = self._count / passed
            loaded = held > 0 and 2 * held >= self._running
            if loaded or not self._averages:
                self._average()
            self.most_held, self._held = self._held, held
            self._since, self._count, self._running = now, 0, 0
            return loaded
        return False

    def rate_until(self, ended: float) -> float:
        """Prompts a second of an agent that has answered all it had, the last at that time, since it was given work."""
        passed = ended - self._since
        return self._count / passed if self._count and passed > 0.0 else self.rate

    def _average(self) -> None:
        averages = self._averages
        averages.append((self.rate, self._running))
        rates = [rate for rate, _ in averages]
        self.peak, self.sustained = max(rates), sum(rates) / len(rates)
        self.most_running = max([running for _, running in averages])

    def decoded(self, tokens: float, seconds: float, answers: int, running: int, at: float) -> None:
        """Record how long these answers took from their first tokens to their last, together.

        An agent that runs much less than it can is faster than at its usual load.
        """
        if seconds < SHORTEST * answers or tokens <= 0:  # they came together: a proxy may have buffered them
            return
        speed, weight = tokens / seconds, min(1.0, answers * FRESH)
        now, usual = self.decode_speed_now, self.decode_speed
        self.decode_speed_now = now + (speed - now) * weight if now else speed
        best = self.decode_speed_best * (1.0 - BEST_LOSS * (at - self._best_at))
        self.decode_speed_best, self._best_at = max(best, speed), at
        if not usual or 2 * running >= self.most_running:
            self.decode_speed = usual + (speed - usual) * weight if usual else speed

    @property
    def measured(self) -> int:
        """How many recent averages there are, up to :data:`BUCKETS`."""
        return len(self._averages)
