"""Continuous batching as arithmetic: when each sequence of a simulated server emits tokens.

No clock, no input or output: every method takes ``now`` in seconds, so the same engine drives a simulated HTTP server
and a virtual-time fleet of thousands of agents. An engine has a number of slots; while ``running`` sequences hold one,
a step lasts ``(step_base + step_per_sequence * running) / speed`` seconds and gives each of them one token. Sequences
beyond the slots wait in order.

All running sequences gain tokens at the same rate, so one cumulative token clock serves them all: a sequence that joins
at clock value c emits its k-th token at c + k, whatever happens to the rate meanwhile. The engine therefore works once
per emission (O(log n)), never once per step.
"""

from __future__ import annotations

import math
from collections import deque
from heapq import heappop, heappush
from typing import Any

import msgspec


class Sequence:
    """One answer in the making: ``length`` tokens long, emitted as ``interval`` says.

    With an interval of N there is an emission for the first token, then one every N tokens, then one for the end, as
    vLLM's ``stream_interval`` has it; with None only the end is emitted. ``key`` is the caller's own.

    >>> Sequence(200, interval=1_000_000, key="prompt 7").generated
    0
    """

    __slots__ = ("generated", "interval", "key", "length", "start", "started_at", "submitted_at")

    def __init__(self, length: int, *, interval: int | None = None, key: Any = None) -> None:
        if length < 1 or (interval is not None and interval < 1):
            raise ValueError(f"expected a length and an interval of at least 1 token, got {length} and {interval}")
        self.length = length
        self.interval = interval
        self.key = key
        self.generated = 0
        self.submitted_at = 0.0
        self.started_at = math.nan
        """When it got a slot, in the engine's seconds; nan while it waits."""
        self.start = _NEW
        """The token clock's value when it got its slot; a negative number means that it holds none."""


class Emission(msgspec.Struct, frozen=True, gc=False):
    """A sequence has ``tokens`` tokens at time ``at`` (seconds); with ``finished``, it holds no slot any more."""

    at: float
    sequence: Sequence
    tokens: int
    finished: bool


_NEW, _WAITING, _ENDED = -1, -2, -3


