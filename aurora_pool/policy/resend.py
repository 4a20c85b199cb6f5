"""Prompts that failed together go again together, and apart from others: so the one at fault is found.

A server that answers 500 for a list, or breaks off its stream, may do so because of one prompt in it. The same list
goes to another agent once; if it fails there too, its halves go, and so on until the culprit stands alone and has used
up its attempts. What shared a list with it loses nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.ledger import Ledger
from aurora_pool.policy.retry import MAX_ATTEMPTS
from aurora_pool.policy.work import PromptQueue, WorkItem

DRAWN = 16
"""So many members of a queue are drawn before all are looked at, to find an agent that may take a list."""
LOOK_AGAIN = 0.1
"""Seconds until an agent is looked for again, while those in service rest or are full."""
LOOKS = 20
"""After so many looks the prompts wait in the queue, at its head, with all others."""
ALONE = 2
"""A prompt must have failed alone so often, whatever it failed with in company."""


def count_attempt(items: Sequence[WorkItem]) -> bool:
    """Count a failed attempt of prompts that went together; return whether the same had failed before."""
    again = min(item.attempts for item in items) >= 1
    most = MAX_ATTEMPTS if len(items) == 1 else MAX_ATTEMPTS - ALONE
    for item in items:
        item.attempts = max(item.attempts, min(item.attempts + 1, most))
    return again


class Resender:
    """Sends lists that failed to agents that may take them, as they are."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def send(self, items: Sequence[WorkItem], now: float, pause: float = 0.0) -> None:
        """Have these prompts of one request sent again, after a pause; those under suspicion wait for their turn."""
        suspected = [item for item in items if item.suspected]
        if suspected:
            self._ledger.timers.add(now + pause, self._ledger.requeue, suspected[::-1])
        plain = [item for item in items if not item.suspected]
        for _, group in itertools.groupby(plain, key=lambda item: id(item.queue)):
            self._ledger.timers.add(now + pause, self._send, (list(group), LOOKS))

    def _send(self, what: tuple[list[WorkItem], int], now: float) -> None:
        items, looks = what
        left = [item for item in items if not item.done and not item.holders]
        while left:
            queue = left[0].queue
            agent = self._taker(queue, left[0].avoid)
            if agent is None:
                if looks and any(self._ledger.agents[index].in_service for index in queue.members):
                    self._ledger.timers.add(now + LOOK_AGAIN, self._send, (left, looks - 1))
                else:
                    self._ledger.requeue(reversed(left), now)
                return
            part = left[: min(left[0].limit, agent.free)]
            left = left[len(part) :]
            for item in part:
                item.holders += 1
            agent.held += len(part)
            self._ledger.open_request(part, agent, now)

    def _taker(self, queue: PromptQueue, avoid: int) -> AgentState | None:
        """The agent with the most room, of a few where there are many; not the one to avoid if there is another."""
        agents, members = self._ledger.agents, queue.members
        if len(members) > DRAWN:
            drawn = [agents[members[self._ledger.rng.randrange(len(members))]] for _ in range(DRAWN)]
            found = max((a for a in drawn if a.free and a.index != avoid), key=lambda a: a.free, default=None)
            if found is not None:
                return found
        others = any(agents[index].in_service for index in members if index != avoid)
        ready = (agents[index] for index in members if agents[index].free and (index != avoid or not others))
        return max(ready, key=lambda a: a.free, default=None)
