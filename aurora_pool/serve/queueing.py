"""Which batch begins next: by priority, then fairly by user, then by deadline. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec


class Waiting(msgspec.Struct, frozen=True):
    """A batch that could begin. ``cost`` is its number of requests; ``answered``, whether none of them is left."""

    id: str
    user: str
    priority: int
    expires_at: float
    cost: int
    seq: int
    answered: bool = False


class Running(msgspec.Struct, frozen=True):
    """What a user has running: how many batches, and the highest priority among them."""

    count: int = 0
    priority: int = -(10**6)


class Share(msgspec.Struct, frozen=True):
    """What a user may have: a weight, and how many batches at a time; none while the day's tokens are ``spent``."""

    weight: float = 1.0
    running: int | None = None
    spent: bool = False

    def allows(self, running: int, *, answered: bool = False) -> bool:
        """Whether one more may begin while this many run; one that is ``answered`` needs no tokens."""
        return (answered or not self.spent) and (self.running is None or running < self.running)


class FairQueue:
    """Start-time fair queueing over users: who has had least for their weight comes next.

    A user who comes new, or back, begins at the level of those who are there, so that nobody saves up a claim.

    Source: Goyal, Vin, Cheng, "Start-time Fair Queueing" (1997).
    """

    def __init__(self) -> None:
        self._finish: dict[str, float] = {}
        self._level = 0.0

    def choose(
        self,
        waiting: Sequence[Waiting],
        running: Mapping[str, Running],
        shares: Mapping[str, Share],
        *,
        crowded: bool = False,
    ) -> Waiting | None:
        """Choose what begins now, and charge its user; None if nothing may.

        Where it is ``crowded``, only those begin whose user has nothing of that priority running: so nobody waits for
        the end of another's long batches. What runs shares the fleet by weight and priority.

        >>> queue = FairQueue()
        >>> ann, bob = (Waiting(name, name, 0, 0.0, 10, 1) for name in ("ann", "bob"))
        >>> [queue.choose([ann, bob], {}, {"bob": Share(2.0)}).user for _ in range(6)]
        ['ann', 'bob', 'bob', 'ann', 'bob', 'bob']
        """
        may = [
            each
            for each in waiting
            if shares.get(each.user, Share()).allows(running.get(each.user, Running()).count, answered=each.answered)
            if not crowded or running.get(each.user, Running()).priority < each.priority
        ]
        if not may:
            return None
        first = min(may, key=lambda each: (-each.priority, self._start(each.user), each.expires_at, each.seq))
        start = self._start(first.user)
        self._level = max(self._level, start)
        self._finish[first.user] = start + max(1, first.cost) / shares.get(first.user, Share()).weight
        if len(self._finish) > 10_000:
            self._finish = {user: finish for user, finish in self._finish.items() if finish > self._level}
        return first

    def _start(self, user: str) -> float:
        return max(self._level, self._finish.get(user, 0.0))
