"""Settings of the whole suite."""

from __future__ import annotations

from hypothesis import settings

from aurora_pool.testing.clock import loop_factories as pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]  # tests marked simulated_clock run in simulated time

# The same examples in every run, and no clock that decides: a red test is red again, a slow machine is no failure.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")
