"""Ctrl-C, SIGTERM and the end of an allocation: what is answered is saved, and the same command goes on."""

from __future__ import annotations

import asyncio
import json
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from aurora_pool import parse_hostfile
from aurora_pool.cli.exit_codes import ExitCode
from aurora_pool.cli.interruptions import Interruptions
from aurora_pool.jobs.deadline import RESERVE
from tests.cli.conftest import Call
from tests.forked import Run, simulated
from tests.jobs.shared import texts_of, write_jsonl

COUNT = 3000


@pytest.fixture(scope="module")
def slow_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A fleet that needs some seconds for the job: nothing is done before a signal comes."""
    options = ("--agents", "1", "--slots", "64", "--median-length", "12")
    with simulated(tmp_path_factory.mktemp("fleet"), *options) as path:
        yield path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_jsonl(
        tmp_path / "in.jsonl", [{"id": f"p{n}", "prompt": f"Say {n}.", "max_tokens": 60} for n in range(COUNT)]
    )


def begin(source: Path, output: Path, hostfile: Path, *options: object) -> Run:
    """Start a run."""
    return Run(output.parent, "run", source, "-o", output, "--hostfile", hostfile, *options)


@pytest.mark.parametrize(
    ("signals", "code", "word"),
    [
        ([signal.SIGINT], ExitCode.INTERRUPTED, "interrupted"),
        ([signal.SIGINT, signal.SIGINT], ExitCode.INTERRUPTED, "interrupted twice"),
        ([signal.SIGTERM], ExitCode.TERMINATED, "terminated"),
    ],
    ids=["one Ctrl-C", "two", "SIGTERM"],
)
def test_a_signal_ends_a_run_that_can_go_on(
    tmp_path: Path,
    source: Path,
    slow_fleet: Path,
    hostfile: Path,
    call: Call,
    signals: list[signal.Signals],
    code: int,
    word: str,
) -> None:
    output = tmp_path / "out.jsonl"
    run = begin(source, output, slow_fleet, "--grace", 60)
    run.wait_until(lambda: output.exists() and output.stat().st_size > 2000, "some records are written")
    run.send(signals[0])
    for number in signals[1:]:
        run.wait_until(lambda: "press Ctrl-C again" in run.said, "it waits for what is in flight")
        run.send(number)
    ended, said = run.end()
    assert ended == code
    saved = len(texts_of(output))
    assert 0 < saved < COUNT
    assert f"{saved} of {COUNT} answered, 0 failed, {COUNT - saved} still to do ({word})" in said
    again = call("run", source, "-o", output, "--hostfile", hostfile, "--json")
    assert again.code == 0
    assert json.loads(again.out)["resumed"] | {"answered": saved, "torn": False} == json.loads(again.out)["resumed"]
    assert len(texts_of(output)) == COUNT


def running_at(hostfile: Path) -> float:
    """How many prompts the only server of a fleet computes."""
    (agent,) = parse_hostfile(hostfile)
    with urllib.request.urlopen(f"http://{agent}/metrics") as reply:
        page = reply.read().decode()
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith("vllm:num_requests_running"))


def test_sigterm_leaves_no_more_than_its_grace(tmp_path: Path, source: Path) -> None:
    # Two long answers a minute: nothing will be drained within any grace.
    with simulated(tmp_path, "--agents", "1", "--slots", "4", "--speed", "0.2") as hostfile:
        run = begin(source, tmp_path / "out.jsonl", hostfile, "--grace", 0.1)
        # What starts a job is one prompt at a time.
        run.wait_until(lambda: running_at(hostfile) >= 4, "the server is busy")
        run.send(signal.SIGTERM)
        code, said = run.end()
    assert (code, "still to do (terminated)" in said) == (143, True)


def test_an_interrupt_before_the_fleet_is_there_ends_it_at_once(tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    run = Run(tmp_path, "run", source, "-o", folder / "out.jsonl", "--hostfile", folder / "h", "--patience", 600)
    run.wait_until(lambda: "waiting up to 600 s" in run.said, "it waits")
    run.send(signal.SIGINT)
    code, said = run.end()
    assert (code, said.splitlines()[-1]) == (
        130,
        "interrupted while nothing was in flight; the same command goes on from here",
    )
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_old_records_are_read_ends_it_at_once(
    tmp_path: Path, hostfile: Path, number: signal.Signals
) -> None:
    """Whenever the signal comes, before, while or after it reads: nothing is lost, and nothing is waited for."""
    requests = 200_000
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("".join(f"Say {n}.\n" for n in range(requests)))
    record = '{"id": "x", "custom_id": "line-%d", "response": {"status_code": 200, "body": {}}, "error": null}\n'
    output.write_text("".join(record % n for n in range(1, requests // 2)))
    before = output.read_bytes()
    run = begin(source, output, hostfile)
    run.wait_until((tmp_path / "out.jsonl.lock").exists, "it reads the records")  # that begins when the lock is there
    run.send(number)
    code, said = run.end()
    assert code == 128 + number
    after = output.read_bytes()
    assert after.startswith(before)
    # Only where this test was given no time for as long as all was read is anything sent before the signal.
    assert after != before or said.splitlines()[-1].endswith("; the same command goes on from here")


def test_a_signal_while_the_event_loop_starts_is_kept_for_the_listener() -> None:
    codes: list[ExitCode] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    async def listen() -> None:
        interruptions.hand_to(codes.append)
        signal.raise_signal(signal.SIGTERM)
        await asyncio.sleep(0)

    try:
        interruptions = Interruptions()
        interruptions.keep()
        signal.raise_signal(signal.SIGINT)
        asyncio.run(listen())
        interruptions.ignore()
        signal.raise_signal(signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert codes == [ExitCode.INTERRUPTED, ExitCode.TERMINATED]


def test_a_hostfile_that_comes_later_is_waited_for(tmp_path: Path, source: Path, hostfile: Path) -> None:
    later, output = tmp_path / "h", tmp_path / "out.jsonl"
    run = begin(source, output, later, "--patience", 60)
    run.wait_until(lambda: "waiting up to 60 s" in run.said, "it waits")
    later.write_text(hostfile.read_text())
    code, _ = run.end()
    assert (code, len(texts_of(output))) == (0, COUNT)


def test_a_run_that_is_out_of_time_says_so_by_its_exit_code(
    tmp_path: Path, source: Path, hostfile: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("run", source, "-o", tmp_path / "out.jsonl", "--hostfile", hostfile)
    date = 4e9  # of the job; it stands still there, so that what is left does not depend on the machine
    monkeypatch.setattr(time, "time", lambda: date)
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(date + RESERVE - 1)))
    for ended in (call(*command), call(*command, "--walltime", str(RESERVE - 1))):
        assert ended.code == 75
        assert f"0 of {COUNT} answered" in ended.err
        assert "the same command goes on from here" in ended.err
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    assert call(*command).code == 0
    assert len(texts_of(tmp_path / "out.jsonl")) == COUNT
