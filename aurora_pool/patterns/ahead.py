"""Prepare what comes next while the caller uses what is there."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

AHEAD = 16
"""How many are prepared at a time."""


async def ahead(items: Iterable[In], prepare: Callable[[In], Awaitable[Out]]) -> AsyncGenerator[Out]:
    """Yield what ``prepare`` makes of each item, in order; a few are being prepared at a time.

    What is not needed any more is cancelled. Raises what ``prepare`` raises.
    """
    tasks: deque[asyncio.Future[Out]] = deque()
    try:
        for item in items:
            tasks.append(asyncio.ensure_future(prepare(item)))
            if len(tasks) >= AHEAD:
                yield await tasks.popleft()
        while tasks:
            yield await tasks.popleft()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
