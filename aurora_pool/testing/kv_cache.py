"""The cache blocks of a simulated engine: who holds how many, and which prompts' beginnings are still in them.

As in vLLM, a block holds the keys and values of ``block_size`` tokens. A whole block of a prompt is known by a key that
stands for everything up to its end, so prompts that begin alike share blocks. A block that nobody holds any more keeps
its contents until it is taken for something else; the one that has been free for longest goes first. Blocks without a
key (the ends of prompts, answers, prompts that nobody shares) are only counted: a job whose prompts share nothing costs
a few additions per prompt.
"""

from __future__ import annotations

import math
from array import array
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from hashlib import blake2b

Key = Hashable


def block_keys(token_ids: Sequence[int], *, block_size: int = 16, salt: str = "") -> list[Key]:
    """Name the whole blocks of a prompt, each by all the tokens up to its end.

    >>> first, second = block_keys(range(40)), block_keys([*range(16), 9, *range(17, 40)])
    >>> len(first), first[0] == second[0], first[1] == second[1]
    (2, True, False)
    """
    digest = blake2b(salt.encode(), digest_size=8)
    data = array("q", token_ids).tobytes()
    size = block_size * 8
    keys: list[Key] = []
    for end in range(size, len(data) + 1, size):
        digest.update(data[end - size : end])
        keys.append(digest.digest())
    return keys


class _Run:
    """Stands among the free blocks for a number of neighbours that have no key."""

    __slots__ = ()


class KVCache:
    """All blocks of one engine; with ``blocks`` None there is no end of them, and nothing is found again.

    >>> cache = KVCache(4, block_size=16)
    >>> cache.hold(["a", "b"], 0, 2)
    >>> cache.drop(["a", "b"], 2, 0)
    >>> cache.found(["a", "b", "c"]), cache.free
    (2, 4)
    >>> cache.take(3)  # two that were never used, and the end of what is known
    >>> cache.found(["a", "b", "c"])
    1
    """

    __slots__ = ("_free", "_holders", "block_size", "blocks", "free", "prefix_caching")

    def __init__(self, blocks: int | None, *, block_size: int = 16, prefix_caching: bool = True) -> None:
        if block_size < 1 or (blocks is not None and blocks < 1):
            raise ValueError("expected a block_size of at least 1 token, and at least 1 block")
        self.blocks = blocks
        self.block_size = block_size
        self.prefix_caching = prefix_caching and blocks is not None
        self.free: float = math.inf if blocks is None else blocks
        """How many blocks nobody holds."""
        self._holders: dict[Key, int] = {}
        self._free: OrderedDict[Key | _Run, int] = OrderedDict()  # how many blocks each entry stands for, oldest first
        if blocks is not None:
            self._free[_Run()] = blocks

    @property
    def usage(self) -> float:
        """The share of the blocks that somebody holds, 0 to 1."""
        return 0.0 if self.blocks is None else 1 - self.free / self.blocks

    def found(self, keys: Sequence[Key]) -> int:
        """Tell how many of a prompt's first blocks are here."""
        if not self.prefix_caching:
            return 0
        holders = self._holders
        for count, key in enumerate(keys):
            if key not in holders:
                return count
        return len(keys)

    def unheld(self, keys: Sequence[Key], count: int) -> int:
        """Tell how many of the first ``count`` blocks of a prompt nobody holds: to hold them uses up free ones."""
        return sum(not self._holders[key] for key in keys[:count])

    def hold(self, keys: Sequence[Key], first: int, end: int) -> None:
        """Hold blocks ``first`` to ``end`` of a prompt: those that are here, and new ones for the others."""
        holders = self._holders
        for key in keys[first:end]:
            count = holders.get(key)
            if count is None:
                self.take(1)
                holders[key] = 1
                continue
            holders[key] = count + 1
            if not count:
                del self._free[key]
                self.free -= 1

    def name(self, keys: Sequence[Key], number: int) -> None:
        """Give a block that has become whole its key; where that is here already, hold that and let this one go."""
        key = keys[number]
        if key in self._holders:
            self.hold(keys, number, number + 1)
            self.drop((), 0, 1)
        else:
            self._holders[key] = 1

    def take(self, count: int) -> None:
        """Take blocks without a key."""
        if self.blocks is None or not count:
            return
        self.free -= count
        free = self._free
        while count:
            entry = next(iter(free))
            there = free[entry]
            if there > count:
                free[entry] = there - count
                return
            del free[entry]
            self._holders.pop(entry, None)
            count -= there

    def drop(self, keys: Sequence[Key], count: int, others: int) -> None:
        """Let go of the first ``count`` blocks of a prompt and of ``others`` without a key; the ends go first."""
        if self.blocks is None:
            return
        free = self._free
        self.free += others
        if others:
            last = next(reversed(free), None)
            if type(last) is _Run:
                free[last] += others
            else:
                free[_Run()] = others
        for key in reversed(keys[:count]):
            holders = self._holders[key] = self._holders[key] - 1
            if not holders:
                free[key] = 1
                self.free += 1
