"""The state of one agent as the dispatcher sees it."""

from __future__ import annotations

from collections import Counter

from aurora_pool.policy.breaker import Breaker, State
from aurora_pool.policy.window import SLACK, Window
from aurora_pool.policy.work import Assignment, Ticket

_FRESH = 1 / 32
"""How much one answer weighs in the running means of tokens and seconds."""

REQUESTS_PER_SLACK = 3
"""Lists last about three times as long as a prompt does (their longest member), so a window refilled in pieces of
1/k holds about 3 k requests open."""


class AgentState:
    """One agent: what it holds, how fast it is, whether it may have more."""

    __slots__ = (
        "answered_at", "answers_since_send", "breaker", "checking", "failures", "held", "index", "last_byte", "last_error",
        "mean_seconds", "mean_tokens",
        "outbox", "overloads", "prompts_done", "pulse_due", "requests", "reserved", "rest_until", "running",
        "smallest_share", "tokens_done", "window",
    )  # fmt: skip

    def __init__(self, index: int, requests_limit: int) -> None:
        self.index = index
        self.window = Window()
        self.breaker = Breaker()
        self.held = 0
        self.running = 0
        self.outbox: list[Ticket] = []
        self.requests: set[Assignment] = set()
        self.reserved = False
        self.rest_until = 0.0
        self.overloads = 0
        self.last_byte = 0.0
        self.pulse_due = False
        self.checking = False
        self.last_error = ""
        self.answers_since_send = 0
        self.prompts_done = 0
        self.tokens_done = 0
        self.mean_tokens = 0.0
        self.mean_seconds = 0.0
        self.answered_at: float | None = None
        self.failures: Counter[str] = Counter()
        self.smallest_share = max(1 / SLACK, REQUESTS_PER_SLACK / max(1, requests_limit))

    @property
    def in_service(self) -> bool:
        """Whether it gets prompts at all."""
        return self.breaker.state is State.IN_SERVICE

    def free(self, now: float) -> int:
        """How many more prompts it may hold now."""
        if self.breaker.state is not State.IN_SERVICE or self.reserved or now < self.rest_until or self.checking:
            return 0
        return self.window.size - self.held

    @property
    def least(self) -> int:
        """How many free credits are worth a request of their own."""
        return min(max(1, int(self.window.size * self.smallest_share)), self.window.size)

    @property
    def speed(self) -> float:
        """Tokens per second that one prompt gets here, from sending to answer; 0 while unknown."""
        return self.mean_tokens / self.mean_seconds if self.mean_seconds > 0 else 0.0

    def answered(self, tokens: int, seconds: float, now: float) -> None:
        """Take in an answer of so many tokens after so many seconds."""
        self.breaker.answered()
        self.overloads = 0
        self.answers_since_send += 1
        self.prompts_done += 1
        self.tokens_done += tokens
        self.answered_at = now
        if self.mean_seconds:
            self.mean_tokens += (tokens - self.mean_tokens) * _FRESH
            self.mean_seconds += (seconds - self.mean_seconds) * _FRESH
        else:
            self.mean_tokens, self.mean_seconds = float(tokens), max(seconds, 1e-9)
