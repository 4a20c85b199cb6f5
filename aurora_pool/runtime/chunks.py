"""A small buffer between the reader of a stream and the writer that passes it on."""

from __future__ import annotations

import asyncio
from collections import deque

from aurora_pool.errors import PoolError

CHUNKS_AHEAD = 16
"""Pieces of a reply that wait at most for a slow client."""


class Chunks:
    """Pieces of a stream between its reader and its writer. An asyncio.Queue costs three times as much."""

    __slots__ = ("_moved", "_pieces")

    def __init__(self) -> None:
        self._pieces: deque[bytes | PoolError | None] = deque()
        self._moved: asyncio.Future[None] | None = None
        """What one of the two waits for: space for the reader, a piece for the writer."""

    @property
    def full(self) -> bool:
        """Whether no more should be put for now."""
        return len(self._pieces) >= CHUNKS_AHEAD

    def put(self, piece: bytes | PoolError | None) -> None:
        """Put a piece at the end; an error, or None, ends the stream."""
        self._pieces.append(piece)
        self._wake()

    async def get(self) -> bytes | PoolError | None:
        """Take the first piece, once there is one."""
        while not self._pieces:
            await self.moved()
        piece = self._pieces.popleft()
        self._wake()
        return piece

    def clear(self) -> None:
        """Drop all pieces that were not taken."""
        self._pieces.clear()

    async def moved(self) -> None:
        """Wait until a piece has been put or taken."""
        self._moved = asyncio.get_running_loop().create_future()
        try:
            await self._moved
        finally:
            self._moved = None

    def _wake(self) -> None:
        if self._moved is not None and not self._moved.done():
            self._moved.set_result(None)
