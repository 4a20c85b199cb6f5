"""The window follows the flow: generous, quick to grow, slow to shrink."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurora_pool.policy.flow import Flow
from aurora_pool.policy.window import START, STEADY, Window
from tests.policy.rig import Rig


def flowing(rate: float, running: int, latency: float = 0.02, seconds: int = 10) -> Flow:
    """The flow of an agent that has answered at this rate for some seconds, with ``running`` prompts running."""
    flow = Flow()
    flow.began(0.0)
    flow.first_byte(latency, 0.0)
    for tick in range(1, 4 * seconds + 1):
        flow.running(running)
        flow.answered(max(1, round(rate / 4)), tick / 4, held=running + 100)
    return flow


def test_answers_that_come_at_once_say_nothing_of_the_speed_of_decoding() -> None:
    flow = Flow()
    flow.decoded(tokens=500.0, seconds=2e-16, answers=5, running=5, at=1.0)
    assert (flow.decode_speed, flow.decode_speed_now, flow.decode_speed_best) == (0.0, 0.0, 0.0)
    flow.decoded(tokens=500.0, seconds=10.0, answers=5, running=5, at=2.0)
    assert flow.decode_speed == flow.decode_speed_now == flow.decode_speed_best == 50.0


def test_doubles_while_the_server_runs_dry() -> None:
    window = Window()
    window.ran_dry(rate=0.0, running=START, now=0.0)
    assert window.size == 2 * START
    window.ran_dry(rate=0.0, running=2 * START, now=1.0)
    assert window.size == 4 * START


def test_creeps_where_growth_brings_nothing() -> None:
    window = Window()
    window.ran_dry(rate=100.0, running=0, now=0.0)
    window.ran_dry(rate=101.0, running=0, now=1.0)
    assert window.size == 2 * START * 9 // 8
    window.ran_dry(rate=300.0, running=0, now=2.0)  # too soon to tell
    assert window.size == 2 * START * 9 // 8
    window.ran_dry(rate=300.0, running=0, now=1.0 + STEADY)
    assert window.size == 2 * (2 * START * 9 // 8)


@pytest.mark.parametrize(("slots", "rate", "size"), [(8, 4.0, 27), (64, 32.0, 106), (128, 64.0, 197)])
def test_shrinks_to_a_quarter_more_than_what_runs_and_begins_meanwhile(slots: int, rate: float, size: int) -> None:
    window = Window()
    window.fit(flowing(rate, slots))
    assert window.size == size  # 1.25 * (slots + rate * 0.27 s) and a least refill


@given(rate=st.floats(1.0, 5000.0), running=st.integers(0, 1024), latency=st.floats(0.001, 0.5))
def test_never_shrinks_below_what_the_rate_needs(rate: float, running: int, latency: float) -> None:
    window = Window(start=8192)
    window.fit(flowing(rate, running, latency))
    assert window.size >= min(8192, running + rate * latency)


def test_short_answers_are_no_sign_of_too_much() -> None:
    window = Window()
    window.fit(flowing(rate=800.0, running=0, latency=0.3))  # one token each: nothing is ever seen to run
    assert window.size == START


def test_does_not_shrink_before_enough_is_known() -> None:
    window = Window()
    window.fit(flowing(rate=4.0, running=1, seconds=1))
    assert window.size == START


def test_an_overload_leaves_what_was_accepted() -> None:
    window = Window()
    window.overloaded(accepted=96, prompts=17, now=0.0)
    assert window.size == 96


def test_an_overload_by_a_first_list_halves_it() -> None:
    window = Window()
    window.overloaded(accepted=0, prompts=272, now=0.0)
    assert window.size == 136
    window.overloaded(accepted=0, prompts=1, now=0.0)
    assert window.size == 1
    window.overloaded(accepted=0, prompts=1, now=0.0)
    assert window.size == 1


def test_does_not_grow_soon_after_an_overload() -> None:
    window = Window()
    window.overloaded(accepted=96, prompts=17, now=5.0)
    window.ran_dry(rate=10.0, running=96, now=5.0 + STEADY - 0.1)
    assert window.size == 96
    window.ran_dry(rate=10.0, running=96, now=5.0 + STEADY)
    assert window.size == 192


def test_preemptions_take_off_an_eighth_for_a_while() -> None:
    window = Window(start=80)
    window.preempted(now=5.0)
    assert window.size == 70
    window.ran_dry(rate=10.0, running=70, now=5.0 + STEADY - 0.1)
    assert window.size == 70
    window.ran_dry(rate=10.0, running=70, now=5.0 + STEADY)
    assert window.size == 140


def test_never_exceeds_its_ceiling() -> None:
    window = Window(ceiling=300)
    window.ran_dry(rate=10.0, running=START, now=0.0)
    assert window.size == 300


@pytest.mark.parametrize(
    ("size", "rate", "refill"), [(272, 10.0, 17), (1024, 10.0, 64), (272, 20_000.0, 136), (6, 1.0, 3)]
)
def test_a_refill_is_worth_a_request(size: int, rate: float, refill: int) -> None:
    assert Window().min_refill(size, rate, 1 / 16) == refill


def window_of(rig: Rig) -> int:
    return rig.statistics.agents[0].window


def answer_what_is_open(rig: Rig) -> None:
    for request in list(rig.open):
        rig.answer_all(request)
    rig.plan()


def test_an_agent_of_which_all_prompts_run_gets_more() -> None:
    rig = Rig(1)
    rig.admit(START)
    rig.plan()
    rig.start(rig.sent[0])
    assert window_of(rig) == 2 * START
    rig.finish()


def test_answers_that_make_way_for_the_queue_do_not_widen_the_window() -> None:
    rig = Rig(1)
    rig.admit(START)
    rig.plan()
    (request,) = rig.sent
    rig.start(request, 200)
    for slot in range(START // 2 + 1):
        rig.answer(request, slot)
    rig.start(request)
    assert window_of(rig) == START
    rig.finish()


def test_what_waits_at_the_server_by_its_own_counters_is_no_dry_server() -> None:
    rig = Rig(1)
    rig.admit(4 * START)
    rig.plan()
    (request,) = rig.sent
    rig.dispatcher.sampled(0, 64, START - 64, 0, rig.now)
    rig.start(request)
    assert window_of(rig) == START
    rig.dispatcher.sampled(0, START, 0, 0, rig.now)
    for slot in range(START // 16 + 1):
        rig.answer(request, slot)
    rig.plan()
    assert window_of(rig) == 2 * START
    rig.dispatcher.sampled(0, START, 0, 3, rig.now)
    assert window_of(rig) == 2 * START - START // 4
    rig.finish()


def test_a_small_window_heals_within_seconds_of_the_time_without_growth() -> None:
    rig = Rig(1, window=4)
    rig.queue.unbounded = True
    rig.admit(2000)
    rig.plan()
    while window_of(rig) < START and rig.now < 60.0:
        held = rig.held(0)
        for request in list(rig.open):  # all that it may hold runs at once, and takes half a second
            rig.start(request)
            for slot in range(request.open):
                rig.now += 0.5 / held
                rig.answer(request, slot)
        rig.plan()
    assert rig.now <= STEADY + 5.0
    rig.finish()


def test_a_window_that_was_never_full_does_not_shrink() -> None:
    rig = Rig(1)
    rig.queue.unbounded = True
    for _ in range(40):  # short calls to a server, or of a process, that hardly gets the processor
        rig.admit(64)
        rig.plan()
        (request,) = rig.open
        for half in (range(32), range(32, 64)):
            rig.wait(0.6)
            for slot in half:
                rig.answer(request, slot)
    assert window_of(rig) == START
    rig.finish()


def test_a_small_window_grows_where_whole_lists_are_answered_at_once() -> None:
    rig = Rig(1, window=8)
    rig.wait(STEADY)
    while window_of(rig) < START and rig.now < 60.0:
        rig.admit(2 * window_of(rig))
        rig.plan()
        rig.now += 0.1
        answer_what_is_open(rig)
    assert rig.now <= STEADY + 10.0
    rig.finish()
