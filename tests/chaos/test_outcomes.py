"""Every row of the outcome table, live over HTTP: one result per prompt, the right one, and nobody idles meanwhile."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest

from aurora_pool import Timeouts
from aurora_pool.testing import Fault
from tests.chaos.jobs import AGENTS, PROFILE, PROMPTS, Outcome, run_job

VICTIM = 1
OTHERS = [index for index in range(AGENTS) if index != VICTIM]
SOON = 3.0
"""Seconds from the fleet's start: every slot is taken, and as many prompts again wait."""


@functools.cache
def healthy() -> Outcome:
    """The same job on a fleet in which nothing goes wrong."""
    return run_job()


def check(outcome: Outcome, *, slower: float, idle_allowed: float = 0.5, failed: dict[int, str] | None = None) -> None:
    """One response per prompt, with the very text of a healthy fleet, in reasonable time, and no healthy agent idle."""
    failed = failed or {}
    assert outcome.failed == failed
    texts = [text for i, text in enumerate(outcome.texts) if i not in failed]
    assert texts == [text for i, text in enumerate(healthy().texts) if i not in failed]
    assert outcome.seconds <= slower * healthy().seconds, f"{outcome.seconds:.1f} s, healthy {healthy().seconds:.1f} s"
    assert [outcome.idle[agent] for agent in OTHERS] == pytest.approx([0.0] * len(OTHERS), abs=idle_allowed)


def test_a_healthy_fleet_is_the_measure() -> None:
    outcome = healthy()
    check(outcome, slower=1.0)
    assert outcome.sent_again() == {}
    assert outcome.statistics.moved == 0
    assert {agent.state for agent in outcome.statistics.agents} == {"in service"}


def test_the_same_seed_takes_the_same_course() -> None:
    faults = {VICTIM: [Fault(action="die", at=SOON, lasting=2.0)], 2: [Fault(action="drain", at=SOON + 1)]}
    first, second = (run_job(faults) for _ in range(2))
    assert first.seconds == second.seconds
    assert [r.agent_index for r in first.responses] == [r.agent_index for r in second.responses]
    assert first.statistics.requests == second.statistics.requests


class TestHanging:
    def test_an_agent_that_accepts_and_never_answers(self) -> None:
        outcome = run_job({VICTIM: [Fault(action="hang", at=0.0)]})
        check(outcome, slower=2.0)
        assert {response.agent_index for response in outcome.responses} == set(OTHERS)

    def test_an_agent_that_stalls_in_the_middle(self) -> None:
        outcome = run_job({VICTIM: [Fault(action="hang", at=SOON)]})
        check(outcome, slower=2.0)
        assert any(response.agent_index == VICTIM for response in outcome.responses)

    def test_in_a_long_job_it_is_given_up_and_gets_no_more(self) -> None:
        slowly = replace(PROFILE, speed=0.2)
        outcome = run_job({VICTIM: [Fault(action="hang", at=SOON)]}, profile=slowly, timeouts=Timeouts(stall=6.0))
        assert outcome.failed == {}
        assert outcome.statistics.agents[VICTIM].state != "in service"
        assert outcome.statistics.agents[VICTIM].failures["dead"] == 1
        assert sum(outcome.received[VICTIM].values()) <= 300  # a window, and what was given for answers until then

    def test_one_that_was_only_stopped_for_a_while_goes_on(self) -> None:
        outcome = run_job({VICTIM: [Fault(action="hang", at=SOON, lasting=3.0)]})
        check(outcome, slower=2.0)


class TestDraining:
    def test_sigterm_with_open_requests_stalled_and_new_connections_refused(self) -> None:
        outcome = run_job({VICTIM: [Fault(action="terminate", at=SOON)]})
        check(outcome, slower=2.0)
        assert outcome.statistics.agents[VICTIM].state != "in service"
        assert outcome.statistics.agents[VICTIM].failures["unreachable"] == 1

    def test_a_draining_agent_that_fails_in_milliseconds_does_not_swallow_the_job(self) -> None:
        outcome = run_job({VICTIM: [Fault(action="drain", at=SOON)]})
        check(outcome, slower=2.0)
        assert outcome.statistics.agents[VICTIM].failures["draining"] == 1
        assert sum(outcome.received[VICTIM].values()) <= 1.05 * len(PROMPTS) / AGENTS  # about its share

    def test_what_a_draining_agent_holds_is_finished_there(self) -> None:
        outcome = run_job({VICTIM: [Fault(action="drain", at=SOON, arguments={"seconds": 60.0})]})
        check(outcome, slower=2.0)
        assert len(outcome.sent_again()) <= outcome.statistics.moved + outcome.statistics.hedged

    def test_a_dead_agent_costs_the_start_nothing(self) -> None:
        outcome = run_job({VICTIM: [Fault(action="die", at=0.0)]})
        check(outcome, slower=1.7)
        assert outcome.received[VICTIM] == {}

    def test_a_restart_is_noticed_and_the_agent_used_again(self) -> None:
        outcome = run_job({VICTIM: [Fault(action="die", at=0.0, lasting=3.0)]})
        check(outcome, slower=1.6)
        # Probes come at random: with 7 seeds, 5 to 258.
        assert sum(response.agent_index == VICTIM for response in outcome.responses) >= 20


