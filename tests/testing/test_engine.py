from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurora_pool.testing.engine import Emission, Engine, Sequence


def run_out(engine: Engine) -> list[Emission]:
    emissions = []
    while (due := engine.next_event_time()) is not None:
        emissions += engine.advance(due)
    return emissions


INSTANT_PREFILL = 1e12


def test_one_sequence_takes_a_step_for_its_prompt_and_one_for_each_further_token() -> None:
    engine = Engine(step_base=0.01, step_per_sequence=0.001, prefill_rate=1000)
    engine.submit(2.0, Sequence(100, prompt_tokens=30, key="a"))
    (end,) = run_out(engine)
    assert end.finished
    assert end.tokens == 100
    assert math.isclose(end.at, 2.0 + (0.01 + 0.03) + 99 * 0.011)


def test_emits_the_first_token_then_every_interval_then_the_end() -> None:
    engine = Engine()
    engine.submit(0.0, Sequence(10, interval=4))
    assert [(e.tokens, e.finished) for e in run_out(engine)] == [(1, False), (5, False), (9, False), (10, True)]


def test_a_single_token_is_first_and_last_at_once() -> None:
    engine = Engine()
    engine.submit(0.0, Sequence(1, interval=1))
    assert [(e.tokens, e.finished) for e in run_out(engine)] == [(1, True)]


def test_more_sequences_make_every_step_longer() -> None:
    engine = Engine(step_base=0.008, step_per_sequence=0.00003)
    for _ in range(256):
        engine.submit(0.0, Sequence(50))
    emissions = run_out(engine)
    assert len(emissions) == 256
    assert math.isclose(emissions[-1].at, 0.008 + 256 / 40_000 + 49 * (0.008 + 256 * 0.00003))


def test_what_is_beyond_the_slots_waits_in_order() -> None:
    engine = Engine(slots=2)
    for key in "abcd":
        engine.submit(0.0, Sequence(5, key=key))
    engine.advance(0.0)
    assert (engine.running, engine.waiting) == (2, 2)
    assert [e.sequence.key for e in run_out(engine)] == list("abcd")
    assert (engine.running, engine.waiting) == (0, 0)


def test_a_cancelled_sequence_frees_its_slot_for_the_next() -> None:
    engine = Engine(slots=1, step_base=0.01, step_per_sequence=0, prefill_rate=INSTANT_PREFILL)
    first, second = Sequence(100, key=1), Sequence(3, key=2)
    engine.submit(0.0, first)
    engine.submit(0.0, second)
    assert engine.cancel(0.105, first) == 10
    emissions = run_out(engine)
    assert [e.sequence.key for e in emissions] == [2]
    assert engine.tokens == 13


def test_cancelling_what_has_ended_changes_nothing() -> None:
    engine = Engine()
    sequence = Sequence(3)
    engine.submit(0.0, sequence)
    run_out(engine)
    assert engine.cancel(99.0, sequence) == 3
    assert engine.running == 0


def test_a_paused_engine_stands_still_and_goes_on_where_it_was() -> None:
    engine = Engine(step_base=0.01, step_per_sequence=0, prefill_rate=INSTANT_PREFILL)
    engine.submit(0.0, Sequence(10))
    engine.pause(0.05)
    assert engine.next_event_time() is None
    assert engine.advance(100.0) == []
    engine.resume(100.0)
    (end,) = run_out(engine)
    assert math.isclose(end.at, 100.05)


def test_half_the_speed_takes_twice_as_long() -> None:
    engine = Engine(step_base=0.01, step_per_sequence=0, prefill_rate=INSTANT_PREFILL)
    engine.submit(0.0, Sequence(10))
    engine.set_speed(0.05, 0.5)
    (end,) = run_out(engine)
    assert math.isclose(end.at, 0.15)


def test_a_late_look_sees_every_emission_at_its_own_time() -> None:
    engine = Engine(step_base=0.01, step_per_sequence=0, prefill_rate=INSTANT_PREFILL)
    engine.submit(0.0, Sequence(3, interval=1))
    assert [round(e.at, 9) for e in engine.advance(50.0)] == [0.01, 0.02, 0.03]


@pytest.mark.parametrize(
    "wrong",
    [
        {"slots": 0},
        {"step_base": 0},
        {"speed": 0},
        {"step_per_sequence": -1},
        {"prefill_rate": 0},
        {"max_num_batched_tokens": 255},
        {"kv_blocks": 0},
        {"block_size": 0},
    ],
)
def test_refuses_what_is_invalid(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Engine(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("length", "interval"), [(0, None), (5, 0)])
def test_a_sequence_has_at_least_one_token(length: int, interval: int | None) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Sequence(length, interval=interval)


@given(
    slots=st.integers(1, 8),
    blocks=st.sampled_from([None, 6, 20]),
    seed=st.integers(0, 2**32),
    moves=st.lists(
        st.tuples(
            st.sampled_from(["submit", "submit", "submit", "cancel", "advance", "speed", "pause", "resume"]),
            st.integers(1, 40),
            st.sampled_from([None, 1, 3, 1000]),
            st.floats(0, 0.2),
        ),
        max_size=60,
    ),
)
def test_whatever_happens_every_sequence_ends_once_with_all_its_tokens(
    slots: int, blocks: int | None, seed: int, moves: list[tuple[str, int, int | None, float]]
) -> None:
    chance = random.Random(seed)
    engine = Engine(slots=slots, max_num_batched_tokens=16, kv_blocks=blocks)
    submitted: list[Sequence] = []
    cancelled: set[Sequence] = set()
    emissions: list[Emission] = []
    now = 0.0
    tokens = 0
    for move, number, interval, pause in moves:
        now += pause
        if move == "submit":
            sequence = Sequence(number, prompt_tokens=1 + number % 7 * 8, interval=interval, key=len(submitted))
            submitted.append(sequence)
            engine.submit(now, sequence)
        elif move == "cancel" and submitted:
            victim = chance.choice(submitted)
            engine.cancel(now, victim)
            cancelled.add(victim)
        elif move == "speed":
            engine.set_speed(now, number / 10)
        elif move == "pause":
            engine.pause(now)
        elif move == "resume":
            engine.resume(now)
        emissions += engine.advance(now)
        assert engine.running <= slots
        assert engine.tokens >= tokens
        tokens = engine.tokens
    engine.resume(now)
    emissions += run_out(engine)

    ended = Counter(e.sequence for e in emissions if e.finished)
    assert all(count == 1 for count in ended.values())
    assert set(submitted) - cancelled <= set(ended)
    for sequence in ended:
        mine = [e for e in emissions if e.sequence is sequence]
        assert mine[-1].finished
        assert mine[-1].tokens == sequence.length
        assert [e.tokens for e in mine] == sorted({e.tokens for e in mine})
        if sequence.interval is not None:
            steps = [b.tokens - a.tokens for a, b in itertools.pairwise(mine)]
            assert all(step == sequence.interval for step in steps[:-1])
    assert [e.at for e in emissions] == sorted(e.at for e in emissions)
    assert (engine.running, engine.waiting) == (0, 0)
    assert engine.tokens == sum(sequence.generated for sequence in submitted)
    assert engine.cache.usage == 0