class Engine:
    """The slots, the queue and the token clock of one simulated server.

    >>> engine = Engine(step_base=0.01, step_per_sequence=0.0)
    >>> engine.submit(0.0, Sequence(5, key="a"))
    >>> engine.next_event_time()
    0.05
    >>> [(emission.sequence.key, emission.tokens) for emission in engine.advance(0.05)]
    [('a', 5)]

    ``slots`` counts sequences; ``step_base`` and ``step_per_sequence`` are seconds.
    """

    __slots__ = (
        "_clock",
        "_due",
        "_ended_tokens",
        "_now",
        "_paused",
        "_queue",
        "_ready",
        "_starts",
        "_step",
        "_targets",
        "_tokens_seen",
        "running",
        "slots",
        "speed",
        "step_base",
        "step_per_sequence",
        "waiting",
    )

    def __init__(
        self,
        *,
        slots: int = 256,
        step_base: float = 0.008,
        step_per_sequence: float = 0.00003,
        speed: float = 1.0,
    ) -> None:
        if slots < 1 or step_base <= 0 or step_per_sequence < 0 or speed <= 0:
            raise ValueError("expected slots >= 1, step_base > 0, step_per_sequence >= 0 and speed > 0")
        self.slots = slots
        self.step_base = step_base
        self.step_per_sequence = step_per_sequence
        self.speed = speed
        self.running = 0
        self.waiting = 0
        self._now = 0.0
        self._clock = 0.0
        self._step = step_base / speed
        self._paused = False
        self._queue: deque[Sequence] = deque()
        self._targets: list[int] = []  # heap of the clock values in _due
        self._due: dict[int, list[Sequence]] = {}
        self._ready: list[Emission] = []
        self._ended_tokens = 0
        self._starts = 0  # sum of the running sequences' start values
        self._tokens_seen = 0

    @property
    def paused(self) -> bool:
        """Whether the token clock stands still by :meth:`pause`."""
        return self._paused

    @property
    def tokens(self) -> int:
        """Tokens generated so far, those of unfinished and cancelled sequences included; it never goes back."""
        so_far = self._ended_tokens + self.running * math.floor(self._clock) - self._starts
        self._tokens_seen = max(self._tokens_seen, so_far)
        return self._tokens_seen

    def submit(self, now: float, sequence: Sequence) -> None:
        """Give a sequence a slot, or a place at the end of the queue."""
        if sequence.start != _NEW:
            raise ValueError("this sequence was submitted before")
        self._run(now)
        sequence.submitted_at = self._now
        if self.running < self.slots and not self.waiting:
            self._admit(sequence)
            self._changed_rate()
        else:
            sequence.start = _WAITING
            self.waiting += 1
            self._queue.append(sequence)

    def cancel(self, now: float, sequence: Sequence) -> int:
        """Take a sequence out, and tell how many tokens it had; one that has ended already is left alone."""
        self._run(now)
        if sequence.start == _WAITING:
            self.waiting -= 1  # its place in the queue is skipped when it comes up
        elif sequence.start >= 0:
            sequence.generated = max(sequence.generated, math.floor(self._clock) - sequence.start)
            self._release(sequence)
            self._refill()
        sequence.start = _ENDED
        return sequence.generated

    def advance(self, now: float) -> list[Emission]:
        """Let time pass until ``now``, and return the emissions that fell due, in order."""
        self._run(now)
        ready = self._ready
        self._ready = []
        return ready

    def next_event_time(self) -> float | None:
        """When :meth:`advance` will have something to return if nothing else happens; None if never."""
        if self._ready:
            return self._now
        if self._paused or not self._targets:
            return None
        return self._now + (self._targets[0] - self._clock) * self._step

    def set_speed(self, now: float, speed: float) -> None:
        """Run ``speed`` times as fast from ``now`` on."""
        if speed <= 0:
            raise ValueError(f"expected a speed above 0, got {speed}")
        self._run(now)
        self.speed = speed
        self._changed_rate()

    def pause(self, now: float) -> None:
        """Stop the token clock: nothing is emitted until :meth:`resume`."""
        self._run(now)
        self._paused = True

    def resume(self, now: float) -> None:
        """Let a paused engine go on where it stopped."""
        self._run(now)
        self._paused = False

    def _run(self, now: float) -> None:
        """Let time pass until ``now``: emit what falls due, and move the token clock."""
        if now < self._now:
            return
        if self._paused or not self.running:
            self._now = now
            return
        targets = self._targets
        while targets:
            target = targets[0]
            at = self._now + (target - self._clock) * self._step
            if at > now:
                break
            heappop(targets)
            self._now = at
            self._clock = target
            self._emit(target, self._due.pop(target))
        if self.running and now > self._now:
            clock = self._clock + (now - self._now) / self._step
            # Rounding must not carry the clock past an emission that has not been made.
            self._clock = clock if not targets or clock < targets[0] else float(targets[0])
        self._now = now

    def _emit(self, target: int, due: list[Sequence]) -> None:
        now, ready = self._now, self._ready
        running = self.running
        for sequence in due:
            start = sequence.start
            if start < 0:
                continue  # cancelled meanwhile
            tokens = sequence.generated = target - start
            finished = tokens >= sequence.length
            if finished:
                self._release(sequence)
                sequence.start = _ENDED
            elif sequence.interval is not None:
                self._schedule(sequence, min(tokens + sequence.interval, sequence.length))
            ready.append(Emission(now, sequence, tokens, finished))
        if self.running != running:
            self._refill()

    def _refill(self) -> None:
        queue = self._queue
        while self.waiting and self.running < self.slots:
            sequence = queue.popleft()
            if sequence.start == _WAITING:
                self.waiting -= 1
                self._admit(sequence)
        if not self.running:
            self._targets.clear()
            self._due.clear()
        self._changed_rate()

    def _admit(self, sequence: Sequence) -> None:
        start = math.ceil(self._clock)  # it joins the batch when the step that is running ends
        if not self.running:
            self._clock = float(start)
        self.running += 1
        self._starts += start
        sequence.start = start
        sequence.started_at = self._now
        self._schedule(sequence, sequence.length if sequence.interval is None else 1)

    def _release(self, sequence: Sequence) -> None:
        self.running -= 1
        self._starts -= sequence.start
        self._ended_tokens += sequence.generated

    def _schedule(self, sequence: Sequence, tokens: int) -> None:
        """Let a sequence's next emission be the one with which it has ``tokens`` tokens."""
        target = sequence.start + tokens
        due = self._due.get(target)
        if due is None:
            self._due[target] = [sequence]
            heappush(self._targets, target)
        else:
            due.append(sequence)

    def _changed_rate(self) -> None:
        self._step = (self.step_base + self.step_per_sequence * self.running) / self.speed
