"""Prompts in order, first come, first served: work items, and lots, which are taken apart only where they must be."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aurora_pool.policy.lots import Lot, Prompts
    from aurora_pool.policy.work import WorkItem


class Line:
    """A queue of work items and lots.

    >>> line = Line("ab")
    >>> line.extend("c")
    >>> line.appendleft("x")
    >>> list(line), line.take(2), len(line)
    (['x', 'a', 'b', 'c'], ['x', 'a'], 2)
    """

    __slots__ = ("_length", "_pieces")

    def __init__(self, prompts: Prompts = ()) -> None:
        self._pieces: deque[deque[WorkItem] | Lot] = deque()
        self._length = 0
        self.extend(prompts)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[WorkItem]:
        """All items, those of lots made now."""
        items: deque[WorkItem] = deque()
        for piece in self._pieces:
            items.extend(self._items_of(piece))
        self._pieces = deque([items])
        return iter(items)

    @property
    def singles(self) -> Iterator[WorkItem]:
        """The items that are here already: not those of lots."""
        return (item for piece in self._pieces if isinstance(piece, deque) for item in piece)

    @property
    def lots(self) -> list[Lot] | None:
        """The lots that are here, if there is nothing else."""
        lots = [piece for piece in self._pieces if not isinstance(piece, deque)]
        return lots if sum(map(len, lots)) == self._length else None

    @property
    def first(self) -> WorkItem | None:
        """The first item; None where there is none, or a lot is first."""
        head = self._head()
        return head[0] if isinstance(head, deque) else None

    def extend(self, prompts: Prompts) -> None:
        """Put items or a lot at the end."""
        pieces = self._pieces
        self._length += len(prompts)
        if not isinstance(prompts, Sequence):
            pieces.append(prompts)
        elif pieces and isinstance(last := pieces[-1], deque):
            last.extend(prompts)
        else:
            pieces.append(deque(prompts))

    def appendleft(self, item: WorkItem) -> None:
        """Put an item at the head."""
        self._length += 1
        head = self._head()
        if isinstance(head, deque):
            head.appendleft(item)
        else:
            self._pieces.appendleft(deque([item]))

    def take(self, most: int) -> Prompts:
        """Take what comes first, ``most`` at most: items or a lot; fewer than that where a lot begins or ends."""
        head = self._head()
        if head is None:
            return ()
        taken = min(most, len(head))
        self._length -= taken
        if isinstance(head, deque):
            return [head.popleft() for _ in range(taken)]
        if taken < len(head):
            self._pieces[0] = head.part(taken, len(head))
            return head.part(0, taken)
        self._pieces.popleft()
        return head

    def make_items(self, made: list[WorkItem]) -> None:
        """Make the items of those lots that keep what is made in this list."""
        for place, piece in enumerate(self._pieces):
            if not isinstance(piece, deque) and piece.made is made:
                self._pieces[place] = deque(self._items_of(piece))

    def clear(self) -> None:
        """Forget everything."""
        self._pieces.clear()
        self._length = 0

    def _items_of(self, piece: Prompts) -> Sequence[WorkItem]:
        return items_of(piece)

    def _head(self) -> deque[WorkItem] | Lot | None:
        pieces = self._pieces
        while pieces and not len(pieces[0]):
            pieces.popleft()
        return pieces[0] if pieces else None


class Staged(Line):
    """What an agent is to be sent: it holds these prompts already."""

    __slots__ = ()

    def _items_of(self, piece: Prompts) -> Sequence[WorkItem]:
        if isinstance(piece, Sequence):
            return piece
        items = piece.items()
        for item in items:
            item.holders = 1
        return items


def items_of(prompts: Prompts) -> Sequence[WorkItem]:
    """The items that prompts are, or, of a lot, those that are made now."""
    return prompts if isinstance(prompts, Sequence) else prompts.items()
