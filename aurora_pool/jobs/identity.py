"""A compact table from ids to line numbers: millions of them in 12 bytes a slot, where a dict takes ten times that."""

from __future__ import annotations

from array import array

_SMALLEST = 1 << 10


class IdTable:
    """Line numbers (1 to 2**32 - 1) by id, kept as 64-bit hashes.

    Two of five million ids share a hash with a chance of one in a million; such a pair would be taken for a duplicate.

    >>> table = IdTable()
    >>> table.add("a", 1), table.add("b", 2), table.add("a", 3)
    (None, None, 1)
    >>> table.get("b"), table.get("c")
    (2, None)
    """

    def __init__(self) -> None:
        self._count = 0
        self._resize(_SMALLEST)

    def __len__(self) -> int:
        return self._count

    def add(self, name: str, number: int) -> int | None:
        """Note an id's line number; if the id is known already, change nothing and return its number."""
        hashes, mask = self._hashes, self._mask
        key = hash(name) & 0xFFFFFFFFFFFFFFFF or 1
        slot = key & mask
        while known := hashes[slot]:
            if known == key:
                return self._numbers[slot]
            slot = (slot + 1) & mask
        hashes[slot] = key
        self._numbers[slot] = number
        self._count += 1
        if self._count * 5 > mask * 3:
            self._grow()
        return None

    def get(self, name: str) -> int | None:
        """Return the line number of an id, None if it is not known."""
        hashes, mask = self._hashes, self._mask
        key = hash(name) & 0xFFFFFFFFFFFFFFFF or 1
        slot = key & mask
        while known := hashes[slot]:
            if known == key:
                return self._numbers[slot]
            slot = (slot + 1) & mask
        return None

    def _resize(self, slots: int) -> None:
        self._mask = slots - 1
        self._hashes = array("Q", bytes(8 * slots))
        self._numbers = array("I", bytes(4 * slots))

    def _grow(self) -> None:
        old = zip(self._hashes, self._numbers, strict=True)
        self._resize(2 * len(self._hashes))
        hashes, numbers, mask = self._hashes, self._numbers, self._mask
        for key, number in old:
            if key:
                slot = key & mask
                while hashes[slot]:
                    slot = (slot + 1) & mask
                hashes[slot] = key
                numbers[slot] = number
