"""Jobs that go on where an earlier run ended."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest

from aurora_pool.errors import BadRecord, JobError
from aurora_pool.jobs import Job, JobOptions, run_job
from tests.jobs.fleets import PROMPTS, fleet_of, pool_of, received
from tests.jobs.shared import WriteLines, read_records, texts_of

pytestmark = pytest.mark.simulated_clock


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


async def test_a_job_that_run_batch_began_goes_on(tmp_path: Path, write_lines: WriteLines) -> None:
    lines = [
        {"id": name, "messages": [{"role": "user", "content": "Hi"}]} for name in ("chat", "two", "too-long", "new")
    ]
    source, output = write_lines("in.jsonl", lines), tmp_path / "out.jsonl"
    shutil.copy(Path(__file__).parent / "data" / "run_batch.jsonl", output)
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        first = await run_job(pool, source, output)
        again = await run_job(pool, source, output, JobOptions(retry_failed=True))
    assert (first.resumed.unchecked, first.resumed.answered, first.resumed.failed, first.done) == (3, 2, 1, 1)
    assert (again.resumed.retried, again.answered, again.failed, again.done) == (1, 4, 0, 1)
    assert first.resumed.foreign == 5  # what is not asked for here


async def test_strangers_are_left_alone_and_damage_is_taken_out(tmp_path: Path, write_lines: WriteLines) -> None:
    output = tmp_path / "out.jsonl"
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        await run_job(pool, write_lines("in.jsonl", PROMPTS[:4]), output)
        good = output.read_text().splitlines()
        write_lines("out.jsonl", [good[0], good[1], "\0\0\0", good[1], *good[2:]])
        summary = await run_job(pool, write_lines("in.jsonl", PROMPTS[1:4]), output)
    assert (summary.resumed.foreign, summary.resumed.damaged, summary.done) == (1, 2, 0)
    assert output.read_text().splitlines() == good
    assert (tmp_path / "out.jsonl.superseded").read_text().splitlines() == ["\0\0\0", good[1]]


@pytest.mark.parametrize("content", ["My notes.\n", "My notes", '{"custom_id": "p0", "prompt": "Hi"}\n'])
async def test_a_file_that_is_something_else_is_left_alone(
    tmp_path: Path, write_lines: WriteLines, content: str
) -> None:
    output = tmp_path / "notes.txt"
    output.write_text(content)
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        with pytest.raises(JobError, match=r"notes.txt: there is no record in it, so it is not the output of a job"):
            await run_job(pool, write_lines("in.jsonl", PROMPTS), output)
        assert received(fleet) == []
    assert output.read_text() == content
    assert contents(tmp_path).keys() == {"in.jsonl", "notes.txt"}


async def test_a_job_without_requests_has_an_empty_output(tmp_path: Path, write_lines: WriteLines) -> None:
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        options = JobOptions(allow_empty=True)
        summary = await run_job(pool, write_lines("in.jsonl", []), tmp_path / "out.jsonl", options)
    assert (summary.ending, summary.total) == ("finished", 0)
    assert (tmp_path / "out.jsonl").read_bytes() == b""


async def test_a_bad_input_costs_an_earlier_output_nothing(tmp_path: Path, write_lines: WriteLines) -> None:
    write_lines("out.jsonl", ["something"])
    with pytest.raises(BadRecord):
        Job(write_lines("in.jsonl", ["{"]), tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "something\n"
    assert sorted(os.listdir(tmp_path))  # noqa: PTH208 - iterdir blocks no less == ["in.jsonl", "out.jsonl"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def changed_prompts() -> list[dict[str, str]]:
    return [{"id": prompt["id"], "prompt": f"{prompt['prompt']} Again."} for prompt in PROMPTS]


@pytest.mark.parametrize("changed", [False, True], ids=["as they were", "changed"])
async def test_reading_old_records_can_be_cancelled_and_has_changed_nothing_then(
    tmp_path: Path, write_lines: WriteLines, changed: bool
) -> None:
    output = tmp_path / "out.jsonl"
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        await run_job(pool, write_lines("in.jsonl", PROMPTS), output)
        # Long enough that reading takes turns, as it does with millions of records.
        padded = [line + " " * 5000 for line in output.read_text().splitlines()]
        write_lines("out.jsonl", padded)
        before = contents(tmp_path)
        count = len(received(fleet))
        source = write_lines("in.jsonl", changed_prompts() if changed else PROMPTS)
        before["in.jsonl"] = source.read_bytes()
        for turns in range(1, 9 if changed else 4):
            with Job(source, output) as job:
                task = asyncio.create_task(job.run(pool))
                for _ in range(turns):
                    await asyncio.sleep(0)
                assert not job.answering
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert contents(tmp_path) == before
        assert len(received(fleet)) == count
        summary = await run_job(pool, source, output)
    assert summary.done == (200 if changed else 0)
    assert (tmp_path / "out.jsonl.superseded").exists() == changed
