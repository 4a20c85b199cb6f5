"""When an allocation ends."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aurora_pool.errors import ConfigError
from aurora_pool.jobs.walltime import find_deadline, parse_walltime


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45", 45), ("10:00", 600), ("11:30:00", 41_400), ("2-01:00:00", 176_400), ("1.5h", 5400), ("1d", 86_400)],
)
def test_reads_what_batch_systems_write(text: str, seconds: float) -> None:
    assert parse_walltime(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "-5", "5 minutes"])
def test_refuses_what_is_no_time_span(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a walltime"):
        parse_walltime(text)


def test_the_command_line_wins() -> None:
    environment = {"SLURM_JOB_END_TIME": "5000"}
    assert find_deadline("1h", environment=environment, now=lambda: 1000.0) == 4600.0
    assert find_deadline(None, environment=environment, now=lambda: 1000.0) == 5000.0
    assert find_deadline(None, environment={}) is None


def fake(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


# As OpenPBS 23 prints it, cut down.
QSTAT = """Job Id: 77.server
    Job_Name = aurora-pool
    Job_Owner = someone@login1
    resources_used.walltime = 00:00:12
    job_state = R
    ctime = Fri Nov  6 21:13:59 2026
    mtime = Fri Nov  6 21:14:05 2026
    Resource_List.place = free
    Resource_List.select = 1
    Resource_List.walltime = 12:00:00
    stime = Fri Nov  6 21:14:05 2026
    Variable_List = PBS_O_HOME=/home/someone,PBS_O_LANG=en_US.UTF-8,
\tPBS_O_PATH=/usr/bin,INPUT="a b".jsonl
"""


@pytest.mark.parametrize("started", ["stime", "start_time"])
def test_pbs_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, utc: None, started: str) -> None:
    answer = QSTAT.replace("stime", started)
    fake(tmp_path, monkeypatch, "qstat", f'test "$*" = "-f 77.server" && cat << "END"\n{answer}END')
    assert (
        find_deadline(None, environment={"PBS_JOBID": "77.server"}, now=lambda: 1_793_999_000.0)
        == 1_793_999_645 + 12 * 3600
    )


def test_an_old_slurm_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, utc: None) -> None:
    asked = "--noheader --jobs 77 --format %e"
    fake(tmp_path, monkeypatch, "squeue", f'test "$*" = "{asked}" && echo 2026-11-06T21:14:05')
    assert find_deadline(None, environment={"SLURM_JOB_ID": "77"}, now=lambda: 1_793_999_000.0) == 1_793_999_645


@pytest.mark.parametrize("script", ["exit 1", "echo nonsense", "echo '    stime = N/A'", "echo N/A"])
def test_a_batch_system_that_does_not_tell_costs_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, script: str
) -> None:
    monkeypatch.setattr("aurora_pool.jobs.walltime.logger.parent.propagate", True, raising=False)
    for name in ("qstat", "squeue"):
        fake(tmp_path, monkeypatch, name, script)
    assert find_deadline(None, environment={"PBS_JOBID": "77"}) is None
    assert find_deadline(None, environment={"SLURM_JOB_ID": "77"}) is None
    assert find_deadline(None, environment={"SLURM_JOB_END_TIME": "soon"}) is None


def test_an_end_that_has_passed_is_ignored_and_its_source_named(caplog: pytest.LogCaptureFixture) -> None:
    """As in a terminal that was opened within an allocation, and has outlived it."""
    assert find_deadline(None, environment={"SLURM_JOB_END_TIME": "5000"}, now=lambda: 5001.0) is None
    assert "SLURM_JOB_END_TIME says that the allocation has ended already" in caplog.text
