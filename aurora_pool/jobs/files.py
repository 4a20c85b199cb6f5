"""A job's input as a file: read by lines as often as needed, compressed or not, whatever it comes from."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

from aurora_pool.errors import BadRecord, ConfigError
from aurora_pool.jobs.copies import copied, unreadable
from aurora_pool.jobs.formats import InputFormat, kind_of

if TYPE_CHECKING:
    import zstandard

__all__ = ["InputFile"]

Compression: TypeAlias = Literal["none", "gzip", "zstd"]

_SUFFIXES: dict[str, Compression] = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd"}
_MAGICS: dict[bytes, Compression] = {b"\x1f\x8b\x08": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_BUFFER = 1 << 18
_HEAD = 1 << 16
LONGEST_LINE = 1 << 28
"""Bytes that a line may have: what unpacks to more is no line of prompts."""


def compression_of(path: str | Path) -> Compression:
    """Tell from its name how a file is compressed.

    >>> compression_of("answers.jsonl.gz"), compression_of("answers.jsonl")
    ('gzip', 'none')
    """
    return _SUFFIXES.get(Path(path).suffix.lower(), "none")


def import_zstandard() -> Any:
    """Import the package that reads and writes zstd, which is an extra.

    Raises :class:`~aurora_pool.errors.ConfigError` where it is not installed.
    """
    try:
        import zstandard  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise ConfigError("files ending in .zst need the package zstandard: pip install 'aurora-pool[zstd]'") from None
    return zstandard


class InputFile:
    """A file of requests. ``-`` is standard input; that, pipes and remote files are copied first: they are read twice.

    ``kind`` says what is in it. Raises :class:`~aurora_pool.errors.BadRecord` for a file that can't be read, and for
    one of which can't be told what it is.
    """

    before = 0
    """How many lines of the file are before the one that is number 1 here."""

    def __init__(self, path: str | Path, *, stdin: IO[bytes] | None = None, input_format: InputFormat = "auto") -> None:
        self.name = "<stdin>" if str(path) == "-" else str(path)
        self.path = Path(path)
        self._copy = copied(path, stdin)
        self._compression = compression_of(path)
        if self._copy is not None:
            head = self._copy.head
            self._compression = next((kind for magic, kind in _MAGICS.items() if head.startswith(magic)), "none")
        try:
            self.kind = kind_of(self._stem(), self._head(), input_format)
        except BaseException:
            self.close()
            raise

    @property
    def is_text(self) -> bool:
        """Whether each line is a prompt."""
        return self.kind == "text"

    @property
    def size(self) -> int:
        """How many bytes there are to be read in this process; 0 for those of another."""
        return 0 if self._copy is not None else self.path.stat().st_size

    def lines(self, first: int = 1) -> Iterator[tuple[int, bytes]]:
        """Read the lines that are not blank, without their ends, each with its number; ``first`` is where to begin."""
        try:
            with self.open() as file:
                for number, line in enumerate(
                    islice(iter(partial(file.readline, LONGEST_LINE + 1), b""), first - 1, None), start=first
                ):
                    if len(line) > LONGEST_LINE:
                        raise BadRecord(f"a line of more than {LONGEST_LINE} bytes", path=self.name, line=number)
                    text = line.rstrip(b"\r\n")
                    if number == 1:
                        text = text.removeprefix(codecs.BOM_UTF8)
                    if text and not text.isspace():
                        yield number, text
        except (OSError, EOFError, zlib.error) as error:
            raise unreadable(self.name, error) from error

    def open(self) -> IO[bytes]:
        """Open it, unpacked.

        Raises :class:`OSError`, as reading does, :class:`EOFError` and :class:`zlib.error`.
        """
        if self._copy is None and self._compression == "none":
            return self.path.open("rb", buffering=_BUFFER)
        zstandard = import_zstandard() if self._compression == "zstd" else None
        file = self.path.open("rb") if self._copy is None else self._copy.open()
        if self._compression == "gzip":
            return io.BufferedReader(_Gzip(file))
        if zstandard is not None:
            return _Zstd(zstandard.ZstdDecompressor(), file, zstandard.ZstdError)
        return file

    def close(self) -> None:
        """Give up the temporary copy of what could be read only once."""
        if self._copy is not None:
            self._copy.close()

    def _stem(self) -> str:
        """Its name without what tells the compression."""
        return os.path.splitext(self.name)[0] if compression_of(self.name) != "none" else self.name  # noqa: PTH122

    def _head(self) -> bytes:
        try:
            with self.open() as file:
                return file.read(_HEAD)
        except (OSError, EOFError, zlib.error) as error:
            raise unreadable(self.name, error) from error


class _Gzip(gzip.GzipFile):
    """Reads gzip members, and closes the file below."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(fileobj=file, mode="rb")
        self._below = file

    def close(self) -> None:
        super().close()
        self._below.close()


class _Zstd(io.BufferedReader):
    """Reads zstd frames; its errors are OSErrors, as gzip's are, and closing it closes the file."""

    def __init__(self, decompressor: zstandard.ZstdDecompressor, file: IO[bytes], error: type[Exception]) -> None:
        super().__init__(_ZstdRaw(decompressor.stream_reader(file, read_across_frames=True, closefd=True), error))


class _ZstdRaw(io.RawIOBase):
    def __init__(self, reader: Any, error: type[Exception]) -> None:
        self._reader = reader
        self._error = error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data: bytes = self._reader.read(len(buffer))
        except self._error as error:
            raise OSError(str(error)) from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._reader.close()
        super().close()
