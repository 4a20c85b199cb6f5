"""A pool without ``await``: for plain scripts, notebooks and threads. The event loop runs in a thread of its own."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import wait
from contextlib import ExitStack
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from anyio import CancelScope
from anyio.from_thread import BlockingPortal, start_blocking_portal

from aurora_pool.agent_pool import AgentPool
from aurora_pool.arguments import shown
from aurora_pool.errors import ConfigError, PoolClosedError
from aurora_pool.hostfile import AgentEndpoint
from aurora_pool.messages import AnyPrompt, Response, Sampling
from aurora_pool.progress import OnCallProgress
from aurora_pool.statistics import PoolStatistics

__all__ = ["BlockingPool"]

P = ParamSpec("P")
T = TypeVar("T")
PoolT = TypeVar("PoolT", bound=AgentPool)

INTERRUPTIBLE_EVERY = 1.0
"""Seconds after which a thread that waits hears of a Ctrl-C that did not wake it."""


class BlockingPool(Generic[PoolT]):
    """What :meth:`VLLMPool.sync` gives: a pool whose methods return when they are done.

    >>> with VLLMPool.from_hostfile("fleet.hostfile").sync() as pool:  # doctest: +SKIP
    ...     responses = pool.send_all_batched(["Name a colour.", "Name a tree."], max_tokens=16)
    ...     summary = pool.run(summarize, pages)  # any async function whose first argument is a pool

    It may be used by several threads at a time, and in a notebook, whose own event loop it leaves alone. In code that
    runs in an event loop, use the pool itself: these methods would hold that up. ``pool`` is the pool behind it.
    """

    def __init__(self, pool: PoolT) -> None:
        self.pool = pool
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None
        self._closed = False

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start the thread and the pool; ``with`` does it. Raises as :meth:`AgentPool.start` does."""
        if self._portal is None:
            with ExitStack() as stack:
                self._portal = stack.enter_context(start_blocking_portal(name="aurora-pool"))
                stack.callback(self._forget)
                stack.enter_context(self._portal.wrap_async_context_manager(self.pool))
                self._stack = stack.pop_all()
        return self

    def close(self) -> None:
        """Cancel what is in flight, close all connections and end the thread."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _forget(self) -> None:
        self._portal = None
        self._closed = True

    # -- what it is ---------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many agents it has, those that were removed left out."""
        return self.pool.size

    def __len__(self) -> int:
        return self.size

    @property
    def endpoints(self) -> tuple[AgentEndpoint, ...]:
        """Its agents, in the order of the hostfile; ``Response.agent_index`` counts in it."""
        return self.pool.endpoints

    def statistics(self) -> PoolStatistics:
        """Take a snapshot of its agents and sums: see :meth:`AgentPool.statistics`.

        >>> pool.statistics().prompts_done  # doctest: +SKIP
        2
        """
        # Between two turns of the event loop, while nothing changes.
        return self.pool.statistics() if self._portal is None else self._portal.call(self.pool.statistics)

    # -- prompts ------------------------------------------------------------------------------------------------

    def run(self, function: Callable[Concatenate[PoolT, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call an async function with the pool as its first argument, and wait for its result.

        >>> result = pool.run(tree_reduce, "Summarise: {item}", "Merge: {responses}", items=pages)  # doctest: +SKIP

        Methods of the pool will do too: ``pool.run(VLLMPool.post, 0, "Hi")``; views are taken in the function:
        ``pool.run(lambda pool: pool.by_tag("tier", "large").ask("Hi"))``. Interrupting it cancels what it does.
        Raises what the function raises, :class:`ConfigError` where it is no async function or the pool is not started,
        and :class:`PoolClosedError` after :meth:`close`.
        """
        if not callable(function):
            raise ConfigError(f"function: expected an async function of the pool, got {shown(function)}")

        async def call() -> T:
            result = function(self.pool, *args, **kwargs)
            if not inspect.isawaitable(result):
                raise ConfigError(
                    f"function: expected an async function of the pool, got one that gives {shown(result)}"
                )
            return await result

        return self._wait(call)

    def ask(self, prompt: AnyPrompt, max_tokens: int | None = None, *, sampling: Sampling | None = None) -> Response:
        """Answer one prompt: see :meth:`AgentPool.ask`.

        >>> pool.ask("Name a colour.", max_tokens=8).text  # doctest: +SKIP
        'Blue.'
        """
        return self.run(AgentPool.ask, prompt, max_tokens, sampling=sampling)

    def send_all(
        self,
        prompts: Iterable[AnyPrompt],
        max_tokens: int | None = None,
        *,
        sampling: Sampling | None = None,
        on_progress: OnCallProgress | None = None,
        progress: bool = False,
    ) -> list[Response]:
        """Send each prompt in a request of its own: see :meth:`AgentPool.send_all`."""
        options: dict[str, Any] = {"sampling": sampling, "on_progress": on_progress, "progress": progress}
        return self._wait(lambda: self.pool.send_all(prompts, max_tokens, **options))

    def send_all_batched(
        self,
        prompts: Iterable[AnyPrompt],
        max_tokens: int | None = None,
        *,
        sampling: Sampling | None = None,
        weight: float = 1.0,
        priority: int = 0,
        on_progress: OnCallProgress | None = None,
        progress: bool = False,
    ) -> list[Response]:
        """Send the prompts in list requests: see :meth:`AgentPool.send_all_batched`.

        >>> responses = pool.send_all_batched(prompts, max_tokens=16, progress=True)  # doctest: +SKIP
        """
        options: dict[str, Any] = {"sampling": sampling, "on_progress": on_progress, "progress": progress}
        options |= {"weight": weight, "priority": priority}
        return self._wait(lambda: self.pool.send_all_batched(prompts, max_tokens, **options))

    def iter_responses(
        self,
        prompts: Iterable[AnyPrompt] | AsyncIterable[AnyPrompt],
        max_tokens: int | None = None,
        *,
        sampling: Sampling | None = None,
        weight: float = 1.0,
        priority: int = 0,
        total: int | None = None,
    ) -> Iterator[tuple[int, Response]]:
        """Yield (index, response) in the order in which prompts end: see :meth:`AgentPool.iter_responses`.

        The prompts are pulled by the pool's thread. Leaving the loop early cancels what is in flight.

        >>> for index, response in pool.iter_responses(prompts, max_tokens=16):  # doctest: +SKIP
        ...     print(index, response.text)
        """
        responses = self.pool.iter_responses(
            prompts, max_tokens, sampling=sampling, weight=weight, priority=priority, total=total
        )

        async def following() -> tuple[int, Response] | None:
            return await anext(responses, None)

        try:
            while (pair := self._wait(following)) is not None:
                yield pair
        finally:
            self._wait(responses.aclose)

    def _wait(self, function: Callable[[], Awaitable[T]]) -> T:
        if self._closed:
            raise PoolClosedError("this pool is closed")
        if self._portal is None:
            raise ConfigError("this pool is not started: use 'with pool.sync() as pool:', or call start() first")
        portal = self._portal
        scopes: list[CancelScope] = []
        abandoned = threading.Event()

        async def cancellable() -> T:
            with CancelScope() as scope:
                scopes.append(scope)
                if abandoned.is_set():
                    scope.cancel()
                return await function()
            raise asyncio.CancelledError  # its caller is gone

        def cancel() -> None:
            for scope in scopes:
                scope.cancel()

        # This thread may be interrupted at any time, also before it knows the task that it has started.
        try:
            future = portal.start_task_soon(cancellable)
            # A signal that comes just before the thread waits does not wake it, and on Windows none does.
            while not wait([future], INTERRUPTIBLE_EVERY).done:
                pass
            return future.result()
        except BaseException:
            abandoned.set()
            portal.start_task_soon(cancel)
            raise
