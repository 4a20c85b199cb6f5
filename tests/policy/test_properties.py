"""What holds for any fleet and any callers: each prompt ends once, nobody starves, no agent is left without work."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aurora_pool.policy.callers import TURN, Caller, PromptQueue
from aurora_pool.policy.window import STEADY
from aurora_pool.testing.virtual import VirtualFleet, VirtualPrompt
from aurora_pool.testing.virtual_pool import VirtualPool
from tests.policy.rig import Rig, statistics_of

TOKENS = 128
"""The tokens of each answer, and what the fair queueing expects before it has seen any."""
FAULTS = ["die", "hang", "drain", "sleep", "terminate", "fail_engine", "revive"]

speeds = st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0]), min_size=2, max_size=6)
faults = st.lists(st.tuples(st.floats(0.0, 20.0), st.integers(0, 5), st.sampled_from(FAULTS)), max_size=6)
lengths = st.lists(st.integers(1, 400), min_size=1, max_size=60)


@settings(max_examples=40)
@given(speeds=speeds, slots=st.sampled_from([2, 8, 32]), faults=faults, lengths=lengths, times=st.integers(1, 8))
def test_every_prompt_ends_once(
    speeds: list[float], slots: int, faults: list[tuple[float, int, str]], lengths: list[int], times: int
) -> None:
    fleet = VirtualFleet(speeds, slots=slots)
    for when, index, fault in faults:
        fleet.at(when, getattr(fleet.agents[index % len(speeds)], fault))
    for agent in fleet.agents:
        fleet.at(60.0, agent.revive)  # and so all can be answered
    pool = VirtualPool(fleet, seed=1, patience=1000.0)
    report = pool.run([VirtualPrompt(length) for length in lengths * times])
    assert (report.answered, report.lost, report.duplicated) == (report.prompts, 0, 0)
    left = statistics_of(pool.dispatcher)
    assert (left.queued, left.in_flight) == (0, 0)


@settings(max_examples=20)
@given(
    weights=st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0]), min_size=2, max_size=5),
    agents=st.integers(1, 3),
    window=st.sampled_from([4, 16]),
)
def test_callers_that_wait_get_what_their_weights_say_and_none_starves(
    weights: list[float], agents: int, window: int
) -> None:
    """Of two that wait all the time, neither is ahead by more than a turn of each (Goyal, Vin and Cheng, theorem 1).

    The first finds all credits free, and takes them: that is its lead at the beginning, and is made up for.
    """
    rig = Rig(agents, window=window)
    queues = [PromptQueue(range(agents), caller=Caller(weight=weight)) for weight in weights]
    for queue in queues:
        rig.admit(8 * window * agents, queue=queue)
    taken: Counter[PromptQueue] = Counter()
    seen = 0
    lead = window * agents * TOKENS / weights[0]
    while all(queue.waiting for queue in queues):
        rig.wait(1.0)
        for request in rig.sent[seen:]:
            taken.update(item.queue for item in request.unreleased())
        seen = len(rig.sent)
        service = [taken[queue] * TOKENS / queue.caller.weight for queue in queues]
        apart = 2 * (TURN + TOKENS) / min(weights) + lead
        if all(queue.waiting for queue in queues):
            assert max(service) - min(service) <= apart
        for request in list(rig.open):
            rig.answer_all(request, tokens=TOKENS)
    rig.finish(rounds=10_000)


def longest_shortage(fleet: VirtualFleet, slots: int, prompts: list[VirtualPrompt], since: float) -> float:
    """Run prompts; return for how long agent 0 might hold less than its rate needs while more than that waited.

    At its full rate it works on as many prompts as it has slots (Little's law). What does not count is the time until
    ``since``, and that without growth after the agent was overloaded.
    """
    pool = VirtualPool(fleet, seed=1)
    enough_at = longest = 0.0
    overloads = 0

    def sample() -> None:
        nonlocal enough_at, longest, overloads, since
        statistics = statistics_of(pool.dispatcher, fleet.now)
        agent = statistics.agents[0]
        if overloads != (overloads := agent.failures.get("overloaded", 0)):
            since = max(since, fleet.now + STEADY)
        if statistics.queued <= 2 * slots or agent.window >= slots or fleet.now <= since:
            enough_at = fleet.now
        longest = max(longest, fleet.now - enough_at)
        if fleet.now < 60.0:
            fleet.at(fleet.now + 0.25, sample)

    fleet.at(0.0, sample)
    report = pool.run(prompts)
    assert report.answered == report.prompts
    return longest


@settings(max_examples=12)
@given(
    speed=st.sampled_from([0.5, 1.0, 2.0]),
    slots=st.sampled_from([8, 32]),
    accepted=st.integers(1, 32),
    relief=st.floats(1.0, 25.0),
    length=st.integers(50, 300),
)
def test_no_window_stays_below_what_the_rate_of_its_agent_needs(
    speed: float, slots: int, accepted: int, relief: float, length: int
) -> None:
    """Once a server is not overloaded, and the time without growth is over, it is short of work for 10 s at most."""
    fleet = VirtualFleet([speed, 1.0], slots=slots)
    agent = fleet.agents[0]
    agent.max_queued = min(accepted, slots)

    def relieve() -> None:
        agent.max_queued = None

    fleet.at(relief, relieve)
    assert longest_shortage(fleet, slots, [VirtualPrompt(length)] * (100 * slots), since=relief) <= 10.0


@pytest.mark.parametrize("length", [5, 50])
@pytest.mark.parametrize("speed", [0.5, 2.0])
def test_an_agent_with_more_slots_than_the_first_window_is_never_short_of_work(speed: float, length: int) -> None:
    fleet = VirtualFleet([speed, 1.0], slots=512)
    assert longest_shortage(fleet, 512, [VirtualPrompt(length)] * (6 * 512), since=0.0) <= 0.25
