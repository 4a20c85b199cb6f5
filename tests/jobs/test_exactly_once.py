"""Kill anything, any time: every request is answered exactly once. ``make soak`` does the same for longer."""

from __future__ import annotations

import signal

import pytest

from tests.jobs.killing import check_exactly_once


@pytest.mark.timeout(300)
def test_a_job_that_is_killed_20_times_loses_nothing_and_asks_nothing_twice() -> None:
    assert check_exactly_once(1, requests=1500, kills=20, signals=[signal.SIGKILL]) == 20
