"""One caller's prompts: pulled from the input as fast as answers leave, returned in order of completion."""

from __future__ import annotations

import asyncio
import itertools
import operator
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aurora_pool.messages import AnyPrompt, Response
from aurora_pool.policy.callers import PromptQueue
from aurora_pool.policy.work import Lot, WorkItem
from aurora_pool.runtime.request_kinds import Planned, PlanPrompts, PlanResult

if TYPE_CHECKING:
    from aurora_pool.runtime.fleet_runtime import FleetRuntime

DEFERRED = 16
"""How many prompts of a call may wait at a time for an answer that is needed before they can be sent."""
FORGET_FROM = 1024
"""How many work items a call keeps at least before it drops those that are done."""
SLICE = 16_384
SLICE_PER_AGENT = 128
"""How many prompts are admitted before requests are sent: enough that one list request per agent carries what a call of
this size has for it, and no more, for the agents wait meanwhile (2 us a prompt)."""


class Call:
    """Feeds the prompts of one call into the fleet and collects their responses.

    At most twice as many prompts as the agents may hold are admitted and not yet taken by the caller: the agents'
    windows are full, as much again waits for credits to return, and the rest stays in the input. Input and output are
    pulled, so a slow caller slows the input down and costs no memory.
    """

    def __init__(
        self,
        runtime: FleetRuntime,
        queue: PromptQueue,
        prompts: Iterable[AnyPrompt] | AsyncIterable[AnyPrompt],
        plan: PlanPrompts,
        total: int | None = None,
        positions: Mapping[int, int] | None = None,
    ) -> None:
        self._runtime = runtime
        self.queue = queue
        self._plan = plan
        self._positions = positions
        self._ready: deque[tuple[Sequence[int], Sequence[Response]]] = deque()
        self._delivered = 0
        self._items: list[WorkItem] = []
        """The work items of its prompts, as far as there are any, without most of those that are done."""
        self._crowded = FORGET_FROM
        self._deferred: set[asyncio.Task[None]] = set()
        self._pulled = 0
        self._taken = 0
        self._limit = 0
        self._refill_at = 0
        self._slice = max(SLICE, SLICE_PER_AGENT * len(queue.view.members))
        self._left: Iterator[PlanResult] | None = None
        """What is left of a slice of which as many are deferred as may be."""
        self._dry = False
        self._exhausted = False
        self._error: BaseException | None = None
        self._news: asyncio.Future[None] | None = None
        self._may_pull = asyncio.Event()
        self._input: Iterator[AnyPrompt] | None = None
        self._feeder: asyncio.Task[None] | None = None
        self._puller: asyncio.Task[None] | None = None
        length = total if total is not None else operator.length_hint(prompts, -1)
        runtime.calls.add(self)
        self._expected = length if length >= 0 else None
        if self._expected is None:
            queue.unbounded = True
        else:
            queue.expected += self._expected
        if isinstance(prompts, AsyncIterable):
            self._feeder = asyncio.get_running_loop().create_task(self._feed(prompts))
            self._feeder.add_done_callback(self._fed)
        else:
            self._input = iter(prompts)

    # -- the caller's side --------------------------------------------------------------------------------------

    async def responses(self) -> AsyncGenerator[tuple[int, Response]]:
        """Yield (index, response) as prompts end. Closing it early cancels what is in flight."""
        ready = self._ready
        try:
            self._pull()
            while True:
                while ready:
                    for pair in zip(*ready.popleft(), strict=True):
                        self._taken += 1
                        if not self._exhausted:
                            self._pull()
                        yield pair
                if await self._ended():
                    return
        finally:
            await self._stop()

    async def all(self, count: Callable[[Iterable[Response]], None] | None = None) -> list[Response]:
        """All responses, in the order of the prompts. ``count`` is called with those that have come."""
        ready = self._ready
        found: list[Any] = []
        try:
            self._pull()
            while True:
                while ready:
                    found += [None] * (self._pulled - len(found))
                    for indices, responses in ready:
                        self._taken += len(responses)
                        _put(found, indices, responses)
                        if count is not None:
                            count(responses)
                    ready.clear()
                    self._pull()
                if await self._ended():
                    return found
        finally:
            await self._stop()

    async def _ended(self) -> bool:
        """Wait for more, while there may be more."""
        if self._error is not None:
            raise self._error
        if self._exhausted and self._taken == self._pulled:
            return True
        self._news = asyncio.get_running_loop().create_future()
        await self._news
        return False

    async def _stop(self) -> None:
        self._end_input()
        self._runtime.calls.discard(self)
        helpers = [*self._deferred, *(task for task in (self._feeder, self._puller) if task is not None)]
        try:
            if self._delivered < self._pulled:
                self._runtime.withdraw_all(self._items)
        finally:
            self._items.clear()
            for task in helpers:
                task.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)

    # -- the fleet's side ---------------------------------------------------------------------------------------

    def deliver(self, indices: Sequence[int], responses: Sequence[Response]) -> None:
        """Record results, and the indices of their prompts, in the same order."""
        self._delivered += len(responses)
        self._ready.append((indices, responses))
        self._wake()

    def fail(self, error: BaseException) -> None:
        """End the call with an error: the input's own, a closed pool's, or that of a defect here."""
        self._error = self._error or error
        self._wake()

    def agent_index(self, agent: int | None) -> int | None:
        """The position of an agent of the fleet in the view that was asked."""
        return agent if self._positions is None or agent is None else self._positions.get(agent)

    def _wake(self) -> None:
        news, self._news = self._news, None
        if news is not None and not news.done():
            news.set_result(None)

    # -- the input ----------------------------------------------------------------------------------------------

    def _pull(self) -> None:
        """Admit prompts while there is capacity, a slice at a time."""
        if self._pull_slice():
            self._pull_soon()

    def _pull_slice(self) -> bool:
        """Admit a slice of prompts; return whether there is capacity for more."""
        unanswered = self._pulled - self._taken
        if self._exhausted or unanswered > self._refill_at or len(self._deferred) >= DEFERRED:
            return False
        self._may_pull.set()
        if self._input is None:
            return False
        self._set_limit()
        free = self._limit - unanswered
        if free <= 0:  # the windows have shrunk since
            return False
        planned: Planned | None = self._left
        if planned is None:
            count = min(free, self._slice)
            prompts = list(itertools.islice(self._input, count))
            self._dry = len(prompts) < count
            planned = self._plan(self._pulled, prompts, self)
        self._admit(self._admissible(planned))
        if self._dry and self._left is None:
            self._end_input()
        return free > self._slice

    def _pull_soon(self) -> None:
        """Pull in a turn of its own, as a task, so that an error of the input finds its way to the caller."""

        async def pull() -> None:
            more = True
            while more:
                await asyncio.sleep(0)
                more = self._pull_slice()

        if self._puller is None or self._puller.done():
            self._puller = asyncio.get_running_loop().create_task(pull())
            self._puller.add_done_callback(self._pulled_on)

    def _pulled_on(self, puller: asyncio.Task[None]) -> None:
        if not puller.cancelled() and (error := puller.exception()) is not None:
            self.fail(error)

    def _set_limit(self) -> None:
        self._limit = 2 * self._runtime.capacity(self.queue)
        self._refill_at = self._limit - max(1, self._limit // 16)

    def _admissible(self, planned: Planned) -> Lot | list[WorkItem]:
        """The prompts to admit now: not those that are answered already, nor those that are deferred."""
        self._left = None
        if isinstance(planned, list | Lot):
            self._count(len(planned))
            return planned
        items = []
        for one in planned:
            index = self._pulled
            self._count(1)
            if isinstance(one, WorkItem):
                items.append(one)
            elif isinstance(one, Response):
                self.deliver([index], [one])
            else:
                self._ask_first(index, one)
                if len(self._deferred) >= DEFERRED:
                    self._left = planned
                    break
        return items

    def _count(self, prompts: int) -> None:
        self._pulled += prompts
        if self._expected:
            counted = min(self._expected, prompts)
            self._expected -= counted
            self.queue.expected -= counted

    def _admit(self, prompts: Lot | list[WorkItem]) -> None:
        if not prompts:
            return
        if isinstance(prompts, Lot):
            prompts.materialized = self._items
        else:
            self._items += prompts
        if len(self._items) > self._crowded:  # forgetting many at a time is cheaper than each when it is done
            self._items[:] = [item for item in self._items if not item.done]
            self._crowded = 2 * len(self._items) + FORGET_FROM
        self._runtime.admit(prompts)

    def _ask_first(self, index: int, make: Callable[[], Awaitable[WorkItem | Response]]) -> None:
        async def ask() -> None:
            planned = await make()
            if isinstance(planned, WorkItem):
                self._admit([planned])
            else:
                self.deliver([index], [planned])

        task = asyncio.get_running_loop().create_task(ask())
        self._deferred.add(task)
        task.add_done_callback(self._asked)

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._deferred.discard(task)
        if not task.cancelled():
            if (error := task.exception()) is not None:
                self.fail(error)
            else:
                self._pull_soon()

    def _end_input(self) -> None:
        if self._exhausted:
            return
        self._exhausted = True
        if self._expected is None:
            self.queue.unbounded = False
        else:
            self.queue.expected -= self._expected
            self._expected = 0
        self._runtime.schedule()

    async def _feed(self, prompts: AsyncIterable[AnyPrompt]) -> None:
        try:
            async for prompt in prompts:
                self._admit(self._admissible(self._plan(self._pulled, [prompt], self)))
                if self._pulled % self._slice == 0:
                    await asyncio.sleep(0)
                while self._full() or len(self._deferred) >= DEFERRED:
                    self._may_pull.clear()
                    await self._may_pull.wait()
        finally:
            if isinstance(prompts, AsyncGenerator):
                await prompts.aclose()  # a caller that stops early wants its input closed now, not when it is collected

    def _full(self) -> bool:
        if self._pulled - self._taken >= self._limit:
            self._set_limit()
        return self._pulled - self._taken >= self._limit

    def _fed(self, feeder: asyncio.Task[None]) -> None:
        if not feeder.cancelled() and (error := feeder.exception()) is not None:
            self.fail(error)
        self._end_input()
        self._wake()


def _put(found: list[Any], indices: Sequence[int], responses: Sequence[Response]) -> None:
    """Put responses where they belong."""
    if isinstance(indices, range):
        found[indices.start : indices.stop : indices.step] = responses
    else:
        for index, response in zip(indices, responses, strict=True):
            found[index] = response
