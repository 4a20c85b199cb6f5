"""Jobs that end before they are done: told to, out of time, without a fleet, without an output."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aurora_pool import Timeouts
from aurora_pool.errors import BadRecord, JobError
from aurora_pool.jobs import Job, JobOptions, Progress, run_job
from aurora_pool.testing import SimulatedFleet
from tests.jobs.fleets import PROMPTS, fleet_of, pool_of, received
from tests.jobs.shared import WriteLines, read_records, texts_of

pytestmark = pytest.mark.simulated_clock


def end_after(job: Job, done: int, ending: Any) -> Callable[[Progress], None]:
    def watch(progress: Progress) -> None:
        if progress.done >= done:
            job.end(ending, "the test says so")

    return watch


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
            assert received_first > summary.done  # what was in flight is given up
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


@pytest.fixture
def _date(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ``time.time()`` go on with the simulated clock, so that a date is as far away as its test says."""
    monkeypatch.setattr(time, "time", lambda: 1e9 + asyncio.get_running_loop().time())


@pytest.mark.usefixtures("_date")
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


@pytest.mark.usefixtures("_date")
async def test_an_allocation_that_is_over_gets_nothing(tmp_path: Path, write_lines: WriteLines) -> None:
    options = JobOptions(deadline=time.time() + 3)
    async with fleet_of(1) as fleet, pool_of(fleet) as pool:
        summary = await run_job(pool, write_lines("in.jsonl", PROMPTS), tmp_path / "out.jsonl", options)
        assert received(fleet) == []
    assert (summary.ending, summary.done, summary.remaining) == ("out of time", 0, 200)


@pytest.mark.usefixtures("_date")
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


async def test_an_input_that_changes_ends_the_job_with_what_is_in_flight_saved(
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
