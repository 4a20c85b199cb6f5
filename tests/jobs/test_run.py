"""Jobs from end to end, on simulated servers over real HTTP and a simulated clock."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aurora_pool import Prompt, Sampling, Timeouts, VLLMPool
from aurora_pool.errors import BadRecord, ConfigError, JobError
from aurora_pool.jobs import Job, JobOptions, Progress, run_job
from aurora_pool.messages import AnyPrompt
from aurora_pool.statistics import PoolStatistics
from aurora_pool.testing import AgentProfile, SimulatedFleet
from tests.jobs.shared import WriteLines, read_records, texts_of

pytestmark = pytest.mark.simulated_clock

PROMPTS = [{"id": f"p{number}", "prompt": f"Say {number}."} for number in range(200)]


def fleet_of(count: int, **profile: Any) -> SimulatedFleet:
    return SimulatedFleet(count, profile=AgentProfile(**({"slots": 8, "median_length": 40.0} | profile)))


@asynccontextmanager
async def pool_of(fleet: SimulatedFleet, **options: Any) -> AsyncIterator[VLLMPool]:
    async with VLLMPool(fleet.endpoints, **({"prompt_format": "raw"} | options)) as pool:
        yield pool


def received(fleet: SimulatedFleet) -> list[str]:
    """Every prompt that the servers got, in a list so that one sent twice counts twice."""
    lists = [request.body["prompt"] for request in fleet.requests if request.path == "/v1/completions"]
    return [prompt for prompts in lists for prompt in ([prompts] if isinstance(prompts, str) else prompts)]


async def test_every_request_gets_one_record(tmp_path: Path, write_lines: WriteLines) -> None:
    output = tmp_path / "out.jsonl"
    async with fleet_of(3) as fleet, pool_of(fleet) as pool:
        summary = await run_job(pool, write_lines("in.jsonl", PROMPTS), output)
        assert sorted(received(fleet)) == sorted(prompt["prompt"] for prompt in PROMPTS)
    assert texts_of(output).keys() == {prompt["id"] for prompt in PROMPTS}
    assert (summary.ending, summary.total, summary.answered, summary.remaining) == ("finished", 200, 200, 0)
    assert sum(share.prompts for share in summary.agents) == 200
    assert sum(share.tokens for share in summary.agents) == summary.tokens > 0


async def test_records_are_written_as_requests_finish(tmp_path: Path, write_lines: WriteLines) -> None:
    output = tmp_path / "out.jsonl"
    counts = []

    def look(progress: Progress, _: PoolStatistics) -> None:
        counts.append((progress.done, len(read_records(output))))

    async with fleet_of(2) as fleet, pool_of(fleet) as pool:
        options = JobOptions(interval=0.5)
        await run_job(pool, write_lines("in.jsonl", PROMPTS), output, options, on_progress=look)
    assert all(done == written for done, written in counts)
    assert len({done for done, _ in counts}) > 3


async def test_chats_and_completions_go_where_they_belong(tmp_path: Path, write_lines: WriteLines) -> None:
    lines = [{"prompt": "a", "max_tokens": 3}, {"messages": [{"role": "user", "content": "b"}], "temperature": 0.5}]
    output = tmp_path / "out.jsonl"
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        await run_job(pool, write_lines("in.jsonl", lines), output)
        bodies = [request.body for request in fleet.requests if request.path == "/v1/completions"]
    plain, chat = sorted(bodies, key=lambda body: body.get("temperature", 0.0))
    assert (plain["prompt"], plain["max_tokens"]) == (["a"], 3)
    # A pool puts chats into the model's template, so that they travel in lists; the record is a chat's all the same.
    assert ("user\nb" in chat["prompt"][0], chat["temperature"]) == (True, 0.5)
    kinds = {record["custom_id"]: record["response"]["body"]["object"] for record in read_records(output)}
    assert kinds == {"line-1": "text_completion", "line-2": "chat.completion"}


# -- going on ---------------------------------------------------------------------------------------------------------


async def test_a_run_that_was_interrupted_sends_only_what_is_missing(tmp_path: Path, write_lines: WriteLines) -> None:
    source, output = write_lines("in.jsonl", PROMPTS), tmp_path / "out.jsonl"
    whole = tmp_path / "whole.jsonl"
    async with fleet_of(2) as fleet, pool_of(fleet) as pool:
        await run_job(pool, source, whole)
    kept = whole.read_bytes().splitlines(keepends=True)[:80]
    output.write_bytes(b"".join(kept) + b'{"id": "batch_req_torn", "custom')
    finished = {json.loads(line)["custom_id"] for line in kept}
    async with fleet_of(2) as fleet, pool_of(fleet) as pool:
        summary = await run_job(pool, source, output)
        sent = received(fleet)
    assert sorted(sent) == sorted(prompt["prompt"] for prompt in PROMPTS if prompt["id"] not in finished)
    assert len(sent) == 120
    assert output.read_bytes().startswith(b"".join(kept))
    assert texts_of(output) == texts_of(whole)
    assert (summary.resumed.answered, summary.resumed.torn, summary.done, summary.answered) == (80, True, 120, 200)


async def test_a_finished_job_sends_nothing(tmp_path: Path, write_lines: WriteLines) -> None:
    source, output = write_lines("in.jsonl", PROMPTS), tmp_path / "out.jsonl"
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        await run_job(pool, source, output)
        before = output.read_bytes()
        count = len(received(fleet))
        summary = await run_job(pool, source, output)
        assert len(received(fleet)) == count
    assert output.read_bytes() == before
    assert (summary.ending, summary.done, summary.answered) == ("finished", 0, 200)


async def test_a_request_that_changed_is_run_again_and_its_old_answer_kept_aside(
    tmp_path: Path, write_lines: WriteLines
) -> None:
    output = tmp_path / "out.jsonl"
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        await run_job(pool, write_lines("in.jsonl", PROMPTS[:5]), output)
        old = {record["custom_id"]: record for record in read_records(output)}
        changed = [dict(PROMPTS[0]), {"id": "p1", "prompt": "Something else."}, *PROMPTS[2:5]]
        summary = await run_job(pool, write_lines("in.jsonl", changed), output)
    assert (summary.resumed.changed, summary.resumed.examples, summary.done) == (1, ["p1"], 1)
    new = {record["custom_id"]: record for record in read_records(output)}
    assert len(read_records(output)) == len(new) == 5
    assert {name for name in new if new[name] != old[name]} == {"p1"}
    assert read_records(tmp_path / "out.jsonl.superseded") == [old["p1"]]


async def test_another_model_is_another_request(tmp_path: Path, write_lines: WriteLines) -> None:
    source, output = write_lines("in.jsonl", PROMPTS[:5]), tmp_path / "out.jsonl"
    for model in ("one", "two"):
        async with fleet_of(1, model=model) as fleet, pool_of(fleet) as pool:
            summary = await run_job(pool, source, output)
    assert (summary.resumed.changed, summary.done) == (5, 5)
    assert {record["response"]["body"]["model"] for record in read_records(output)} == {"two"}


async def test_failed_requests_are_records_and_are_run_again_only_if_asked(
    tmp_path: Path, write_lines: WriteLines
) -> None:
    source, output = write_lines("in.jsonl", PROMPTS[:20]), tmp_path / "out.jsonl"
    async with fleet_of(2) as fleet, pool_of(fleet) as pool:
        for agent in fleet.agents:
            agent.reject(r"Say 7\.", "no sevens here")
        first = await run_job(pool, source, output)
        again = await run_job(pool, source, output)
        for agent in fleet.agents:
            agent.revive()
        count = len(received(fleet))
        healed = await run_job(pool, source, output, JobOptions(retry_failed=True))
        assert received(fleet)[count:].count("Say 7.") <= 1
    assert (first.answered, first.failed, first.ending) == (19, 1, "finished")
    assert (again.done, again.resumed.failed, again.failed) == (0, 1, 1)
    assert (healed.resumed.retried, healed.done, healed.answered, healed.failed) == (1, 1, 20, 0)
    assert len(texts_of(output)) == 20


async def test_records_of_vllms_run_batch_are_taken_as_they_are(tmp_path: Path, write_lines: WriteLines) -> None:
    body = {"id": "chatcmpl-1", "object": "chat.completion", "choices": []}
    reply = {"status_code": 200, "request_id": "vllm-batch-1", "body": body}
    write_lines("out.jsonl", [{"id": "vllm-1", "custom_id": "p1", "response": reply, "error": None}])
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        summary = await run_job(pool, write_lines("in.jsonl", PROMPTS[:3]), tmp_path / "out.jsonl")
        assert sorted(received(fleet)) == ["Say 0.", "Say 2."]
    assert (summary.resumed.unchecked, summary.answered) == (1, 3)


async def test_strangers_are_left_alone_and_damage_is_taken_out(tmp_path: Path, write_lines: WriteLines) -> None:
    output = tmp_path / "out.jsonl"
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        await run_job(pool, write_lines("in.jsonl", PROMPTS[:4]), output)
        good = output.read_text().splitlines()
        write_lines("out.jsonl", [good[0], good[1], "\0\0\0", good[1], *good[2:]])
        summary = await run_job(pool, write_lines("in.jsonl", PROMPTS[1:4]), output)
    assert (summary.resumed.foreign, summary.resumed.damaged, summary.done) == (1, 2, 0)
    assert output.read_text().splitlines() == good


# -- ending early ----------------------------------------------------------------------------------------------------


def end_after(job: Job, done: int, ending: Any) -> Callable[[Progress, PoolStatistics], None]:
    def look(progress: Progress, _: PoolStatistics) -> None:
        if progress.done >= done:
            job.end(ending, "the test says so")

    return look


@pytest.mark.parametrize("ending", ["drained", "stopped"])
async def test_what_is_finished_when_a_job_ends_early_is_saved(
    tmp_path: Path, write_lines: WriteLines, ending: str
) -> None:
    source = write_lines("in.jsonl", [{"prompt": f"Say {number}."} for number in range(1500)])
    output = tmp_path / "out.jsonl"
    async with fleet_of(2, slots=64) as fleet, pool_of(fleet) as pool:
        with Job(source, output, JobOptions(interval=0.1)) as job:
            summary = await job.run(pool, on_progress=end_after(job, 20, ending))
        received_first = len(set(received(fleet)))
        assert summary.ending == ending
        assert 20 <= summary.done < 1500
        assert summary.remaining == 1500 - summary.done == 1500 - len(read_records(output))
        if ending == "drained":
            assert received_first == summary.done  # nothing that was sent is lost
        else:
            assert received_first > summary.done  # what was under way is given up
        summary = await run_job(pool, source, output)
    assert (summary.ending, len(texts_of(output))) == ("finished", 1500)


async def test_a_job_that_is_cancelled_keeps_what_it_has(tmp_path: Path, write_lines: WriteLines) -> None:
    output = tmp_path / "out.jsonl"
    async with fleet_of(2) as fleet, pool_of(fleet) as pool:
        task = asyncio.create_task(run_job(pool, write_lines("in.jsonl", PROMPTS), output))
        await asyncio.sleep(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert 0 < len(texts_of(output)) < 200
    assert not (tmp_path / "out.jsonl.lock").exists()


async def test_an_allocation_that_ends_is_left_in_time(tmp_path: Path, write_lines: WriteLines) -> None:
    source = write_lines("in.jsonl", [{"prompt": f"Say {number}."} for number in range(4000)])
    options = JobOptions(deadline=time.time() + 12, interval=0.5)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with fleet_of(2, slots=64, longest=100) as fleet, pool_of(fleet) as pool:
        summary = await run_job(pool, source, tmp_path / "out.jsonl", options)
        assert len(set(received(fleet))) == summary.done  # drained: nothing was given up
    assert summary.ending == "out of time"
    assert 2 < loop.time() - began < 7.5
    assert 0 < summary.done < 4000


async def test_nobody_waits_past_the_end_of_an_allocation(tmp_path: Path, write_lines: WriteLines) -> None:
    source = write_lines("in.jsonl", PROMPTS)
    options = JobOptions(deadline=time.time() + 20)
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with fleet_of(1, speed=0.01) as fleet, pool_of(fleet) as pool:
        summary = await run_job(pool, source, tmp_path / "out.jsonl", options)
    assert summary.ending == "out of time"
    assert loop.time() - began < 18


def lose(fleet: SimulatedFleet) -> None:
    for agent in fleet.agents:
        agent.die()


async def test_a_fleet_that_is_gone_ends_the_job_and_fails_no_request(tmp_path: Path, write_lines: WriteLines) -> None:
    source, output = write_lines("in.jsonl", PROMPTS), tmp_path / "out.jsonl"
    async with fleet_of(2) as fleet:
        async with pool_of(fleet, timeouts=Timeouts(patience=20)) as pool:
            asyncio.get_running_loop().call_later(2.0, lose, fleet)
            summary = await run_job(pool, source, output)
        assert summary.ending == "no agents"
        assert 0 < len(read_records(output)) == summary.done < 200
        assert summary.failed == 0
        for agent in fleet.agents:
            agent.revive()
        async with pool_of(fleet) as pool:
            await run_job(pool, source, output)
    assert len(texts_of(output)) == 200


async def test_an_output_that_vanishes_stops_the_job(tmp_path: Path, write_lines: WriteLines) -> None:
    output = tmp_path / "out.jsonl"
    options = JobOptions(fsync_interval=0.5, interval=0.25)
    async with fleet_of(2, slots=2) as fleet, pool_of(fleet) as pool:
        asyncio.get_running_loop().call_later(3, output.unlink)
        with pytest.raises(JobError, match="vanished"):
            await run_job(pool, write_lines("in.jsonl", PROMPTS), output, options)
    assert 0 < len(texts_of(tmp_path / "out.jsonl.rescued")) < 200


async def test_an_input_that_changes_ends_the_job_with_what_is_under_way_saved(
    tmp_path: Path, write_lines: WriteLines
) -> None:
    output = tmp_path / "out.jsonl"
    source = write_lines("in.jsonl", PROMPTS)
    async with fleet_of(1, slots=4) as fleet, pool_of(fleet) as pool:
        with Job(source, output) as job:
            write_lines("in.jsonl", [*PROMPTS[:20], {"id": "p20", "prompt": "Something else."}, *PROMPTS[21:]])
            with pytest.raises(BadRecord, match=r":21: the input changed"):
                await job.run(pool)
    assert len(texts_of(output)) == 20


# -- what is told ----------------------------------------------------------------------------------------------------


async def test_a_stall_names_the_agents_that_hold_the_oldest_prompts(tmp_path: Path, write_lines: WriteLines) -> None:
    stalls = []

    def look(progress: Progress, _: PoolStatistics) -> None:
        if progress.stall is not None:
            stalls.append(progress.stall)

    async with fleet_of(1) as fleet, pool_of(fleet, timeouts=Timeouts(silence=600)) as pool:
        loop = asyncio.get_running_loop()
        loop.call_later(2, fleet.agents[0].hang)
        loop.call_later(100, fleet.agents[0].revive)
        await run_job(pool, write_lines("in.jsonl", PROMPTS), tmp_path / "out.jsonl", on_progress=look)
        assert stalls[0].agents == (str(fleet.endpoints[0]),)
    assert 30 <= stalls[0].seconds < 32
    assert len(stalls) > 30


async def test_lines_for_completions_are_never_put_into_a_chat_template(
    tmp_path: Path, write_lines: WriteLines
) -> None:
    lines = [
        {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "Once upon a time"}},
        {"id": "b", "prompt": "What is a mill?"},
    ]
    async with fleet_of(1) as fleet, pool_of(fleet, prompt_format="auto") as pool:
        await run_job(pool, write_lines("in.jsonl", lines), tmp_path / "out.jsonl")
        sent = received(fleet)
    assert "Once upon a time" in sent
    assert any("user\nWhat is a mill?<" in prompt for prompt in sent)


async def test_the_sorted_copy_has_the_order_of_the_input(tmp_path: Path, write_lines: WriteLines) -> None:
    source = write_lines("in.jsonl", PROMPTS)
    for name in ("out.jsonl", "out.jsonl.gz", "out.jsonl.zst"):
        async with fleet_of(2) as fleet, pool_of(fleet) as pool:
            summary = await run_job(pool, source, tmp_path / name, JobOptions(ordered=True))
        assert summary.ordered == tmp_path / name.replace("out.", "out.ordered.")
        plain = summary.ordered
        if plain.suffix != ".jsonl":
            from aurora_pool.jobs.files import InputFile

            lines = [line.decode() for _, line in InputFile(plain).lines()]
            plain = write_lines("plain.jsonl", lines)
        assert [record["custom_id"] for record in read_records(plain)] == [prompt["id"] for prompt in PROMPTS]
    assert [record["custom_id"] for record in read_records(tmp_path / "out.jsonl")] != [p["id"] for p in PROMPTS]


async def test_requests_may_come_from_python(tmp_path: Path) -> None:
    requests: list[AnyPrompt | dict[str, str]] = [
        "Hi",
        Prompt("Ho", Sampling(temperature=0.5, stop=("x",), extra={"min_p": 0.1}), 4),
        [{"role": "user", "content": "Hu"}],
        {"custom_id": "mine", "prompt": "Ha"},
        Prompt([{"role": "user", "content": "He"}], Sampling(logprobs=2)),
        [1, 2, 3],
    ]
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        summary = await run_job(pool, iter(requests), tmp_path / "out.jsonl")
        bodies = [request.body for request in fleet.agents[0].requests if request.method == "POST"]
    assert summary.answered == 6
    assert texts_of(tmp_path / "out.jsonl").keys() == {"line-1", "line-2", "line-3", "mine", "line-5", "line-6"}
    (sampled,) = [body for body in bodies if body.get("temperature") == 0.5]
    assert (sampled["min_p"], list(sampled["stop"]), sampled["max_tokens"]) == (0.1, ["x"], 4)
    assert any(2 in (body.get("top_logprobs"), body.get("logprobs")) for body in bodies)


async def test_the_output_is_never_the_input(write_lines: WriteLines) -> None:
    path = write_lines("in.jsonl", PROMPTS)
    with pytest.raises(ConfigError, match="the output is the input"):
        Job(path, path)


async def test_a_bad_input_costs_an_earlier_output_nothing(tmp_path: Path, write_lines: WriteLines) -> None:
    write_lines("out.jsonl", ["something"])
    with pytest.raises(BadRecord):
        Job(write_lines("in.jsonl", ["{"]), tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "something\n"
    assert sorted(os.listdir(tmp_path))  # noqa: PTH208 - iterdir blocks no less == ["in.jsonl", "out.jsonl"]
