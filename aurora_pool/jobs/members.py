"""Gzip members and zstd frames read one after the other, every byte that can be read, around whatever is damaged."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import IO, Any

_CHUNK = 1 << 17
_TRIED = 1 << 18
"""Bytes that a place where a member may begin must give some text of."""


@dataclass(frozen=True, slots=True)
class Member:
    """A kind of member: what it begins with, what unpacks one, and what that raises."""

    magic: bytes
    fresh: Callable[[], Any]
    error: type[Exception]


class Members:
    """The text of a file of members, in pieces.

    Afterwards ``torn`` tells whether one was damaged or had no end, and ``damage`` where in the file nothing was read.
    """

    def __init__(self, file: IO[bytes], kind: Member) -> None:
        self._file = file
        self._kind = kind
        self.torn = False
        self.damage: list[tuple[int, int]] = []
        self._last = b"\n"

    def __iter__(self) -> Iterator[bytes]:
        start: int | None = 0
        while start is not None:
            start = yield from self._member(start)

    def _member(self, start: int) -> Generator[bytes, None, int | None]:
        """Give the text of one member; returns where the next one begins, None at the end of the file."""
        member = self._kind.fresh()
        place = start
        while chunk := self._read(place, _CHUNK):
            try:
                piece = member.decompress(chunk)
            except self._kind.error:
                return (yield from self._around(start, place, chunk))
            if piece:
                self._last = piece
                yield piece
            place += len(chunk)
            if member.eof:
                return place - len(member.unused_data)
        self.torn = self.torn or place > start
        return None

    def _around(self, start: int, place: int, chunk: bytes) -> Generator[bytes, None, int | None]:
        """Give what can be read of the chunk at ``place``; returns where the next member begins, None if none does."""
        self.torn = True
        bad = place
        # Whatever unpacks a chunk gives nothing of it when it fails, so it is read again, byte by byte.
        for piece, bad in self._slowly(start, place, chunk):  # noqa: B007 - the last one is where it ended
            self._last = piece or self._last
            yield piece
        if not self._last.endswith(b"\n"):
            yield b"\n"  # or what follows would be of the same line
        following = self._find(start + 1, bad)
        end = self._size() if following is None else following
        if end > bad:
            self.damage.append((bad, end))
        return following

    def _slowly(self, start: int, place: int, chunk: bytes) -> Iterator[tuple[bytes, int]]:
        member = self._kind.fresh()
        again = start
        while again < place:
            before = self._read(again, min(_CHUNK, place - again))
            member.decompress(before)
            again += len(before)
        for number in range(len(chunk)):
            try:
                piece = member.decompress(chunk[number : number + 1])
            except self._kind.error:
                yield b"", place + number
                return
            if piece:
                yield piece, place + number

    def _find(self, place: int, bad: int) -> int | None:
        """Find where the next member begins. It may be before ``bad``: noise is not always noticed at once."""
        magic = self._kind.magic
        while chunk := self._read(place, _CHUNK):
            found = chunk.find(magic)
            while found >= 0:
                text = self._try(place + found)
                # Records begin so; a few bytes that look like the beginning of a member do not make one.
                if text.lstrip(b"\n").startswith(b"{") or (text and place + found >= bad):
                    return place + found
                found = chunk.find(magic, found + 1)
            if len(chunk) < len(magic):
                return None
            place += len(chunk) - len(magic) + 1
        return None

    def _try(self, place: int) -> bytes:
        try:
            text: bytes = self._kind.fresh().decompress(self._read(place, _TRIED))
        except self._kind.error:
            text = next((piece for piece, _ in self._slowly(place, place, self._read(place, _CHUNK)) if piece), b"")
        return text

    def _read(self, place: int, size: int) -> bytes:
        self._file.seek(place)
        return self._file.read(size)

    def _size(self) -> int:
        return self._file.seek(0, 2)
