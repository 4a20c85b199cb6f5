"""Ctrl-C, SIGTERM and the end of an allocation: what is answered is saved, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from aurora_pool import parse_hostfile
from aurora_pool.cli.exit_codes import ExitCode
from aurora_pool.jobs.deadline import RESERVE
from tests.cli.conftest import COMMAND, Call, simulated
from tests.jobs.shared import texts_of, write_jsonl

COUNT = 2000


@pytest.fixture(scope="module")
def slow_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A fleet that needs half a minute for the job: nothing is done before a signal comes."""
    options = ("--agents", "1", "--slots", "64", "--median-length", "40")
    with simulated(tmp_path_factory.mktemp("fleet"), *options) as path:
        yield path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_jsonl(
        tmp_path / "in.jsonl", [{"id": f"p{n}", "prompt": f"Say {n}.", "max_tokens": 60} for n in range(COUNT)]
    )


def begin(source: Path, output: Path, hostfile: Path, *options: str) -> subprocess.Popen[str]:
    """Start a run, and wait until it has written some records."""
    command = [*COMMAND, "run", str(source), "-o", str(output), "--hostfile", str(hostfile), *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not output.exists() or output.stat().st_size < 2000:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=90)
    assert "Traceback" not in said
    return process.returncode, said


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
    process = begin(source, output, slow_fleet, "--grace", "60")
    for number in signals:
        process.send_signal(number)
        time.sleep(0.3)
    ended, said = end(process)
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
    output = tmp_path / "out.jsonl"
    # Two long answers a minute: nothing will be drained within any grace.
    with simulated(tmp_path, "--agents", "1", "--slots", "4", "--speed", "0.2") as hostfile:
        command = [*COMMAND, "run", str(source), "-o", str(output), "--hostfile", str(hostfile), "--grace", "0.5"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while running_at(hostfile) < 4:  # what starts a job is one prompt at a time
            assert process.poll() is None
            time.sleep(0.02)
        process.terminate()
        code, said = end(process)
    assert (code, "still to do (terminated)" in said) == (143, True)


def test_an_interrupt_before_the_fleet_is_there_ends_it_at_once(tmp_path: Path, source: Path) -> None:
    output = tmp_path / "out.jsonl"
    command = [*COMMAND, "run", str(source), "-o", str(output), "--hostfile", str(tmp_path / "h"), "--patience", "600"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "waiting up to 600 s" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    code, said = end(process)
    assert (code, said.splitlines()[-1]) == (
        130,
        "interrupted while nothing was in flight; the same command goes on from here",
    )
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl"]  # noqa: PTH208


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_old_records_are_read_ends_it_at_once(
    tmp_path: Path, hostfile: Path, number: signal.Signals
) -> None:
    """Whenever the signal comes, before, while or after it reads: nothing is lost, and nothing is waited for."""
    requests = 200_000
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("".join(f"Say {n}.\n" for n in range(requests)))
    record = '{"id": "x", "custom_id": "line-%d", "response": {"status_code": 200, "body": {}}, "error": null}\n'
    output.write_text("".join(record % n for n in range(1, requests)))
    before = output.read_bytes()
    command = [*COMMAND, "run", str(source), "-o", str(output), "--hostfile", str(hostfile)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    lock = tmp_path / "out.jsonl.lock"
    while not lock.exists():  # the survey begins when the lock is there
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(number)
    code, said = end(process)
    assert code == 128 + number
    assert said.splitlines()[-1].endswith("; the same command goes on from here")
    assert output.read_bytes() == before


def test_a_hostfile_that_comes_later_is_waited_for(tmp_path: Path, source: Path, hostfile: Path) -> None:
    later = tmp_path / "h"
    command = [*COMMAND, "run", str(source), "-o", str(tmp_path / "out.jsonl"), "--hostfile", str(later)]
    process = subprocess.Popen([*command, "--patience", "60"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "waiting up to 60 s" in process.stderr.readline()
    later.write_text(hostfile.read_text())
    code, _ = end(process)
    assert (code, len(texts_of(tmp_path / "out.jsonl"))) == (0, COUNT)


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
