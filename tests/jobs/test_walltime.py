"""When an allocation ends."""

from __future__ import annotations

import json
import os
import time
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
    with pytest.raises(ConfigError, match="expected a time span"):
        parse_walltime(text)


def test_the_command_line_wins() -> None:
    environment = {"SLURM_JOB_END_TIME": "5000"}
    assert find_deadline("1h", environment=environment, now=lambda: 1000.0) == 4600.0
    assert find_deadline(None, environment=environment) == 5000.0
    assert find_deadline(None, environment={}) is None


def fake_qstat(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = folder / "qstat"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_pbs_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    job = {"stime": "Fri Nov 20 21:14:05 2026", "Resource_List": {"walltime": "12:00:00"}}
    answer = json.dumps({"Jobs": {"77.server": job}})
    fake_qstat(tmp_path, monkeypatch, f'test "$*" = "-f -F json 77.server" && echo \'{answer}\'')
    assert find_deadline(None, environment={"PBS_JOBID": "77.server"}) == 1_795_209_245 + 12 * 3600


@pytest.mark.parametrize("script", ["exit 1", "echo nonsense", "echo '{\"Jobs\": {}}'"])
def test_a_batch_system_that_does_not_tell_costs_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, script: str
) -> None:
    monkeypatch.setattr("aurora_pool.jobs.walltime.logger.parent.propagate", True, raising=False)
    fake_qstat(tmp_path, monkeypatch, script)
    assert find_deadline(None, environment={"PBS_JOBID": "77"}) is None
    assert find_deadline(None, environment={"SLURM_JOB_END_TIME": "soon"}) is None
