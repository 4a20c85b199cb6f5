"""The time that the caller allows for one prompt, counted from its first sending."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from aurora_pool.policy.books import Books
from aurora_pool.policy.work import Failure, Ticket


class Deadlines:
    """Fails prompts that are not answered in time; one entry for each request, none for a prompt.

    What is watched is a request's own list of prompts, in which those that are settled have become None; so the memory
    that this holds is bounded by what is in flight.
    """

    def __init__(self, books: Books, timeout: float) -> None:
        self.books = books
        self.timeout = timeout
        self._watched: list[tuple[float, int, Sequence[Ticket | None]]] = []
        self._count = 0

    def watch(self, tickets: Sequence[Ticket | None]) -> None:
        """See to it that these prompts, which have been sent before or are now, end in time."""
        firsts = [ticket.first_sent for ticket in tickets if ticket is not None and not ticket.done]
        if firsts:
            due = min(firsts) + self.timeout
            if not self._watched or due < self._watched[0][0]:
                self.books.alarm(due, self._expire, None)
            self._count += 1
            heapq.heappush(self._watched, (due, self._count, tickets))

    def clear(self) -> None:
        """Watch nothing any more."""
        self._watched.clear()

    def _expire(self, _: None, now: float) -> None:
        watched = self._watched
        late: list[Sequence[Ticket | None]] = []
        while watched and watched[0][0] <= now:
            late.append(heapq.heappop(watched)[2])
        for tickets in late:
            for ticket in tickets:
                if ticket is not None and not ticket.done and ticket.first_sent + self.timeout <= now:
                    agent = ticket.request.agent if ticket.request else None
                    error = f"no answer within {self.timeout:g} s of sending"
                    self.books.fail(ticket, Failure(ticket, "timeout", error, agent), now)
        if late:
            self.books.clear_outboxes()
        for tickets in late:
            self.watch(tickets)
        if watched:
            self.books.alarm(watched[0][0], self._expire, None)
