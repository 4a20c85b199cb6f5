"""How a process that does nothing else runs: ``aurora-pool run``, the simulated servers, benchmarks."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["run"]

T = TypeVar("T")

COLLECT_EVERY = (50_000, 20, 100)
"""For ``gc.set_threshold``. Python looks at all objects that live whenever enough new ones have come; with thousands of
connections open, and none of that garbage, this takes a third of the time. A library leaves that to its process."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, as :func:`asyncio.run` does, in the fastest event loop there is."""
    gc.set_threshold(*COLLECT_EVERY)
    with asyncio.Runner(loop_factory=_fastest_loop()) as runner:
        return runner.run(work)


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop  # noqa: PLC0415 (it is not there on every platform)
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
