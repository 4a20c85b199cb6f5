"""A compact table from ids to line numbers: millions of them in 16 bytes each, where a dict takes ten times that."""

from __future__ import annotations

from array import array

_NO_ID = -1
"""What ``hash()`` never gives."""


class IdTable:
    """The ids of a file's lines, kept as 64-bit hashes: fill it line by line, index it once, then ask it.

    Two of five million ids share a hash with a chance of one in a million; such a pair would be taken for a duplicate.

    >>> table = IdTable()
    >>> for name in ("a", None, "b"):
    ...     table.append(name)
    >>> table.index(), table.get("b"), table.get("c")
    ([], 3, None)
    """

    def __init__(self) -> None:
        self._keys = array("q", [_NO_ID])  # by line number; there is no line 0
        self._slots = array("I", [0])
        self._mask = 0

    def append(self, name: str | None) -> None:
        """Note the id of the next line, the first of which is line 1; None for a line without one."""
        self._keys.append(_NO_ID if name is None else hash(name))

    def index(self) -> list[tuple[int, int]]:
        """Make :meth:`get` answer, with the first line of an id.

        Returns the pairs of lines that have one id: that first one, and another.
        """
        # Only now is it known how many there are: a table that grows on the way would be filled several times over.
        keys = self._keys
        size = 1 << (8 * len(keys) // 5).bit_length()
        slots, mask = array("I", [0]) * size, size - 1
        self._slots, self._mask = slots, mask
        pairs = []
        for number, key in enumerate(keys):
            if key == _NO_ID:
                continue
            slot = key & mask
            while other := slots[slot]:
                if keys[other] == key:
                    pairs.append((other, number))
                    break
                slot = (slot + 1) & mask
            else:
                slots[slot] = number
        return pairs

    def get(self, name: str) -> int | None:
        """Return the number of the line with this id, None if there is none."""
        keys, slots, mask = self._keys, self._slots, self._mask
        key = hash(name)
        slot = key & mask
        while number := slots[slot]:
            if keys[number] == key:
                return number
            slot = (slot + 1) & mask
        return None
