"""How engines fill their steps, against cases worked out by hand and against a naive engine."""

from __future__ import annotations

import math
from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurora_pool.testing.engine import Emission, Engine, Sequence
from aurora_pool.testing.kv_cache import block_keys
from tests.testing.naive_engine import Job, NaiveEngine

BASE, EACH, RATE = 0.01, 0.001, 1000


def make_engine(
    *, slots: int = 8, budget: int = 100, blocks: int | None = None, size: int = 16, prefix_caching: bool = True
) -> Engine:
    return Engine(
        slots=slots,
        step_base=BASE,
        step_per_sequence=EACH,
        prefill_rate=RATE,
        max_num_batched_tokens=budget,
        kv_blocks=blocks,
        block_size=size,
        prefix_caching=prefix_caching,
    )


def run_out(engine: Engine) -> dict[str, list[float]]:
    """Return the times of each sequence's emissions, rounded."""
    times: dict[str, list[float]] = {}
    emissions: list[Emission] = []
    while (due := engine.next_event_time()) is not None:
        emissions += engine.advance(due)
    for emission in emissions:
        times.setdefault(emission.sequence.key, []).append(round(emission.at, 6))
    return times


class TestBudget:
    def test_a_long_prompt_is_computed_in_chunks_and_its_first_token_comes_with_the_last(self) -> None:
        engine = make_engine(budget=100)
        engine.submit(0.0, Sequence(2, prompt_tokens=250, interval=1, key="a"))
        # Three steps of 100, 100 and 50 tokens: 0.11 + 0.11 + 0.06 s; then one of a single token.
        assert run_out(engine) == {"a": [0.28, 0.291]}

    def test_prompts_share_a_step_in_order_of_arrival(self) -> None:
        engine = make_engine(budget=100)
        for key, tokens in (("a", 60), ("b", 60), ("c", 20)):
            engine.submit(0.0, Sequence(1, prompt_tokens=tokens, key=key))
        # 60 + 40 of 60; then the other 20, and all of c.
        assert run_out(engine) == {"a": [0.11], "b": [0.16], "c": [0.16]}

    def test_what_decodes_takes_a_token_each_before_any_prompt_does(self) -> None:
        engine = make_engine(budget=10)
        for key in "abcd":
            engine.submit(0.0, Sequence(5, prompt_tokens=1, interval=1, key=key))
        engine.submit(0.0, Sequence(1, prompt_tokens=18, key="long"))
        # Step 1: 4 prompts and 6 of 18 tokens. Steps 2 and 3: 4 decode, and 6 tokens of the prompt each.
        first = BASE + 10 / RATE
        other = BASE + 4 * EACH + 6 / RATE
        assert run_out(engine)["long"] == [round(first + 2 * other, 6)]

    def test_decoding_goes_on_beside_a_long_prefill_at_the_speed_of_its_steps(self) -> None:
        engine = make_engine(budget=101)
        engine.submit(0.0, Sequence(4, prompt_tokens=1, interval=1, key="a"))
        engine.submit(0.005, Sequence(1, prompt_tokens=200, key="b"))
        # a's prefill 0.011; two steps with 100 tokens of b, 0.111 each; then a alone.
        assert run_out(engine) == {"a": [0.011, 0.122, 0.233, 0.244], "b": [0.233]}

    def test_what_comes_during_a_step_waits_for_the_next(self) -> None:
        engine = make_engine()
        engine.submit(0.0, Sequence(3, prompt_tokens=90, interval=1, key="a"))
        engine.submit(0.05, Sequence(1, prompt_tokens=10, key="b"))
        # a's step lasts 0.1; the next has one token of a and ten of b.
        assert run_out(engine) == {"a": [0.1, 0.121, 0.132], "b": [0.121]}

    def test_what_comes_in_the_middle_of_many_steps_alike_waits_for_the_running_one_only(self) -> None:
        engine = make_engine()
        engine.submit(0.0, Sequence(1000, prompt_tokens=1, key="a"))
        engine.advance(1.0)  # steps end at 0.011 x n; the running one ends at 1.001
        engine.submit(1.0, Sequence(1, prompt_tokens=9, key="b"))
        assert run_out(engine)["b"] == [round(1.001 + BASE + EACH + 0.009, 6)]

    def test_no_more_than_the_slots_run(self) -> None:
        engine = make_engine(slots=2)
        for key in "abc":
            engine.submit(0.0, Sequence(2, prompt_tokens=5, interval=1, key=key))
        engine.advance(0.0)
        assert (engine.running, engine.waiting) == (2, 1)
        # a and b: 0.02, 0.032; then c: 0.015, 0.011.
        assert run_out(engine) == {"a": [0.02, 0.032], "b": [0.02, 0.032], "c": [0.047, 0.058]}


