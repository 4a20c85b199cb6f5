"""The time that the caller allows for one prompt, counted from its first sending."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TypeAlias

from aurora_pool.policy.ledger import Ledger
from aurora_pool.policy.plan import Failure
from aurora_pool.policy.work import InFlightRequest, WorkItem

Watched: TypeAlias = InFlightRequest | Sequence[WorkItem]

IDLE_NOTED = 1.0
"""Seconds without a byte from which on the error names them."""


class Deadlines:
    """Fails prompts that are not answered in time; one entry for each request, none for a prompt.

    What is watched is a request, which lets go of prompts that are released; so the memory that this holds is bounded
    by what is in flight.
    """

    def __init__(self, ledger: Ledger, timeout: float) -> None:
        self.ledger = ledger
        self.timeout = timeout
        self._watched: list[tuple[float, int, Watched]] = []
        self._count = 0

    def watch(self, prompts: Watched) -> None:
        """Watch those of these prompts that have been sent, so that they end in time."""
        if isinstance(prompts, InFlightRequest) and prompts.lot is not None and prompts.sent_at is not None:
            firsts = [prompts.sent_at] * bool(prompts.open)
        else:
            firsts = [item.first_sent for item in _items(prompts) if not item.done and item.sends]
        if firsts:
            due = min(firsts) + self.timeout
            if not self._watched or due < self._watched[0][0]:
                self.ledger.timers.add(due, self._expire, None)
            self._count += 1
            heapq.heappush(self._watched, (due, self._count, prompts))

    def clear(self) -> None:
        """Watch nothing any more."""
        self._watched.clear()

    def _expire(self, _: None, now: float) -> None:
        watched = self._watched
        late: list[Watched] = []
        while watched and watched[0][0] <= now:
            late.append(heapq.heappop(watched)[2])
        for prompts in late:
            for item in _items(prompts):
                if not item.done and item.sends and item.first_sent + self.timeout <= now:
                    agent = item.request.agent if item.request else None
                    error = f"no answer within {self.timeout:g} s of sending{self._cause(item, now)}"
                    self.ledger.fail(item, Failure(item, "timeout", error, agent), now)
        if late:
            self.ledger.clear_staged()
        for prompts in late:
            self.watch(prompts)
        if watched:
            self.ledger.timers.add(watched[0][0], self._expire, None)

    def _cause(self, item: WorkItem, now: float) -> str:
        """What is known of the agent that a late prompt is at, or was at before it had to wait again."""
        if item.request is not None and item.request.sent_at is not None:
            quiet = now - self.ledger.agents[item.request.agent].last_byte
            name = self.ledger.names[item.request.agent]
            return f"; {name} has sent nothing for {quiet:.0f} s" if quiet >= IDLE_NOTED else ""
        if item.avoid >= 0:
            last = self.ledger.agents[item.avoid]
            return f"; {self.ledger.names[last.index]}, where it was: {last.last_error}"
        return ""


def _items(prompts: Watched) -> Sequence[WorkItem]:
    return prompts.unreleased() if isinstance(prompts, InFlightRequest) else prompts
