"""The state of one agent as the dispatcher sees it."""

from __future__ import annotations

from collections import Counter

from aurora_pool.policy.batching import Staged
from aurora_pool.policy.breaker import Breaker, State
from aurora_pool.policy.callers import PromptQueue
from aurora_pool.policy.flow import FRESH, Flow
from aurora_pool.policy.lengths import Pace
from aurora_pool.policy.outcome import Outcome
from aurora_pool.policy.prefix_cache import CacheCounters
from aurora_pool.policy.quota import Quota
from aurora_pool.policy.window import SLACK, Window
from aurora_pool.policy.work import InFlightRequest

RATE_LIMITED = "rate-limited"
"""The state of an agent in service that answers 429 to whatever it gets."""

REQUESTS_PER_SLACK = 3
"""Lists last about three times as long as a prompt does (their longest member), so a window refilled in pieces of
1/k holds about 3 k requests open."""


PROMPT_REPLY = 1.5
"""Seconds in which a server that works answers a request for its counters: one has been seen to block for 0.9 s."""

TRIAL_SHARE = 16
"""An agent that has gone out again soon after it came back gets only so small a part of its window, until it has given
answers for a while: what it holds when it flaps is wasted."""


BATCH_SHARE = 3 / 8
"""The part of its slots that batches may fill on an agent to which online requests go. A step of vLLM takes longer with
each sequence in it: with all 256 slots full about twice as long as with one, with this part of them 1.4 times."""


