"""Whole fleets in virtual time, with the pool's own dispatcher."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from aurora_pool.policy.scheduler import Balance
from aurora_pool.testing.profile import CPU_SERVER
from aurora_pool.testing.virtual import VirtualFleet, VirtualPrompt
from aurora_pool.testing.virtual_pool import VirtualPool, VirtualReport
from tests.policy.rig import statistics_of

Happening = Callable[[VirtualFleet], None]


def prompts(count: int, seed: int = 1) -> list[VirtualPrompt]:
    draw = random.Random(seed)
    return [VirtualPrompt(min(2048, max(8, round(draw.lognormvariate(math.log(50), 0.8))))) for _ in range(count)]


def run(
    fleet: VirtualFleet, work: list[VirtualPrompt], *, balance: Balance = "adaptive", timeout: float | None = None
) -> VirtualReport:
    pool = VirtualPool(fleet, seed=1, balance=balance, timeout=timeout)
    report = pool.run(work, until=10_000)
    assert report.prompts == len(work)
    assert report.lost == report.duplicated == 0
    assert report.answered + report.failed.total() == len(work)
    statistics = statistics_of(pool.dispatcher)
    assert statistics.in_flight == statistics.queued == sum(agent.in_flight for agent in statistics.agents) == 0
    return report


def everything(fleet: VirtualFleet) -> None:
    agents = fleet.agents
    for agent in agents:
        agent.restarts_after = 5.0
    agents[0].slow(5)
    agents[1].die()
    agents[2].max_queued = 20
    fleet.at(3.0, agents[3].hang)
    fleet.at(4.0, agents[4].drain)
    fleet.at(2.0, lambda: agents[5].flap(up=4, down=2))
    fleet.at(5.0, agents[6].sleep)
    fleet.at(6.0, agents[7].terminate)
    fleet.at(7.0, agents[8].fail_engine)


CASES: dict[str, Happening] = {
    "slow": lambda fleet: fleet.agents[3].slow(5),
    "dead": lambda fleet: fleet.agents[3].die(),
    "dies": lambda fleet: fleet.at(5.0, fleet.agents[3].die),
    "engine": lambda fleet: fleet.at(5.0, fleet.agents[3].fail_engine),
    "hangs": lambda fleet: fleet.at(5.0, fleet.agents[3].hang),
    "terminated": lambda fleet: fleet.at(5.0, fleet.agents[3].terminate),
    "drains": lambda fleet: fleet.at(5.0, fleet.agents[3].drain),
    "sleeps": lambda fleet: fleet.at(5.0, fleet.agents[3].sleep),
    "flaps": lambda fleet: fleet.at(2.0, lambda: fleet.agents[3].flap(up=4, down=2)),
    "everything": everything,
}


@pytest.mark.parametrize("seed", [1, 2])
def test_a_job_does_not_wait_for_one_agent_that_is_far_slower(seed: int) -> None:
    fleet = VirtualFleet([1.0] * 8, slots=64)
    fleet.agents[0].slow(5.0)
    draw = random.Random(seed)
    lengths = [max(8, min(1500, int(draw.lognormvariate(math.log(200), 0.8)))) for _ in range(8000)]
    work = [VirtualPrompt(length) for length in lengths]
    report = VirtualPool(fleet, seed=seed).run(work)
    assert report.makespan < 1.3 * fleet.bound(work)
    assert report.wasted_share < 0.02


@pytest.mark.parametrize("fault", ["die", "hang"])
def test_what_a_failed_agent_had_generated_is_counted_apart(fault: str) -> None:
    fleet = VirtualFleet([1.0, 1.0])
    fleet.at(1.0, getattr(fleet.agents[1], fault))
    report = VirtualPool(fleet, seed=1).run([VirtualPrompt(1000)] * 40)
    assert report.answered == 40
    assert 20 <= report.tokens_lost == report.wasted < 20 * 1000


@pytest.mark.parametrize("balance", ["adaptive", "strict"])
@pytest.mark.parametrize("case", CASES)
def test_every_prompt_ends_once_whatever_happens(case: str, balance: Balance) -> None:
    fleet = VirtualFleet([1.0] * 12, slots=32)
    CASES[case](fleet)
    work = prompts(3000)
    work[1000].bad = True
    report = run(fleet, work, balance=balance)
    assert report.failed["rejected"] == 1
    assert report.wasted_share <= (0.08 if case == "everything" else 0.02)  # of 6 seeds 0.071 and 0.017


def test_poison_is_quarantined_and_the_job_goes_on() -> None:
    fleet = VirtualFleet([1.0] * 12, slots=32)
    for agent in fleet.agents:
        agent.restarts_after = 5.0
    work = prompts(3000)
    work[2000].poison = True
    report = run(fleet, work)
    assert report.failed == {"poison": 1}
    assert sum(agent.deaths for agent in fleet.agents) == 4


def test_servers_that_show_no_first_tokens_are_served_as_well() -> None:
    report = run(VirtualFleet([1.0] * 4, slots=32, streamed=False), prompts(4000))
    assert report.answered == 4000


def test_mixed_fleets_end_about_when_equal_ones_of_the_same_capacity_do() -> None:
    work = prompts(6000)
    for speeds in ([1.0] * 8, [1.0] * 7 + [0.25], [1.0] * 4 + [0.5] * 4):
        fleet = VirtualFleet(speeds, slots=32)
        report = run(fleet, work)
        assert report.makespan <= 1.35 * fleet.bound(work)
        assert report.wasted_share <= 0.03
        assert report.requests < 0.6 * len(work)  # a sixteenth of so small a window is 2 prompts


@pytest.mark.parametrize("speeds", [[1.0, 1.0], [1.0, 0.7]])
@pytest.mark.parametrize("shape", ["60 in, 2 out", "8 in, mixed"])
def test_servers_on_cpus_with_long_steps_are_busy_and_hardly_hedged(speeds: list[float], shape: str) -> None:
    short = shape == "60 in, 2 out"
    work = [VirtualPrompt(2, 60)] * 60 if short else [VirtualPrompt((4, 4, 4, 16, 64)[i % 5], 8) for i in range(1200)]
    fleet = VirtualFleet(speeds, profile=CPU_SERVER)
    report = run(fleet, work)
    assert report.hedged <= 0.02 * len(work)
    assert report.hedged_twice == 0
    assert report.wasted_share <= 0.02
    assert len(work) >= 15 * report.requests


def test_the_same_seed_gives_the_same_run() -> None:
    def once() -> VirtualReport:
        fleet = VirtualFleet([1.0] * 12, slots=32)
        everything(fleet)
        report = run(fleet, prompts(2000))
        report.policy_seconds = 0.0
        return report

    assert once() == once()


def test_four_thousand_agents() -> None:
    fleet = VirtualFleet([1.0] * 4000)
    fleet.at(0.3, fleet.agents[17].die)
    report = run(fleet, prompts(16_000))
    assert report.answered == 16_000
    assert report.requests <= 4100


def test_lazy_input_is_pulled_as_answers_come() -> None:
    fleet = VirtualFleet([1.0] * 2, slots=32)
    report = VirtualPool(fleet, seed=1).run(iter(prompts(5000)))
    assert report.answered == 5000
    assert report.most_open <= 2 * 2 * 272
