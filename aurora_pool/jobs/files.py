"""A job's input: read by lines as often as needed, compressed or not; and how a name tells the compression."""

from __future__ import annotations

import codecs
import gzip
import io
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

from aurora_pool.errors import BadRecord, ConfigError
from aurora_pool.jobs.requests import InputFormat

if TYPE_CHECKING:
    import zstandard

Compression: TypeAlias = Literal["none", "gzip", "zstd"]

_SUFFIXES: dict[str, Compression] = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd"}
_BUFFER = 1 << 18
_TEXT = frozenset({".txt", ".text"})
_JSONL = frozenset({".jsonl", ".ndjson", ".json", ".jsonlines"})


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
    """A file of requests. ``-`` is standard input, which is copied to a temporary file first: it is read twice.

    Raises :class:`~aurora_pool.errors.BadRecord` for a file that can't be read.
    """

    before = 0
    """How many lines of the file stand before the one that is number 1 here."""

    def __init__(self, path: str | Path, *, stdin: IO[bytes] | None = None, input_format: InputFormat = "auto") -> None:
        self.name = "<stdin>" if str(path) == "-" else str(path)
        self._path = Path(path)
        self._spool: IO[bytes] | None = None
        self._compression: Compression = "none"
        if str(path) == "-":
            assert stdin is not None
            self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - kept until close()
            shutil.copyfileobj(stdin, self._spool)
        else:
            self._compression = compression_of(path)
        self.is_text = self._is_text() if input_format == "auto" else input_format == "text"

    def lines(self, first: int = 1) -> Iterator[tuple[int, bytes]]:
        """Read the lines that are not blank, without their ends, each with its number; ``first`` is where to begin."""
        try:
            with self._open() as file:
                for number, line in enumerate(islice(file, first - 1, None), start=first):
                    text = line.rstrip(b"\r\n")
                    if number == 1:
                        text = text.removeprefix(codecs.BOM_UTF8)
                    if text and not text.isspace():
                        yield number, text
        except (OSError, EOFError, zlib.error) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise BadRecord(f"the input can't be read ({reason})", path=self.name) from error

    def close(self) -> None:
        """Give up the temporary copy of standard input."""
        if self._spool is not None:
            self._spool.close()

    def _open(self) -> IO[bytes]:
        if self._spool is not None:
            self._spool.seek(0)
            # The file is needed again after this pass, so closing what is returned must leave it open.
            return io.BufferedReader(io.FileIO(self._spool.fileno(), closefd=False))
        if self._compression == "gzip":
            return io.BufferedReader(gzip.open(self._path, "rb"))
        if self._compression == "zstd":
            zstandard = import_zstandard()
            try:
                return _Zstd(zstandard.ZstdDecompressor(), self._path.open("rb"), zstandard.ZstdError)
            except zstandard.ZstdError as error:
                raise OSError(str(error)) from error
        return self._path.open("rb", buffering=_BUFFER)

    def _is_text(self) -> bool:
        stem = self._path.with_suffix("") if self._compression != "none" else self._path
        suffix = stem.suffix.lower() if self._spool is None else ""
        if suffix in _TEXT or suffix in _JSONL:
            return suffix in _TEXT
        _, first = next(self.lines(), (0, b"{"))
        return not first.lstrip().startswith(b"{")


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