class TestDying:
    def test_what_had_finished_is_kept_and_only_the_rest_moves(self) -> None:
        outcome = run_job({VICTIM: [Fault(action="die", at=SOON)]})
        check(outcome, slower=2.0)
        kept = {PROMPTS[i] for i, response in enumerate(outcome.responses) if response.agent_index == VICTIM}
        moved = set(outcome.received[VICTIM]) - kept
        assert 220 <= len(kept) <= 280  # with each of 7 seeds, 269
        assert 130 <= len(moved) <= 190  # 179
        elsewhere = set().union(*(outcome.received[agent] for agent in OTHERS))
        assert not kept & elsewhere
        assert moved <= elsewhere
        assert set(outcome.sent_again()) == moved
        assert set(outcome.sent_again().values()) == {2}

    def test_a_dead_engine(self) -> None:
        outcome = run_job({VICTIM: [Fault(action="fail_engine", at=SOON, lasting=4.0)]})
        check(outcome, slower=1.8)
        assert 1 <= outcome.statistics.agents[VICTIM].failures["dead"] <= 16  # the requests that were open, once

    def test_a_flapping_agent(self) -> None:
        outcome = run_job({VICTIM: [Fault(action="flap", at=SOON, arguments={"up": 1.0, "down": 0.5})]})
        check(outcome, slower=2.0)
        assert max(outcome.sent_again().values()) <= 3

    def test_two_of_three_die_one_after_the_other(self) -> None:
        outcome = run_job({VICTIM: [Fault(action="die", at=SOON)], 2: [Fault(action="die", at=SOON + 1)]})
        assert outcome.failed == {}
        assert outcome.texts == healthy().texts
        assert outcome.seconds < 3.5 * healthy().seconds

    def test_the_whole_fleet_is_down_and_comes_back(self) -> None:
        outcome = run_job({i: [Fault(action="die", at=SOON, lasting=20.0)] for i in range(AGENTS)})
        assert outcome.failed == {}
        assert outcome.texts == healthy().texts
        assert outcome.seconds < 20.0 + 12.0 + 2 * healthy().seconds

    def test_the_whole_fleet_is_down_and_stays_down(self) -> None:
        faults = {i: [Fault(action="die", at=SOON)] for i in range(AGENTS)}
        outcome = run_job(faults, timeouts=Timeouts(patience=15.0))
        assert set(outcome.failed.values()) == {"no_agents"}
        assert 570 <= len(outcome.failed) <= 630  # what was not answered by then: with each of 7 seeds, 605
        assert outcome.seconds < SOON + 15.0 + 3.0
        done = [text for i, text in enumerate(outcome.texts) if i not in outcome.failed]
        assert done == [text for i, text in enumerate(healthy().texts) if i not in outcome.failed]


