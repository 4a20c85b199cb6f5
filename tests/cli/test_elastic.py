"""Fleets that change while a job runs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from aurora_pool import AgentEndpoint
from aurora_pool.cli.fleet import wait_for_hostfile, watch_hostfile
from aurora_pool.errors import HostfileError
from aurora_pool.testing.clock import run_simulated
from tests.forked import Run, simulated
from tests.jobs.shared import texts_of, write_jsonl


def test_a_hostfile_is_followed_and_what_is_broken_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hostfile = tmp_path / "h"
    seen: list[list[str]] = []

    def note(endpoints: list[AgentEndpoint]) -> None:
        seen.append([endpoint.host for endpoint in endpoints])

    async def change() -> None:
        hostfile.write_text("a\n")
        task = asyncio.create_task(watch_hostfile(hostfile, note))
        for text in ("a\nb\n", "a b c\n", "a\nb\n# the same again\n", None, "b\n"):
            await asyncio.sleep(5)
            if text is None:
                hostfile.unlink()
            else:
                hostfile.write_text(text)
        await asyncio.sleep(5)
        task.cancel()

    run_simulated(change())
    assert seen == [["a", "b"], ["b"]]


def test_a_hostfile_is_waited_for_and_what_is_wrong_with_it_is_told_in_the_end(tmp_path: Path) -> None:
    hostfile = tmp_path / "h"

    async def write_later() -> tuple[list[AgentEndpoint], float]:
        loop = asyncio.get_running_loop()
        loop.call_later(30, hostfile.touch)
        loop.call_later(45, hostfile.write_text, "a\n")
        return await wait_for_hostfile(hostfile, within=60), loop.time()

    endpoints, at = run_simulated(write_later())
    assert (endpoints, 45 <= at <= 46) == ([AgentEndpoint("a")], True)
    hostfile.write_text("a 99999\n")
    with pytest.raises(HostfileError, match="99999"):
        run_simulated(wait_for_hostfile(hostfile, within=60))


def test_agents_join_and_leave_while_a_job_runs(tmp_path: Path) -> None:
    lines = [{"id": f"p{n}", "prompt": f"Say {n}.", "max_tokens": 60} for n in range(3000)]
    source, output, hostfile = write_jsonl(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl", tmp_path / "h"
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    slow = ("--agents", "1", "--slots", "16")
    with simulated(folders[0], *slow) as first, simulated(folders[1], "--agents", "1", "--instant") as second:
        hostfile.write_text(first.read_text())
        run = Run(tmp_path, "run", source, "-o", output, "--hostfile", hostfile, "--json")
        run.wait_until(lambda: output.exists() and output.stat().st_size > 2000, "some records are written")
        hostfile.write_text(second.read_text())
        code, said = run.end()
    assert code == 0
    assert "the hostfile changed: 1 to join, 1 to leave" in said
    assert len(texts_of(output)) == 3000
    assert len(json.loads(run.gave)["agents"]) == 2
