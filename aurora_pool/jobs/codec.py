"""Compressed journals: every record is flushed as it is written, and what a kill leaves behind can be read."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any, Protocol

from aurora_pool.jobs.files import Compression, import_zstandard

_BATCH = 1 << 18
_CHUNK = 1 << 20
_GZIP = 31  # zlib's way of saying: deflate in a gzip wrapper


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

    def encode(self, record: bytes) -> bytes:
        if self._member is None:
            self._member = zlib.compressobj(wbits=_GZIP)
        data: bytes = self._member.compress(record) + self._member.flush(zlib.Z_SYNC_FLUSH)
        return data

    def finish(self) -> bytes:
        return b"" if self._member is None else self._member.flush(zlib.Z_FINISH)


class _Zstd:
    def __init__(self) -> None:
        self._module = import_zstandard()
        self._frame: Any = None

    def encode(self, record: bytes) -> bytes:
        if self._frame is None:
            self._frame = self._module.ZstdCompressor().compressobj()
        data: bytes = self._frame.compress(record) + self._frame.flush(self._module.COMPRESSOBJ_FLUSH_BLOCK)
        return data

    def finish(self) -> bytes:
        return b"" if self._frame is None else self._frame.flush(self._module.COMPRESSOBJ_FLUSH_FINISH)


def encoder(compression: Compression) -> Encoder:
    """Make the encoder of one run. Each run appends a gzip member or zstd frame of its own; readers see one text."""
    kinds: dict[Compression, Callable[[], Encoder]] = {"none": _Plain, "gzip": _Gzip, "zstd": _Zstd}
    return kinds[compression]()


class Lines:
    """The whole lines of a journal with their ends, whatever state a kill left it in.

    After the iteration ``torn`` tells whether something stood behind the last whole line, or the last member or frame
    had no end; ``rest`` is what stood there, and ``end`` how many bytes of text the whole lines took.
    """

    def __init__(self, path: Path, compression: Compression) -> None:
        self._path = path
        self._compression = compression
        self.torn = False
        self.end = 0
        self.rest = b""

    def __iter__(self) -> Iterator[bytes]:
        return chain.from_iterable(self.batches())

    def batches(self) -> Iterator[list[bytes]]:
        """Give some lines at a time, those of a quarter of a megabyte, to who has to do something else in between."""
        with self._path.open("rb", buffering=_BATCH) as file, self._text(file) as text:
            while batch := text.readlines(_BATCH):
                if not batch[-1].endswith(b"\n"):
                    self.torn = True
                    self.rest = batch.pop()
                self.end += sum(map(len, batch))
                yield batch

    def _text(self, file: IO[bytes]) -> IO[bytes]:
        if self._compression == "none":
            return file
        chunks = iter(lambda: file.read(_CHUNK), b"")
        if self._compression == "gzip":
            pieces = self._members(chunks, lambda: zlib.decompressobj(_GZIP), zlib.error)
        else:
            zstandard = import_zstandard()
            pieces = self._members(chunks, zstandard.ZstdDecompressor().decompressobj, zstandard.ZstdError)
        return io.BufferedReader(_Joined(pieces), _BATCH)

    def _members(self, chunks: Iterator[bytes], fresh: Callable[[], Any], error: type[Exception]) -> Iterator[bytes]:
        member: Any = None
        for chunk in chunks:
            data = chunk
            while data:
                member = member or fresh()
                try:
                    piece = member.decompress(data)
                except error:
                    self.torn = True
                    return
                if piece:
                    yield piece
                data = b""
                if member.eof:
                    data, member = member.unused_data, None
        self.torn = self.torn or member is not None


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