class TestBroken:
    def test_a_sleeping_agent_aborts_with_partial_texts_and_then_hangs(self) -> None:
        outcome = run_job({VICTIM: [Fault(action="sleep", at=SOON)]})
        check(outcome, slower=2.0)
        assert outcome.statistics.agents[VICTIM].failures["broken"] == len(outcome.sent_again())  # each aborted prompt

    def test_a_paused_agent_that_goes_on_later(self) -> None:
        outcome = run_job({VICTIM: [Fault(action="pause", at=SOON, lasting=4.0)]})
        check(outcome, slower=2.0)

    def test_an_error_event_and_done_after_some_choices(self) -> None:
        outcome = run_job({VICTIM: [Fault(action="break_streams", at=SOON, arguments={"after": 3}, lasting=3.0)]})
        check(outcome, slower=2.0)
        kept = sum(response.agent_index == VICTIM for response in outcome.responses)
        assert 350 <= kept <= 500  # with each of 7 seeds, 454

    def test_an_agent_that_always_breaks_its_streams_keeps_nobody_waiting(self) -> None:
        outcome = run_job({VICTIM: [Fault(action="break_streams", at=0.0, arguments={"after": 3})]})
        check(outcome, slower=2.0)

    def test_nothing_but_500s(self) -> None:
        outcome = run_job({VICTIM: [Fault(action="fail", at=SOON, arguments={"status": 500})]})
        check(outcome, slower=2.0)
        assert 1 <= outcome.statistics.agents[VICTIM].failures["broken"] <= 3  # after three it is out

    def test_a_500_now_and_then(self) -> None:
        outcome = run_job({VICTIM: [Fault(action="fail", at=0.0, arguments={"status": 500, "rate": 0.3})]})
        check(outcome, slower=1.8)

    def test_garbage(self) -> None:
        outcome = run_job({VICTIM: [Fault(action="garble", at=SOON, arguments={"kind": "html"})]})
        check(outcome, slower=2.0)

    def test_a_whole_fleet_of_500s_is_not_hammered(self) -> None:
        faults = {i: [Fault(action="fail", at=SOON, arguments={"status": 500})] for i in range(AGENTS)}
        outcome = run_job(faults, timeouts=Timeouts(patience=20.0))
        failed = len(outcome.failed)
        assert 40 <= failed <= 250  # what was sent and has used up its attempts by then: with each of 7 seeds, 50
        assert set(outcome.failed.values()) <= {"exhausted", "no_agents"}
        assert max(outcome.sent_again().values()) <= 8  # its attempts, and the halves of what failed together
        assert outcome.statistics.requests < 4 * failed


class TestBusy:
    def test_a_list_longer_than_the_servers_queue_is_split(self) -> None:
        profile = replace(PROFILE, max_queued=80)
        outcome = run_job(profile=profile)
        check(outcome, slower=1.5)
        assert {agent.state for agent in outcome.statistics.agents} == {"in service"}
        assert all(agent.window <= 80 for agent in outcome.statistics.agents)

    def test_one_agent_with_a_short_queue(self) -> None:
        short = replace(PROFILE, max_queued=68)
        outcome = run_job(profile=[short if agent == VICTIM else PROFILE for agent in range(AGENTS)])
        check(outcome, slower=1.4)
        # A third of all are 467; with 7 seeds, 388 to 417.
        assert sum(response.agent_index == VICTIM for response in outcome.responses) >= 380

    def test_a_503_for_everything_takes_no_prompt_down(self) -> None:
        outcome = run_job({VICTIM: [Fault(action="fail", at=SOON, arguments={"status": 503}, lasting=5.0)]})
        check(outcome, slower=1.8)
        assert 1 <= outcome.statistics.agents[VICTIM].failures["overloaded"] <= 4  # one at each end of a pause

    @pytest.mark.parametrize("status", [429, 503])
    def test_a_fleet_that_is_busy_for_a_while_is_waited_for(self, status: int) -> None:
        faults = {i: [Fault(action="fail", at=SOON, arguments={"status": status}, lasting=30.0)] for i in range(AGENTS)}
        outcome = run_job(faults)
        assert outcome.failed == {}
        assert outcome.seconds < 30 + 20 + 2 * healthy().seconds

    def test_slow_is_not_dead(self) -> None:
        outcome = run_job({i: [Fault(action="slow", at=SOON, arguments={"factor": 30.0})] for i in range(AGENTS)})
        assert outcome.failed == {}
        assert outcome.statistics.moved == 0

    def test_an_agent_five_times_as_slow_does_not_hold_up_the_end(self) -> None:
        known = replace(PROFILE, max_queued=68)  # its 503 tells what it can hold
        outcome = run_job({VICTIM: [Fault(action="slow", at=0.0, arguments={"factor": 5.0})]}, profile=known)
        check(outcome, slower=2.0)


