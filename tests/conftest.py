"""Settings of the whole suite."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
from hypothesis import settings

from aurora_pool.testing.clock import loop_factories


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let tests run in the loop that ``aurora-pool run`` uses; in real time, so only those that wait for little."""
    parser.addoption("--uvloop", action="store_true", help="run async tests on uvloop, in real time")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run tests marked simulated_clock in simulated time; with ``--uvloop``, all of them on that."""
    if config.getoption("--uvloop"):
        import uvloop

        return {"uvloop": uvloop.new_event_loop}
    return loop_factories(config, item)


# The same examples in every run, and no clock that decides: a red test is red again, a slow machine is no failure.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")
