"""An event loop whose clock is simulated, for tests over real sockets that wait for nothing.

Client and simulated fleet live in one loop and talk real HTTP over the loopback. Whenever nothing is ready to run and
no byte is on its way, the clock jumps to the next timer: waiting 60 s costs microseconds, and the same test takes
the same course every time. ``loop.time()`` starts at 0.

>>> import asyncio
>>> run_simulated(asyncio.sleep(3600, "an hour later"))
'an hour later'

What makes it deterministic: sockets that become ready together are served in the order in which they were registered,
and bytes sent over the loopback are in the receiver's buffer before ``send`` returns. Work in other threads (the
default executor, name look-ups) is waited for in real time, without moving the clock; use numeric addresses to stay out
of it. Processes and other machines are not under this clock: nothing in the loop may depend on them.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

__all__ = ["SimulatedClockEventLoop", "StuckLoopError", "run_simulated"]

_T = TypeVar("_T")

_GRACE = 0.0002
"""Real seconds that a socket waiting to write is given before the clock jumps: its peer may be about to read."""

_NEW_YEAR = 1767225600.0

_STUCK_AFTER = 30.0
"""Real seconds without any timer, event or thread before a loop is declared stuck."""


class StuckLoopError(RuntimeError):
    """Every task waits, and nothing that this loop knows of can ever wake one."""


class SimulatedClockEventLoop(asyncio.SelectorEventLoop):
    """A selector event loop on simulated time; make it with ``asyncio.Runner(loop_factory=SimulatedClockEventLoop)``.

    >>> with asyncio.Runner(loop_factory=SimulatedClockEventLoop) as runner:
    ...     runner.run(asyncio.sleep(60))
    ...     runner.get_loop().time()
    60.0

    Raises :class:`StuckLoopError` out of ``run_forever`` when nothing can ever happen again.
    """

    def __init__(self) -> None:
        self._simulated = _SimulatedSelector()
        super().__init__(self._simulated)

    def time(self) -> float:
        """Tell the simulated time, in seconds since the loop was made."""
        return self._simulated.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., _T], *args: Any
    ) -> asyncio.Future[_T]:
        """Run a function in a thread; the clock stands still until it is done."""
        future = super().run_in_executor(executor, func, *args)
        self._simulated.threads += 1
        future.add_done_callback(self._thread_done)
        return future

    async def shutdown_default_executor(self, *limit: float | None) -> None:
        """Wait for the threads to end; the clock, and with it the ``limit`` that Python 3.12 brought, stands still."""
        self._simulated.threads += 1
        try:
            await super().shutdown_default_executor(*limit)
        finally:
            self._simulated.threads -= 1

    def _thread_done(self, _: asyncio.Future[Any]) -> None:
        self._simulated.threads -= 1


def wall_time() -> int:
    """Tell the seconds since 1970; a loop on a simulated clock began on New Year 2026, 0:00 UTC."""
    loop = asyncio.get_running_loop()
    return int(_NEW_YEAR + loop.time() if isinstance(loop, SimulatedClockEventLoop) else time.time())


def run_simulated(coroutine: Coroutine[Any, Any, _T], *, debug: bool | None = None) -> _T:
    """Run a coroutine to its end on a new loop with a simulated clock, as ``asyncio.run`` does on a real one.

    >>> run_simulated(asyncio.sleep(3600, "an hour later"))  # and at once
    'an hour later'
    """
    with asyncio.Runner(debug=debug, loop_factory=SimulatedClockEventLoop) as runner:
        return runner.run(coroutine)


def loop_factories(
    config: Any,  # noqa: ARG001 - the hook's signature
    item: Any,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Give pytest-asyncio a simulated clock for tests marked ``simulated_clock``, and its usual loop for the others.

    This is the hook ``pytest_asyncio_loop_factories``; in a ``conftest.py``::

        from aurora_pool.testing.clock import loop_factories as pytest_asyncio_loop_factories
    """
    if item.get_closest_marker("simulated_clock") is not None:
        return {"simulated": SimulatedClockEventLoop}
    return {"asyncio": asyncio.new_event_loop}


class _SimulatedSelector(selectors.BaseSelector):
    """The real selector, polled; where it would block, ``now`` moves on instead."""

    def __init__(self) -> None:
        self.now = 0.0
        self.threads = 0
        self._real = selectors.DefaultSelector()
        self._order: dict[int, int] = {}
        self._registered = 0
        self._writers: set[int] = set()

    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._real.register(fileobj, events, data)
        self._registered += 1
        self._order[key.fd] = self._registered
        self._note_writer(key)
        return key

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        key = self._real.unregister(fileobj)
        self._order.pop(key.fd, None)
        self._writers.discard(key.fd)
        return key

    def modify(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._real.modify(fileobj, events, data)
        self._note_writer(key)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if not ready and (timeout is None or timeout > 0):
            ready = self._wait(timeout)
        if len(ready) > 1:
            order = self._order
            ready.sort(key=lambda event: order[event[0].fd])
        return ready

    def close(self) -> None:
        self._real.close()

    def get_key(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self._real.get_key(fileobj)

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        return self._real.get_map()

    def _wait(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.threads:
            return self._real.select(_STUCK_AFTER)
        if self._writers:
            time.sleep(_GRACE)
        # Where the kernel delivers loopback bytes a little later than `send` returns, giving way once lets it.
        elif sys.platform != "linux":
            time.sleep(0)
        ready = self._real.select(0)
        if ready:
            return ready
        if timeout is not None:
            self.now += timeout
            return []
        ready = self._real.select(_STUCK_AFTER)
        if not ready:
            raise StuckLoopError("every task waits and there is no timer: nothing can happen any more")
        return ready

    def _note_writer(self, key: selectors.SelectorKey) -> None:
        if key.events & selectors.EVENT_WRITE:
            self._writers.add(key.fd)
        else:
            self._writers.discard(key.fd)
