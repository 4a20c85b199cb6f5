"""Kill anything, any time: every request is answered exactly once. ``make soak`` does the same for longer."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.jobs.full_disk import PLENTY, command, fill_up
from tests.jobs.killing import KILLS, STOPS, Ending, check_exactly_once


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("endings", "requests"), [(KILLS, 800), (STOPS, 2600)], ids=["killed", "interrupted and terminated"]
)
def test_a_job_that_is_cut_short_20_times_loses_nothing_and_asks_nothing_twice(
    endings: Sequence[Ending], requests: int
) -> None:
    cut = 0
    while cut < 20:  # a machine on which a job is done too soon runs another
        cut += check_exactly_once(cut, requests=requests, endings=endings[cut:])


# Where the kernel lets nobody mount, as in most containers, the limit on a file's size must do: there, too, a write is
# cut off in the middle of a record, and the next is refused.
MOUNTING = command()


@pytest.mark.parametrize("mounting", [None, MOUNTING] if MOUNTING else [None], ids=lambda how: how and "tmpfs")
def test_a_disk_that_fills_up_again_and_again_loses_nothing(tmp_path: Path, mounting: list[str] | None) -> None:
    if mounting is None:
        fill_up(tmp_path, tmp_path, lambda size: {"file_size": None if size == PLENTY else size}, "File too large")
    else:
        result = subprocess.run([*mounting, str(tmp_path)], capture_output=True, text=True, check=False)
        assert (result.returncode, result.stderr) == (0, "")
