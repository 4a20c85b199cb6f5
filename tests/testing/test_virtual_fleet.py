"""The virtual fleet: its network, its client, other clients' work, and that its engines are those behind HTTP."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import aiohttp
import msgspec
import pytest

from aurora_pool.errors import PoolError
from aurora_pool.policy.faults import Finding
from aurora_pool.policy.outcome import Outcome
from aurora_pool.testing import AgentProfile, SimulatedFleet
from aurora_pool.testing.engine import Emission, Sequence
from aurora_pool.testing.kv_cache import block_keys
from aurora_pool.testing.profile import CPU_SERVER
from aurora_pool.testing.virtual import Request, VirtualFleet, VirtualPrompt
from aurora_pool.testing.virtual_load import ForeignLoad
from aurora_pool.testing.virtual_network import Pauses
from aurora_pool.testing.virtual_pool import VirtualPool, VirtualReport

PLAIN = AgentProfile(step_base=0.01, step_per_sequence=0.0, prefill_rate=1000.0)


class Recorder:
    """A client that notes when it is told what."""

    def __init__(self, fleet: VirtualFleet) -> None:
        self.fleet = fleet
        fleet.client = self
        self.firsts: dict[int, float] = {}
        self.ends: dict[int, float] = {}
        self.failures: list[tuple[float, str]] = []

    def emitted(self, agent: int, emissions: list[Emission], now: float) -> None:
        for emission in emissions:
            _, slot = emission.sequence.key
            self.firsts.setdefault(slot, round(now, 9))
            if emission.finished:
                self.ends[slot] = round(now, 9)

    def aborted(self, request: Request, slots: list[int], now: float) -> None:
        self.failures.append((round(now, 9), "aborted"))

    def failed(self, request: Request, error: PoolError, now: float) -> None:
        self.failures.append((round(now, 9), type(error).__name__))

    def send(self, *prompts: VirtualPrompt) -> Request:
        request = Request(0, prompts, None)
        self.fleet.send(request)
        return request

    def run(self, until: float = 1000.0) -> None:
        while self.fleet.next_at <= until and self.fleet.step():
            pass


class TestNetwork:
    def test_half_a_round_trip_each_way(self) -> None:
        client = Recorder(VirtualFleet([1.0], profile=PLAIN, round_trip=0.1))
        client.send(VirtualPrompt(3, 20))
        client.run()
        # 0.05 there, 0.03 for the prompt, 0.05 back; two tokens more.
        assert (client.firsts, client.ends) == ({0: 0.13}, {0: 0.15})

    def test_errors_travel_too(self) -> None:
        client = Recorder(VirtualFleet([1.0], profile=PLAIN, round_trip=0.1))
        client.send(VirtualPrompt(1000))
        client.fleet.at(1.0, client.fleet.agents[0].die)
        client.run(2.0)
        client.send(VirtualPrompt(1))
        client.run()
        assert client.failures[0] == (1.05, "ConnectionLost")
        assert client.failures[1][1] == "ConnectFailed"

    def test_a_closed_request_is_heard_of_no_more_and_stops_when_its_agent_hears_of_that(self) -> None:
        client = Recorder(VirtualFleet([1.0], profile=PLAIN, round_trip=0.1))
        request = client.send(VirtualPrompt(1000, 1))
        client.fleet.at(0.5, partial(client.fleet.close, request))
        client.run()
        assert client.firsts == {0: 0.111}
        assert client.ends == {}
        # At work from 0.05 to 0.55, in steps of 10 ms, the first of 11.
        assert client.fleet.tokens == 49


class TestPauses:
    def test_nothing_is_read_and_nothing_done_during_a_pause(self) -> None:
        pauses = Pauses(seed=3, every=0.5, shortest=0.3, longest=0.3)
        client = Recorder(VirtualFleet([1.0], profile=PLAIN, round_trip=0.0, pauses=pauses))
        again = Pauses(seed=3, every=0.5, shortest=0.3, longest=0.3)
        busy = {round(until, 9) for tick in range(3000) if (until := again.over(tick / 1000)) > tick / 1000}
        client.send(*(VirtualPrompt(length, 1) for length in range(1, 200)))
        client.run()
        late = [end for end in client.ends.values() if end in busy]
        assert len(late) > 20
        assert len(client.ends) == 199

    def test_a_job_is_done_all_the_same(self) -> None:
        def once() -> VirtualReport:
            fleet = VirtualFleet([1.0] * 2, round_trip=0.02, pauses=Pauses(seed=5))
            report = VirtualPool(fleet, seed=1).run([VirtualPrompt(50, 50)] * 2000)
            report.policy_seconds = 0.0
            return report

        report = once()
        assert report.answered == 2000
        assert report.lost == report.duplicated == 0
        assert report == once()


class TestForeignLoad:
    def test_it_takes_slots_and_time_and_is_not_the_clients(self) -> None:
        def seconds(load: bool) -> tuple[float, int]:
            client = Recorder(VirtualFleet([1.0], profile=PLAIN, slots=4, round_trip=0.0))
            if load:
                ForeignLoad(client.fleet, 0, seed=1, sequences=8, prompt_tokens=100, median=20, lasting=1e9)
            client.fleet.at(1.0, lambda: client.fleet.send(Request(0, [VirtualPrompt(10, 10)] * 8, None)))
            while len(client.ends) < 8:
                assert client.fleet.step()
            return max(client.ends.values()), client.fleet.tokens

        alone, shared = seconds(load=False), seconds(load=True)
        assert shared[0] - 1.0 > 2 * (alone[0] - 1.0)
        assert shared[1] == alone[1] == 80

    def test_it_comes_and_goes(self) -> None:
        fleet = VirtualFleet([1.0])
        ForeignLoad(fleet, 0, seed=1, sequences=20, prompt_tokens=10, median=5, lasting=2.0, away=2.0)
        engine = fleet.agents[0].engine
        running = set()
        while fleet.next_at < 60 and fleet.step():
            running.add(engine.running)
        assert {0, 20} <= running

    def test_what_it_had_is_gone_when_its_server_dies(self) -> None:
        fleet = VirtualFleet([1.0])
        client = Recorder(fleet)
        ForeignLoad(fleet, 0, seed=1, start=0.0, lasting=5.0, away=0.1)
        fleet.at(1.0, fleet.agents[0].die)
        fleet.at(2.0, fleet.agents[0].revive)
        client.run(60.0)
        assert fleet.agents[0].engine.running > 0
        assert fleet.tokens == 0


class TestProbes:
    def ask(self, fleet: VirtualFleet, at: float = 1.0) -> tuple[float, Outcome]:
        outcomes: list[tuple[float, Outcome]] = []
        fleet.at(at, lambda: fleet.probe(0, lambda outcome: outcomes.append((round(fleet.now - at, 9), outcome))))
        while not outcomes:
            assert fleet.step()
        return outcomes[0]

    def test_an_idle_server_answers_after_a_step(self) -> None:
        assert self.ask(VirtualFleet([1.0], profile=PLAIN, round_trip=0.1)) == (0.111, Outcome.ANSWERED)

    def test_behind_another_clients_queue_it_waits_as_any_prompt_does(self) -> None:
        fleet = VirtualFleet([1.0], round_trip=0.1)
        ForeignLoad(fleet, 0, seed=1, sequences=4000, median=1000, lasting=1e9)
        assert self.ask(fleet) == (5.0, Outcome.OVERLOADED)
        load_checks: list[Finding] = []
        for seen_before in (None, 0):
            fleet.check_load(0, seen_before, lambda finding, _: load_checks.append(finding))
        while len(load_checks) < 2:
            assert fleet.step()
        assert load_checks == [Finding.IDLE, Finding.PROGRESSING]

    def test_a_dead_server_refuses_and_a_hung_one_is_given_up(self) -> None:
        fleet = VirtualFleet([1.0], round_trip=0.1)
        fleet.at(0.5, fleet.agents[0].die)
        assert self.ask(fleet) == (0.1, Outcome.UNREACHABLE)
        fleet = VirtualFleet([1.0], round_trip=0.1)
        fleet.at(0.5, fleet.agents[0].hang)
        assert self.ask(fleet) == (5.0, Outcome.DEAD)


def test_the_bound_counts_prefill_steps_and_decoding() -> None:
    fleet = VirtualFleet([1.0, 0.5], profile=PLAIN, slots=10, round_trip=0.5)
    prompts = [VirtualPrompt(5, 100)] * 60
    # 300 tokens in 10 slots are 30 steps; 6,000 tokens of prompts.
    assert fleet.bound(prompts) == pytest.approx((30 * 0.01 + 6000 / 1000) / 1.5 + 0.5)


def test_the_cpu_server_takes_as_long_as_the_one_that_was_measured() -> None:
    def seconds(prompts: int, prompt_tokens: int, length: int) -> float:
        engine = CPU_SERVER.new_engine()
        for _ in range(prompts):
            engine.submit(0.0, Sequence(length, prompt_tokens=prompt_tokens))
        ends = [0.0]
        while (due := engine.next_event_time()) is not None:
            ends += [emission.at for emission in engine.advance(due)]
        return ends[-1]

    assert seconds(28, 60, 2) == pytest.approx(8.4, rel=0.05)
    assert seconds(122, 8, 2) == pytest.approx(5.6, rel=0.05)
    assert seconds(52, 8, 16) == pytest.approx(6.8, rel=0.05)


@pytest.mark.simulated_clock
async def test_an_answer_takes_as_long_over_http_as_in_virtual_time() -> None:
    profile = AgentProfile(slots=16, max_num_batched_tokens=200, kv_blocks=128, max_model_len=1024)
    prompts = [[7] * (20 * (number % 3)) + [number] * (1 + 13 * number % 90) for number in range(60)]
    ends: dict[int, float] = {}
    lengths: dict[int, int] = dict.fromkeys(range(60), 0)
    loop = asyncio.get_running_loop()

    def read(event: dict[str, Any]) -> None:
        for choice in event["choices"]:
            lengths[choice["index"]] += len(choice["token_ids"])
            if choice["finish_reason"]:
                ends[choice["index"]] = round(loop.time() - began, 6)

    async with SimulatedFleet(1, profile=profile) as fleet, aiohttp.ClientSession() as session:
        body = {"prompt": prompts, "max_tokens": 300, "stream": True, "stream_interval": 10**6}
        began = loop.time()
        url = fleet.endpoints[0].base_url + "/v1/completions"
        async with session.post(url, json={**body, "return_token_ids": True}) as reply:
            async for line in reply.content:
                if line.startswith(b"data: {"):
                    read(msgspec.json.decode(line[6:]))
        engine = fleet.agents[0].server.engine_loop.engine
        assert (engine.preemptions, engine.prefix_hits) == (88, 928)

    client = Recorder(VirtualFleet([1.0], profile=profile, round_trip=0.0))
    client.send(*(VirtualPrompt(lengths[slot], len(ids), keys=block_keys(ids)) for slot, ids in enumerate(prompts)))
    client.run()
    assert {slot: round(end, 6) for slot, end in client.ends.items()} == ends
    twin = client.fleet.agents[0].engine
    assert (twin.preemptions, twin.prefix_hits) == (engine.preemptions, engine.prefix_hits)