class AgentState:
    """One agent: what it holds, how fast it is, whether it may have more.

    ``held`` counts its prompts in ``staged`` (assigned to it, not yet in a request) and in open requests, ``running``
    those of them that have shown a first token, ``sent`` the requests that it has been sent and that are open.

    ``limit`` is how many it may hold now: its window while it is available, less where it ``reserves_slots`` for online
    prompts (:mod:`aurora_pool.policy.online`), else 0; ``min_refill`` how many free
    credits are worth a request of their own. What these two follow from is changed by methods
    only, so that they are always right.
    """

    __slots__ = (
        "accepting",
        "answered_at",
        "answers_since_send",
        "breaker",
        "checking",
        "done_when_rejecting",
        "failures",
        "flow",
        "held",
        "idle_timeout",
        "index",
        "last_byte",
        "last_error",
        "limit",
        "lists",
        "load_check_at",
        "load_check_sent",
        "mean_seconds",
        "mean_tokens",
        "min_refill",
        "min_refill_share",
        "overloaded_since",
        "paused",
        "paused_until",
        "pauses",
        "preemptions",
        "prefix_cache",
        "prompts_done",
        "quarantine_for",
        "queued_at_server",
        "quota",
        "rate_limited",
        "rejections",
        "requests",
        "reserves_slots",
        "running",
        "sampled_at",
        "sent",
        "staged",
        "stalled",
        "tick_due",
        "tokens_done",
        "window",
    )  # fmt: skip

    def __init__(self, index: int, requests_limit: int) -> None:
        self.index = index
        self.window = Window()
        self.flow = Flow()
        self.breaker = Breaker()
        self.held = self.running = 0
        self.lists = True
        """Whether many prompts may travel there in one request."""
        self.staged = Staged()
        self.requests: dict[InFlightRequest, None] = {}
        self.sent = 0
        self.quarantine_for: PromptQueue | None = None
        """The queue whose quarantined prompts this agent is reserved for."""
        self.accepting = False
        """Whether, as a quarantine agent, it has been emptied, and holds no prompt that must be isolated."""
        self.paused = self.reserves_slots = False
        self.paused_until = 0.0
        self.pauses = 0
        self.checking = False
        self.stalled = False
        """Whether a load check has shown no sign of work, since it sent its last byte."""
        self.tick_due = False
        self.load_check_sent = False
        self.load_check_at = 0.0
        self.last_byte = 0.0
        self.sampled_at = 0.0
        self.done_when_rejecting = 0
        """How many prompts it had answered when it last rejected one."""
        self.overloaded_since = float("-inf")
        """Since when it has answered 503 or 429 to whatever it got, if it is :attr:`overloaded`."""
        self.rejections = 0
        """How many requests it has rejected since."""
        self.rate_limited = False
        self.idle_timeout = 0.0
        """Seconds without a byte after which connections to it are cut, by a proxy before it; 0 if none was seen to."""
        self.preemptions: int | None = None
        self.prefix_cache = CacheCounters()
        self.last_error = ""
        self.answers_since_send = 0
        self.queued_at_server = False
        """Whether the engine's own counters showed, when they were last read, that prompts wait there."""
        self.prompts_done = self.tokens_done = 0
        self.mean_tokens = 0.0
        self.mean_seconds = 0.0
        self.answered_at: float | None = None
        self.failures: Counter[str] = Counter()
        self.quota: Quota | None = None
        """What it allows and costs, if it is hosted: the scheduler assigns nothing to it then."""
        self.min_refill_share = max(1 / SLACK, REQUESTS_PER_SLACK / max(1, requests_limit))
        self.limit, self.min_refill = 0, 1
        self.refresh()

    @property
    def in_service(self) -> bool:
        """Whether it gets prompts at all."""
        return self.breaker.state is State.IN_SERVICE

    @property
    def disabled(self) -> bool:
        """Whether it is a hosted one that was taken out for good."""
        return self.quota is not None and self.breaker.state is State.REMOVED

    @property
    def available(self) -> bool:
        """Whether it may be given something now."""
        return self.in_service and not self.checking and not self.paused

    @property
    def overloaded(self) -> bool:
        """Whether no prompt was answered since it was first overloaded (503, 429)."""
        return self.overloaded_since > (self.answered_at if self.answered_at is not None else float("-inf"))

    @property
    def state(self) -> str:
        """Its state, as users see it."""
        return RATE_LIMITED if self.in_service and self.rate_limited and self.overloaded else self.breaker.state.value

    @property
    def proven(self) -> bool:
        """Whether it has never gone out, or has given answers for a while since; to have been idle proves nothing."""
        return self.breaker.proven(self.answered_at or 0.0)

    @property
    def free(self) -> int:
        """How many more prompts it may hold now."""
        return max(0, self.limit - self.held)

    @property
    def unoccupied(self) -> bool:
        """Whether what it is given would begin at once: nothing waits there, as far as the replies show.

        On a slow server whose queue never ended, the least latency includes waiting, so it may not hold more than has
        run there at once either.
        """
        flow = self.flow
        begins = flow.rate * flow.latency
        return self.held - self.running <= begins and self.held <= max(begins, flow.most_running)

    @property
    def needs_more(self) -> bool:
        """Whether its server may run out of work before the next refill: it holds no more than its flow needs."""
        return self.held < self.window.needed(self.flow) or not self.flow.most_running

    @property
    def pace(self) -> Pace:
        """How fast it is, to be compared with others."""
        flow = self.flow
        return Pace(flow.latency, flow.decode_speed_now, flow.rate, self.mean_seconds, flow.decode_speed_best)

    @property
    def speed(self) -> float:
        """Tokens per second that one prompt gets here, from sending to answer; 0 while unknown."""
        return self.mean_tokens / self.mean_seconds if self.mean_seconds > 0 else 0.0

    def refresh(self) -> None:
        """Work out ``limit`` and ``min_refill`` again, after a change of the window or the breaker."""
        size = self.window.size
        if self.breaker.relapses and not self.proven:
            size = max(1, size // TRIAL_SHARE)
        if self.reserves_slots and self.flow.slots:
            size = min(size, max(1, int(self.flow.slots * BATCH_SHARE)))
        self.min_refill = self.window.min_refill(size, self.flow.rate, self.min_refill_share)
        self.limit = size if self.available and self.quarantine_for is None and self.quota is None else 0

    def host(self, quota: Quota) -> None:
        """Record that it is hosted, and with which quota."""
        self.quota = quota
        self.window = Window(quota.terms.at_once, quota.terms.at_once)
        self.refresh()

    def reserve_for(self, queue: PromptQueue | None) -> None:
        """Reserve the agent for this queue's quarantined prompts, once it is empty; None ends that."""
        self.quarantine_for = queue
        self.accepting = False
        self.refresh()

    def seems_stalled(self, now: float) -> bool:
        """Whether a load check has shown no sign of work, or has had no reply for longer than a busy one takes."""
        return self.stalled or (self.load_check_sent and self.checking and now > self.load_check_at + PROMPT_REPLY)

    def set_checking(self, checking: bool) -> None:
        """Give it nothing while its load is checked, or end that."""
        self.checking = checking
        self.stalled = self.stalled and checking
        self.refresh()

    def reserve_slots(self, reserves: bool) -> None:
        """Keep slots free of batches, or fill all of them again."""
        self.reserves_slots = reserves
        self.refresh()

    def pause(self, until: float) -> None:
        """Give it nothing until then; :meth:`end_pause` ends that."""
        self.paused = True
        self.paused_until = max(self.paused_until, until)
        self.refresh()

    def end_pause(self, now: float) -> None:
        """End its pause, if the time has come."""
        if now >= self.paused_until:
            self.paused = False
            self.refresh()

    def started(self, prompts: int, now: float) -> None:
        """Record that this many more prompts have shown a first token."""
        self.running += prompts
        self.flow.running(self.running)
        if self.running >= self.held and not self.staged:
            self.check_dry(now)

    def check_dry(self, now: float) -> None:
        """Let the window grow if it is what leaves the server with too little: see :mod:`aurora_pool.policy.window`."""
        size = self.window.size
        if self.held + self.answers_since_send < size or (self.held and 2 * self.answers_since_send > size):
            return  # the window is not the limit, or it was full too long ago
        flow = self.flow
        if self.held - self.running <= flow.rate * flow.latency and not self.queued_at_server:
            rate = flow.rate if self.held or self.answered_at is None else flow.rate_until(self.answered_at)
            self.window.ran_dry(rate, self.running, now)
            self.refresh()

    def sampled(self, running: int, waiting: int, preemptions: int | None, now: float) -> None:
        """Record an engine's own counters: prompts that run and that wait, and preemptions since its start."""
        if preemptions is not None:
            if self.preemptions is not None and preemptions > self.preemptions:
                self.window.preempted(now)
                self.refresh()
            self.preemptions = preemptions
        self.queued_at_server = waiting > 0
        if waiting:
            self.flow.slots = running
            self.refresh()
        if self.held and not self.running:  # replies that are not streamed show nothing themselves
            self.flow.running(running)

    def served(self, sent_at: float | None) -> None:
        """Record that a whole request, sent at that time, came to its proper end: past failures are forgotten.

        Single answers are no such sign: an agent that breaks each request half-way has given some by then.
        """
        self.pauses = 0
        if self.breaker.broken and sent_at is not None:
            self.breaker.answered(sent_at)

    def note_failure(self, outcome: Outcome, reason: str) -> None:
        """Count a failure, whatever its cause."""
        self.failures[outcome.value] += 1
        self.last_error = reason

    def discard_duplicate(self, tokens: int) -> None:
        """Uncount an answer of some tokens that came after another agent's: it is not a result."""
        self.prompts_done -= 1
        self.tokens_done -= tokens

    def answered(self, tokens: int, sent_at: float | None, now: float, answers: int = 1) -> None:
        """Record answers of this many tokens together to a request sent at that time."""
        self.answers_since_send += answers
        self.prompts_done += answers
        self.tokens_done += tokens
        self.answered_at = self.last_byte = now
        seconds = max(1e-9, now - (now if sent_at is None else sent_at))
        if self.mean_seconds:
            weight = 1 - (1 - FRESH) ** answers
            self.mean_tokens += (tokens / answers - self.mean_tokens) * weight
            self.mean_seconds += (seconds - self.mean_seconds) * weight
        else:
            self.mean_tokens, self.mean_seconds = tokens / answers, seconds
        if self.flow.answered(answers, now, self.held) and self.flow.most_held > self.window.size - self.min_refill:
            self.window.fit(self.flow)  # what an agent does whose window was never full says nothing of its window
            self.refresh()