class TestBlocks:
    def test_a_prompt_waits_until_all_of_it_finds_room(self) -> None:
        engine = make_engine(blocks=4)
        engine.submit(0.0, Sequence(2, prompt_tokens=40, interval=1, key="a"))  # 3 blocks, 41 tokens in the end
        engine.submit(0.0, Sequence(1, prompt_tokens=20, key="b"))  # 2 blocks
        engine.advance(0.0)
        assert (engine.running, engine.waiting) == (1, 1)
        assert run_out(engine) == {"a": [0.05, 0.061], "b": [0.091]}
        assert engine.preemptions == 0

    def test_those_behind_one_that_finds_no_room_wait_too(self) -> None:
        engine = make_engine(blocks=4)
        for key, tokens in (("a", 40), ("b", 20), ("c", 5)):
            engine.submit(0.0, Sequence(1, prompt_tokens=tokens, key=key))
        times = run_out(engine)
        assert times["b"] == times["c"] > times["a"]

    def test_the_last_to_come_is_preempted_and_computed_again(self) -> None:
        engine = make_engine(blocks=4)
        engine.submit(0.0, Sequence(10, prompt_tokens=30, key="a"))
        engine.submit(0.0, Sequence(10, prompt_tokens=30, key="b"))
        # Two blocks each; with the fourth step both have 32 tokens in them, and need a third for the next.
        together = (BASE + 60 / RATE) + 2 * (BASE + 2 * EACH)
        a = together + 7 * (BASE + EACH)
        # b had 3 tokens: its prompt and those are computed again when a has ended, with the fourth token.
        b = a + (BASE + 33 / RATE) + 6 * (BASE + EACH)
        assert run_out(engine) == {"a": [round(a, 6)], "b": [round(b, 6)]}
        assert engine.preemptions == 1
        assert engine.tokens == 20

    def test_a_preempted_sequence_shows_no_token_twice(self) -> None:
        engine = make_engine(blocks=4)
        engine.submit(0.0, Sequence(10, prompt_tokens=30, key="a"))
        engine.submit(0.0, Sequence(10, prompt_tokens=30, interval=1, key="b"))
        assert len(run_out(engine)["b"]) == 10

    def test_a_cancelled_sequence_gives_its_blocks_back(self) -> None:
        engine = make_engine(blocks=4)
        first = Sequence(30, prompt_tokens=33, key="a")
        engine.submit(0.0, first)
        engine.submit(0.0, Sequence(1, prompt_tokens=20, key="b"))
        engine.advance(0.06)
        assert engine.cache.usage == 0.75
        engine.cancel(0.06, first)
        assert engine.cache.usage == 0
        assert "b" in run_out(engine)

    def test_what_can_never_fit_is_refused(self) -> None:
        engine = make_engine(blocks=4)
        with pytest.raises(ValueError, match="do not fit into 4 blocks"):
            engine.submit(0.0, Sequence(5, prompt_tokens=60))


