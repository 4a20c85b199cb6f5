"""How schedulers' commands are called and understood: stand-ins of a few lines of shell write down each call."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from aurora_pool.fleets.launchers import make_launcher
from aurora_pool.fleets.lifecycle import bring_up, take_down
from aurora_pool.fleets.run_folder import Launch, RunFolder
from aurora_pool.fleets.spec import make_fleet

QUEUED = {"slurm": "PENDING Resources", "pbs": json.dumps({"Jobs": {"7": {"job_state": "Q"}}})}
ASKS = {"slurm": "squeue", "pbs": "qstat"}
SUBMITS = {"slurm": "sbatch", "pbs": "qsub"}
CANCELS = {"slurm": "scancel", "pbs": "qdel"}
GONE = {
    "slurm": "slurm_load_jobs error: Invalid job id specified",
    "pbs": "qstat: 7.server Job has finished, use -x or -H to obtain historical job information",
}
BUSY = {
    "slurm": "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
    "pbs": "qstat: cannot connect to server pbs.example.org (errno=15010)",
}

both = pytest.mark.parametrize("where", ["slurm", "pbs"])


@pytest.fixture(autouse=True)
def _only_stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def stand_in(folder: Path, name: str, body: str) -> None:
    """Make a command of the scheduler; ``calls`` has a line of each call, and whether the fleet was wanted then."""
    script = folder / name
    wanted = f"$(test -e {folder}/fleet.run/fleet.json && echo wanted)"
    script.write_text(f'#!/bin/sh\necho "{name} $* {wanted}" >> {folder}/calls\n{body}\n')
    script.chmod(0o755)


def calls(folder: Path, name: str) -> list[str]:
    return [line for line in (folder / "calls").read_text().splitlines() if line.startswith(name)]


def started(folder: Path, where: str) -> RunFolder:
    """Give the folder of a fleet whose job, number 7, was submitted; nobody has heard of its agents."""
    run = RunFolder(folder / "fleet.run")
    run.create(make_fleet({"engine": "sim", "where": where}))
    run.write_launch(Launch(launcher=where, handles={"agent": ["7"]}))
    return run


@both
def test_what_is_queued_is_cancelled_before_the_agents_end(tmp_path: Path, where: str) -> None:
    over = f"test -e {tmp_path}/cancelled"
    said = f"if {over}; then echo '{GONE[where]}' >&2; exit 1; fi; echo '{QUEUED[where]}'"
    stand_in(tmp_path, ASKS[where], said)
    stand_in(tmp_path, CANCELS[where], f"touch {tmp_path}/cancelled")
    assert take_down(started(tmp_path, where)) == []
    queued, rest = calls(tmp_path, CANCELS[where])
    assert (queued.endswith("7 wanted"), rest.endswith("wanted")) == (True, False)


@both
def test_a_scheduler_that_hangs_does_not_keep_agents_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(f"aurora_pool.fleets.launchers.{where}.IN_PASSING", 0.2)
    hangs = f"test -e {tmp_path}/fleet.run/fleet.json && exec sleep 1000"
    stand_in(tmp_path, ASKS[where], f"{hangs}; echo '{GONE[where]}' >&2; exit 1")
    stand_in(tmp_path, CANCELS[where], f"{hangs}; true")
    assert take_down(started(tmp_path, where)) == []


@both
def test_agents_hear_that_they_are_to_end_when_taking_them_down_is_interrupted(tmp_path: Path, where: str) -> None:
    for name in (ASKS[where], CANCELS[where]):
        stand_in(tmp_path, name, "kill -INT $PPID")
    run = started(tmp_path, where)
    wanted = run.fleet().id
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            take_down(run)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not run.is_current(wanted)
    assert run.was_started()


@both
def test_a_scheduler_that_can_t_be_asked_has_not_ended_a_job(tmp_path: Path, where: str) -> None:
    busy = f"test $(grep -c ^{ASKS[where]} {tmp_path}/calls) -lt 5"
    said = f"if {busy}; then echo '{BUSY[where]}'; else echo '{GONE[where]}'; fi >&2; exit 1"
    stand_in(tmp_path, ASKS[where], said)
    stand_in(tmp_path, CANCELS[where], "")
    run = started(tmp_path, where)
    assert BUSY[where] in make_launcher(where).waiting(["7"])
    assert take_down(run) == []
    assert len(calls(tmp_path, ASKS[where])) == 5
    assert make_launcher(where).waiting(["7"]) == ""


@both
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_job_is_submitted_waits_until_its_number_is_known(
    tmp_path: Path, where: str, number: signal.Signals
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    submitted = f"cut -d ' ' -f 5 /proc/$$/stat > {tmp_path}/group; kill -{number.value} $PPID; echo 7"
    stand_in(tmp_path, SUBMITS[where], submitted)
    stand_in(tmp_path, ASKS[where], f"echo '{GONE[where]}' >&2; exit 1")
    stand_in(tmp_path, CANCELS[where], "")
    run = RunFolder(tmp_path / "fleet.run")
    before = signal.signal(number, interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            bring_up(run, make_fleet({"engine": "sim", "where": where}))
        assert signal.getsignal(number) is interrupted
    finally:
        signal.signal(number, before)
    assert [line.split()[-1] for line in calls(tmp_path, CANCELS[where])][-1] == "7"
    assert not run.was_started()
    assert int((tmp_path / "group").read_text()) != os.getpgrp()  # the terminal's Ctrl-C does not reach it


def test_ctrl_c_while_hosts_are_reached_waits_until_they_are_known(tmp_path: Path) -> None:
    begins = f"cut -d ' ' -f 5 /proc/$$/stat > {tmp_path}/group; kill -INT {os.getpid()}"
    stand_in(tmp_path, "ssh", f'case "$*" in *--sweep*) ;; *) {begins} ;; esac')
    run = RunFolder(tmp_path / "fleet.run")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            bring_up(run, make_fleet({"engine": "sim", "where": "ssh", "hosts": ["a"]}))
    finally:
        signal.signal(signal.SIGINT, before)
    assert "--sweep" in calls(tmp_path, "ssh")[-1]
    assert not run.was_started()
    assert int((tmp_path / "group").read_text()) != os.getpgrp()  # the terminal's Ctrl-C does not reach it


@both
def test_a_job_whose_number_can_t_be_kept_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(run: RunFolder, launch: Launch) -> None:
        if launch.handles:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        kept(run, launch)

    kept = RunFolder.write_launch
    monkeypatch.setattr(RunFolder, "write_launch", full)
    stand_in(tmp_path, SUBMITS[where], "echo 7")
    stand_in(tmp_path, ASKS[where], f"echo '{GONE[where]}' >&2; exit 1")
    stand_in(tmp_path, CANCELS[where], "")
    with pytest.raises(OSError, match="quota"):
        bring_up(RunFolder(tmp_path / "fleet.run"), make_fleet({"engine": "sim", "where": where}))
    assert calls(tmp_path, CANCELS[where])[-1].split()[-1] == "7"


def test_a_second_ctrl_c_leaves_other_signals_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(*_: object) -> None:
        raise SystemExit(143)

    def restored(number: int, handler: Any) -> object:
        given = real(number, handler)
        if handler is signal.default_int_handler:
            signal.raise_signal(signal.SIGINT)  # the second one comes at once
        return given

    stand_in(tmp_path, "sbatch", "kill -INT $PPID; echo 7")
    stand_in(tmp_path, "squeue", f"echo '{GONE['slurm']}' >&2; exit 1")
    stand_in(tmp_path, "scancel", "")
    real = signal.signal
    usual: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: ended}
    before = {number: real(number, handler) for number, handler in usual.items()}
    monkeypatch.setattr(signal, "signal", restored)
    try:
        with pytest.raises(KeyboardInterrupt):
            bring_up(RunFolder(tmp_path / "fleet.run"), make_fleet({"engine": "sim", "where": "slurm"}))
        monkeypatch.setattr(signal, "signal", real)
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            real(number, handler)
