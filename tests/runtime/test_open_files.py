"""How many files a process may open: told before a fleet is used that needs more, and raised as far as it goes."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("resource", reason="Windows has no such limit")

CODE = """
import resource, sys
from aurora_pool import ConfigError
from aurora_pool.runtime.open_files import ensure_open_files
soft, hard, needed = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
try:
    ensure_open_files(needed)
except ConfigError as error:
    print(error)
else:
    print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def ensure(soft: int, hard: int, needed: int) -> str:
    """Ask for open files in a process that has these limits; return what it says."""
    command = [sys.executable, "-c", CODE, *map(str, (soft, hard, needed))]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("needed", [200, 600])
def test_the_limit_is_raised_as_far_as_it_goes(needed: int) -> None:
    # Single requests use more than is needed at least: how many an agent may have depends on the hard limit.
    assert ensure(256, 700, needed) == "(700, 700)"


def test_a_fleet_that_needs_more_than_is_allowed_is_refused_with_the_number() -> None:
    assert ensure(256, 700, 701) == "this fleet needs 701 open files, and the limit is 700: run 'ulimit -n 701'"
