<<<<<<< HEAD
"""Continuous batching as arithmetic: a simulated engine that schedules its work in steps, as vLLM's V1 engine does.
=======
"""Continuous batching as arithmetic: a simulated engine that works in steps, as vLLM's V1 engine does.
>>>>>>> engine

No clock, no input or output: every method takes ``now`` in seconds, so the same engine drives a simulated HTTP server
and a virtual-time fleet of thousands of agents.

<<<<<<< HEAD
A step lasts ``(step_base + step_per_sequence x decoding sequences + prefill tokens / prefill_rate) / speed`` seconds.
It has a budget of ``max_num_batched_tokens``: each sequence that decodes takes 1 token of it and gains 1, the rest goes
to the prefill of prompts in order of arrival, in chunks where a prompt does not fit. At most ``slots`` sequences run. A
sequence's first token comes with the step that ends its prefill. What arrives during a step waits for the next.

Cache blocks (:mod:`~aurora_pool.testing.kv_cache`) are taken as tokens are computed. A prompt is admitted when all of
it finds room; where a running sequence finds none for its next token, the last that was admitted is *preempted*: it
loses its blocks and goes back to the head of the queue, to be computed again. The beginning of a prompt that is still
in the cache is not computed: whole blocks only, and never a prompt's last token.

Steps in which nothing but decoding happens are all alike, and all decoding sequences gain tokens together: one counter
of steps serves them all, and a sequence ends when the counter reaches its mark. So the engine jumps from event to event
(an arrival, a mark, the end of the free blocks): a prompt costs O(log n) for each of its emissions, and one step for
each ``max_num_batched_tokens`` of prefill.
=======
A step lasts ``(step_base + step_per_sequence x decoding sequences + prefill tokens / prefill_rate) / speed`` seconds;
what it computes, :mod:`~aurora_pool.testing.batch_scheduler` decides. Each sequence that decodes gains a token; a
sequence's first token comes with the step that ends its prefill. What arrives during a step waits for the next.

Steps in which nothing but decoding happens are all alike, so the engine jumps over them, from event to event: an
arrival, an emission, the end of the free cache blocks. A prompt costs O(log n) for each of its emissions, and a look at
the scheduler for each step with prefill in it: 3 to 5 us a prompt as measured, 13 where a small cache preempts at every
turn, 30 where prompts of 1,000 tokens share beginnings.
>>>>>>> engine
"""

from __future__ import annotations

import math
<<<<<<< HEAD
from collections import deque
from collections.abc import Sequence as ListLike
=======
>>>>>>> engine
from heapq import heappop, heappush

from aurora_pool.testing.batch_scheduler import BatchScheduler
from aurora_pool.testing.kv_cache import KVCache
from aurora_pool.testing.sequence import Emission, Sequence, State

<<<<<<< HEAD
from aurora_pool.testing.kv_cache import Key, KVCache

_NEW, _WAITING, _PREFILLING, _DECODING, _ENDED = range(5)


class Sequence:
    """One answer in the making: ``length`` tokens long, to a prompt of ``prompt_tokens``, emitted as ``interval`` says.

    With an interval of N there is an emission for the first token, then one every N tokens, then one for the end, as
    vLLM's ``stream_interval`` has it; with None only the end is emitted. ``keys`` name the whole blocks of its prompt
    that others may share (see :func:`~aurora_pool.testing.kv_cache.block_keys`). ``key`` is the caller's own.

    >>> Sequence(200, prompt_tokens=50, interval=1_000_000, key="prompt 7").generated
    0
    """

    __slots__ = (
        "_begun",
        "_blocks",
        "_computed",
        "_due",
        "_keyed",
        "_mark",
        "_state",
        "cached_tokens",
        "first_token_at",
        "generated",
        "interval",
        "key",
        "keys",
        "length",
        "prompt_tokens",
        "started_at",
        "submitted_at",
    )

    def __init__(
        self,
        length: int,
        *,
        prompt_tokens: int = 1,
        keys: ListLike[Key] = (),
        interval: int | None = None,
        key: Any = None,
    ) -> None:
        if length < 1 or prompt_tokens < 1 or (interval is not None and interval < 1):
            raise ValueError(
                "expected a length, a prompt and an interval of at least 1 token, "
                f"got {length}, {prompt_tokens} and {interval}"
            )
        self.length = length
        self.prompt_tokens = prompt_tokens
        self.keys = keys
        self.interval = interval
        self.key = key
        self.generated = 0
        """Tokens as of its last emission; :meth:`Engine.generated` tells those of this moment."""
        self.cached_tokens = 0
        """Tokens of its prompt that were in the cache when it was first admitted."""
        self.submitted_at = 0.0
        self.started_at = math.nan
        """When it was first admitted, in the engine's seconds; nan while it waits."""
        self.first_token_at = math.nan
        self._state = _NEW
        self._computed = 0  # tokens in the cache while it prefills
        self._blocks = 0  # blocks it holds while it prefills
        self._keyed = 0  # of those, blocks held by key: the first ones
        self._begun = 0  # the step counter's value when it would have had no token
        self._mark = 0  # the step counter's value at its next emission
        self._due = length if interval is None else 1  # tokens at its next emission