class TestPrefixCache:
    def sequence(self, prompt: str, length: int = 1) -> Sequence:
        ids = [*prompt.encode()]
        return Sequence(length, prompt_tokens=len(ids), keys=block_keys(ids, block_size=4), key=prompt)

    def engine(self, blocks: int | None = 20, *, prefix_caching: bool = True) -> Engine:
        return make_engine(blocks=blocks, size=4, prefix_caching=prefix_caching)

    def ask(self, engine: Engine, prompt: str) -> int:
        sequence = self.sequence(prompt)
        engine.submit(0.0, sequence)
        run_out(engine)
        return sequence.cached_tokens

    def test_whole_blocks_of_an_earlier_prompt_are_not_computed_again(self) -> None:
        engine = self.engine()
        assert self.ask(engine, "once upon a time") == 0
        assert self.ask(engine, "once upon a crime") == 12
        assert (engine.prefix_queries, engine.prefix_hits) == (33, 12)

    def test_never_a_prompts_last_token(self) -> None:
        engine = self.engine()
        self.ask(engine, "12345678")
        assert self.ask(engine, "12345678") == 4
        assert self.ask(engine, "123456789") == 8

    def test_prompts_of_the_same_step_share_what_the_first_computes(self) -> None:
        engine = self.engine()
        first, second = self.sequence("12345678a"), self.sequence("12345678b")
        engine.submit(0.0, first)
        engine.submit(0.0, second)
        times = run_out(engine)
        assert (first.cached_tokens, second.cached_tokens) == (0, 8)
        assert times["12345678b"] == [round(BASE + 10 / RATE, 6)]

    def test_the_block_that_was_free_for_longest_is_forgotten_first(self) -> None:
        engine = self.engine(blocks=6)
        self.ask(engine, "aaaaAAAA-")  # two blocks with keys, and one without
        self.ask(engine, "bbbbBBBB-")
        assert engine.cache.free == 6
        self.ask(engine, "ccccc")  # takes the two that were free longest: a's block without a key, and its second
        assert self.ask(engine, "aaaaAAAA-") == 4
        assert self.ask(engine, "bbbb?") == 4

    def test_blocks_in_use_are_not_forgotten(self) -> None:
        engine = self.engine(blocks=6)
        engine.submit(0.0, self.sequence("aaaa-", length=4))
        engine.advance(0.02)
        engine.submit(0.02, self.sequence("bbbbBBBB-"))
        run_out(engine)
        assert self.ask(engine, "aaaa-") == 4

    def test_it_can_be_off(self) -> None:
        for engine in (self.engine(prefix_caching=False), self.engine(blocks=None)):
            self.ask(engine, "once upon a time")
            assert self.ask(engine, "once upon a time") == 0


@given(
    slots=st.integers(1, 6),
    budget=st.integers(6, 40),
    size=st.sampled_from([1, 2, 4, 16]),
    blocks=st.integers(20, 60),
    caching=st.booleans(),
    jobs=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.0, 0.0512345, 0.312341, 1.0712, 2.1123]),
            st.integers(1, 60),
            st.integers(1, 50),
            st.integers(0, 2),
            st.integers(0, 60),
        ),
        min_size=1,
        max_size=14,
    ),
)
def test_it_does_what_a_naive_engine_does_step_by_step(
    slots: int, budget: int, size: int, blocks: int, caching: bool, jobs: list[tuple[float, int, int, int, int]]
) -> None:
    naive_jobs = []
    for arrives, prompt, length, group, shared in sorted(jobs):
        most = blocks * size // 2
        keys: list[Hashable] = [
            (group, number) if number * size < shared else object() for number in range(min(prompt, most) // size)
        ]
        naive_jobs.append(Job(arrives, min(prompt, most), min(length, most), keys))
    naive = NaiveEngine(
        slots=slots, base=BASE, each=EACH, rate=RATE, budget=budget, blocks=blocks, size=size, caching=caching
    )
    naive.run(naive_jobs)

    engine = make_engine(slots=slots, budget=budget, blocks=blocks, size=size, prefix_caching=caching)
    sequences = [Sequence(job.length, prompt_tokens=job.prompt, keys=job.keys) for job in naive_jobs]
    ended: dict[Sequence, float] = {}
    for job, sequence in zip(naive_jobs, sequences, strict=True):
        # What comes at the moment of a step's end is still in time for the next.
        ended |= {e.sequence: e.at for e in engine.advance(math.nextafter(job.arrives, -1)) if e.finished}
        engine.submit(job.arrives, sequence)
    while (due := engine.next_event_time()) is not None:
        ended |= {e.sequence: e.at for e in engine.advance(due) if e.finished}

    for job, sequence in zip(naive_jobs, sequences, strict=True):
        assert math.isclose(ended[sequence], job.ended_at)
        assert math.isclose(sequence.first_token_at, job.first_token_at)
        assert sequence.cached_tokens == job.cached
        assert sequence.generated == job.length
    assert engine.preemptions == naive.preemptions
    assert engine.cache.free == len(naive.free) == blocks
