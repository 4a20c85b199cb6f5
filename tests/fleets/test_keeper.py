"""What keeps a process running, and what is left when it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aurora_pool.fleets.processes import process_of
from tests.fleets.shared import wait_for

# Work that starts a process in a session of its own, says so, and ends on SIGTERM with a code of its own.
WORK = """
import os, signal, subprocess, sys, time
from pathlib import Path
from aurora_pool.fleets.keeper import keep

def work():
    folder = Path(sys.argv[1])
    started = subprocess.Popen(["sleep", "1000"], start_new_session=True).pid
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(folder.joinpath("ended").touch() or 7))
    folder.joinpath("said.new").write_text(f"{os.getpid()} {started}")
    folder.joinpath("said.new").rename(folder / "said")
    try:
        time.sleep(1000)
    except SystemExit as ended:
        return ended.code

sys.exit(keep(work, restarts=int(sys.argv[2])))
"""


def start(folder: Path, restarts: int = 0) -> tuple[subprocess.Popen[bytes], int, int]:
    """Start it; gives the keeper, its child, and what that has started."""
    keeper = subprocess.Popen([sys.executable, "-c", WORK, str(folder), str(restarts)])
    return keeper, *said(folder)


def said(folder: Path) -> tuple[int, int]:
    wait_for((folder / "said").exists, "the work does not begin")
    child, started = map(int, (folder / "said").read_text().split())
    (folder / "said").unlink()
    return child, started


def test_a_child_that_is_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    keeper, child, started = start(tmp_path)
    os.kill(child, signal.SIGKILL)
    assert keeper.wait(30) == 128 + signal.SIGKILL
    assert process_of(started) is None


def test_a_child_that_is_killed_is_started_again_a_number_of_times(tmp_path: Path) -> None:
    keeper, child, started = start(tmp_path, restarts=1)
    os.kill(child, signal.SIGKILL)
    again, other = said(tmp_path)
    assert process_of(started) is None
    os.kill(again, signal.SIGKILL)
    assert keeper.wait(30) == 128 + signal.SIGKILL
    assert process_of(other) is None


@pytest.mark.parametrize("restarts", [0, 3])
def test_a_signal_is_passed_on_and_the_code_comes_back(tmp_path: Path, restarts: int) -> None:
    keeper, _, started = start(tmp_path, restarts)
    keeper.terminate()
    assert keeper.wait(30) == 7
    assert process_of(started) is None


def test_a_keeper_that_is_killed_has_its_child_end_well(tmp_path: Path) -> None:
    keeper, child, started = start(tmp_path)
    keeper.kill()
    keeper.wait(30)
    wait_for((tmp_path / "ended").exists, "the child does not hear of it")
    wait_for(lambda: process_of(child) is None, "the child stays")
    os.kill(started, signal.SIGKILL)
