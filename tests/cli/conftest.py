"""A simulated fleet in a process of its own, and the command line inside this one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from aurora_pool.cli import main
from tests.forked import simulated

COMMAND = [sys.executable, "-m", "aurora_pool"]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Call = Callable[..., Ended]


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
