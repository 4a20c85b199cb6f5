"""A simulated fleet in a process of its own, and the command line inside this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from aurora_pool.cli import main
from tests.tied import tied

COMMAND = [sys.executable, "-m", "aurora_pool"]
STARTING = 60.0


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Call = Callable[..., Ended]


@contextmanager
def simulated(folder: Path, *options: str) -> Iterator[Path]:
    """Run ``aurora-pool sim``; gives its hostfile."""
    hostfile = folder / "fleet.hostfile"
    command = [*tied(), *COMMAND, "sim", "-o", str(hostfile), *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + STARTING
        while not hostfile.exists():
            assert process.poll() is None, "the simulated fleet ended"
            assert time.monotonic() < deadline, "the simulated fleet does not start"
            time.sleep(0.02)
        yield hostfile
    finally:
        process.terminate()
        assert process.wait(30) == 0


@pytest.fixture(scope="session")
def hostfile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A fleet of 4 that answers at once."""
    with simulated(tmp_path_factory.mktemp("fleet"), "--agents", "4", "--instant") as path:
        yield path


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Call the command line in this process, which has its signals and its environment back afterwards."""
    monkeypatch.delenv("AURORA_POOL_HOSTFILE", raising=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["aurora-pool", *map(str, arguments)])
        capfd.readouterr()
        with mock.patch.dict(os.environ), pytest.raises(SystemExit) as raised:
            main()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        captured = capfd.readouterr()
        return Ended(int(raised.value.code or 0), captured.out, captured.err)

    return run
