"""Tests marked ``simulated_clock`` run in simulated time."""

from __future__ import annotations

from aurora_pool.testing.clock import loop_factories as pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]
