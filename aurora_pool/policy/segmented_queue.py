"""A FIFO queue of work items and lots; a lot is split only where it must be."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Self, TypeVar


class BaseLot:
    """A lot, which the queue keeps whole. A base class, not a Protocol: ``isinstance`` is 20 times faster."""

    __slots__ = ()
    materialized: list[Any]

    def __len__(self) -> int:
        """How many prompts it has."""
        raise NotImplementedError

    def part(self, start: int, stop: int) -> Self:
        """A part of it, as a lot of its own."""
        raise NotImplementedError

    def items(self) -> Sequence[Any]:
        """Make its items."""
        raise NotImplementedError


Item = TypeVar("Item")
Lot = TypeVar("Lot", bound=BaseLot)


class SegmentedQueue(Generic[Item, Lot]):
    """A queue of work items and lots.

    >>> queue = SegmentedQueue("ab")
    >>> queue.extend("c")
    >>> queue.appendleft("x")
    >>> list(queue), queue.take(2), len(queue)
    (['x', 'a', 'b', 'c'], ['x', 'a'], 2)
    """

    __slots__ = ("_length", "_pieces")

    def __init__(self, prompts: Sequence[Item] | Lot = ()) -> None:
        self._pieces: deque[deque[Item] | Lot] = deque()
        self._length = 0
        if prompts:
            self.extend(prompts)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Item]:
        """All items; those of lots are materialized now."""
        items: deque[Item] = deque()
        for piece in self._pieces:
            items.extend(self._items_of(piece))
        self._pieces = deque([items])
        return iter(items)

    @property
    def singles(self) -> Iterator[Item]:
        """The items that exist already: not those of lots."""
        return (item for piece in self._pieces if isinstance(piece, deque) for item in piece)

    @property
    def lots(self) -> list[Lot] | None:
        """The lots that are here, if there is nothing else."""
        lots = [piece for piece in self._pieces if not isinstance(piece, deque)]
        return lots if sum(map(len, lots)) == self._length else None

    @property
    def first(self) -> Item | None:
        """The first item; None where there is none, or a lot is first."""
        head = self._head()
        return head[0] if isinstance(head, deque) else None

    def extend(self, prompts: Sequence[Item] | Lot) -> None:
        """Put items or a lot at the end."""
        pieces = self._pieces
        self._length += len(prompts)
        if isinstance(prompts, BaseLot):
            pieces.append(prompts)
        elif pieces and isinstance(last := pieces[-1], deque):
            last.extend(prompts)
        else:
            pieces.append(deque(prompts))

    def appendleft(self, item: Item) -> None:
        """Put an item at the head."""
        self._length += 1
        head = self._head()
        if isinstance(head, deque):
            head.appendleft(item)
        else:
            self._pieces.appendleft(deque([item]))

    def take(self, most: int) -> Sequence[Item] | Lot:
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

    def take_items(self, most: int) -> Sequence[Item]:
        """Take the same, as items in any case."""
        return self._items_of(self.take(most))

    def materialize(self, materialized: list[Item]) -> None:
        """Materialize the lots whose items are added to this list."""
        for place, piece in enumerate(self._pieces):
            if not isinstance(piece, deque) and piece.materialized is materialized:
                self._pieces[place] = deque(self._items_of(piece))

    def clear(self) -> None:
        """Forget everything."""
        self._pieces.clear()
        self._length = 0

    def _items_of(self, piece: Sequence[Item] | Lot) -> Sequence[Item]:
        return self._materialize(piece) if isinstance(piece, BaseLot) else piece

    def _materialize(self, lot: Lot) -> Sequence[Item]:
        return lot.items()

    def _head(self) -> deque[Item] | Lot | None:
        pieces = self._pieces
        while pieces and not len(pieces[0]):
            pieces.popleft()
        return pieces[0] if pieces else None
