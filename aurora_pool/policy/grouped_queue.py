"""A queue of single prompts in order, and of groups that share a beginning, each with its homes.

How many an agent may have is decided elsewhere (:mod:`aurora_pool.policy.scheduler`); this says which ones. An agent
takes the groups that it is the home of first, then those without a home, the oldest first, and then those of other
agents: the newest group of the agent with most groups waiting. So nothing waits while any agent could take it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import Generic, Protocol, TypeVar

from aurora_pool.policy.segmented_queue import Lot, SegmentedQueue

DRAWN = 16
"""Of this number of agents, drawn at random, the one for which most groups wait is helped."""
PASSED_OVER = 4
"""A group is passed over for as many prompts as waited when it came, times this, and
:data:`PASSED_OVER_AT_LEAST` more; then it is next."""
PASSED_OVER_AT_LEAST = 256


class Waits(Protocol):
    """What can wait."""

    done: bool
    """Whether it has ended: answered, failed or withdrawn."""


Item = TypeVar("Item", bound=Waits)


class QueuedGroup(Generic[Item, Lot]):
    """Prompts that share a beginning, and the agents that have computed it."""

    __slots__ = ("due", "homes", "items", "key")

    def __init__(self, key: int, due: int) -> None:
        self.key = key
        self.due = due
        self.items: SegmentedQueue[Item, Lot] = SegmentedQueue()
        self.homes: dict[int, None] = {}


class GroupedQueue(Generic[Item, Lot]):
    """The prompts of a queue that any agent of its view may take.

    >>> waiting = GroupedQueue()
    >>> bool(waiting), len(waiting)
    (False, 0)
    """

    __slots__ = ("_at", "_count", "_groups", "_new", "_taken", "singles")

    def __init__(self) -> None:
        self.singles: QueuedGroup[Item, Lot] = QueuedGroup(0, 0)
        """Those that belong to no group, and those that have been sent before."""
        self._groups: dict[int, QueuedGroup[Item, Lot]] = {}
        self._new: dict[QueuedGroup[Item, Lot], None] = {}
        self._at: dict[int, dict[QueuedGroup[Item, Lot], None]] = {}
        self._count = 0
        self._taken = 0

    def __len__(self) -> int:
        return len(self.singles.items) + self._count

    def __bool__(self) -> bool:
        return bool(self.singles.items) or self._count > 0

    def __iter__(self) -> Iterator[Item]:
        for queue in self._queues():
            yield from queue

    @property
    def first(self) -> Item | None:
        """The first prompt, if it has an item."""
        return next((queue.first for queue in self._queues() if queue), None)

    @property
    def grouped(self) -> bool:
        """Whether any groups wait."""
        return bool(self._groups)

    # -- what comes ---------------------------------------------------------------------------------------------

    def extend(self, prompts: Sequence[Item] | Lot) -> None:
        """Put single prompts at the end."""
        if not self.singles.items:
            self.singles.due = self._next_due()
        self.singles.items.extend(prompts)

    def appendleft(self, item: Item) -> None:
        """Put a prompt that has waited before at the head: it is next."""
        self.singles.due = self._taken
        self.singles.items.appendleft(item)

    def extend_group(self, key: int, items: Sequence[Item], homes: Iterable[int]) -> None:
        """Put prompts of a group at its end; if nothing of it waits yet, at the end of the groups of these homes."""
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = QueuedGroup(key, self._next_due())
            for home in homes:
                self._add_home(group, home)
            if not group.homes:
                self._new[group] = None
        group.items.extend(items)
        self._count += len(items)

    # -- what goes ----------------------------------------------------------------------------------------------

    def own(self, agent: int) -> QueuedGroup[Item, Lot] | None:
        """The group that an agent should take from because it is its home; None where others come first."""
        if self._overdue() is not None:
            return None
        own = self._at.get(agent)
        return next(iter(own)) if own else None

    def next_for(self, agent: int, rng: Random, *, helps: bool, singles: bool = True) -> QueuedGroup[Item, Lot] | None:
        """What an agent should take from next; None where that is all.

        What waits for other agents is considered only if it ``helps`` them, and single prompts only if ``singles``.
        """
        overdue = self._overdue()
        if overdue is not None and (singles or overdue is not self.singles):
            return overdue
        if own := self._at.get(agent):
            return next(iter(own))
        single = self.singles if singles and self.singles.items else None
        if self._new:
            new = next(iter(self._new))
            return new if single is None or new.due < single.due else single
        return single or (self._of_another(rng) if helps and self._at else None)

    def took(self, group: QueuedGroup[Item, Lot], agent: int, prompts: int) -> None:
        """Record that an agent took the first prompts of a group, and is a home of it now."""
        self._removed(group, prompts)
        if group.items and group is not self.singles and agent not in group.homes:
            self._new.pop(group, None)
            self._add_home(group, agent)

    def offer(self, take: Callable[[Item], bool], most: int) -> None:
        """Offer what waits longest, one after the other, ``most`` at most: what is taken, or done, waits no more."""
        for group in [self.singles, *self._groups.values()]:
            before = len(group.items)
            stays: list[Item] = []
            while group.items and most > 0:
                offered = group.items.take_items(most)
                most -= len(offered)
                stays += [item for item in offered if not item.done and not take(item)]
            for item in reversed(stays):
                group.items.appendleft(item)
            self._removed(group, before - len(group.items))
            if most <= 0:
                return

    def lost(self, agent: int) -> None:
        """Record that an agent is the home of nothing any more."""
        for group in self._at.pop(agent, ()):
            del group.homes[agent]
            if not group.homes:
                self._new[group] = None

    def drop_done(self) -> None:
        """Drop prompts that are done from the heads of the queues."""
        _drop_done(self.singles.items)
        while self._groups:
            group = next(iter(self._groups.values()))
            self._count -= _drop_done(group.items)
            if group.items:
                break
            self._drop(group)

    def materialize(self, materialized: list[Item]) -> None:
        """Materialize the lots whose items are added to this list."""
        self.singles.items.materialize(materialized)

    def clear(self) -> None:
        """Forget everything."""
        self.singles.items.clear()
        for group in list(self._groups.values()):
            self._drop(group)
        self._count = 0

    def _queues(self) -> Iterator[SegmentedQueue[Item, Lot]]:
        yield self.singles.items
        for group in self._groups.values():
            yield group.items

    # -- within -------------------------------------------------------------------------------------------------

    def _removed(self, group: QueuedGroup[Item, Lot], prompts: int) -> None:
        self._taken += prompts
        if group is not self.singles:
            self._count -= prompts
            if not group.items:
                self._drop(group)

    def _next_due(self) -> int:
        return self._taken + PASSED_OVER * len(self) + PASSED_OVER_AT_LEAST

    def _overdue(self) -> QueuedGroup[Item, Lot] | None:
        if self.singles.items and self.singles.due <= self._taken:
            return self.singles
        group = next(iter(self._groups.values()), None)
        return group if group is not None and group.due <= self._taken else None

    def _of_another(self, rng: Random) -> QueuedGroup[Item, Lot]:
        """The newest group of the agent for which most wait, of some that are drawn."""
        agents = list(self._at)
        drawn = agents if len(agents) <= DRAWN else rng.sample(agents, DRAWN)
        most = max(len(self._at[agent]) for agent in drawn)
        last = [next(reversed(self._at[agent])) for agent in drawn if len(self._at[agent]) == most]
        return max(last, key=lambda group: len(group.items))

    def _add_home(self, group: QueuedGroup[Item, Lot], agent: int) -> None:
        group.homes[agent] = None
        self._at.setdefault(agent, {})[group] = None

    def _drop(self, group: QueuedGroup[Item, Lot]) -> None:
        del self._groups[group.key]
        self._new.pop(group, None)
        for home in group.homes:
            groups = self._at[home]
            del groups[group]
            if not groups:
                del self._at[home]


def _drop_done(queue: SegmentedQueue[Item, Lot]) -> int:
    """Drop prompts that are done from the head of a queue; return how many."""
    dropped = 0
    while (first := queue.first) is not None and first.done:
        queue.take(1)
        dropped += 1
    return dropped
