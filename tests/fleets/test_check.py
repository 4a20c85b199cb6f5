"""Preflight: what agents tell, what is found in it, and how it is said."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from aurora_pool import AgentEndpoint, VLLMPool, format_hostfile
from aurora_pool.cli.fleet import wait_for_agents
from aurora_pool.cli.min_agents import MinAgents, parse_min_agents
from aurora_pool.errors import NoAgentsError
from aurora_pool.fleets.check import AgentCheck, check_agents
from aurora_pool.fleets.findings import find
from aurora_pool.testing import AgentProfile, SimulatedFleet
from aurora_pool.testing.clock import run_simulated
from tests.cli.conftest import Call, call, hostfile  # noqa: F401 - fixtures

GOOD = AgentCheck(
    agent="gpu01:8000",
    models=("m",),
    model="m",
    version="0.32.0",
    max_model_len=8192,
    template="abcd",
    prefix_caching=True,
    fingerprint="vllm-0.32.0-1",
    clock=0.0,
    latency=0.02,
    prompts_per_second=500.0,
)


def others(count: int = 4, **different: Any) -> list[AgentCheck]:
    """Give ``count`` good agents, and one that differs."""
    agents = [dataclasses.replace(GOOD, agent=f"gpu{number:02}:8000") for number in range(count)]
    return [*agents, dataclasses.replace(GOOD, agent="odd:8000", **different)]


@pytest.mark.parametrize(
    ("different", "words", "serious"),
    [
        ({"error": "can't connect (Connection refused)"}, "odd:8000: can't connect (Connection refused)", True),
        ({"model": "other"}, "serve different models", False),
        ({"template": "ef01"}, "have different chat templates", True),
        ({"max_model_len": 4096}, "have different context lengths", False),
        ({"version": "0.15.0"}, "run different versions", False),
        ({"fingerprint": "vllm-0.32.0-2"}, "configured differently", False),
        ({"prefix_caching": False}, "odd:8000 have no prefix caching", False),
        ({"template": None}, "odd:8000 show no chat template", False),
        ({"clock": 40.0}, "by up to +40 s", True),
        ({"clock": -7.0}, "by up to -7 s", False),
        ({"latency": 3.0}, "one token takes 3.0 s", False),
        ({"prompts_per_second": 100.0}, "odd:8000: 100.0 prompts/s and more, the median is 500.0", False),
        ({"burst_error": "503: busy", "prompts_per_second": None}, "several prompts at once fail: 503: busy", True),
    ],
)
def test_what_differs_is_said_with_its_agent(different: dict[str, Any], words: str, serious: bool) -> None:
    (finding,) = find(others(**different))
    assert words in finding.text
    assert "odd:8000" in finding.text
    assert finding.serious is serious


@pytest.mark.parametrize(
    ("different", "advice"),
    [
        ({"template": "ef01"}, "the same --chat-template"),
        ({"max_model_len": 4096}, "start all with the same --max-model-len"),
        ({"version": "0.15.0"}, "install the same version"),
        ({"fingerprint": "vllm-0.32.0-2"}, "start all with the same arguments"),
        ({"latency": 3.0}, "wait until its other jobs have ended"),
        ({"prompts_per_second": 100.0}, "end what else uses its GPU"),
        ({"burst_error": "503: busy", "prompts_per_second": None}, "a smaller --max-num-seqs"),
    ],
)
def test_each_finding_says_what_to_do(different: dict[str, Any], advice: str) -> None:
    (finding,) = find(others(**different))
    assert advice in finding.text


def test_agents_are_compared_with_those_of_their_own_model() -> None:
    small: dict[str, Any] = {
        "model": "small",
        "template": "ef01",
        "max_model_len": 4096,
        "fingerprint": "b",
        "prompts_per_second": 9000.0,
    }
    two = [*others(), *(dataclasses.replace(each, **small) for each in others())]
    (finding,) = find(two)
    assert ("m (" in finding.text, "small (" in finding.text, finding.serious) == (True, True, False)
    _, odd = find([*two, dataclasses.replace(GOOD, agent="short:8000", max_model_len=2048)])
    assert odd.text.startswith(
        "agents have different context lengths: 8192 (gpu00:8000, gpu01:8000, gpu02:8000 and 2 more"
    )


async def test_under_a_model_agents_of_others_are_not_asked() -> None:
    instant = AgentProfile(instant=True)
    async with (
        SimulatedFleet(1, profile=instant) as small,
        SimulatedFleet(1, profile=AgentProfile(instant=True, model="big")) as big,
    ):
        endpoints = [*small.endpoints, *big.endpoints]
        checks = await check_agents(endpoints, model="big")
        (finding,) = find(checks)
        (none,) = find(await check_agents(endpoints, model="huge"))
    assert [(each.asked, each.usable) for each in checks] == [(False, False), (True, True)]
    assert not [request for request in small.requests if "completions" in request.path]
    assert finding.text == f"simulated-model ({small.endpoints[0]}): not asked, as they serve other models"
    assert not finding.serious
    assert (none.serious, "name one of these with --model" in none.text) == (True, True)


def test_nothing_is_found_where_nothing_differs() -> None:
    assert find(others()) == []


def test_many_agents_with_one_fault_are_one_finding() -> None:
    checks = [dataclasses.replace(GOOD, agent=f"gpu{number:03}", error="401: no key") for number in range(500)]
    (finding,) = find(checks)
    assert finding.text.startswith("gpu000, gpu001, gpu002 and 497 more: 401: no key")


async def test_agents_tell_what_a_job_needs_to_know() -> None:
    async with SimulatedFleet(2, profile=AgentProfile(instant=True)) as fleet:
        gone = AgentEndpoint("127.0.0.1", 9)
        first, second, third = await check_agents([*fleet.endpoints, gone])
    assert (first.usable, first.error, first.model, first.max_model_len) == (True, "", "simulated-model", 8192)
    assert first.version == "0.32.0"
    assert first.template == second.template is not None
    assert first.fingerprint == second.fingerprint is not None
    assert first.latency is not None
    assert first.clock is not None
    assert abs(first.clock) < 2
    assert first.prompts_per_second is not None
    assert (third.usable, "can't connect" in third.error) == (False, True)


async def test_a_model_that_is_not_served_is_told() -> None:
    async with SimulatedFleet(1, profile=AgentProfile(instant=True)) as fleet:
        (found,) = await check_agents(fleet.endpoints, model="other", burst=0)
    assert found.error == "does not serve 'other' but 'simulated-model'"


def test_the_command_says_it_in_words_and_in_its_code(call: Call, hostfile: Path, tmp_path: Path) -> None:  # noqa: F811
    ended = call("check", "--hostfile", hostfile)
    assert (ended.code, "4 of 4 agents answer" in ended.out) == (0, True)
    rows = [json.loads(line) for line in call("check", "--hostfile", hostfile, "--json").out.splitlines()]
    assert [row["model"] for row in rows] == ["simulated-model"] * 4
    some = tmp_path / "some.hostfile"
    some.write_text(hostfile.read_text() + format_hostfile([AgentEndpoint("127.0.0.1", 9)]))
    ended = call("check", "--hostfile", some)
    assert (ended.code, "problem: 127.0.0.1:9: can't connect" in ended.out) == (1, True)
    some.write_text("127.0.0.1 9\n")
    assert call("check", "--hostfile", some).code == 5


def test_wait_writes_those_that_answer(call: Call, hostfile: Path, tmp_path: Path) -> None:  # noqa: F811
    some, ready = tmp_path / "some.hostfile", tmp_path / "ready.hostfile"
    some.write_text("127.0.0.1 9\n" + hostfile.read_text())
    ended = call("wait", "--hostfile", some, "--min-agents", "80%", "-o", ready)
    assert (ended.code, ready.read_text()) == (0, hostfile.read_text())
    ended = call("wait", "--hostfile", some, "--min-agents", "5", "--timeout", "0.2")
    assert (ended.code, "4 agents answer, and 5 are needed" in ended.err) == (5, True)
    assert call("wait", "--hostfile", tmp_path / "none", "--timeout", "0.2").code == 4
    assert call("wait", "--hostfile", hostfile, "-o", tmp_path).code == 6
    for wrong in ("0", "120%", "half", "1.5"):
        assert call("wait", "--hostfile", some, "--min-agents", wrong).code == 2


def test_an_agent_that_is_asked_near_the_end_has_time_to_answer(
    call: Call,  # noqa: F811
    hostfile: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[float] = []

    async def check_agents(*_: object, within: float, **__: object) -> list[AgentCheck]:
        given.append(within)
        return []

    monkeypatch.setattr("aurora_pool.fleets.check.check_agents", check_agents)
    assert call("wait", "--hostfile", hostfile, "--timeout", "0.1").code == 5
    assert given == [5.0]


@pytest.fixture
def spilling(hostfile: Path, tmp_path: Path) -> Path:  # noqa: F811
    """Make the last agent of the fleet a hosted one."""
    path = tmp_path / "spilling.hostfile"
    path.write_text(hostfile.read_text().rstrip("\n") + "\thosted\trpm=60\n")
    return path


def test_hosted_agents_are_not_checked(call: Call, spilling: Path) -> None:  # noqa: F811 - a fixture
    ended = call("check", "--hostfile", spilling)
    assert (ended.code, "3 of 3 agents answer" in ended.out) == (0, True)
    assert "note: 1 hosted agent not asked" in ended.out
    ended = call("check", "--hostfile", spilling, "--json")
    assert (len(ended.out.splitlines()), "1 hosted agent not asked" in ended.err) == (3, True)
    spilling.write_text("api.example.com hosted\n")
    ended = call("check", "--hostfile", spilling)
    assert (ended.code, "1 hosted agent not asked" in ended.out) == (5, True)


def test_hosted_agents_do_not_count_for_wait_and_stay_in_its_hostfile(
    call: Call,  # noqa: F811 - a fixture
    spilling: Path,
    tmp_path: Path,
) -> None:
    ended = call("wait", "--hostfile", spilling, "--min-agents", "4", "--timeout", "0.2")
    assert (ended.code, "3 agents answer, and 4 are needed; 1 hosted agent not asked" in ended.err) == (5, True)
    ready = tmp_path / "ready.hostfile"
    ended = call("wait", "--hostfile", spilling, "--min-agents", "100%", "-o", ready)
    assert (ended.code, ready.read_text()) == (0, spilling.read_text())
    assert "3 agents answer; 1 hosted agent not asked" in ended.err


def test_top_leaves_hosted_agents_out(call: Call, spilling: Path) -> None:  # noqa: F811 - a fixture
    said = " ".join(call("top", "--hostfile", spilling, "--every", "0.2").out.split())
    assert "3 agents: " in said
    assert "1 hosted agent not asked" in said


def test_top_keeps_the_agents_of_a_folder_that_is_empty_for_a_moment(
    call: Call,  # noqa: F811 - a fixture
    tmp_path: Path,
) -> None:
    folder = tmp_path / "agents.d"
    folder.mkdir()

    class Withdrawn(BaseHTTPRequestHandler):
        """Leaves the folder as soon as it is looked at."""

        def do_GET(self) -> None:
            (folder / "agent-000").unlink(missing_ok=True)
            self.send_error(404)

    with ThreadingHTTPServer(("127.0.0.1", 0), Withdrawn) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (folder / "agent-000").write_text(f"127.0.0.1 {server.server_port}\n")
        ended = call("top", "--hostfile", folder, "--every", "0.2")
        server.shutdown()
    said = " ".join(ended.out.split())
    assert (ended.code, "1 agent: " in said, "the agents of before, as" in said) == (0, True, True)
    assert call("top", "--hostfile", folder, "--every", "0.2").code == 4


def test_a_job_that_waits_for_agents_counts_those_that_come() -> None:
    async def run() -> None:
        fleet = SimulatedFleet(4, profile=AgentProfile(instant=True))
        async with fleet, VLLMPool(fleet.endpoints[:1]) as pool:
            waiting = asyncio.create_task(wait_for_agents(pool, MinAgents(3), within=60))
            await asyncio.sleep(5)
            assert not waiting.done()
            pool.update_endpoints(fleet.endpoints[1:])
            await waiting

    run_simulated(run())


def test_a_share_is_one_of_the_whole_fleet_whose_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "fleet.hostfile").touch()
    for text, expected in (("12", 12), ("80%", 8), ("7%", 1), ("100%", 10), ("0.1%", 1)):
        assert parse_min_agents(text, tmp_path / "fleet.hostfile").of(10) == expected
        assert parse_min_agents(text, tmp_path).of(10) == expected, "a folder of no fleet"
    assert parse_min_agents("7%").of(100) == 7


def test_a_job_that_waits_for_agents_asks_no_hosted_one() -> None:
    async def run() -> None:
        tags = [{}, {"hosted": "true"}]
        async with SimulatedFleet(2, tags=tags, profile=AgentProfile(instant=True)) as fleet:
            async with VLLMPool(fleet.endpoints) as pool:
                await wait_for_agents(pool, MinAgents(1), within=5)
                with pytest.raises(NoAgentsError, match="1 of 1 agent answers, and 2 are needed; 1 hosted agent not"):
                    await wait_for_agents(pool, MinAgents(2), within=5)
            assert fleet.agents[1].requests == []

    run_simulated(run())
