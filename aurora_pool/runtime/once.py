"""Run something once for all that need it: one run at a time, whose error is shared; it is cancelled if none waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from aurora_pool.errors import PoolError

Asked = TypeVar("Asked")
Result = TypeVar("Result")


class Once:
    """Makes a coroutine run to its end once.

    Whoever asks while it runs waits for the same run and gets its error. After a failure, the next to ask tries again.
    A run for which nobody waits any more is cancelled.

    >>> async def example():
    ...     once = Once()
    ...     await asyncio.gather(once.run(connect), once.run(connect))  # connects once
    """

    def __init__(self, *, done: bool = False) -> None:
        self.done = done
        self._task: asyncio.Task[None] | None = None
        self._waiting = 0

    async def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run it, unless it is done. Raises what it raises."""
        if self.done:
            return
        task = self._task
        if task is None:
            task = self._task = asyncio.get_running_loop().create_task(work())
            task.add_done_callback(self._ended)
        self._waiting += 1
        try:
            await asyncio.shield(task)
        finally:
            self._waiting -= 1
            if not self._waiting and not task.done():
                task.cancel()
                await asyncio.wait([task])

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._task is task:
            self._task = None
        self.done = not task.cancelled() and task.exception() is None


async def all_of(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    """Run coroutines side by side; return their results in order. If one raises, the others are cancelled and ended.

    >>> async def example():
    ...     first, second = await all_of(pool.ask("a"), pool.ask("b"))
    """
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def answers_of(
    questions: Mapping[Asked, Coroutine[Any, Any, Result | PoolError]], *, grace: float
) -> dict[Asked, Result | PoolError]:
    """Ask concurrently; return each result. ``grace`` seconds after the first success, drop the others.

    >>> async def example():
    ...     return await answers_of({agent: ask(agent) for agent in agents}, grace=0.25)
    """
    tasks = {asyncio.ensure_future(question): asked for asked, question in questions.items()}
    pending = set(tasks)
    answers: dict[Asked, Result | PoolError] = {}
    limit: float | None = None
    try:
        while pending:
            done, pending = await asyncio.wait(pending, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            answers.update((tasks[task], task.result()) for task in done)
            if limit is None and not all(isinstance(task.result(), PoolError) for task in done):
                limit = grace
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    return answers