class Emission(msgspec.Struct, frozen=True, gc=False):
    """A sequence has ``tokens`` tokens at time ``at`` (seconds); with ``finished``, it holds no slot any more."""

    at: float
    sequence: Sequence
    tokens: int
    finished: bool


class Engine:
    """The slots, the queue, the cache and the steps of one simulated server.
=======
__all__ = ["Emission", "Engine", "Sequence"]


class Engine:
    """The engine of one simulated server.
>>>>>>> engine

    >>> engine = Engine(step_base=0.01, step_per_sequence=0.0, prefill_rate=1000)
    >>> engine.submit(0.0, Sequence(5, prompt_tokens=20, key="a"))
    >>> [(emission.sequence.key, emission.tokens, round(emission.at, 6)) for emission in engine.advance(1.0)]
    [('a', 5, 0.07)]

    ``slots`` counts sequences (``--max-num-seqs``), ``step_base`` and ``step_per_sequence`` are seconds,
<<<<<<< HEAD
    ``prefill_rate`` is tokens per second. ``kv_blocks`` counts cache blocks of ``block_size`` tokens; None is no limit,
    and no prefix cache.
    """

    __slots__ = (
        "_begin", "_busy", "_clock", "_completing", "_decoding", "_due", "_end", "_ended_tokens", "_marks", "_now",
        "_offsets", "_paused", "_prefilling", "_queue", "_ready", "_running", "_step", "_steps", "_sum_begun", "cache",
        "max_num_batched_tokens", "preemptions", "prefill_rate", "prefix_hits", "prefix_queries", "slots", "speed",
        "step_base", "step_per_sequence", "waiting",
=======
    ``prefill_rate`` is tokens per second, ``max_num_batched_tokens`` is the budget of a step. ``kv_blocks`` counts
    cache blocks of ``block_size`` tokens; None is no limit, and no prefix cache.
    """

    __slots__ = (
        "_begin", "_busy", "_due", "_end", "_marks", "_now", "_paused", "_ready", "_scheduler", "_step", "_steps",
        "cache", "prefill_rate", "slots", "speed", "step_base", "step_per_sequence",
>>>>>>> engine
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
<<<<<<< HEAD
            raise ValueError(
                "expected slots >= 1, step_base > 0, step_per_sequence >= 0, prefill_rate > 0 and speed > 0"
            )
=======
            raise ValueError("expected slots >= 1, step_base, prefill_rate and speed above 0, step_per_sequence >= 0")
>>>>>>> engine
        if max_num_batched_tokens < slots:
            raise ValueError(f"expected max_num_batched_tokens of at least {slots}, the slots")
        self.slots = slots
        self.step_base = step_base
        self.step_per_sequence = step_per_sequence
        self.prefill_rate = prefill_rate
<<<<<<< HEAD
        self.max_num_batched_tokens = max_num_batched_tokens
        self.speed = speed
        self.cache = KVCache(kv_blocks, block_size=block_size, prefix_caching=prefix_caching)
        self.waiting = 0
        self.preemptions = 0
        self.prefix_queries = 0
        """Tokens of prompts that were looked for in the cache."""
        self.prefix_hits = 0
        """Tokens of prompts that were found there."""
        self._now = 0.0
        self._paused: float | None = None
        self._queue: deque[Sequence] = deque()
        self._running: dict[Sequence, None] = {}  # in order of admission
        self._prefilling: list[Sequence] = []
        self._completing: list[Sequence] = []  # those whose prefill ends with the step under way
        self._decoding = 0
        self._offsets = [0] * block_size  # decoding sequences, by the step (modulo block_size) that needs a new block
=======
        self.speed = speed
        self.cache = KVCache(kv_blocks, block_size=block_size, prefix_caching=prefix_caching)
        self._scheduler = BatchScheduler(slots=slots, token_budget=max_num_batched_tokens, cache=self.cache)
        self._now = 0.0
        self._paused: float | None = None
>>>>>>> engine
        # The step under way, and those like it that follow: they end together at _end.
        self._busy = False
        self._begin = self._end = self._step = 0.0
        self._steps = 0
<<<<<<< HEAD
        self._clock = 0  # steps ended
        self._marks: list[int] = []  # heap of the clock values in _due
        self._due: dict[int, list[Sequence]] = {}
        self._ready: list[Emission] = []
        self._ended_tokens = 0  # of sequences that do not decode
        self._sum_begun = 0  # of those that do

    @property
    def running(self) -> int:
        """Sequences that hold a slot."""
        return len(self._running)

    @property
    def paused(self) -> bool:
        """Whether :meth:`pause` has stopped it."""
        return self._paused is not None
=======
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
>>>>>>> engine

    @property
    def tokens(self) -> int:
        """Tokens generated so far, those of unfinished and cancelled sequences included."""
<<<<<<< HEAD
        return self._ended_tokens + self._decoding * self._clock - self._sum_begun

    def generated(self, sequence: Sequence) -> int:
        """Tell how many tokens a sequence has."""
        return self._clock - sequence._begun if sequence._state == _DECODING else sequence.generated
=======
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
>>>>>>> engine

    def submit(self, now: float, sequence: Sequence) -> None:
        """Put a sequence at the end of the queue; it may run from the next step on.

        Raises ``ValueError`` for one that the whole cache could not hold, or that was submitted before.
        """
<<<<<<< HEAD
        if sequence._state != _NEW:
=======
        if sequence.state is not State.NEW:
>>>>>>> engine
            raise ValueError("this sequence was submitted before")
        cache = self.cache
        if cache.blocks is not None:
            tokens = sequence.prompt_tokens + sequence.length
            if tokens > cache.blocks * cache.block_size:
                raise ValueError(f"{tokens} tokens do not fit into {cache.blocks} blocks of {cache.block_size}")
        self._run(now, including=False)
        sequence.submitted_at = self._now
<<<<<<< HEAD
        sequence._state = _WAITING
        self.waiting += 1
        self._queue.append(sequence)
        if not self._busy:
            self._busy = True
            self._steps = 0
            self._begin = self._end = self._now if self._paused is None else self._paused
        elif len(self._running) < self.slots:
=======
        self._scheduler.submit(sequence)
        if not self._busy:
            # A step of no length, so that all that comes at this moment is scheduled together.
            self._busy = True
            self._steps = 0
            self._begin = self._end = self._now if self._paused is None else self._paused
        elif self.running < self.slots:
>>>>>>> engine
            self._cut()

    def cancel(self, now: float, sequence: Sequence) -> int:
        """Take a sequence out, and tell how many tokens it had; one that has ended already is left alone."""
        self._run(now)
<<<<<<< HEAD
        if sequence._state == _WAITING:
            self.waiting -= 1  # its place in the queue is skipped when it comes up
        elif sequence._state in (_PREFILLING, _DECODING):
            self._release(sequence)
            self._cut()
        sequence._state = _ENDED
=======
        self._scheduler.remove(sequence)
        self._cut()
>>>>>>> engine
        return sequence.generated

    def advance(self, now: float) -> list[Emission]:
        """Let time pass until ``now``, and return the emissions that fell due, in order."""
        self._run(now)
        ready = self._ready
        self._ready = []
        return ready

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

<<<<<<< HEAD
    # -- time ---------------------------------------------------------------------------------------------------

    def _run(self, now: float, *, including: bool = True) -> None:
        """Let time pass until ``now``: end the steps that end before (or at) it, and schedule the next."""
=======
    def _run(self, now: float, *, including: bool = True) -> None:
        """Let time pass until ``now``: end the steps that end before (or at) it, and begin the next."""
>>>>>>> engine
        if now < self._now:
            return
        if self._paused is None:
            while self._busy and (self._end < now or (including and self._end == now)):
                self._now = max(self._now, self._end)
<<<<<<< HEAD
                self._pass(self._steps)
                self._emit()
                self._schedule()
            if self._busy and self._steps > 1:
                steps = min(self._steps - 1, int((now - self._begin) / self._step))
                if steps > 0:
                    self._pass(steps)
=======
                self._scheduler.pass_steps(self._steps)
                self._emit()
                self._begin_step()
            if self._busy and self._steps > 1:
                steps = min(self._steps - 1, int((now - self._begin) / self._step))
                if steps > 0:
                    self._scheduler.pass_steps(steps)
>>>>>>> engine
                    self._steps -= steps
                    self._begin += steps * self._step
        self._now = now

    def _cut(self) -> None:
<<<<<<< HEAD
        """End the run of steps with the one that is under way: something has changed."""
=======
        """Let the step under way be the last of its like: something has changed."""
>>>>>>> engine
        if self._steps > 1:
            self._steps = 1
            self._end = self._begin + self._step

<<<<<<< HEAD
    def _pass(self, steps: int) -> None:
        """Let every decoding sequence gain so many tokens."""
        if self._decoding and self.cache.blocks is not None:
            self.cache.take(self._blocks_for(steps))
        self._clock += steps

    def _blocks_for(self, steps: int) -> int:
        """How many blocks the decoding sequences need for so many steps more."""
        cycles, rest = divmod(steps, len(self._offsets))
        offset = self._clock % len(self._offsets)
        offsets = self._offsets[offset : offset + rest]
        offsets += self._offsets[: rest - len(offsets)]
        return cycles * self._decoding + sum(offsets)

    def _steps_within(self, blocks: float) -> float:
        """How many steps the decoding sequences can go with so many blocks."""
        if not self._decoding or blocks == math.inf:
            return math.inf
        cycles, left = divmod(int(blocks), self._decoding)
        steps, size = cycles * len(self._offsets), len(self._offsets)
        while (need := self._offsets[(self._clock + steps) % size]) <= left:
            left -= need
            steps += 1
        return steps

    def _emit(self) -> None:
        """Emit what the steps that have just ended have brought."""
        clock, ready = self._clock, self._ready
        marks = self._marks
        while marks and marks[0] <= clock:
            for sequence in self._due.pop(heappop(marks)):
                if sequence._state == _DECODING and sequence._mark == clock:
                    self._show(sequence, clock - sequence._begun)
        for sequence in self._completing:
            if sequence._state != _PREFILLING:
                continue  # cancelled during the step
            before = sequence.generated
            self._ended_tokens -= before
            begun = sequence._begun = clock - before - 1
            self._sum_begun += begun
            self._decoding += 1
            self._offsets[(begun + 1 - sequence.prompt_tokens) % len(self._offsets)] += 1
            sequence._state = _DECODING
            if math.isnan(sequence.first_token_at):
                sequence.first_token_at = self._now
            if before + 1 >= sequence._due:
                self._show(sequence, before + 1)
            else:
                self._set_mark(sequence)
        self._completing = []

    def _show(self, sequence: Sequence, tokens: int) -> None:
        finished = tokens >= sequence.length
        if finished:
            self._release(sequence)
            sequence._state = _ENDED
        else:
            assert sequence.interval is not None
            sequence.generated = tokens
            sequence._due = min(tokens + sequence.interval, sequence.length)
            self._set_mark(sequence)
        self._ready.append(Emission(self._now, sequence, tokens, finished))

    def _set_mark(self, sequence: Sequence) -> None:
        mark = sequence._mark = sequence._begun + sequence._due
=======
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
>>>>>>> engine
        due = self._due.get(mark)
        if due is None:
            self._due[mark] = [sequence]
            heappush(self._marks, mark)
        else:
            due.append(sequence)
<<<<<<< HEAD

    # -- the scheduler ------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        """Decide what the next step computes, and how many like it follow."""
        preempted = self._preempt_for_decoding()
        self._begin = self._now
        budget = left = self.max_num_batched_tokens - self._decoding
        if self._prefilling:
            left, preempted = self._go_on_prefilling(left, preempted)
        if self.waiting and not preempted:
            left = self._admit(left)
        if not self._running:
            # With the whole cache free there is room for whatever comes first: nothing waits either.
            self._queue.clear()
            self._marks.clear()
            self._due.clear()
            self._busy = False
            return
        prefill = budget - left
        seconds = self.step_base + self.step_per_sequence * self._decoding + prefill / self.prefill_rate
        self._step = seconds / self.speed
        self._steps = 1
        if not prefill and not preempted and self._marks:
            self._steps = max(1, int(min(self._marks[0] - self._clock, self._steps_within(self.cache.free))))
        self._end = self._begin + self._steps * self._step

    def _preempt_for_decoding(self) -> bool:
        """Make room for the next token of all that decode; whether anything had to go."""
        if self.cache.blocks is None:
            return False
        preempted = False
        while self._decoding and self._blocks_for(1) > self.cache.free:
            self._preempt()
            preempted = True
        return preempted

    def _preempt(self) -> Sequence:
        """Send the last that was admitted back to the head of the queue."""
        victim = next(reversed(self._running))
        self._release(victim)
        victim._state = _WAITING
        self.waiting += 1
        self.preemptions += 1
        self._queue.appendleft(victim)
        return victim

    def _go_on_prefilling(self, budget: int, preempted: bool) -> tuple[int, bool]:
        """Give the budget to prompts that have begun; return what is left, and whether anything was preempted."""
        for sequence in list(self._prefilling):
            if not budget:
                break
            while sequence._state == _PREFILLING:
                tokens = min(budget, sequence.prompt_tokens + sequence.generated - sequence._computed)
                if self._fits(sequence, tokens):
                    self._compute(sequence, tokens)
                    budget -= tokens
                    break
                self._preempt()
                preempted = True
        return budget, preempted

    def _fits(self, sequence: Sequence, tokens: int) -> bool:
        cache = self.cache
        if cache.blocks is None:
            return True
        more = -(-(sequence._computed + tokens) // cache.block_size) - sequence._blocks
        return more + self._blocks_for(1) <= cache.free

    def _admit(self, budget: int) -> int:
        """Give slots and budget to those that wait, in order; return what is left of the budget."""
        queue, cache = self._queue, self.cache
        while queue and budget and len(self._running) < self.slots:
            sequence = queue[0]
            if sequence._state != _WAITING:
                queue.popleft()  # cancelled meanwhile
                continue
            total = sequence.prompt_tokens + sequence.generated
            found = 0
            if cache.blocks is not None:
                keys = sequence.keys
                found = min(cache.found(keys), (total - 1) // cache.block_size)
                blocks = -(-total // cache.block_size) - found + (cache.unheld(keys, found) if found else 0)
                if blocks + self._blocks_for(1) > cache.free:
                    break
                if found:
                    cache.hold(keys, 0, found)
            queue.popleft()
            self.waiting -= 1
            self._running[sequence] = None
            self._prefilling.append(sequence)
            sequence._state = _PREFILLING
            sequence._blocks = sequence._keyed = found
            sequence._computed = found * cache.block_size
            if math.isnan(sequence.started_at):
                sequence.started_at = self._now
                sequence.cached_tokens = sequence._computed
                self.prefix_queries += sequence.prompt_tokens
                self.prefix_hits += sequence._computed
            tokens = min(budget, total - sequence._computed)
            self._compute(sequence, tokens)
            budget -= tokens
        return budget

    def _compute(self, sequence: Sequence, tokens: int) -> None:
        """Let the step compute so many tokens of a prompt: it holds the blocks for them from now on."""
        cache = self.cache
        computed = sequence._computed = sequence._computed + tokens
        if cache.blocks is not None:
            blocks = -(-computed // cache.block_size)
            keyed = min(len(sequence.keys), computed // cache.block_size) if cache.prefix_caching else 0
            if keyed > sequence._keyed:
                cache.hold(sequence.keys, sequence._keyed, keyed)
            cache.take(blocks - sequence._blocks - (keyed - sequence._keyed))
            sequence._blocks, sequence._keyed = blocks, keyed
        if computed >= sequence.prompt_tokens + sequence.generated:
            self._prefilling.remove(sequence)
            self._completing.append(sequence)

    def _release(self, sequence: Sequence) -> None:
        """Take a running sequence's slot and blocks back."""
        del self._running[sequence]
        cache = self.cache
        blocks = sequence._blocks
        if sequence._state == _DECODING:
            sequence.generated = self._clock - sequence._begun
            self._decoding -= 1
            self._sum_begun -= sequence._begun
            self._ended_tokens += sequence.generated
            self._offsets[(sequence._begun + 1 - sequence.prompt_tokens) % len(self._offsets)] -= 1
            blocks = -(-(sequence.prompt_tokens + sequence.generated - 1) // cache.block_size)
        elif sequence in self._prefilling:
            self._prefilling.remove(sequence)
        cache.drop(sequence.keys, sequence._keyed, blocks - sequence._keyed)
=======
>>>>>>> engine
