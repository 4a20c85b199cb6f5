"""Work that grows from its own answers: trees, pipelines and fan-ins share one call to the pool.

Everything goes through a single ``iter_responses``, so follow-up prompts join the list requests that are in flight,
and closing one iterator cancels all of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from typing import TypeAlias, TypeVar

from aurora_pool.messages import AnyPrompt, Response, Sampling
from aurora_pool.patterns.text_pool import TextPool
from aurora_pool.progress import ProgressReport

Key = TypeVar("Key")
Work: TypeAlias = tuple[Key, AnyPrompt]
"""A prompt, and the key under which its response comes back."""


async def grow(
    pool: TextPool,
    first: Iterable[Work[Key]],
    follow: Callable[[Key, Response], Iterable[Work[Key]]],
    *,
    sampling: Sampling | None = None,
    report: ProgressReport | None = None,
) -> None:
    """Send prompts, and with each response the prompts that follow from it, until nothing more follows.

    ``follow`` is called once per response, in completion order, and returns what is to be sent next::

        def follow(key, response):
            return [(("shorten", key), f"Shorten: {response.text}")] if response.success else []

        await grow(pool, enumerate(prompts), follow)

    What follows goes ahead of the rest of ``first``, which is pulled only as fast as the pool takes prompts. ``report``
    counts the responses. What ``first`` or ``follow`` raises ends the call, and all that is in flight is cancelled.
    """
    ready: deque[Work[Key]] = deque()
    in_flight: dict[int, Key] = {}
    answered = asyncio.Event()

    async def feed() -> AsyncIterator[AnyPrompt]:
        source = iter(first)
        pulled = 0
        while True:
            work = ready.popleft() if ready else next(source, None)
            if work is None:
                if not in_flight:
                    return
                answered.clear()
                await answered.wait()
                continue
            in_flight[pulled], prompt = work
            pulled += 1
            yield prompt

    async with aclosing(pool.iter_responses(feed(), sampling=sampling)) as responses:
        async for index, response in responses:
            ready.extend(follow(in_flight.pop(index), response))
            answered.set()
            if report is not None:
                report.count([response])
