"""What an engine computes in each step: vLLM's V1 scheduler, over cache blocks that are only counted.

A step has a budget of tokens: each sequence that decodes takes one, the rest goes to the prefill of prompts in order of
arrival, in chunks where a prompt does not fit. A prompt is admitted when there is a slot and room in the cache for all
of it; blocks are taken as tokens are computed. Where a running sequence finds no block for its next token, the last
that was admitted is *preempted*: it loses its blocks and goes back to the head of the queue, to be computed again. The
beginning of a prompt that is still in the cache is not computed: whole blocks only, and never a prompt's last token.
"""

from __future__ import annotations

import math
from collections import deque

from aurora_pool.testing.kv_cache import KVCache
from aurora_pool.testing.sequence import Sequence, State


class BatchScheduler:
    """The queue, the slots and the cache of one engine, and the count of its steps.

    All sequences that decode gain a token in every step, so ``clock``, the number of steps, tells the tokens of all of
    them, and the blocks that they need; :meth:`pass_steps` costs the same for one step as for a thousand.
    """

    __slots__ = (
        "_ended_tokens", "_offsets", "_prefilling", "_queue", "_sum_begun", "cache", "clock", "completing", "decoding",
        "preemptions", "prefix_hits", "prefix_queries", "running", "slots", "token_budget", "waiting",
    )  # fmt: skip

    def __init__(self, *, slots: int, token_budget: int, cache: KVCache) -> None:
        self.slots = slots
        self.token_budget = token_budget
        self.cache = cache
        self.clock = 0
        self.running: dict[Sequence, None] = {}
        """Sequences with a slot, in order of admission."""
        self.decoding = 0
        """How many of them decode; the others prefill."""
        self.completing: list[Sequence] = []
        """Those whose prefill ends with the running step."""
        self.waiting = 0
        self.preemptions = 0
        self.prefix_queries = 0
        self.prefix_hits = 0
        self._queue: deque[Sequence] = deque()
        self._prefilling: list[Sequence] = []
        self._offsets = [0] * cache.block_size  # decoding sequences, by the step (modulo this) that needs a new block
        self._ended_tokens = 0  # of sequences that do not decode
        self._sum_begun = 0  # of those that do

    @property
    def tokens(self) -> int:
        """Tokens generated so far."""
        return self._ended_tokens + self.decoding * self.clock - self._sum_begun

    def generated(self, sequence: Sequence) -> int:
        """Tell how many tokens a sequence has at this moment."""
        return self.clock - sequence.begun if sequence.state is State.DECODING else sequence.generated

    def submit(self, sequence: Sequence) -> None:
        """Put a sequence at the end of the queue."""
        sequence.state = State.WAITING
        self.waiting += 1
        self._queue.append(sequence)

    def begin_decoding(self, sequence: Sequence) -> None:
        """Record that the step that has just ended has completed a sequence's prefill: it has one token more."""
        before = sequence.generated
        self._ended_tokens -= before
        sequence.begun = self.clock - before - 1
        sequence.state = State.DECODING
        self._sum_begun += sequence.begun
        self.decoding += 1
        self._offsets[self._offset(sequence)] += 1

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out of the queue, or take its slot and blocks back."""
        if sequence.state is State.WAITING:
            self.waiting -= 1  # its place in the queue is skipped when it comes up
        elif sequence.state in (State.PREFILLING, State.DECODING):
            self._release(sequence)
        sequence.state = State.ENDED

    def pass_steps(self, steps: int) -> None:
        """Let ``steps`` steps end: every decoding sequence has as many tokens more."""
        if self.decoding and self.cache.blocks is not None:
            self.cache.take(self._blocks_for(steps))
        self.clock += steps

    def steps_alike(self) -> float:
        """How many steps like the present one fit into the free blocks."""
        left = self.cache.free
        if not self.decoding or left == math.inf:
            return math.inf
        size = len(self._offsets)
        cycles, left = divmod(int(left), self.decoding)
        steps = cycles * size
        while (need := self._offsets[(self.clock + steps) % size]) <= left:
            left -= need
            steps += 1
        return steps

    def schedule(self, now: float) -> tuple[int, bool]:
        """Begin a step: return the tokens of prefill in it, and whether anything was preempted for it."""
        self.completing = []
        preempted = self._free_blocks()
        budget = left = self.token_budget - self.decoding
        if self._prefilling:
            left, preempted = self._go_on(left, preempted)
        if self.waiting and not preempted:
            left = self._admit(left, now)
        return budget - left, preempted

    # -- blocks -------------------------------------------------------------------------------------------------

    def _offset(self, sequence: Sequence) -> int:
        """The step, modulo the size of a block, with which a decoding sequence needs a new block."""
        return (sequence.begun + 1 - sequence.prompt_tokens) % len(self._offsets)

    def _blocks_for(self, steps: int) -> int:
        """How many blocks the decoding sequences need for some steps more."""
        cycles, rest = divmod(steps, len(self._offsets))
        offset = self.clock % len(self._offsets)
        offsets = self._offsets[offset : offset + rest]
        offsets += self._offsets[: rest - len(offsets)]
        return cycles * self.decoding + sum(offsets)

    def _free_blocks(self) -> bool:
        """Make room for the next token of all that decode; return whether anything was preempted."""
        preempted = False
        if self.cache.blocks is not None:
            while self.decoding and self._blocks_for(1) > self.cache.free:
                self._preempt()
                preempted = True
        return preempted

    def _fits(self, sequence: Sequence, tokens: int) -> bool:
        cache = self.cache
        if cache.blocks is None:
            return True
        more = -(-(sequence.computed + tokens) // cache.block_size) - sequence.blocks
        return more + self._blocks_for(1) <= cache.free

    def _preempt(self) -> None:
        """Send the last that was admitted back to the head of the queue."""
        victim = next(reversed(self.running))
        self._release(victim)
        victim.state = State.WAITING
        self.waiting += 1
        self.preemptions += 1
        self._queue.appendleft(victim)

    def _release(self, sequence: Sequence) -> None:
        """Take a running sequence's slot and blocks back."""
        del self.running[sequence]
        blocks = sequence.blocks
        if sequence.state is State.DECODING:
            sequence.generated = self.clock - sequence.begun
            self.decoding -= 1
            self._sum_begun -= sequence.begun
            self._ended_tokens += sequence.generated
            self._offsets[self._offset(sequence)] -= 1
            blocks = -(-(sequence.prompt_tokens + sequence.generated - 1) // self.cache.block_size)
        elif sequence in self._prefilling:
            self._prefilling.remove(sequence)
        self.cache.drop(sequence.keys, sequence.keyed, blocks - sequence.keyed)

    # -- prefill ------------------------------------------------------------------------------------------------

    def _go_on(self, budget: int, preempted: bool) -> tuple[int, bool]:
        """Give the budget to prompts that have begun; return what is left, and whether anything was preempted."""
        for sequence in list(self._prefilling):
            while budget and sequence.state is State.PREFILLING:
                tokens = min(budget, sequence.prompt_tokens + sequence.generated - sequence.computed)
                if self._fits(sequence, tokens):
                    self._compute(sequence, tokens)
                    budget -= tokens
                    break
                self._preempt()
                preempted = True
        return budget, preempted

    def _admit(self, budget: int, now: float) -> int:
        """Give slots and budget to those that wait, in order; return what is left of the budget."""
        queue = self._queue
        while queue and budget and len(self.running) < self.slots:
            sequence = queue[0]
            if sequence.state is not State.WAITING:
                queue.popleft()  # cancelled meanwhile
                continue
            total = sequence.prompt_tokens + sequence.generated
            if not self._find_blocks(sequence, total):
                break
            queue.popleft()
            self.waiting -= 1
            self.running[sequence] = None
            self._prefilling.append(sequence)
            sequence.state = State.PREFILLING
            if math.isnan(sequence.started_at):
                sequence.started_at = now
                sequence.cached_tokens = sequence.computed
                self.prefix_queries += sequence.prompt_tokens
                self.prefix_hits += sequence.computed
            tokens = min(budget, total - sequence.computed)
            self._compute(sequence, tokens)
            budget -= tokens
        return budget

    def _find_blocks(self, sequence: Sequence, total: int) -> bool:
        """See whether ``total`` tokens find room in the cache; if so, hold what of them is there already."""
        cache, keys = self.cache, sequence.keys
        found = 0
        if cache.blocks is not None:
            found = min(cache.found(keys), (total - 1) // cache.block_size)
            blocks = -(-total // cache.block_size) - found + cache.unheld(keys, found)
            if blocks + self._blocks_for(1) > cache.free:
                return False
            cache.hold(keys, 0, found)
        sequence.blocks = sequence.keyed = found
        sequence.computed = found * cache.block_size
        return True

    def _compute(self, sequence: Sequence, tokens: int) -> None:
        """Let the step compute ``tokens`` tokens of a prompt: it holds the blocks for them from now on."""
        cache = self.cache
        computed = sequence.computed = sequence.computed + tokens
        if cache.blocks is not None:
            blocks = -(-computed // cache.block_size)
            keyed = min(len(sequence.keys), computed // cache.block_size) if cache.prefix_caching else 0
            if keyed > sequence.keyed and sequence.blocks > sequence.keyed:
                cache.name(sequence.keys, sequence.keyed)
                sequence.keyed += 1
            cache.hold(sequence.keys, sequence.keyed, keyed)
            cache.take(blocks - sequence.blocks - (keyed - sequence.keyed))
            sequence.blocks, sequence.keyed = blocks, keyed
        if computed >= sequence.prompt_tokens + sequence.generated:
            self._prefilling.remove(sequence)
            self.completing.append(sequence)
