"""One caller's prompts: pulled from the input as fast as answers leave, handed back in order of completion."""

from __future__ import annotations

import asyncio
import operator
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from aurora_pool.messages import AnyPrompt, Response
from aurora_pool.policy.work import Lane, Ticket

if TYPE_CHECKING:
    from aurora_pool.fleet import Fleet

MakeTicket = Callable[[int, AnyPrompt, "Call"], Ticket]


class Call:
    """Feeds the prompts of one call into the fleet and collects their responses.

    At most twice as many prompts as the agents may hold are admitted and not yet taken by the caller: the agents'
    windows are full, as much again waits for credits to return, and the rest stays in the input. Input and output are
    pulled, so a slow caller slows the input down, not the memory up.
    """

    def __init__(
        self,
        fleet: Fleet,
        lane: Lane,
        prompts: Iterable[AnyPrompt] | AsyncIterable[AnyPrompt],
        make_ticket: MakeTicket,
        total: int | None,
    ) -> None:
        self._fleet = fleet
        self.lane = lane
        self._make_ticket = make_ticket
        self._positions = None if isinstance(lane.members, range) else {a: i for i, a in enumerate(lane.members)}
        self._ready: deque[tuple[int, Response]] = deque()
        self._open: dict[int, Ticket] = {}
        self._pulled = 0
        self._taken = 0
        self._room = 0
        self._exhausted = False
        self._error: BaseException | None = None
        self._news: asyncio.Future[None] | None = None
        self._room_made = asyncio.Event()
        self._input: Iterator[AnyPrompt] | None = None
        self._feeder: asyncio.Task[None] | None = None
        length = total if total is not None else operator.length_hint(prompts, -1)
        fleet.calls.add(self)
        self._expected = length if length >= 0 else None
        if self._expected is None:
            lane.unbounded += 1
        else:
            lane.expected += self._expected
        if isinstance(prompts, AsyncIterable):
            self._feeder = asyncio.get_running_loop().create_task(self._feed(prompts))
            self._feeder.add_done_callback(self._fed)
        else:
            self._input = iter(prompts)

    # -- the caller's side --------------------------------------------------------------------------------------

    async def responses(self) -> AsyncGenerator[tuple[int, Response]]:
        """Yield (index, response) as prompts end. Closing it early cancels what is under way."""
        ready = self._ready
        try:
            self._pull()
            while True:
                while ready:
                    self._taken += 1
                    self._pull()
                    yield ready.popleft()
                if self._error is not None:
                    raise self._error
                if self._exhausted and self._taken == self._pulled:
                    return
                self._news = asyncio.get_running_loop().create_future()
                await self._news
        finally:
            await self._stop()

    async def _stop(self) -> None:
        self._end_input()
        self._fleet.calls.discard(self)
        if self._open:
            self._fleet.withdraw(list(self._open.values()))
            self._open.clear()
        if self._feeder is not None:
            self._feeder.cancel()
            await asyncio.gather(self._feeder, return_exceptions=True)

    # -- the fleet's side ---------------------------------------------------------------------------------------

    def deliver(self, ticket: Ticket, response: Response) -> None:
        """Take in the result of one prompt."""
        if self._open.pop(ticket.index, None) is not None:
            self._ready.append((ticket.index, response))
            self._wake()

    def crash(self, error: BaseException) -> None:
        """Take in an error that is nobody's fault but the program's: the caller gets it."""
        self._error = self._error or error
        self._wake()

    def agent_index(self, agent: int | None) -> int | None:
        """Where an agent of the fleet stands in the view that was asked."""
        return agent if self._positions is None or agent is None else self._positions.get(agent)

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    # -- the input ----------------------------------------------------------------------------------------------

    def _pull(self) -> None:
        """Admit prompts while there is room, a good handful at a time."""
        if self._exhausted:
            return
        under_way = self._pulled - self._taken
        if under_way > self._room:
            return
        self._room_made.set()
        if self._input is not None:
            limit = self._limit()
            self._fleet.admit(self._tickets(self._input, limit - under_way))

    def _limit(self) -> int:
        limit = 2 * self._fleet.capacity(self.lane)
        self._room = limit - max(1, limit // 16)
        return limit

    def _tickets(self, prompts: Iterator[AnyPrompt], count: int) -> Iterator[Ticket]:
        for _ in range(count):
            try:
                prompt = next(prompts)
            except StopIteration:
                self._end_input()
                return
            yield self._ticket(prompt)

    def _ticket(self, prompt: AnyPrompt) -> Ticket:
        ticket = self._make_ticket(self._pulled, prompt, self)
        self._open[self._pulled] = ticket
        self._pulled += 1
        if self._expected:
            self._expected -= 1
            self.lane.expected -= 1
        return ticket

    def _end_input(self) -> None:
        if self._exhausted:
            return
        self._exhausted = True
        if self._expected is None:
            self.lane.unbounded -= 1
        else:
            self.lane.expected -= self._expected
            self._expected = 0
        self._fleet.schedule()

    async def _feed(self, prompts: AsyncIterable[AnyPrompt]) -> None:
        async for prompt in prompts:
            self._fleet.admit([self._ticket(prompt)])
            while self._pulled - self._taken >= self._limit():
                self._room_made.clear()
                await self._room_made.wait()

    def _fed(self, feeder: asyncio.Task[None]) -> None:
        if not feeder.cancelled() and (error := feeder.exception()) is not None:
            self.crash(error)
        self._end_input()
        self._wake()
