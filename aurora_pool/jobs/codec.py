"""Compressed journals: every record is flushed as it is written, and what a kill leaves behind can be read."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any, Protocol

import msgspec

from aurora_pool.jobs.files import Compression, import_zstandard
from aurora_pool.jobs.members import Member, Members

_BATCH = 1 << 18
_GZIP = 31  # zlib's way of saying: deflate in a gzip wrapper
_MEMBER = 1 << 20
"""Bytes of text after which a new gzip member or zstd frame begins: damage costs no more than the rest of one."""


class Encoder(Protocol):
    """Turns records into the bytes of the file."""

    def encode(self, record: bytes) -> bytes:
        """Write one record so that it can be read back even if nothing ever follows."""
        ...

    def finish(self) -> bytes:
        """Write what ends the file well."""
        ...


class _Plain:
    def encode(self, record: bytes) -> bytes:
        return record

    def finish(self) -> bytes:
        return b""


class _Gzip:
    def __init__(self) -> None:
        self._member: Any = None
        self._size = 0

    def encode(self, record: bytes) -> bytes:
        before = b""
        if self._member is None or self._size >= _MEMBER:
            before = self.finish()
            self._member, self._size = zlib.compressobj(wbits=_GZIP), 0
        self._size += len(record)
        data: bytes = before + self._member.compress(record) + self._member.flush(zlib.Z_SYNC_FLUSH)
        return data

    def finish(self) -> bytes:
        return b"" if self._member is None else self._member.flush(zlib.Z_FINISH)


class _Zstd:
    def __init__(self) -> None:
        self._module = import_zstandard()
        self._frame: Any = None
        self._size = 0

    def encode(self, record: bytes) -> bytes:
        before = b""
        if self._frame is None or self._size >= _MEMBER:
            before = self.finish()
            self._frame, self._size = self._module.ZstdCompressor(write_checksum=True).compressobj(), 0
        self._size += len(record)
        data: bytes = before + self._frame.compress(record) + self._frame.flush(self._module.COMPRESSOBJ_FLUSH_BLOCK)
        return data

    def finish(self) -> bytes:
        return b"" if self._frame is None else self._frame.flush(self._module.COMPRESSOBJ_FLUSH_FINISH)


def encoder(compression: Compression) -> Encoder:
    """Make the encoder of one run. Each run appends a gzip member or zstd frame of its own; readers see one text."""
    kinds: dict[Compression, Callable[[], Encoder]] = {"none": _Plain, "gzip": _Gzip, "zstd": _Zstd}
    return kinds[compression]()


class Lines:
    """The whole lines of a journal with their ends, whatever state a kill or a failing disk left it in.

    A last record that lacks only its line's end is whole. After the iteration,

    - ``torn`` tells whether something stood behind the last whole line, or a member or frame was damaged or had no end;
    - ``rest`` is what stood there, and ``end`` how many bytes of text were whole;
    - ``unended`` tells whether the last whole line lacks its end in the file (here it has one);
    - ``damage`` holds where in the file nothing could be read, as pairs of begin and end.
    """

    def __init__(self, path: Path, compression: Compression) -> None:
        self._path = path
        self._compression = compression
        self.torn = False
        self.unended = False
        self.end = 0
        self.rest = b""
        self.damage: list[tuple[int, int]] = []

    def __iter__(self) -> Iterator[bytes]:
        return chain.from_iterable(self.batches())

    def batches(self) -> Iterator[list[bytes]]:
        """Give some lines at a time, those of a quarter of a megabyte, to who has to do something else in between."""
        with self._path.open("rb", buffering=_BATCH) as file, self._text(file) as text:
            while batch := text.readlines(_BATCH):
                self.end += sum(map(len, batch))
                if not batch[-1].endswith(b"\n"):
                    self._take_rest(batch)
                yield batch

    def _take_rest(self, batch: list[bytes]) -> None:
        rest = batch.pop()
        if _is_object(rest):
            self.unended = True
            batch.append(rest + b"\n")
            return
        self.torn = True
        self.rest = rest
        self.end -= len(rest)

    def _text(self, file: IO[bytes]) -> IO[bytes]:
        if self._compression == "none":
            return file
        return io.BufferedReader(_Joined(self._pieces(file)), _BATCH)

    def _pieces(self, file: IO[bytes]) -> Iterator[bytes]:
        members = Members(file, _member_of(self._compression))
        yield from members
        self.damage = members.damage
        self.torn = self.torn or members.torn


def _member_of(compression: Compression) -> Member:
    if compression == "gzip":
        return Member(b"\x1f\x8b\x08", lambda: zlib.decompressobj(_GZIP), zlib.error)
    zstandard = import_zstandard()
    return Member(b"\x28\xb5\x2f\xfd", lambda: zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError)


def _is_object(line: bytes) -> bool:
    """Whether a line is a JSON object from its beginning to its end."""
    try:
        return isinstance(msgspec.json.decode(line), dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


class _Joined(io.RawIOBase):
    """Pieces of text as a file, which knows how to find lines."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size
