"""The simulated engine once more, step by step and block by block: slow, and simple enough to be believed."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass(eq=False)
class Job:
    arrives: float
    prompt: int
    length: int
    keys: list[Hashable] = field(default_factory=list)
    computed: int = 0
    tokens: int = 0
    blocks: list[int] = field(default_factory=list)
    first_token_at: float = math.nan
    ended_at: float = math.nan
    cached: int | None = None

    decodes: bool = False

    @property
    def target(self) -> int:
        return self.prompt + self.tokens


class NaiveEngine:
    def __init__(
        self, *, slots: int, base: float, each: float, rate: float, budget: int, blocks: int, size: int, caching: bool
    ) -> None:
        self.slots, self.base, self.each, self.rate, self.budget = slots, base, each, rate, budget
        self.size, self.caching = size, caching
        self.free = list(range(blocks))  # the oldest first
        self.key_of: dict[int, Hashable] = {}
        self.holders = [0] * blocks
        self.running: list[Job] = []
        self.waiting: list[Job] = []
        self.preemptions = 0
        self.chunks: dict[Job, int] = {}

    def run(self, jobs: list[Job]) -> None:
        arriving = sorted(jobs, key=lambda job: job.arrives)
        now = 0.0
        while arriving or self.waiting or self.running:
            if not self.waiting and not self.running:
                now = max(now, arriving[0].arrives)
            while arriving and arriving[0].arrives <= now:
                self.waiting.append(arriving.pop(0))
            now += self._step(now)

    def _step(self, now: float) -> float:
        before = self.preemptions
        self.chunks = {}
        # All that decode need their next block first.
        while self._reserved() > len(self.free):
            self._preempt()
        left = self.budget - len(self._decoding())
        for job in [job for job in self.running if job not in self._decoding()]:
            left = self._go_on(job, left)
        if self.preemptions == before:
            self._admit(left)
        decoding = self._decoding()
        prefill = sum(self.chunks.values())
        seconds = self.base + self.each * len(decoding) + prefill / self.rate
        for job in decoding:
            self._take(job, self._missing(job, job.computed + 1))
            job.computed += 1
        for job in list(self.running):
            if job.computed == job.target:
                job.tokens += 1
                job.decodes = True
                if job.tokens == 1:
                    job.first_token_at = now + seconds
                if job.tokens == job.length:
                    job.ended_at = now + seconds
                    self._drop(job)
        return seconds

    def _decoding(self) -> list[Job]:
        return [job for job in self.running if job.decodes]

    def _reserved(self) -> int:
        return sum(self._missing(job, job.computed + 1) for job in self._decoding())

    def _go_on(self, job: Job, left: int) -> int:
        while left and job in self.running:
            chunk = min(left, job.target - job.computed)
            if self._missing(job, job.computed + chunk) + self._reserved() <= len(self.free):
                self._compute(job, chunk)
                return left - chunk
            self._preempt()
        return left

    def _admit(self, left: int) -> None:
        while self.waiting and left and len(self.running) < self.slots:
            job = self.waiting[0]
            hits = self._hits(job)
            needed = math.ceil(job.target / self.size) - len(hits) + sum(block in self.free for block in hits)
            if needed + self._reserved() > len(self.free):
                return
            self.running.append(self.waiting.pop(0))
            for block in hits:
                self._hold(job, block)
            job.computed = len(hits) * self.size
            if job.cached is None:
                job.cached = job.computed
            chunk = min(left, job.target - job.computed)
            self._compute(job, chunk)
            left -= chunk

    def _missing(self, job: Job, tokens: int) -> int:
        return max(0, math.ceil(tokens / self.size) - len(job.blocks))

    def _hits(self, job: Job) -> list[int]:
        known = {key: block for block, key in self.key_of.items()}
        hits = []
        for key in job.keys[: (job.target - 1) // self.size]:
            if not self.caching or key not in known:
                break
            hits.append(known[key])
        return hits

    def _hold(self, job: Job, block: int) -> None:
        if block in self.free:
            self.free.remove(block)
        self.holders[block] += 1
        job.blocks.append(block)

    def _take(self, job: Job, count: int) -> None:
        for _ in range(count):
            block = self.free[0]
            self.key_of.pop(block, None)
            self._hold(job, block)

    def _compute(self, job: Job, chunk: int) -> None:
        self.chunks[job] = chunk
        before = job.computed // self.size
        job.computed += chunk
        for number in range(before, math.ceil(job.computed / self.size)):
            whole = (number + 1) * self.size <= job.computed
            begun = number < len(job.blocks)
            if not (self.caching and whole and number < len(job.keys)):
                self._take(job, 0 if begun else 1)
                continue
            same = [block for block, key in self.key_of.items() if key == job.keys[number]]
            if not same:
                self._take(job, 0 if begun else 1)
                self.key_of[job.blocks[-1]] = job.keys[number]
                continue
            spare = job.blocks.pop() if begun else None
            self._hold(job, same[0])
            if spare is not None:
                self._release(spare)

    def _drop(self, job: Job) -> None:
        self.running.remove(job)
        for block in reversed(job.blocks):
            self._release(block)
        job.blocks = []

    def _release(self, block: int) -> None:
        self.holders[block] -= 1
        if not self.holders[block]:
            self.free.append(block)

    def _preempt(self) -> Job:
        victim = self.running[-1]
        self._drop(victim)
        victim.computed = 0
        victim.decodes = False
        self.chunks.pop(victim, None)
        self.waiting.insert(0, victim)
        self.preemptions += 1
        return victim