class TestAtFault:
    def test_a_bad_prompt(self) -> None:
        outcome = run_job(
            {i: [Fault(action="reject", at=0.0, arguments={"pattern": r"\b321\b"})] for i in range(AGENTS)}
        )
        check(outcome, slower=1.3, failed={321: "rejected"})
        # One other agent is asked, for the first has not answered anything yet.
        assert sum(PROMPTS[321] in received for received in outcome.received) <= 2

    def test_a_poison_prompt_is_quarantined_and_the_job_goes_on(self) -> None:
        outcome = run_job({i: [Fault(action="die", on_prompt=r"\b321\b")] for i in range(6)}, agents=6)
        assert outcome.failed == {321: "poison"}
        assert outcome.texts[:321] == healthy().texts[:321]
        assert outcome.texts[322:] == healthy().texts[322:]
        assert sum(received[PROMPTS[321]] for received in outcome.received) == 4
        assert sum(agent.failures.get("dead", 0) > 0 for agent in outcome.statistics.agents) == 4
        assert outcome.statistics.quarantined >= 1
        assert outcome.seconds < 2.5 * healthy().seconds

    def test_an_agent_that_dies_twice_poisons_no_innocent_prompt(self) -> None:
        faults = {
            VICTIM: [Fault(action="die", at=SOON, lasting=1.0), Fault(action="die", at=SOON + 3, lasting=1.0)],
            2: [Fault(action="die", at=SOON + 1, lasting=1.0), Fault(action="die", at=SOON + 4, lasting=1.0)],
        }
        outcome = run_job(faults)
        assert outcome.failed == {}
        assert outcome.texts == healthy().texts


class TestInTheWrongPlace:
    def test_an_agent_that_serves_another_model(self) -> None:
        other = replace(PROFILE, model="another-model")
        outcome = run_job(profile=[other if agent == VICTIM else PROFILE for agent in range(AGENTS)])
        check(outcome, slower=1.7)
        assert len(outcome.received[VICTIM]) <= len(PROMPTS) / AGENTS

    def test_an_agent_that_changes_its_model_in_the_middle(self) -> None:
        outcome = run_job({VICTIM: [Fault(action="serve_model", at=SOON, arguments={"name": "another-model"})]})
        check(outcome, slower=1.8)
        assert outcome.statistics.agents[VICTIM].failures["wrong_model"] == 1

    def test_a_fleet_that_has_all_changed_its_model_is_one_clear_error(self) -> None:
        faults = {i: [Fault(action="serve_model", at=SOON, arguments={"name": "another-model"})] for i in range(AGENTS)}
        outcome = run_job(faults)
        assert set(outcome.failed.values()) == {"no_agents"}
        assert any("does not exist" in (response.error or "") for response in outcome.responses)


class TestStrict:
    def test_prompt_i_stays_with_agent_i_modulo_size(self) -> None:
        outcome = run_job(balance="strict")
        check(outcome, slower=1.5, idle_allowed=60.0)
        assert [response.agent_index for response in outcome.responses] == [i % AGENTS for i in range(len(PROMPTS))]

    def test_unless_that_agent_fails(self) -> None:
        outcome = run_job({VICTIM: [Fault(action="die", at=SOON)]}, balance="strict")
        assert outcome.failed == {}
        assert outcome.texts == healthy().texts
        for i, response in enumerate(outcome.responses):
            if i % AGENTS != VICTIM:
                assert response.agent_index == i % AGENTS

    def test_a_slow_agent_keeps_its_own(self) -> None:
        outcome = run_job({VICTIM: [Fault(action="slow", at=0.0, arguments={"factor": 3.0})]}, balance="strict")
        assert [response.agent_index for response in outcome.responses] == [i % AGENTS for i in range(len(PROMPTS))]


def test_all_of_it_at_once() -> None:
    """Eight agents, seven of them with something wrong, a bad and a poison prompt: everything has its one result."""
    reject = Fault(action="reject", at=0.0, arguments={"pattern": r"\b77\b"})
    faults = {
        0: [reject, Fault(action="slow", at=0.0, arguments={"factor": 5.0})],
        1: [reject, Fault(action="die", at=0.0)],
        2: [reject, Fault(action="die", at=SOON)],
        3: [reject, Fault(action="hang", at=SOON)],
        4: [reject, Fault(action="drain", at=SOON)],
        5: [Fault(action="flap", at=SOON, arguments={"up": 2.0, "down": 0.5})],
        6: [reject, Fault(action="sleep", at=SOON + 1)],
        7: [reject],
    }
    outcome = run_job(faults, agents=8)
    allowed = {77} if 77 in outcome.failed else set()
    assert set(outcome.failed) == allowed
    assert [text for i, text in enumerate(outcome.texts) if i != 77] == [
        t for i, t in enumerate(healthy().texts) if i != 77
    ]
