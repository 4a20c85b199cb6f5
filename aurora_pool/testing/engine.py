"""Continuous batching as arithmetic: a simulated engine that works in steps, as vLLM's V1 engine does.

No clock, no input or output: every method takes ``now`` in seconds, so the same engine drives a simulated HTTP server
and a virtual-time fleet of thousands of agents.

A step lasts ``(step_base + step_per_sequence x decoding sequences + prefill tokens / prefill_rate) / speed`` seconds;
what it computes, :mod:`~aurora_pool.testing.batch_scheduler` decides. Each sequence that decodes gains a token; a
sequence's first token comes with the step that ends its prefill. What arrives during a step waits for the next.

Steps in which nothing but decoding happens are all alike, so the engine jumps over them, from event to event: an
arrival, an emission, the end of the free cache blocks. A prompt costs O(log n) for each of its emissions, and a look at
the scheduler for each step with prefill in it: 3 to 5 us a prompt as measured, 13 where a small cache preempts at every
turn, 30 where prompts of 1,000 tokens share beginnings.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush

from aurora_pool.testing.batch_scheduler import BatchScheduler
from aurora_pool.testing.kv_cache import KVCache
from aurora_pool.testing.sequence import Emission, Sequence, State

__all__ = ["Emission", "Engine", "Sequence"]


class Engine:
    """The engine of one simulated server.

    >>> engine = Engine(step_base=0.01, step_per_sequence=0.0, prefill_rate=1000)
    >>> engine.submit(0.0, Sequence(5, prompt_tokens=20, key="a"))
    >>> [(emission.sequence.key, emission.tokens, round(emission.at, 6)) for emission in engine.advance(1.0)]
    [('a', 5, 0.07)]

    ``slots`` counts sequences (``--max-num-seqs``), ``step_base`` and ``step_per_sequence`` are seconds,
    ``prefill_rate`` is tokens per second, ``max_num_batched_tokens`` is the budget of a step. ``kv_blocks`` counts
    cache blocks of ``block_size`` tokens; None is no limit, and no prefix cache.
    """

    __slots__ = (
        "_begin", "_busy", "_due", "_end", "_marks", "_now", "_paused", "_ready", "_scheduler", "_step", "_steps",
        "cache", "prefill_rate", "slots", "speed", "step_base", "step_per_sequence",
    )  # fmt: skip

    def __init__(
        self,
        *,
        slots: int = 256,
        step_base: float = 0.008,
        step_per_sequence: float = 0.00003,
        prefill_rate: float = 40_000.0,
        max_num_batched_tokens: int = 8192,
        kv_blocks: int | None = None,
        block_size: int = 16,
        prefix_caching: bool = True,
        speed: float = 1.0,
    ) -> None:
        if slots < 1 or step_base <= 0 or step_per_sequence < 0 or speed <= 0 or prefill_rate <= 0:
            raise ValueError("expected slots >= 1, step_base, prefill_rate and speed above 0, step_per_sequence >= 0")
        if max_num_batched_tokens < slots:
            raise ValueError(f"expected max_num_batched_tokens of at least {slots}, the slots")
        self.slots = slots
        self.step_base = step_base
        self.step_per_sequence = step_per_sequence
        self.prefill_rate = prefill_rate
        self.speed = speed
        self.cache = KVCache(kv_blocks, block_size=block_size, prefix_caching=prefix_caching)
        self._scheduler = BatchScheduler(slots=slots, token_budget=max_num_batched_tokens, cache=self.cache)
        self._now = 0.0
        self._paused: float | None = None
        # The running step, and those like it that follow: they end together at _end.
        self._busy = False
        self._begin = self._end = self._step = 0.0
        self._steps = 0
        self._marks: list[int] = []  # heap of the steps in _due
        self._due: dict[int, list[Sequence]] = {}
        self._ready: list[Emission] = []

    @property
    def running(self) -> int:
        """Sequences that hold a slot."""
        return len(self._scheduler.running)

    @property
    def waiting(self) -> int:
        """Sequences that wait for one."""
        return self._scheduler.waiting

    @property
    def tokens(self) -> int:
        """Tokens generated so far, those of unfinished and cancelled sequences included."""
        return self._scheduler.tokens

    @property
    def preemptions(self) -> int:
        """How often a sequence lost its slot for want of cache blocks."""
        return self._scheduler.preemptions

    @property
    def prefix_queries(self) -> int:
        """Tokens of prompts that were looked for in the cache."""
        return self._scheduler.prefix_queries

    @property
    def prefix_hits(self) -> int:
        """Tokens of prompts that were found there."""
        return self._scheduler.prefix_hits

    @property
    def paused(self) -> bool:
        """Whether :meth:`pause` has stopped it."""
        return self._paused is not None

    def generated(self, sequence: Sequence) -> int:
        """Tell how many tokens a sequence has at this moment."""
        return self._scheduler.generated(sequence)

    def submit(self, now: float, sequence: Sequence) -> None:
        """Put a sequence at the end of the queue; it may run from the next step on.

        Raises ``ValueError`` for one that the whole cache could not hold, or that was submitted before.
        """
        if sequence.state is not State.NEW:
            raise ValueError("this sequence was submitted before")
        cache = self.cache
        if cache.blocks is not None:
            tokens = sequence.prompt_tokens + sequence.length
            if tokens > cache.blocks * cache.block_size:
                raise ValueError(f"{tokens} tokens do not fit into {cache.blocks} blocks of {cache.block_size}")
        self._run(now, including=False)
        sequence.submitted_at = self._now
        self._scheduler.submit(sequence)
        if not self._busy:
            # A step of no length, so that all that comes at this moment is scheduled together.
            self._busy = True
            self._steps = 0
            self._begin = self._end = self._now if self._paused is None else self._paused
        elif self.running < self.slots:
            self._cut()

    def cancel(self, now: float, sequence: Sequence) -> int:
        """Take a sequence out, and tell how many tokens it had; one that has ended already is left alone."""
        self._run(now)
        self._scheduler.remove(sequence)
        self._cut()
        return sequence.generated

    def advance(self, now: float) -> list[Emission]:
        """Let time pass until ``now``, and return the emissions that fell due, in order."""
        self._run(now)
        ready = self._ready
        self._ready = []
        return ready

    def catch_up(self, now: float) -> None:
        """Let time pass until ``now``, so that all figures are of now; emissions stay for :meth:`advance`."""
        self._run(now)

    def next_event_time(self) -> float | None:
        """When to :meth:`advance` next if nothing else happens (there may be no emission yet); None if never."""
        if self._ready:
            return self._now
        return None if self._paused is not None or not self._busy else self._end

    def set_speed(self, now: float, speed: float) -> None:
        """Run ``speed`` times as fast from ``now`` on."""
        if speed <= 0:
            raise ValueError(f"expected a speed above 0, got {speed}")
        self._run(now)
        ratio = self.speed / speed
        since = self._now if self._paused is None else self._paused
        self._begin = since - (since - self._begin) * ratio
        self._end = since + (self._end - since) * ratio
        self._step *= ratio
        self.speed = speed

    def pause(self, now: float) -> None:
        """Stop in the middle of the step: nothing happens until :meth:`resume`."""
        self._run(now)
        if self._paused is None:
            self._paused = self._now

    def resume(self, now: float) -> None:
        """Let a paused engine go on where it stopped."""
        self._run(now)
        if self._paused is not None:
            self._begin += self._now - self._paused
            self._end += self._now - self._paused
            self._paused = None

    def _run(self, now: float, *, including: bool = True) -> None:
        """Let time pass until ``now``: end the steps that end before (or at) it, and begin the next."""
        if now < self._now:
            return
        if self._paused is None:
            while self._busy and (self._end < now or (including and self._end == now)):
                self._now = max(self._now, self._end)
                self._scheduler.pass_steps(self._steps)
                self._emit()
                self._begin_step()
            if self._busy and self._steps > 1:
                steps = min(self._steps - 1, int((now - self._begin) / self._step))
                if steps > 0:
                    self._scheduler.pass_steps(steps)
                    self._steps -= steps
                    self._begin += steps * self._step
        self._now = now

    def _cut(self) -> None:
        """Let the running step be the last of its like: something has changed."""
        if self._steps > 1:
            self._steps = 1
            self._end = self._begin + self._step

    def _begin_step(self) -> None:
        """Begin the next step, and see how many like it follow."""
        scheduler = self._scheduler
        prefill, preempted = scheduler.schedule(self._now)
        if not scheduler.running:
            # With the whole cache free there is room for whatever comes first, so nothing waits either.
            self._marks.clear()
            self._due.clear()
            self._busy = False
            return
        self._begin = self._now
        seconds = self.step_base + self.step_per_sequence * scheduler.decoding + prefill / self.prefill_rate
        self._step = seconds / self.speed
        self._steps = 1
        if not prefill and not preempted and self._marks:
            self._steps = max(1, int(min(self._marks[0] - scheduler.clock, scheduler.steps_alike())))
        self._end = self._begin + self._steps * self._step

    def _emit(self) -> None:
        """Emit what the steps that have just ended have brought."""
        scheduler = self._scheduler
        clock, marks = scheduler.clock, self._marks
        while marks and marks[0] <= clock:
            for sequence in self._due.pop(heappop(marks)):
                # It may have been cancelled or preempted meanwhile.
                if sequence.state is State.DECODING and sequence.mark == clock:
                    self._show(sequence, clock - sequence.begun)
        for sequence in scheduler.completing:
            if sequence.state is not State.PREFILLING:
                continue  # cancelled during the step
            scheduler.begin_decoding(sequence)
            if math.isnan(sequence.first_token_at):
                sequence.first_token_at = self._now
            tokens = clock - sequence.begun
            if tokens >= sequence.due:
                self._show(sequence, tokens)
            else:
                self._set_mark(sequence)

    def _show(self, sequence: Sequence, tokens: int) -> None:
        finished = tokens >= sequence.length
        if finished:
            self._scheduler.remove(sequence)
        else:
            assert sequence.interval is not None
            sequence.generated = tokens
            sequence.due = min(tokens + sequence.interval, sequence.length)
            self._set_mark(sequence)
        self._ready.append(Emission(self._now, sequence, tokens, finished))

    def _set_mark(self, sequence: Sequence) -> None:
        mark = sequence.mark = sequence.begun + sequence.due
        due = self._due.get(mark)
        if due is None:
            self._due[mark] = [sequence]
            heappush(self._marks, mark)
        else:
            due.append(sequence)
